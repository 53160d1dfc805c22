"""smact's rule of charge neutrality and electronegativity order, once per formula.

Davies et al., Chem 1, 617 (2016); the judgement is smact's own ``smact_validity``.
"""

from __future__ import annotations

from functools import lru_cache

from pymatgen.core import Composition
from smact import metals
from smact.screening import smact_validity

from sluice.config import ChargeSettings

NOT_NEUTRAL = "not charge-neutral"
WRONG_ORDER = "electronegativity order"
METALS_ONLY = "metals only"


def is_charge_neutral(formula: str, settings: ChargeSettings) -> bool:
    """Whether smact calls a formula valid.

    # ASSUME: an element has the same oxidation state on all of its sites (smact's ``mixed_valence=False``).
    # ASSUME: above a million combinations of oxidation states smact gives up and answers no.
    """
    return _valid(formula, settings.oxidation_states, settings.use_pauling, settings.include_alloys)


def charge_problem(formula: str, settings: ChargeSettings) -> str:
    """Why smact calls a formula invalid; "" for a valid one."""
    return _problem(formula, settings.oxidation_states, settings.use_pauling, settings.include_alloys)


def _valid(formula: str, oxidation_states: str, use_pauling: bool, include_alloys: bool) -> bool:
    return bool(
        smact_validity(
            formula,
            use_pauling_test=use_pauling,
            include_alloys=include_alloys,
            oxidation_states_set=oxidation_states,
        )
    )


@lru_cache(maxsize=1_000_000)
def _problem(formula: str, oxidation_states: str, use_pauling: bool, include_alloys: bool) -> str:
    if _valid(formula, oxidation_states, use_pauling, include_alloys):
        return ""
    if all(element in metals for element in Composition(formula).as_dict()):
        return METALS_ONLY
    if use_pauling and _valid(formula, oxidation_states, False, include_alloys):
        return WRONG_ORDER
    return NOT_NEUTRAL
