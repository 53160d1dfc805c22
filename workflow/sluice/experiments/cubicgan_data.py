"""What the experiment `cubicgan` reads: cubic ternaries, the hull and the known crystals of the Materials Project."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Lattice, Structure

from sluice.chemistry.hull import MAX_Z
from sluice.errors import BadDataError
from sluice.models.cubicgan import SPACE_GROUPS
from sluice.models.cubicgan_training import sort_sites
from sluice.models.orbits import GRID, POINTS, Decomposition, canonical_points, grid_index
from sluice.provenance import sha256_of_file, sha256_of_text

CUBIC_FILE = "mp_cubic_ternary.csv.gz"
TABLE_FILE = "mp_table.csv.gz"
STRUCTURE_FILES = ("mp_le20.npz", "mp_21_60.npz")
HULL_FILE = "gnome_mp_materials_summary.csv.gz"
ELEMENTS_FILE = "mp-elemental-reference-entries-2023-02-07.json.gz"


def read_table(path: Path) -> pd.DataFrame:
    """A CSV whose formulas stay texts (NaN, the nitride of sodium in Hill's order, is one)."""
    return pd.read_csv(path, keep_default_na=False, na_values={"e_form": [""], "e_form_mp20": [""]})


def read_cubic(folder: Path) -> tuple[Decomposition, list[str], list[str]]:
    """The cubic ternaries on the quarter grid as base sites in canonical form, with their ids and formulas.

    Raises:
        BadDataError: if a row is no such crystal.
    """
    table = read_table(folder / CUBIC_FILE)
    table = table[table["special"] == 1].reset_index(drop=True)
    numbers = table["spacegroup"].to_numpy(np.int64)
    symbols = table[["el1", "el2", "el3"]].to_numpy()
    coordinates = np.array(
        [[[float(x) for x in site.split()] for site in row] for row in table[["xyz1", "xyz2", "xyz3"]].values]
    )
    nearest = np.rint(coordinates * GRID)
    bad = (np.abs(coordinates * GRID - nearest).max(axis=(1, 2)) > 1e-6) | ~np.isin(numbers, SPACE_GROUPS)
    if bad.any() or not len(table):
        raise BadDataError(f"{folder / CUBIC_FILE}: {int(bad.sum())} of {len(table)} rows are not on the quarter grid")
    elements = np.array([[Element(symbol).Z for symbol in row] for row in symbols], np.int64)
    order = sort_sites(elements)
    points = np.take_along_axis(grid_index(nearest.astype(np.int64)), order, axis=1)
    found = Decomposition(
        np.arange(len(table)),
        numbers,
        canonical_points(numbers, points),
        np.take_along_axis(elements, order, axis=1),
        table["a"].to_numpy(np.float64),
    )
    return found, table["material_id"].tolist(), table["formula"].tolist()


def crystal_keys(numbers: NDArray, points: NDArray, elements: NDArray) -> NDArray[np.int64]:
    """(n,) one number for space group, orbits and elements: equal for the same crystal whatever its size.

    Args:
        numbers: (n,) space groups.
        points: (n, S) grid index of each base site, in any description.
        elements: (n, S) atomic numbers, sorted as ``sort_sites`` does; S ≤ 4.
    """
    keys = np.searchsorted(SPACE_GROUPS, numbers).astype(np.int64)
    for column in canonical_points(numbers, points).T:
        keys = keys * POINTS + column
    for column in elements.T:
        keys = keys * (MAX_Z + 1) + column
    return keys


def split_by_formula(formulas: Sequence[str], seed: int) -> NDArray[np.str_]:
    """(n,) ``train`` (80 %), ``val`` (10 %) or ``test`` (10 %), the same for all crystals of a formula."""
    unique, inverse = np.unique(np.asarray(formulas), return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(unique)) / len(unique)
    return np.array(["train", "val", "test"])[np.searchsorted([0.8, 0.9], place, side="right")][inverse]


def read_hull(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the elements (m, 119) and corrected energies (m,), eV/atom, of the crystals on MP's hull, elements too.

    Snapshot of the Materials Project of early 2023, PBE with MP2020 corrections: the scale that CHGNet was fitted to.
    """
    table = pd.read_csv(folder / HULL_FILE, keep_default_na=False)
    compositions = [Composition(text) for text in table["Composition"]]
    energies = [float(e) / c.num_atoms for e, c in zip(table["Corrected Energy"], compositions, strict=True)]
    references = json.loads(gzip.decompress((folder / ELEMENTS_FILE).read_bytes()))
    for entry in references.values():
        composition = Composition(entry["composition"])
        compositions.append(composition)
        energies.append((entry["energy"] + entry.get("correction", 0.0)) / composition.num_atoms)
    fractions = np.zeros((len(compositions), MAX_Z + 1))
    for row, composition in zip(fractions, compositions, strict=True):
        for element, share in composition.fractional_composition.items():
            row[Element(element.symbol).Z] = share
    return fractions, np.array(energies)


def hull_energies(folder: Path) -> dict[str, float]:
    """Corrected energy in eV/atom of each crystal on MP's hull by its id."""
    table = pd.read_csv(folder / HULL_FILE, keep_default_na=False)
    return dict(zip(table["MaterialId"], table["Corrected Energy"] / table["NSites"], strict=True))


def plain_formula(structure_or_formula: Structure | str) -> str:
    """Reduced formula with the symbols in alphabetical order, as in MP's table, e.g. ``F3KMg``."""
    composition = (
        Composition(structure_or_formula) if isinstance(structure_or_formula, str) else structure_or_formula.composition
    )
    amounts = composition.get_integer_formula_and_factor()[0]
    counts = Composition(amounts).as_dict()
    return "".join(f"{symbol}{int(n) if n > 1 else ''}" for symbol, n in sorted(counts.items()))


class KnownCrystals:
    """The Materials Project's crystals of a formula, up to 60 atoms, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = read_table(folder / TABLE_FILE)
        self.ids_of: dict[str, list[str]] = {}
        for name, formula in zip(table["material_id"], table["formula"], strict=True):
            self.ids_of.setdefault(str(formula), []).append(str(name))
        self._files = [np.load(folder / name, allow_pickle=False) for name in STRUCTURE_FILES]
        self._rows = [{str(m): i for i, m in enumerate(file["material_id"])} for file in self._files]
        self._arrays = [{name: file[name] for name in ("cell", "offset", "z", "frac")} for file in self._files]

    @cached_property
    def digest(self) -> str:
        """Names the crystals: digest of the files they are read from."""
        return sha256_of_text(" ".join(sha256_of_file(self.folder / name) for name in (TABLE_FILE, *STRUCTURE_FILES)))

    def __contains__(self, formula: str) -> bool:
        return formula in self.ids_of

    def structures(self, formula: str) -> list[Structure]:
        """All of them of a formula in alphabetical order."""
        found = []
        for name in self.ids_of.get(formula, []):
            for rows, arrays in zip(self._rows, self._arrays, strict=True):
                if name in rows:
                    i = rows[name]
                    part = slice(int(arrays["offset"][i]), int(arrays["offset"][i + 1]))
                    lattice = Lattice.from_parameters(*arrays["cell"][i])
                    found.append(Structure(lattice, arrays["z"][part].tolist(), arrays["frac"][part]))
        return found
