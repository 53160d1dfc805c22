"""From total energies to formation energies: like is compared with like, or the arithmetic is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from pymatgen.core import Structure
from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from sluice.errors import SluiceError


class MixedReferencesError(SluiceError):
    """A compound and a reference that were not computed alike; names both settings."""


@dataclass(frozen=True)
class TotalEnergy:
    """An energy and how it was obtained.

    Attributes:
        name: candidate id or ``ref-<element>``, for messages.
        energy_ev_per_atom: total energy, eV/atom.
        setup: code, version, protocol, tier, cutoffs and smearing in words.
        pseudos: first digits of the SHA-256 of each element's pseudopotential.
    """

    name: str
    energy_ev_per_atom: float
    setup: str
    pseudos: Mapping[str, str]


def check_alike(compound: TotalEnergy, references: Mapping[str, TotalEnergy]) -> None:
    """Refuse references of another code, version, protocol, tier, cutoff, smearing or pseudopotential.

    Raises:
        MixedReferencesError: naming the two settings.
    """
    for element, reference in references.items():
        if reference.setup != compound.setup:
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


def mp2020_correction(structure: Structure) -> float:
    """MP2020's correction of a plain-PBE energy in eV/atom; NaN where the scheme has none for plain PBE.

    Anion corrections (oxides, peroxides and superoxides told apart by their O-O distances; sulfides, halides,
    nitrides, hydrides …) are fitted to PBE and apply. Oxides and fluorides of V, Cr, Mn, Fe, Co, Ni, Mo and W are
    corrected on top of PBE+U there, so plain PBE has no value. Elements are not corrected.

    Source: Wang et al., Sci. Rep. 11, 15496 (2021), as implemented in pymatgen.
    """
    # ASSUME: corrections fitted to VASP's PBE also bring PBE energies of another code closer to experiment.
    entry = ComputedStructureEntry(structure, 0.0, parameters={"run_type": "GGA", "is_hubbard": False, "hubbards": {}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oxidation states that cannot be guessed; the scheme falls back by itself
        corrected = MaterialsProject2020Compatibility(check_potcar=False).process_entry(entry, inplace=False)
    return math.nan if corrected is None else float(corrected.correction) / len(structure)
