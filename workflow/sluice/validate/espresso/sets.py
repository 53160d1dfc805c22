"""What decides a number: protocols, cutoff tiers, k-point grids, smearing, magnetism.

Energies are pw.x's ``!`` total energies: with cold smearing (Marzari-Vanderbilt) this is the free energy E − TS, whose
error is of third order in the broadening. Compounds and references use the same definition, the same tier, the same
smearing and the same k spacing; formation energies across settings are refused elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import spglib
from pydantic import BaseModel, ConfigDict
from pymatgen.core import Lattice, Structure

from sluice.errors import SluiceError
from sluice.validate.espresso.pseudos import pseudopotential

ProtocolName = Literal["fast", "balanced", "stringent"]
Relaxation = Literal["cell", "ions", "none"]
SYMMETRY_TOLERANCE = 0.01  # Å


@dataclass(frozen=True)
class Protocol:
    """One line of the accuracy table.

    Attributes:
        cutoff_factor: what the tier's cutoffs are multiplied with.
        kspacing_per_angstrom: largest distance of neighbouring k-points, 2π included, 1/Å.
        relax_kspacing_per_angstrom: the same while a structure relaxes; what it leaves of the geometry's error is of
            second order in the energy, which is the static calculation's alone.
        degauss_ry: broadening of the cold smearing, Ry.
        scf_threshold_ry_per_atom: estimated scf accuracy at which an scf ends, Ry/atom.
        energy_threshold_ry_per_atom: energy change between ionic steps at which a relaxation ends, Ry/atom.
        force_threshold_ry_per_bohr: largest force at which a relaxation ends, Ry/bohr.
        pressure_threshold_kbar: pressure at which a relaxation of the cell ends, kbar.
        expected_error: what to expect of raw formation energies against converged PBE, in words with unit.
    """

    cutoff_factor: float
    kspacing_per_angstrom: float
    relax_kspacing_per_angstrom: float
    degauss_ry: float
    scf_threshold_ry_per_atom: float
    energy_threshold_ry_per_atom: float
    force_threshold_ry_per_bohr: float
    pressure_threshold_kbar: float
    expected_error: str


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "fast": Protocol(0.8, 0.35, 0.55, 0.02, 1e-8, 5e-5, 1e-3, 2.0, "about 0.03 eV/atom"),
    "balanced": Protocol(1.0, 0.25, 0.35, 0.02, 2e-9, 2e-5, 5e-4, 1.0, "about 0.01 eV/atom"),
    "stringent": Protocol(1.25, 0.15, 0.20, 0.01, 2e-10, 5e-6, 1e-4, 0.3, "about 0.002 eV/atom"),
}


@dataclass(frozen=True)
class Tier:
    """A fixed pair of cutoffs shared by everything that is compared.

    Attributes:
        name: e.g. ``T45``.
        ecutwfc_ry: cutoff of the wave functions, Ry (protocol's factor applied).
        ecutrho_ry: cutoff of the density, Ry (likewise).
    """

    name: str
    ecutwfc_ry: float
    ecutrho_ry: float


# SSSP's recommended pairs, rounded up to a few; T90D12 is for Mn and Fe, whose densities need a dual of 12.
TIERS: dict[str, tuple[float, float]] = {
    "T30": (30.0, 240.0),
    "T40": (40.0, 320.0),
    "T45": (45.0, 360.0),
    "T50": (50.0, 400.0),
    "T60": (60.0, 480.0),
    "T70": (70.0, 560.0),
    "T90": (90.0, 720.0),
    "T90D12": (90.0, 1080.0),
}

# ASSUME: high-spin starting moments in μB; the scf finds its own.
STARTING_MOMENTS = {"Cr": 3.0, "Mn": 4.0, "Fe": 3.0, "Co": 2.0, "Ni": 1.0}
DEFAULT_STARTING_MOMENT = 1.0


class CalculationSettings(BaseModel):
    """Everything that decides the energy of a calculation besides structure, code and pseudopotentials.

    Attributes:
        protocol: name in ``PROTOCOLS``.
        tier: name in ``TIERS``.
        ecutwfc_ry: cutoff of the wave functions, Ry.
        ecutrho_ry: cutoff of the density, Ry.
        kspacing_per_angstrom: what the grid was made from, 1/Å.
        kpoints: Γ-centred grid; None for the Γ point with real wave functions (molecules in a box).
        relax_kpoints: the grid of the relaxation, likewise.
        smearing: kind of smearing, pw.x's word.
        degauss_ry: broadening, Ry.
        scf_threshold_ry: scf accuracy, Ry per cell.
        energy_threshold_ry: energy change that ends a relaxation, Ry per cell.
        force_threshold_ry_per_bohr: largest force that ends a relaxation, Ry/bohr.
        pressure_threshold_kbar: pressure that ends a relaxation of the cell, kbar.
        relax: ``cell`` (with ions), ``ions`` or ``none``.
        starting_moments: element → μB per atom; empty for a calculation without spin.
        total_moment: fixed moment of the cell, μB; None lets it float.
        nosym: whether symmetry is switched off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: ProtocolName
    tier: str
    ecutwfc_ry: float
    ecutrho_ry: float
    kspacing_per_angstrom: float
    kpoints: tuple[int, int, int] | None
    relax_kpoints: tuple[int, int, int] | None
    smearing: str = "cold"
    degauss_ry: float
    scf_threshold_ry: float
    energy_threshold_ry: float
    force_threshold_ry_per_bohr: float
    pressure_threshold_kbar: float
    relax: Relaxation
    starting_moments: dict[str, float]
    total_moment: float | None = None
    nosym: bool = False


def tier_for(elements: Iterable[str], protocol: ProtocolName) -> Tier:
    """The smallest tier that covers the recommended cutoffs of every element.

    Args:
        elements: symbols of the whole chemistry, compounds and references.
        protocol: name in ``PROTOCOLS``; its factor is applied.

    Raises:
        SluiceError: if an element is harder than the hardest tier.
    """
    rows = [pseudopotential(element) for element in elements]
    for name, (ecutwfc, ecutrho) in TIERS.items():
        if all(row.ecutwfc_ry <= ecutwfc and row.ecutrho_ry <= ecutrho for row in rows):
            return tier_named(name, protocol)
    raise SluiceError(f"no cutoff tier covers {', '.join(sorted(row.element for row in rows))}")


def tier_named(name: str, protocol: ProtocolName) -> Tier:
    """A tier with the protocol's factor applied."""
    if name not in TIERS:
        raise SluiceError(f"no cutoff tier {name!r}; there are {', '.join(TIERS)}")
    factor = PROTOCOLS[protocol].cutoff_factor
    ecutwfc, ecutrho = TIERS[name]
    return Tier(name, ecutwfc * factor, ecutrho * factor)


def k_grid(lattice: Lattice, kspacing_per_angstrom: float) -> tuple[int, int, int]:
    """Divisions of a Γ-centred grid whose neighbours are no further apart than the spacing (2π included, 1/Å)."""
    lengths = lattice.reciprocal_lattice.abc
    # The margin keeps a grid from depending on the last digits of a lattice.
    a, b, c = (max(1, math.ceil(length / kspacing_per_angstrom - 1e-3)) for length in lengths)
    return a, b, c


def calculation_settings(
    structure: Structure,
    *,
    protocol: ProtocolName,
    tier: str,
    spin_elements: Sequence[str],
    relax: Relaxation = "cell",
    box: bool = False,
    magnetic: bool = False,
    total_moment: float | None = None,
    nosym: bool = False,
) -> CalculationSettings:
    """Settings of one calculation, for a task's id and for ``run_calculation``.

    Args:
        structure: what is going to be calculated, from ``prepare_structure``.
        protocol: name in ``PROTOCOLS``.
        tier: name in ``TIERS``, of the hardest element in the whole chemistry.
        spin_elements: symbols that start spin-polarized (ferromagnetic).
        relax: what may move.
        box: a molecule in a box: Γ point only.
        magnetic: spin-polarized whatever ``spin_elements`` says (a reference that is known to be magnetic).
        total_moment: fixed moment of the cell, μB.
        nosym: switch symmetry off.
    """
    line, pair = PROTOCOLS[protocol], tier_named(tier, protocol)
    elements = sorted({site.specie.symbol for site in structure})
    spinning = [e for e in elements if e in spin_elements or magnetic]
    n = len(structure)
    return CalculationSettings(
        protocol=protocol,
        tier=tier,
        ecutwfc_ry=pair.ecutwfc_ry,
        ecutrho_ry=pair.ecutrho_ry,
        kspacing_per_angstrom=line.kspacing_per_angstrom,
        kpoints=None if box else k_grid(structure.lattice, line.kspacing_per_angstrom),
        relax_kpoints=None if box else k_grid(structure.lattice, line.relax_kspacing_per_angstrom),
        degauss_ry=line.degauss_ry,
        scf_threshold_ry=line.scf_threshold_ry_per_atom * n,
        energy_threshold_ry=line.energy_threshold_ry_per_atom * n,
        force_threshold_ry_per_bohr=line.force_threshold_ry_per_bohr,
        pressure_threshold_kbar=line.pressure_threshold_kbar,
        relax=relax,
        starting_moments={e: STARTING_MOMENTS.get(e, DEFAULT_STARTING_MOMENT) for e in spinning},
        total_moment=total_moment,
        nosym=nosym,
    )


def prepare_structure(structure: Structure) -> Structure:
    """The standardized primitive cell, symmetrized, which is what gets calculated and hashed.

    Args:
        structure: any ordered crystal.

    Raises:
        SluiceError: if spglib finds no symmetry (atoms on top of each other).
    """
    found = _ask_spglib(spglib.standardize_cell, structure, to_primitive=True, no_idealize=False)
    if found is None:
        raise SluiceError(
            f"{structure.composition.reduced_formula}: no symmetry found; are atoms on top of each other?"
        )
    lattice, frac, numbers = found
    order = np.argsort(numbers, kind="stable")
    return Structure(Lattice(lattice), np.asarray(numbers)[order].tolist(), np.asarray(frac)[order] % 1.0)


def _ask_spglib(function: Callable[..., Any], structure: Structure, **options: Any) -> Any:
    """Spglib's answer, None where it has none: it returns that or raises, as other packages (ASE) set it."""
    try:
        return function(_cell(structure), symprec=SYMMETRY_TOLERANCE, **options)
    except spglib.error.SpglibError:
        return None


def _cell(structure: Structure) -> tuple[list[list[float]], list[list[float]], list[int]]:
    """What spglib takes for of a structure."""
    return structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), [site.specie.Z for site in structure]


def space_group_number(structure: Structure) -> int:
    """International number; 0 if spglib finds none."""
    found = _ask_spglib(spglib.get_symmetry_dataset, structure)
    return 0 if found is None else int(found.number)
