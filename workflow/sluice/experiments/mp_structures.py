"""Structures of the Materials Project as kept in the data set ``mp_structures``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.step import report_progress

FILES = ("mp_le20.npz", "mp_21_60.npz", "mp_gt60.npz")
TABLE = "mp_table.csv.gz"


def read_table(folder: Path) -> pd.DataFrame:
    """The table of labels, one row a material."""
    return pd.read_csv(folder / TABLE, keep_default_na=False, na_values=[""], low_memory=False)


def read_structures(folder: Path, wanted: Collection[str], max_atoms: int) -> tuple[list[str], Crystals]:
    """The structures of some materials, as far as they are there and small enough.

    Args:
        folder: of the data set.
        wanted: material ids.
        max_atoms: larger cells are left out.
    """
    names = np.array(sorted(wanted))
    found, parts = [], []
    for number, file in enumerate(FILES):
        with np.load(folder / file) as table:
            ids, offset = table["material_id"], table["offset"]
            rows = np.flatnonzero(np.isin(ids, names) & (np.diff(offset) <= max_atoms))
            if len(rows):
                parts.append(_crystals(table["cell"][rows].astype(float), offset, table["z"], table["frac"], rows))
                found += ids[rows].tolist()
        report_progress(number + 1, len(FILES), "files", "structures")
    return found, Crystals.concatenate(parts)


def _crystals(cell: NDArray, offset: NDArray, z: NDArray, frac: NDArray, rows: NDArray) -> Crystals:
    counts = offset[rows + 1] - offset[rows]
    new = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    atoms = np.repeat(offset[rows] - new[:-1], counts) + np.arange(new[-1])
    return Crystals(cell_vectors(cell), new, z[atoms], frac[atoms].astype(np.float64))


def cell_vectors(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3, 3) cell vectors in Å, as rows, of (n, 6) lengths (Å) and angles (degrees); pymatgen's orientation."""
    a, b, c = parameters[:, :3].T
    alpha, beta, gamma = np.radians(parameters[:, 3:]).T
    value = (np.cos(alpha) * np.cos(beta) - np.cos(gamma)) / (np.sin(alpha) * np.sin(beta))
    star = np.arccos(np.clip(value, -1, 1))
    vectors = np.zeros((len(parameters), 3, 3))
    vectors[:, 0] = np.stack([a * np.sin(beta), 0 * a, a * np.cos(beta)], 1)
    vectors[:, 1] = np.stack(
        [-b * np.sin(alpha) * np.cos(star), b * np.sin(alpha) * np.sin(star), b * np.cos(alpha)], 1
    )
    vectors[:, 2, 2] = c
    return vectors
