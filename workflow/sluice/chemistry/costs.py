"""Expected cost of a plane-wave calculation in CPU-seconds, from what decides it.

One scf iteration costs, for every irreducible k-point and spin, Fourier transforms of all bands and the algebra among
bands, and a share for building density and potential on the dense grid:

    t = N_k N_spin (a N_b N_fft + b N_b² N_pw) + c N_spin N_dense

with N_pw plane waves, N_fft points of the grid for the wave functions, N_dense of that for the density and N_b bands.
A relaxation is a number of scf runs that depends on what may move. The constants are fitted to timings of pw.x 6.7 on
one core; an estimate is good to about a factor of two and decides only who is calculated and in what order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import spglib
from pymatgen.core import Structure

from sluice.validate.espresso.sets import CalculationSettings
from sluice.validate.pseudos import pseudopotential

BOHR = 0.529177210903  # Å
# Fitted to measured runs, see the module's text; seconds.
PER_TRANSFORM = 6.0e-7  # a
PER_PRODUCT = 1.0e-9  # b
PER_DENSE_POINT = 1.2e-5  # c
STARTUP_SECONDS = 1.5
ITERATIONS = 9.0  # of the first scf; later ones of a relaxation start from its density
LATER_ITERATIONS = 6.0
# ASSUME: scf runs of a relaxation by what may move: cell and free atoms, cell only, atoms only.
STEPS_CELL_AND_IONS = 10
STEPS_CELL = 6
STEPS_IONS = 6


def irreducible_k_points(structure: Structure, grid: tuple[int, int, int], *, nosym: bool = False) -> int:
    """Number of k-points of a Γ-centred grid that symmetry leaves."""
    cell: Any = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    if nosym:
        cell = (np.array([[1.0, 0.1, 0.2], [0.0, 1.1, 0.3], [0.0, 0.0, 1.3]]), [[0.0, 0.0, 0.0]], [1])
    mapping, _ = spglib.get_ir_reciprocal_mesh(grid, cell, is_shift=[0, 0, 0], symprec=0.01)
    return len(np.unique(mapping))


def _free_atoms(structure: Structure) -> bool:
    """Whether symmetry leaves an atom anywhere to go."""
    cell: Any = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    found = spglib.get_symmetry_dataset(cell, symprec=0.01)
    if found is None:
        return True
    for position in range(len(structure)):
        keep = [
            rotation
            for rotation, shift in zip(found.rotations, found.translations, strict=True)
            if _fixed(structure.frac_coords[position], rotation, shift)
        ]
        # A displacement that every operation of the site leaves alone is a free one.
        if np.linalg.matrix_rank(np.concatenate([r - np.eye(3) for r in keep])) < 3:
            return True
    return False


def _fixed(position: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> bool:
    moved = rotation @ position + shift - position
    return bool(np.abs(moved - np.round(moved)).max() < 1e-3)


def work_of(structure: Structure, settings: CalculationSettings) -> Mapping[str, float]:
    """The sizes that the cost depends on: k_points, spins, bands, plane_waves, fft_points, dense_points."""
    volume = structure.volume / BOHR**3
    electrons = sum(pseudopotential(site.specie.symbol).valence_electrons for site in structure)
    spins = 2 if settings.starting_moments else 1
    # pw.x: a metal (smearing) gets a fifth more bands than half its electrons, at least four.
    half = electrons / 2
    k_max, g_max = math.sqrt(settings.ecutwfc_ry), math.sqrt(settings.ecutrho_ry)
    grid = settings.kpoints
    return {
        "k_points": 0.5 if grid is None else irreducible_k_points(structure, grid, nosym=settings.nosym),
        "spins": spins,
        "bands": max(1.2 * half, half + 4),
        "plane_waves": volume * k_max**3 / (6 * math.pi**2),
        "fft_points": volume * (2 * k_max / math.pi) ** 3,
        "dense_points": volume * (g_max / math.pi) ** 3,
    }


def scf_seconds(work: Mapping[str, float]) -> float:
    """CPU-seconds of one scf iteration."""
    bands = work["bands"]
    per_k = PER_TRANSFORM * bands * work["fft_points"] + PER_PRODUCT * bands**2 * work["plane_waves"]
    return work["spins"] * (work["k_points"] * per_k + PER_DENSE_POINT * work["dense_points"])


def estimate_cpu_seconds(structure: Structure, settings: CalculationSettings) -> float:
    """Expected CPU-seconds of a task: the relaxation that ``settings`` asks for and the static run after it.

    Args:
        structure: the cell that is calculated (``prepare_structure``, or a reference's).
        settings: its settings.
    """
    steps = {"none": 0, "ions": STEPS_IONS, "cell": STEPS_CELL}[settings.relax]
    if settings.relax == "cell" and _free_atoms(structure):
        steps = STEPS_CELL_AND_IONS
    iterations = ITERATIONS + (ITERATIONS + LATER_ITERATIONS * (steps - 1) if steps else 0.0)
    return 2 * STARTUP_SECONDS + iterations * scf_seconds(work_of(structure, settings))
