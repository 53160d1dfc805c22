"""Real prototypes decorated over a small chemistry, with a label that a network can learn in seconds."""

from itertools import permutations

import numpy as np

from sluice.crystals import Crystals
from sluice.models.element_features import continuous_table
from sluice.models.orbits import build_crystals, grid_index
from sluice.schemas import Column
from sluice.store import StoreWriter

ELEMENTS = (3, 8, 9, 11, 12, 17, 19)  # Li O F Na Mg Cl K
# Space group and base sites in units of 1/4.
PROTOTYPES = {
    "perovskite": (221, ((0, 0, 0), (2, 2, 2), (0, 2, 2))),
    "heusler": (225, ((0, 0, 0), (2, 2, 2), (1, 1, 1))),
    "half-heusler": (216, ((0, 0, 0), (2, 2, 2), (1, 1, 1))),
}


def decorated(elements=ELEMENTS):
    """Crystals, prototype, space group and lattice constant of every decoration."""
    rows = [(name, number, sites, z) for name, (number, sites) in PROTOTYPES.items() for z in permutations(elements, 3)]
    numbers = np.array([row[1] for row in rows])
    points = grid_index(np.array([row[2] for row in rows]))
    atoms = np.array([row[3] for row in rows])
    lengths = np.where(numbers == 221, 4.0, 5.8) + 0.5 * continuous_table()[:, 1][atoms].sum(axis=1) / 3
    return build_crystals(numbers, points, atoms, lengths), [row[0] for row in rows], numbers, lengths


def labels(crystals: Crystals):
    """(n,) a made-up formation energy: the spread of electronegativities, less where the cell is large."""
    chi = continuous_table()[:, 0]
    spread = [np.std(chi[crystals.numbers[crystals.atoms_of(i)]]) for i in range(len(crystals))]
    return -np.array(spread) + 0.002 * crystals.volumes


def write_dataset(path, *, elements=ELEMENTS, seed=3, only=None):
    """A store of schema ``dataset``, split by formula, or all of it in one split."""
    crystals, prototypes, numbers, _ = decorated(elements)
    formulas = crystals.reduced_formulas()
    unique = sorted(set(formulas))
    share = dict(zip(unique, np.random.default_rng(seed).random(len(unique)), strict=True))
    split = ["val" if share[f] < 0.15 else "test" if share[f] < 0.3 else "train" for f in formulas]
    split = [only] * len(formulas) if only else split
    with StoreWriter(path, "dataset", campaign="unit") as writer:
        writer.append(
            [f"db-{i:05d}" for i in range(len(crystals))],
            {
                "prototype": prototypes,
                "space_group": numbers,
                "formation_energy_ev_per_atom": labels(crystals),
                "label_source": ["chgnet"] * len(crystals),
                "split": split,
            },
            crystals=crystals,
        )
    return path


def write_validated(path, crystals, energies, *, corrected=None, converged=None, confirmed=None, columns=None):
    """A store of schema ``validated`` with these formation energies."""
    n = len(crystals)
    values = {
        "task_id": [f"task{i}" for i in range(n)],
        "energy_ev_per_atom": np.full(n, -5.0),
        "converged": np.ones(n, bool) if converged is None else np.array(converged),
        "space_group": np.full(n, 221),
        "magnetization_mu_b_per_cell": np.zeros(n),
        "cpu_seconds": np.ones(n),
        "wall_seconds": np.ones(n),
        "attempts": np.ones(n),
        "continuations": np.zeros(n),
        "parent_rank": np.arange(n),
        "formation_energy_ev_per_atom": np.asarray(energies, dtype=float),
        "formation_energy_corrected_ev_per_atom": np.full(n, np.nan) if corrected is None else np.asarray(corrected),
        "mlip_formation_energy_ev_per_atom": np.zeros(n),
        "confirmed": np.ones(n, bool) if confirmed is None else np.array(confirmed),
        "novel": np.ones(n, bool),
        "code": ["espresso"] * n,
        "protocol": ["fast"] * n,
    }
    extra: dict[str, Column] = columns or {}
    with StoreWriter(path, "validated", columns=extra, campaign="unit", round_number=1) as writer:
        writer.append([f"r1-b0-{i:07d}" for i in range(n)], values, crystals=crystals)
    write_shortlist(shortlist_of(path), crystals)
    return path


def shortlist_of(validated):
    """Where ``write_validated`` puts the shortlist that its results are of."""
    return validated.with_name(f"{validated.stem}_shortlist.h5")


def write_shortlist(path, crystals):
    """A store of schema ``shortlist`` with these crystals as they go to DFT."""
    n = len(crystals)
    with StoreWriter(path, "shortlist", campaign="unit", round_number=1) as writer:
        values = {name: np.zeros(n, column.dtype) for name, column in writer.columns.items()}
        writer.append([f"r1-b0-{i:07d}" for i in range(n)], values, crystals=crystals)


def write_decision(path, stop):
    """A store of schema ``decision``."""
    with StoreWriter(path, "decision", with_crystals=False) as writer:
        writer.count(made=1)
        writer.append(["round-1"], {"stop": np.array([stop]), "reason": ["told so"]})
    return path
