"""smact's tables of oxidation states and electronegativities, as arrays by atomic number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from smact import data_loader, metals, ordered_elements
from smact.screening import MIXED_VALENCE_ELEMENTS
from smact.utils.oxidation import ICSD24OxStatesFilter

from sluice.chemistry.compositions import MAX_Z, atomic_numbers
from sluice.errors import SluiceError

_LOOKUPS: dict[str, Callable[[str], list[int] | None]] = {
    "icsd24": data_loader.lookup_element_oxidation_states_icsd24,
    "icsd16": data_loader.lookup_element_oxidation_states_icsd,
    "smact14": data_loader.lookup_element_oxidation_states,
    "pymatgen_sp": data_loader.lookup_element_oxidation_states_sp,
    "wiki": data_loader.lookup_element_oxidation_states_wiki,
}
# What smact_validity takes when no table is named: ions reported at least three times in the ICSD of 2024.
DEFAULT = "default"
TABLES = (*_LOOKUPS, DEFAULT)


@dataclass(frozen=True)
class OxidationStates:
    """A table of oxidation states.

    Attributes:
        name: of the table, or the file it was read from.
        states: by atomic number, in the table's order; empty where the table has none.
    """

    name: str
    states: tuple[tuple[int, ...], ...]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(119,) whether the table has states of an element."""
        return np.array([bool(states) for states in self.states])


@lru_cache(maxsize=16)
def oxidation_states(name: str | Path) -> OxidationStates:
    """One of smact's tables (a name in ``TABLES``), or a file in smact's format: ``symbol state state …`` a line.

    Raises:
        SluiceError: if there is neither; or if the file holds something else.
    """
    found: dict[str, list[int]] = {}
    if name == DEFAULT:
        table = ICSD24OxStatesFilter().filter(consensus=3, include_zero=False, commonality="low")
        for symbol, states in zip(table["element"], table["oxidation_state"], strict=True):
            found[str(symbol)] = [int(state) for state in str(states).split()]
    elif str(name) in _LOOKUPS:
        found = {symbol: _LOOKUPS[str(name)](symbol) or [] for symbol in ordered_elements(1, 103)}
    elif Path(name).is_file():
        try:
            content = data_loader.lookup_element_oxidation_states_custom("all", str(Path(name).absolute()))
        except ValueError as error:
            raise SluiceError(f"{name}: not a table of oxidation states, a line is `Fe 2 3`: {error}") from error
        assert isinstance(content, dict)
        found = content
    else:
        raise SluiceError(f"{name}: no table of oxidation states; give {', '.join(TABLES)} or a file")
    numbers = atomic_numbers()
    unknown = sorted(set(found) - set(numbers))
    if unknown:
        raise SluiceError(f"{name}: {', '.join(unknown)} among the symbols is no element")
    by_number: list[tuple[int, ...]] = [()] * (MAX_Z + 1)
    for symbol, values in found.items():
        by_number[numbers[symbol]] = tuple(values)
    return OxidationStates(str(name), tuple(by_number))


@cache
def electronegativity_ranks() -> NDArray[np.int64]:
    """(119,) place of each element in the order of smact's electronegativities (Pauling), ties equal; -1 unknown."""
    values = np.full(MAX_Z + 1, np.nan)
    for symbol in ordered_elements(1, 103):
        data = data_loader.lookup_element_data(symbol)
        if data is not None and data["el_neg"] is not None:
            values[atomic_numbers()[symbol]] = data["el_neg"]
    ranks = np.full(MAX_Z + 1, -1)
    known = ~np.isnan(values)
    ranks[known] = np.unique(values[known], return_inverse=True)[1]
    return ranks


@cache
def is_metal() -> NDArray[np.bool_]:
    """(119,) whether smact counts an element as a metal."""
    found = np.zeros(MAX_Z + 1, dtype=bool)
    found[[atomic_numbers()[symbol] for symbol in metals]] = True
    return found


@cache
def is_mixed_valence() -> NDArray[np.bool_]:
    """(119,) elements whose atoms smact lets have different states when mixed valence is allowed."""
    found = np.zeros(MAX_Z + 1, dtype=bool)
    found[[atomic_numbers()[symbol] for symbol in MIXED_VALENCE_ELEMENTS]] = True
    return found


@cache
def rarity(number: int, state: int) -> int:
    """How rare a state of an element is: −1000 ln of its share among the element's ions in the ICSD of 2024.

    # ASSUME: a state never reported counts as reported half a time.
    """
    reports = _reports().get(number, {})
    return round(-1000 * math.log(max(reports.get(state, 0), 0.5) / max(sum(reports.values()), 1)))


@cache
def _reports() -> dict[int, dict[int, int]]:
    """Number of reports of each state of each element, smact's counts."""
    found: dict[int, dict[int, int]] = {}
    table = ICSD24OxStatesFilter().ox_states_df
    for symbol, state, count in zip(table["element"], table["oxidation_state"], table["results_count"], strict=True):
        number = atomic_numbers().get(str(symbol))
        if number is not None and int(state) != 0:
            found.setdefault(number, {})[int(state)] = int(count)
    return found
