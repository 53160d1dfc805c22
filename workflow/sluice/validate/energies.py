"""From total energies to formation energies: like is compared with like, or the arithmetic is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from pymatgen.core import Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from sluice.errors import SluiceError

SNAPSHOT = "mp-snapshot"  # begins the setup of a reference from a snapshot of Materials Project
GGA, GGA_U = "GGA", "GGA+U"
CORRECTIONS = f"MaterialsProject2020Compatibility of pymatgen {version('pymatgen')}"


class MixedReferencesError(SluiceError):
    """A compound and a reference that were not computed alike; names both settings."""


class MixedRunTypesError(MixedReferencesError):
    """A compound and references of different functionals (GGA, GGA+U …) that no correction scheme joins."""


@dataclass(frozen=True)
class TotalEnergy:
    """An energy and how it was obtained.

    Attributes:
        name: candidate id or ``ref-<element>``, for messages.
        energy_ev_per_atom: total energy, eV/atom.
        setup: code, version, protocol, tier, cutoffs and smearing in words.
        pseudos: first digits of the SHA-256 of each element's pseudopotential.
        run_type: ``GGA``, ``GGA+U`` or ``r2SCAN``; "" where a code knows one kind only (plain PBE).
        hubbards: Hubbard's U by element, eV.
    """

    name: str
    energy_ev_per_atom: float
    setup: str
    pseudos: Mapping[str, str]
    run_type: str = ""
    hubbards: Mapping[str, float] = field(default_factory=dict)


def check_alike(compound: TotalEnergy, references: Mapping[str, TotalEnergy]) -> None:
    """Refuse references of another code, version, protocol, tier, cutoff, smearing or pseudopotential.

    References from a snapshot of Materials Project go with compounds of its settings, all of them or none.

    Raises:
        MixedReferencesError: naming the two settings.
    """
    for element, reference in references.items():
        if not _comparable(compound.setup, reference.setup):
            raise MixedReferencesError(
                f"{compound.name} was computed with [{compound.setup}], its reference {reference.name} with "
                f"[{reference.setup}]; a formation energy of the two would mean nothing. Compute both alike: delete "
                "the round's validate directory and resume."
            )
        if reference.pseudos.get(element) != compound.pseudos.get(element):
            raise MixedReferencesError(
                f"{compound.name} was computed with pseudopotential {compound.pseudos.get(element)} of {element}, its "
                f"reference {reference.name} with {reference.pseudos.get(element)}; use one set: delete the round's "
                "validate directory and resume."
            )

    if len({reference.setup for reference in references.values()}) > 1:
        names = "; ".join(f"{reference.name}: [{reference.setup}]" for reference in references.values())
        raise MixedReferencesError(
            f"the references of {compound.name} are partly computed, partly from a snapshot ({names}); take all from"
            " one source: delete the round's validate directory and resume."
        )


def _comparable(compound: str, reference: str) -> bool:
    if compound == reference:
        return True
    source, _, settings = reference.partition(", ")
    code, _, own = compound.partition(", ")
    return source.startswith(f"{SNAPSHOT} ") and code.startswith("vasp ") and own == settings


def formation_energy(
    amounts: Mapping[str, float], compound: TotalEnergy, references: Mapping[str, TotalEnergy]
) -> float:
    """Raw formation energy in eV/atom: ``E(compound) - Σ x_i E(reference_i)``, all per atom.

    Args:
        amounts: atoms of each element in the cell.
        compound: its total energy.
        references: one for each element of the compound.

    Raises:
        MixedReferencesError: where the energies were not computed alike.
    """
    check_alike(compound, {element: references[element] for element in amounts})
    total = sum(amounts.values())
    elements = math.fsum(n * references[element].energy_ev_per_atom for element, n in amounts.items()) / total
    return compound.energy_ev_per_atom - elements


def formation_energies(
    structure: Structure, compound: TotalEnergy, references: Mapping[str, TotalEnergy]
) -> tuple[float, float]:
    """Raw formation energy and the one with MP2020's corrections, eV/atom, each NaN where it means nothing.

    Energies with and without Hubbard's U differ by eV: of a GGA+U compound and GGA elements there is no raw value, only
    that of the correction scheme, which was fitted to join the two.

    Args:
        structure: the relaxed compound.
        compound: its total energy.
        references: one for each element of the compound.

    Raises:
        MixedReferencesError: where the energies were not computed alike.
        MixedRunTypesError: where they are of different functionals, and no scheme joins them.
    """
    amounts = {str(element): float(n) for element, n in structure.composition.get_el_amt_dict().items()}
    raw = formation_energy(amounts, compound, references)
    corrected = raw + mp2020_correction(structure, compound.run_type or GGA, compound.hubbards)
    kinds = {compound.run_type, *(references[element].run_type for element in amounts)}
    if len(kinds) == 1:
        return raw, corrected
    if kinds != {GGA, GGA_U} or compound.run_type != GGA_U or math.isnan(corrected):
        which = ", ".join(f"{references[element].name} {references[element].run_type}" for element in amounts)
        raise MixedRunTypesError(
            f"{compound.name} is {compound.run_type} {dict(compound.hubbards) or ''}, its references are {which};"
            f" {CORRECTIONS} does not join them"
        )
    return math.nan, corrected


def mp2020_correction(structure: Structure, run_type: str = GGA, hubbards: Mapping[str, float] | None = None) -> float:
    """MP2020's correction in eV/atom of an energy; NaN where the scheme has none for its kind.

    Anion corrections (oxides, peroxides and superoxides told apart by their O-O distances; sulfides, halides,
    nitrides, hydrides …) are fitted to PBE and apply. Oxides and fluorides of V, Cr, Mn, Fe, Co, Ni, Mo and W are
    corrected on top of PBE+U there, so plain PBE has no value. Elements are not corrected.

    Source: Wang et al., Sci. Rep. 11, 15496 (2021), as implemented in pymatgen.
    """
    # ASSUME: corrections fitted to VASP's PBE also bring PBE energies of another code closer to experiment.
    parameters = {"run_type": run_type, "is_hubbard": bool(hubbards), "hubbards": dict(hubbards or {})}
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oxidation states that cannot be guessed; the scheme falls back by itself
        corrected = MaterialsProject2020Compatibility(check_potcar=False).process_entry(entry, inplace=False)
    return math.nan if corrected is None else float(corrected.correction) / len(structure)
