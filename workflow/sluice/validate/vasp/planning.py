"""What the plan asks a code: tiers, cells, settings. Every ``validate/<code>`` has these functions."""

from __future__ import annotations

from collections.abc import Iterable

from pymatgen.core import Structure

from sluice.config import SUPPORTED_ELEMENTS, ValidateSettings
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import prepare_structure
from sluice.validate.vasp.references import snapshot_digest
from sluice.validate.vasp.sets import VaspCalculationSettings, calculation_settings

__all__ = ["prepare_structure", "reference_cell", "settings_for", "tier_name", "tier_scope"]

CUTOFFS_EV = {
    "MPGGADoubleRelaxStaticMaker": 520,
    "MPMetaGGADoubleRelaxStaticMaker": 680,
    "MP24DoubleRelaxStaticMaker": 680,
}


def tier_name(elements: Iterable[str], settings: ValidateSettings) -> str:
    """The flow's cutoff, one for all elements, e.g. ``520 eV``."""
    return f"{CUTOFFS_EV[settings.vasp.flow]} eV"


def tier_scope(tier: str, settings: ValidateSettings) -> tuple[list[str], list[str]]:
    """Elements that a tier covers, and those that need it: all of them."""
    return list(SUPPORTED_ELEMENTS), list(SUPPORTED_ELEMENTS)


def reference_cell(element: str) -> Structure:
    """The crystal or molecule that stands for an element, the same as for the other code.

    Raises:
        SluiceError: if there is none.
    """
    return reference_structure(element).structure


def settings_for(
    structure: Structure, *, element: str, tier: str, settings: ValidateSettings
) -> VaspCalculationSettings:
    """Settings of one task.

    Args:
        structure: what is going to be calculated.
        element: symbol if it is that element's reference, else "".
        tier: name of the cutoff tier.
        settings: flow, Hubbard's U, where references come from.

    Raises:
        SluiceError: if the snapshot cannot be read.
    """
    vasp = settings.vasp
    if not element:
        return calculation_settings(structure, flow=vasp.flow, hubbard_u=vasp.hubbard_u)
    row = reference_structure(element)
    snapshot = "" if vasp.references is None else snapshot_digest(vasp.references)
    return calculation_settings(
        structure,
        flow=vasp.flow,
        hubbard_u=vasp.hubbard_u,
        relax=row.relax,
        total_moment=row.total_moment,
        snapshot=snapshot,
    )
