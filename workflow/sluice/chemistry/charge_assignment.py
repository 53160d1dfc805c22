"""The neutral assignment of oxidation states behind a verdict of ``charge_neutrality``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sluice.chemistry.charge_neutrality import charge_rule
from sluice.chemistry.compositions import Compositions, FormulaError, symbols
from sluice.chemistry.oxidation_states import electronegativity_ranks, rarity

MAX_ATOMS = 2000  # of an element whose atoms may differ in their state
Assignment = dict[str, dict[int, int]]


@dataclass(frozen=True)
class _Option:
    """One way to charge all atoms of an element.

    Attributes:
        charge: their sum.
        cost: sum of the atoms' ``rarity``.
        states: (state, number of atoms in it) of each state.
    """

    charge: int
    cost: int
    states: tuple[tuple[int, int], ...]


def assign_charges(
    compositions: Compositions, *, table: str = "icsd24", use_pauling: bool = True, mixed_valence: bool = False
) -> list[Assignment | None]:
    """A neutral assignment for each formula: symbol → state → number of atoms in it; None where there is none.

    One state for each element where that is possible; else, with mixed valence, one for each atom. Of several
    assignments it is the one of the most common states, as the ICSD of 2024 reports them.

    # ASSUME: the probability of an assignment is the product of the shares of its states, atom by atom.

    Args:
        compositions: the formulas; numbers of atoms are those of the smallest integers.
        table: see ``charge_neutrality.smact_valid``, as for the others.
        use_pauling: whether every cation must be less electronegative than every anion.
        mixed_valence: whether atoms of one element may have different states.

    Raises:
        FormulaError: if more than 2 000 atoms of an element may differ in their states.
    """
    rule = charge_rule(table, mixed_valence=mixed_valence)
    counts = compositions.counts()
    found: list[Assignment | None] = []
    for begin, end in zip(compositions.offsets[:-1].tolist(), compositions.offsets[1:].tolist(), strict=True):
        entries = list(zip(compositions.numbers[begin:end].tolist(), counts[begin:end].tolist(), strict=True))
        entries.sort(key=lambda entry: electronegativity_ranks()[entry[0]])
        states = [rule.states[z] for z, _ in entries]
        best = _best(entries, states, [False] * len(entries), use_pauling=use_pauling)
        if best is None and any(rule.free[z] for z, _ in entries):
            best = _best(entries, states, [bool(rule.free[z]) for z, _ in entries], use_pauling=use_pauling)
        found.append(best)
    return found


@lru_cache(maxsize=20_000)
def _options(number: int, states: tuple[int, ...], count: int, mixed: bool) -> tuple[_Option, ...]:
    """Ways to charge the atoms of an element, the likeliest for each sum."""
    if not mixed or not states:
        return tuple(_Option(state * count, rarity(number, state) * count, ((state, count),)) for state in states)
    if count > MAX_ATOMS:
        raise FormulaError(f"states are assigned to up to {MAX_ATOMS} atoms of an element, not to {count}")
    ordered = sorted(set(states))
    steps = [state - ordered[0] for state in ordered]
    length = steps[-1] * count + 1
    impossible = np.iinfo(np.int64).max // 4
    cost = np.full(length, impossible)  # of every sum over the least one
    cost[0] = 0
    last = np.zeros((count, length), dtype=np.int16)  # state of the atom added last
    for atom in range(count):
        before, cost = cost, np.full(length, impossible)
        for which, (state, step) in enumerate(zip(ordered, steps, strict=True)):
            candidate = before[: length - step] + rarity(number, state)
            better = candidate < cost[step:]
            cost[step:][better] = candidate[better]
            last[atom, step:][better] = which
    options = []
    for total in np.flatnonzero(cost < impossible).tolist():
        used = dict.fromkeys(ordered, 0)
        left = total
        for atom in range(count - 1, -1, -1):
            which = int(last[atom, left])
            used[ordered[which]] += 1
            left -= steps[which]
        chosen = tuple((state, atoms) for state, atoms in used.items() if atoms)
        options.append(_Option(total + ordered[0] * count, int(cost[total]), chosen))
    return tuple(options)


def _roles(entries: list[tuple[int, int]], *, use_pauling: bool) -> Iterator[list[int]]:
    """Sign that each element is held to, +1, −1 or 0 for any, for each cut of the order of electronegativities."""
    if not use_pauling:
        yield [0] * len(entries)
        return
    ranks = [int(electronegativity_ranks()[z]) for z, _ in entries]
    if len(ranks) > 1 and ranks[0] < 0:
        return
    for cut in range(len(entries) + 1):
        if cut in (0, len(entries)) or ranks[cut - 1] != ranks[cut]:
            yield [1] * cut + [-1] * (len(entries) - cut)


def _best(
    entries: list[tuple[int, int]], states: list[tuple[int, ...]], mixed: list[bool], *, use_pauling: bool
) -> Assignment | None:
    """The likeliest neutral choice of one option an element."""
    best: tuple[int, tuple[_Option, ...]] | None = None
    for roles in _roles(entries, use_pauling=use_pauling):
        reached: dict[int, tuple[int, tuple[_Option, ...]]] = {0: (0, ())}
        for (z, count), possible, role, free in zip(entries, states, roles, mixed, strict=True):
            options = _options(z, tuple(s for s in possible if s * role >= 0), count, free)
            further: dict[int, tuple[int, tuple[_Option, ...]]] = {}
            for charge, (cost, chosen) in reached.items():
                for option in options:
                    total, total_cost = charge + option.charge, cost + option.cost
                    if total not in further or total_cost < further[total][0]:
                        further[total] = (total_cost, (*chosen, option))
            reached = further
        if 0 in reached and (best is None or reached[0][0] < best[0]):
            best = reached[0]
    if best is None:
        return None
    return {symbols()[z]: dict(option.states) for (z, _), option in zip(entries, best[1], strict=True)}
