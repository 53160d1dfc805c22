"""Data of TSDNN's experiments: labels by Materials Project id, candidates that DFT has checked."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pymatgen.core import Composition

from sluice.chemistry.read_crystals import read_crystals
from sluice.crystals import Crystals
from sluice.errors import BadDataError

MIN_DISTANCE = 0.3  # Å; of candidates before relaxation
# The file's `Eform` is a thousandth of eV/atom by its range (−5.9 … 2.6).
EFORM_UNIT = 1000.0
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Candidates:
    """Candidates of CubicGAN's that the authors checked with DFT.

    Attributes:
        names: (n,) file names without suffix.
        crystals: as generated, before relaxation.
        formation_energy: (n,) eV/atom by the authors' DFT.
        score: (n,) the authors' own score.
    """

    names: list[str]
    crystals: Crystals
    formation_energy: NDArray[np.float64]
    score: NDArray[np.float64]


def read_labels(folder: Path, file: str) -> pd.Series:
    """Labels by id of one of the authors' headerless tables; a repeated id counts once."""
    table = pd.read_csv(folder / "datasets" / file, header=None, names=["id", "label"], keep_default_na=False)
    return table.drop_duplicates("id").set_index("id")["label"].astype(int)


def read_candidates(folder: Path) -> Candidates:
    """The candidates with a structure and an energy.

    Raises:
        BadDataError: if the tables are missing or none can be read.
    """
    table_path, archive = folder / "paper_results" / "results.csv", folder / "paper_results" / "cifs.zip"
    if not (table_path.is_file() and archive.is_file()):
        raise BadDataError(
            f"{folder / 'paper_results'}: results.csv and cifs.zip are missing: run `sluice data fetch tsdnn_labels`"
        )
    table = pd.read_csv(table_path, keep_default_na=False).set_index("formula")
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                name = Path(member).name  # nothing is written outside the folder
                if name.endswith(".cif"):
                    (Path(temporary) / name).write_bytes(packed.read(member))
        readings = [r for r in read_crystals(Path(temporary), min_distance=MIN_DISTANCE) if r.crystal is not None]
    readings = [r for r in readings if r.name in table.index]
    if not readings:
        raise BadDataError(f"{archive}: no crystal whose name is in {table_path.name}")
    names = [r.name for r in readings]
    return Candidates(
        names,
        Crystals.concatenate([r.crystal for r in readings if r.crystal is not None]),
        table.loc[names, "Eform"].to_numpy(float) * EFORM_UNIT,
        table.loc[names, "score"].to_numpy(float),
    )


def split_by_formula(formulas: list[str], seed: int, shares: dict[str, float] | None = None) -> NDArray[np.str_]:
    """(n,) split of each row; polymorphs of a formula stay together, so that no formula is in two splits."""
    shares = shares or SHARES
    unique = sorted(set(formulas))
    draw = np.random.default_rng([seed, 17]).random(len(unique))
    edges = np.cumsum(list(shares.values()))[:-1]
    names = np.array(list(shares))[np.searchsorted(edges, draw, side="right")]
    of = dict(zip(unique, names, strict=True))
    return np.array([of[formula] for formula in formulas])


def folds_by_formula(formulas: list[str], folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) fold of each row; polymorphs of a formula share a fold, folds are of nearly equal size."""
    unique = sorted(set(formulas))
    order = np.random.default_rng([seed, 23]).permutation(len(unique))
    of = {unique[k]: place % folds for place, k in enumerate(order)}
    return np.array([of[formula] for formula in formulas])


def formula_of_id(name: str) -> str:
    """Reduced formula in a candidate's id, ``<atoms>-<formula>-<space group>-<number>``."""
    return Composition(name.split("-")[1]).reduced_formula
