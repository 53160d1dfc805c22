"""Expected cost of a plane-wave calculation in CPU-seconds, from what decides it.

One scf iteration costs, for every irreducible k-point and spin, Fourier transforms of all bands, the algebra among
bands and some bookkeeping, and a share for density and potential on the dense grid; every scf of a relaxation of the
cell ends with a stress, which ultrasoft pseudopotentials make costly on the dense grid:

    t_iteration = N_spin (N_k (a N_b N_fft + b N_b² N_pw + c) + d N_dense),    t_stress = e N_spin N_dense N_atoms

with N_pw plane waves, N_fft points of the grid for the wave functions, N_dense of that for the density and N_b bands.
The five constants are least-squares fits to 14 runs of pw.x 6.7 on one core (Li, Na, Mg, Al, F2, LiAl, LiMgF, KMgF3,
Rb2NaF; 0.6 to 186 CPU-s), which they reproduce to 22 % in the median and 2 times at worst, given the iterations. With
typical numbers of iterations, 15 of 16 tasks (balanced; fluorides, oxides, alloys, elements), nine of them seen
when those numbers were chosen, took between 0.65 and 2.2 times the estimate; the default campaign's 14 tasks took 1.4
times theirs in all. It decides who is calculated and in what order, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import spglib
from pymatgen.core import Structure

from sluice.validate.espresso.pseudos import pseudopotential

BOHR = 0.529177210903  # Å
# Seconds, fitted as the module's text says.
PER_TRANSFORM = 2.2e-8  # a
PER_PRODUCT = 4.1e-8  # b
PER_K_POINT = 4.0e-5  # c
PER_DENSE_POINT = 1.0e-6  # d
PER_STRESS_POINT = 2.8e-5  # e
STARTUP_SECONDS = 0.65
# ASSUME: scf runs and scf iterations of a relaxation by what may move, and iterations of the static run after it,
# which starts from the relaxation's density. References start from PBE's own geometry and need fewer.
RUNS_AND_ITERATIONS = {"reference": (5, 30), "cell": (5, 38), "cell and atoms": (11, 75), "atoms": (3, 14)}
STATIC_ITERATIONS = 5
LONE_STATIC_ITERATIONS = 10
MAGNETIC_FACTOR = 3.0  # ASSUME: how many times more iterations a magnetic crystal needs (measured on bcc Fe)


class PlaneWaveSettings(Protocol):
    """What the estimate asks of a code's settings.

    # ASSUME: VASP's PAW costs what pw.x costs at the same cutoffs, k-points and (SSSP's) valence electrons.
    """

    @property
    def ecutwfc_ry(self) -> float:
        """Cutoff of the wave functions, Ry."""

    @property
    def ecutrho_ry(self) -> float:
        """Cutoff of the density, Ry."""

    @property
    def kpoints(self) -> tuple[int, int, int] | None:
        """Γ-centred grid; None for the Γ point."""

    @property
    def relax_kpoints(self) -> tuple[int, int, int] | None:
        """The relaxation's."""

    @property
    def relax(self) -> str:
        """``cell``, ``ions`` or ``none``."""

    @property
    def starting_moments(self) -> Mapping[str, float]:
        """By element, μB; empty without spin."""

    @property
    def nosym(self) -> bool:
        """Whether symmetry is switched off."""


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
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=0.01)
    except spglib.error.SpglibError:  # instead of None, as other packages (ASE) set it
        return True
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


def work_of(
    structure: Structure, settings: PlaneWaveSettings, grid: tuple[int, int, int] | None
) -> Mapping[str, float]:
    """The sizes that the cost depends on: atoms, k_points, spins, bands, plane_waves, fft_points, dense_points.

    Args:
        structure: the cell that is calculated.
        settings: cutoffs and spin.
        grid: Γ-centred grid of k-points; None for Γ with real wave functions, which is half the work.
    """
    volume = structure.volume / BOHR**3
    electrons = sum(pseudopotential(site.specie.symbol).valence_electrons for site in structure)
    spins = 2 if settings.starting_moments else 1
    # pw.x: a metal (smearing) gets a fifth more bands than half its electrons, at least four.
    half = electrons / 2
    k_max, g_max = math.sqrt(settings.ecutwfc_ry), math.sqrt(settings.ecutrho_ry)
    return {
        "atoms": len(structure),
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
    per_k = PER_TRANSFORM * bands * work["fft_points"] + PER_PRODUCT * bands**2 * work["plane_waves"] + PER_K_POINT
    return work["spins"] * (work["k_points"] * per_k + PER_DENSE_POINT * work["dense_points"])


def stress_seconds(work: Mapping[str, float]) -> float:
    """CPU-seconds of one stress tensor."""
    return PER_STRESS_POINT * work["spins"] * work["dense_points"] * work["atoms"]


def estimate_cpu_seconds(structure: Structure, settings: PlaneWaveSettings) -> float:
    """Expected CPU-seconds of a task: the relaxation that ``settings`` asks for and the static run after it.

    Args:
        structure: the cell that is calculated (``prepare_structure``, or a reference's).
        settings: its settings.
    """
    static = work_of(structure, settings, settings.kpoints)
    if settings.relax == "none":
        return STARTUP_SECONDS + LONE_STATIC_ITERATIONS * scf_seconds(static)
    if settings.relax == "ions":
        kind = "atoms"
    elif len(structure.composition.elements) == 1:
        kind = "reference"
    else:
        kind = "cell and atoms" if _free_atoms(structure) else "cell"
    runs, iterations = RUNS_AND_ITERATIONS[kind]
    if settings.starting_moments and settings.relax_kpoints is not None:
        iterations = round(iterations * MAGNETIC_FACTOR)
    relaxation = work_of(structure, settings, settings.relax_kpoints)
    seconds = iterations * scf_seconds(relaxation) + STATIC_ITERATIONS * scf_seconds(static)
    if settings.relax == "cell":
        seconds += runs * stress_seconds(relaxation)
    return 2 * STARTUP_SECONDS + seconds
