"""What the plan asks a code: tiers, cells, settings. Every ``validate/<code>`` has these functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymatgen.core import Structure

from sluice.config import SUPPORTED_ELEMENTS, ValidateSettings
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import TIERS, CalculationSettings, calculation_settings, prepare_structure, tier_for

__all__ = ["prepare_structure", "reference_cell", "settings_for", "tier_name", "tier_scope"]


def tier_name(elements: Iterable[str], settings: ValidateSettings) -> str:
    """The cutoff tier of the hardest of these elements.

    Raises:
        SluiceError: if no tier covers them.
    """
    return tier_for(elements, settings.protocol).name


def tier_scope(tier: str, settings: ValidateSettings) -> tuple[list[str], list[str]]:
    """Elements that a tier covers, and those of them that no lower tier covers."""
    order = list(TIERS)
    own = {element: tier_name([element], settings) for element in SUPPORTED_ELEMENTS}
    covers = [element for element, name in own.items() if order.index(name) <= order.index(tier)]
    return covers, [element for element in covers if own[element] == tier]


def reference_cell(element: str) -> Structure:
    """The crystal or molecule that stands for an element.

    Raises:
        SluiceError: if there is none.
    """
    return reference_structure(element).structure


def settings_for(structure: Structure, *, element: str, tier: str, settings: ValidateSettings) -> CalculationSettings:
    """Settings of one task.

    Args:
        structure: what is going to be calculated.
        element: symbol if it is that element's reference, else "".
        tier: name of the cutoff tier.
        settings: protocol and spin-polarized elements.
    """
    further: dict[str, Any] = {}
    if element:
        reference = reference_structure(element)
        further = {
            "relax": reference.relax,
            "box": reference.box,
            "magnetic": reference.magnetic,
            "total_moment": reference.total_moment,
            "nosym": reference.nosym,
        }
    return calculation_settings(
        structure, protocol=settings.protocol, tier=tier, spin_elements=settings.spin_elements, **further
    )
