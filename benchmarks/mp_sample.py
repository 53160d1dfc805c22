"""Materials Project structures of the reference data (SLUICE_DATA) for benchmarks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice

from sluice.crystals import Crystals
from sluice.errors import SluiceError

FILES = ("mp_le20.npz", "mp_21_60.npz", "mp_gt60.npz")


def mp_sample(count: int, seed: int, max_atoms: int = 10_000) -> Crystals:
    """``count`` structures drawn at random from all of up to ``max_atoms`` atoms."""
    folder = Path(os.environ.get("SLUICE_DATA", "")) / "mp_structures"
    if not all((folder / name).is_file() for name in FILES):
        raise SluiceError("SLUICE_DATA must name the folder of reference data that holds mp_structures/")
    tables = [dict(np.load(folder / name)) for name in FILES]
    pool = [(t, i) for t, table in enumerate(tables) for i in np.flatnonzero(np.diff(table["offset"]) <= max_atoms)]
    cells, numbers, coordinates = [], [], []
    for k in np.random.default_rng(seed).choice(len(pool), count, replace=False):
        table, i = tables[pool[k][0]], pool[k][1]
        atoms = slice(table["offset"][i], table["offset"][i + 1])
        cells.append(Lattice.from_parameters(*table["cell"][i].astype(float)).matrix)
        numbers.append(table["z"][atoms])
        coordinates.append(table["frac"][atoms])
    return Crystals.from_arrays(cells, numbers, coordinates)
