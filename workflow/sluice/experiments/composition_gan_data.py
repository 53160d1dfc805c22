"""Compositions for the experiments `wgan` and `matgan`: tables of a property, and what the networks learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.chemistry.charge_neutrality import smact_valid
from sluice.chemistry.composition_keys import composition_keys
from sluice.chemistry.composition_table import merge_duplicates, read_table, refuse_bad_rows
from sluice.chemistry.compositions import Compositions, read_formulas
from sluice.chemistry.encodings import ELEMENTS_85, ElementFractions, OneHotCounts
from sluice.config_composition import CompositionDataSettings

OQMD_FILE = "oqmd_compositions.csv.gz"
# Data set, its file, and how that is read.
PROPERTIES: dict[str, tuple[str, str, CompositionDataSettings]] = {
    "mp_gap": (
        "mp_properties",
        "mp-non-metals.csv.gz",
        CompositionDataSettings(formula_column="composition", target_column="band_gap", unit="eV"),
    ),
    # ASSUME: SuperCond is the list of Stanev et al. (2018); rows of one composition are averaged. A Tc of 0 there means
    # that none is reported (a quarter of the rows): those are left out. The paper's must be without them, too: its RMSE
    # and R² imply a standard deviation of 29 K, as of the others; with the zeros it is 27 K.
    "supercon": (
        "supercon",
        "Supercon_data.csv.gz",
        CompositionDataSettings(formula_column="name", target_column="Tc", unit="K"),
    ),
    # Of OQMD's entries 207 751 have a formation energy in the file.
    "oqmd": (
        "oqmd_formation",
        OQMD_FILE,
        CompositionDataSettings(target_column="e_form", unit="eV/atom", duplicates="lowest", max_sigma=5.0),
    ),
}

MAX_BAD_FRACTION = 0.05  # formulas that cannot be read and are tolerated, where no setting says it
MISSING: dict[str, float | str] = {"supercon": 0.0, "oqmd": ""}  # what a file says where it has no value


def save_compositions(path: Path, compositions: Compositions, target: NDArray[np.float64] | None = None) -> None:
    """Write compositions, and a value of each, as arrays."""
    np.savez_compressed(
        path,
        offsets=compositions.offsets,
        numbers=compositions.numbers,
        amounts=compositions.amounts,
        target=np.zeros(0) if target is None else target,
    )


def load_compositions(path: Path) -> tuple[Compositions, NDArray[np.float64]]:
    """The other way round."""
    with np.load(path) as arrays:
        found = Compositions(arrays["offsets"], arrays["numbers"], arrays["amounts"])
        return found, arrays["target"]


def read_property(name: str, folder: Path, limit: int | None, seed: int) -> tuple[Compositions, NDArray[np.float64]]:
    """Compounds with a value; all consist of the 85 elements that every encoding knows.

    Args:
        name: a key of ``PROPERTIES``.
        folder: of its data set.
        limit: rows kept at most, drawn at random.
        seed: of that draw.
    """
    _, file, settings = PROPERTIES[name]
    reading = read_table(folder / file, settings, missing=MISSING.get(name))
    known = np.array([problem == "" for problem in ElementFractions(ELEMENTS_85).problems(reading.compositions)])
    rows = np.flatnonzero(known & (reading.compositions.sizes > 1))
    if limit is not None and len(rows) > limit:
        rows = np.sort(np.random.default_rng([seed, 29]).permutation(rows)[:limit])
    return reading.compositions[rows], reading.target[rows]


def encodable(compositions: Compositions) -> Compositions:
    """Compounds that fit into the matrices of 85 elements and eight counts, each once."""
    fits = np.array([problem == "" for problem in OneHotCounts().problems(compositions)])
    chosen = compositions[fits & (compositions.sizes > 1)]
    _, first = np.unique(composition_keys(chosen), return_index=True)
    return chosen[np.sort(first)]


def read_oqmd_formulas(folder: Path, limit: int | None, seed: int) -> Compositions:
    """OQMD's compounds that fit into the matrices; those with a formation energy beyond ±5σ are left out.

    # ASSUME: entries without a formation energy in the file (a third) stay: the filter would keep nearly all of them.

    Args:
        folder: of the data set.
        limit: formulas kept at most, drawn at random.
        seed: of that draw.
    """
    frame = pd.read_csv(folder / OQMD_FILE, keep_default_na=False, dtype=str, usecols=["formula", "e_form"])
    compositions, problems = read_formulas(frame["formula"].tolist())
    refuse_bad_rows(folder / OQMD_FILE, problems, PROPERTIES["oqmd"][2].max_bad_fraction)
    energy = pd.to_numeric(frame["e_form"], errors="coerce").to_numpy(float)
    good = np.array([problem == "" for problem in problems])
    far = np.abs(energy - np.nanmean(energy)) > 5 * np.nanstd(energy)  # False where there is none
    found = encodable(compositions[good & ~far])
    if limit is not None and len(found) > limit:
        found = found[np.sort(np.random.default_rng([seed, 41]).permutation(len(found))[:limit])]
    return found


def read_experimental_formulas(folder: Path) -> tuple[Compositions, dict[str, int]]:
    """Charge-neutral, electronegativity-balanced compositions of experimentally known crystals; counts on the way.

    The ICSD list that MatGAN's authors used was never public: these are the Materials Project's entries that carry an
    ICSD number (Jang et al., JACS 2020).

    Raises:
        BadDataError: if too many formulas cannot be read.
    """
    path = folder / "MP_icsd_CLscore.csv.gz"
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    compositions, problems = read_formulas(frame["composition"].tolist())
    bad = refuse_bad_rows(path, problems, MAX_BAD_FRACTION)
    good = compositions[np.array([problem == "" for problem in problems])]
    merged, _ = merge_duplicates(good, np.zeros(len(good)))
    fitting = encodable(merged)
    valid = fitting[smact_valid(fitting, table="default", include_alloys=False)]
    return valid, {
        "rows": len(frame),
        "unreadable": len(bad),
        "compositions": len(merged),
        "encodable": len(fitting),
        "valid": len(valid),
    }
