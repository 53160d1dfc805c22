"""The alloys of the disentangled VAE's paper with features computed by Sluice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.chemistry.alloy_features import (
    EXTENDED,
    FEATURE_SETS,
    PUBLISHED,
    PUBLISHED_COLUMNS,
    AlloyElements,
    alloy_features,
    parse_alloy,
)
from sluice.errors import BadDataError
from sluice.experiments.results import write_json

SPLITS = ("labelled", "unlabelled", "validation", "test")
TARGET = "single_phase"  # the data set's one target property
TOLERANCE = 1e-5  # relative; the authors' entropy carries single-precision rounding


@dataclass(frozen=True)
class Alloys:
    """The 1 373 alloys of the published split.

    Attributes:
        formulas: (n,) as published.
        components: symbols of the 30 elements of a composition.
        fractions: (n, 30).
        features: (n, len(EXTENDED)).
        target: (n,) 1 for a single phase.
        split: (n,) index into ``SPLITS``.
        elements: properties of 70 elements and enthalpies of their pairs.
    """

    formulas: NDArray[np.str_]
    components: tuple[str, ...]
    fractions: NDArray[np.float64]
    features: NDArray[np.float64]
    target: NDArray[np.float64]
    split: NDArray[np.int64]
    elements: AlloyElements

    def rows(self, split: str) -> NDArray[np.int64]:
        """Indices of a split's rows."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def of(self, feature_set: str) -> NDArray[np.float64]:
        """(n, F) one set of features."""
        return self.features[:, [EXTENDED.index(name) for name in FEATURE_SETS[feature_set]]]

    def repeated(self, split: str, other: str) -> list[str]:
        """Formulas of a split whose composition another split has, too, perhaps in other amounts (Al2Co2 and AlCo)."""
        rounded = [tuple(row) for row in np.rint(1e6 * self.fractions).astype(np.int64).tolist()]
        there = {rounded[k] for k in self.rows(other)}
        return [str(self.formulas[k]) for k in self.rows(split) if rounded[k] in there]

    @cached_property
    def known(self) -> set[tuple[int, ...]]:
        """Compositions in whole per cent."""
        return {tuple(row) for row in np.rint(100 * self.fractions).astype(int).tolist()}


def prepare_alloys(source: Path, folder: Path) -> None:
    """Write alloys.npz and elements.json; features must equal the published ones.

    Args:
        source: folder of the data set ``hea_dvae``.
        folder: where to write.

    Raises:
        BadDataError: if the tables are not the published ones.
    """
    table = pd.read_csv(source / "splits.csv.gz", keep_default_na=False)
    lacking = {"Alloys", "Class", "split", *PUBLISHED_COLUMNS} - set(table.columns)
    if lacking or not set(table["split"]) <= set(SPLITS):
        raise BadDataError(f"{source / 'splits.csv.gz'}: lacks {', '.join(sorted(lacking)) or 'the published splits'}")
    elements = read_elements(source)
    alloys = [parse_alloy(name) for name in table["Alloys"]]
    everything = elements.fractions(alloys)
    features = alloy_features(everything, elements, EXTENDED)
    published = table[list(PUBLISHED_COLUMNS)].to_numpy(float)
    off = np.abs(features[:, : len(PUBLISHED)] - published) > TOLERANCE * np.maximum(1.0, np.abs(published))
    if off.any() or not np.isfinite(features).all():
        worst = table["Alloys"][int(off.any(1).argmax())]
        raise BadDataError(f"{source}: features computed from {worst} differ from the published ones")
    columns = list(table.columns)
    components = columns[columns.index("Class") + 1 : columns.index("k")]
    fractions = table[components].to_numpy(float)
    position = [elements.symbols.index(symbol) for symbol in components]
    if np.abs(fractions - everything[:, position]).max() > 1e-3:
        raise BadDataError(f"{source / 'splits.csv.gz'}: fractions differ from the formulas")
    np.savez_compressed(
        folder / "alloys.npz",
        formulas=table["Alloys"].to_numpy(str),
        components=np.array(components),
        fractions=everything[:, position],
        features=features,
        target=table["Class"].to_numpy(float),
        split=np.array([SPLITS.index(name) for name in table["split"]]),
        deviation=np.abs(features[:, : len(PUBLISHED)] - published).max(0),
    )
    write_json(folder / "elements.json", elements.plain())


def read_elements(source: Path) -> AlloyElements:
    """The authors' tables; pairs they leave out are recovered from the enthalpies of the 1 807 published alloys."""
    tables = [
        json.loads((source / name).read_text("utf-8")) for name in ("look_up_dict.json", "mixing_enthalpy_dict.json")
    ]
    elements = AlloyElements.from_tables(*tables)
    every = pd.read_csv(source / "HEA_feature_engineered.csv.gz", keep_default_na=False)
    fractions = elements.fractions(parse_alloy(name) for name in every["Alloys"])
    return elements.with_recovered_pairs(fractions, every["delta_h_mix"].to_numpy(float))


def load_alloys(prepared: Path) -> Alloys:
    """Read what ``prepare_alloys`` wrote."""
    with np.load(prepared / "alloys.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if name != "deviation"}
    components = tuple(str(symbol) for symbol in arrays.pop("components"))
    elements = AlloyElements.from_plain(json.loads((prepared / "elements.json").read_text("utf-8")))
    return Alloys(components=components, elements=elements, **arrays)
