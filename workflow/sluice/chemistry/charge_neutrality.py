"""smact's rule of charge neutrality and electronegativity order, exactly and for millions of formulas.

Davies et al., Chem 1, 617 (2016). A formula passes if states from a table of oxidation states, one for each element,
add up to zero and, where asked for, every cation is less electronegative than every anion (strictly; an element without
an electronegativity fails). Elements pass; so do compounds of metals only where alloys are let through. With mixed
valence each atom of smact's ``MIXED_VALENCE_ELEMENTS`` has a state of its own.

smact tries combination after combination and, with mixed valence, gives up beyond a million of them; here the sets of
sums that can be reached are computed instead. In order of electronegativity the cations of a valid assignment precede
its anions: for a cut of that order, sums of states ≥ 0 before it and of states ≤ 0 behind it must meet.

Amounts that are no integers are scaled to integers; smact cuts them off (Al0.5 counts as none).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.charge_sums import NEVER, add, add_exactly, holds, repeated, start
from sluice.chemistry.compositions import MAX_Z, Compositions, FormulaError, symbols
from sluice.chemistry.oxidation_states import (
    electronegativity_ranks,
    is_metal,
    is_mixed_valence,
    oxidation_states,
)
from sluice.config import ChargeSettings

NOT_NEUTRAL = "not charge-neutral"
WRONG_ORDER = "electronegativity order"
METALS_ONLY = "metals only"
BLOCK = 8192  # formulas whose sets are held at a time: they stay in the processor's cache
MAX_MIXED = 10_000  # atoms of an element of mixed valence in the formula of smallest integers
MAX_WORDS = 8  # longer sets are Python integers, one formula at a time


class ChargeRule:
    """smact's rule under one table of oxidation states.

    Args:
        table: a name of ``sluice.chemistry.oxidation_states.TABLES`` or a file.
        mixed_valence: whether atoms of one element may have different states.
    """

    def __init__(self, table: str, *, mixed_valence: bool = False) -> None:
        self.states = oxidation_states(table).states
        self.known = oxidation_states(table).known
        self.free = is_mixed_valence() & self.known if mixed_valence else np.zeros(MAX_Z + 1, dtype=bool)
        signed = [np.array(states or (0,)) for states in self.states]
        self.least = np.array([states.min() for states in signed])
        self.most = np.array([states.max() for states in signed])
        self.zero = np.array([0 in states for states in self.states])
        # Counted up from the least state, down from the most, cations, anions.
        self._choices = (
            [[s - min(states) for s in states] for states in self.states],
            [[max(states) - s for s in states] for states in self.states],
            [[s for s in states if s >= 0] for states in self.states],
            [[-s for s in states if s <= 0] for states in self.states],
        )
        self._tables = [_padded(choices) for choices in self._choices]

    def neutral(self, compositions: Compositions) -> NDArray[np.bool_]:
        """(n,) whether states of the elements can add up to zero; false where an element has none.

        Raises:
            FormulaError: if there are too many atoms of an element for mixed valence.
        """
        return self._decide(compositions, ordered=False)

    def ordered(self, compositions: Compositions) -> NDArray[np.bool_]:
        """(n,) whether they can with every cation less electronegative than every anion.

        Raises:
            FormulaError: if there are too many atoms of an element for mixed valence.
        """
        return self._decide(compositions, ordered=True)

    def _decide(self, compositions: Compositions, *, ordered: bool) -> NDArray[np.bool_]:
        found = np.zeros(len(compositions), dtype=bool)
        counts = compositions.counts()
        ranks = electronegativity_ranks()
        for group, places in compositions.by_size():
            if places.shape[1] == 0:
                continue
            usable = self.known[compositions.numbers[places]].all(axis=1)
            if ordered:
                usable &= (ranks[compositions.numbers[places]] >= 0).all(axis=1)
            rows, entries = group[usable], places[usable]
            numbers = compositions.numbers[entries]
            for begin in range(0, len(rows), BLOCK):
                part = slice(begin, begin + BLOCK)
                decide = self._decide_ordered if ordered else self._decide_neutral
                found[rows[part]] = decide(numbers[part].T.astype(np.int64), counts[entries[part]].T)
        return found

    def _shifts(
        self, kind: int, numbers: NDArray[np.int64], counts: NDArray[np.int64], words: int
    ) -> NDArray[np.uint64]:
        """(k, s, g) charges below 64 × ``words`` of (k, g) entries, ``NEVER`` where an entry has fewer.

        ``kind`` is one of the ways of counting them.
        """
        table, lengths = self._tables[kind]
        longest = int(lengths[numbers].max(initial=1))
        single = table[:, :longest][numbers]  # (k, g, s)
        shifts = np.where(single < NEVER, single * counts[..., None].astype(np.uint64), NEVER)
        mixed = np.argwhere(self.free[numbers] & (counts > 1))
        if len(mixed):
            lists = [self._sums(kind, int(numbers[i, j]), int(counts[i, j])) for i, j in mixed]
            lists = [sums[: np.searchsorted(sums, 64 * words)] for sums in lists]
            wider = np.full((*numbers.shape, max(longest, *(len(sums) for sums in lists))), NEVER)
            wider[..., :longest] = shifts
            for (i, j), sums in zip(mixed, lists, strict=True):
                wider[i, j] = NEVER
                wider[i, j, : len(sums)] = sums
            shifts = wider
        return np.ascontiguousarray(shifts.transpose(0, 2, 1))

    @lru_cache(maxsize=20_000)  # noqa: B019  rules live as long as the process
    def _sums(self, kind: int, number: int, count: int) -> NDArray[np.uint64]:
        """Charges in rising order of ``count`` atoms of an element."""
        if self.free[number] and count > MAX_MIXED:
            raise FormulaError(
                f"mixed valence is decided for up to {MAX_MIXED} atoms of an element, not for {count} of"
                f" {symbols()[number]}"
            )
        choices = sorted(set(self._choices[kind][number]))
        sums = repeated(choices, count) if self.free[number] else [charge * count for charge in choices]
        return np.array(sums, dtype=np.uint64)

    def _lists(self, kind: int, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> list[list[int]]:
        """Charges of the entries of one formula."""
        return [self._sums(kind, z, c).tolist() for z, c in zip(numbers.tolist(), counts.tolist(), strict=True)]

    def _decide_neutral(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of g formulas, (k, g) entries, can be neutral: counted from the end that is nearer to zero."""
        upwards, downwards = -(self.least[numbers] * counts).sum(axis=0), (self.most[numbers] * counts).sum(axis=0)
        found = np.zeros(numbers.shape[1], dtype=bool)
        possible = (upwards >= 0) & (downwards >= 0)
        for kind, targets in ((0, upwards), (1, downwards)):
            chosen = np.flatnonzero(possible & ((upwards <= downwards) == (kind == 0)))
            for words, part in _by_words(targets[chosen]):
                rows = chosen[part]
                target = targets[rows]
                if words > MAX_WORDS:
                    lists = (self._lists(kind, numbers[:, row], counts[:, row]) for row in rows)
                    found[rows] = [_sum_exactly(mine, int(t)) for mine, t in zip(lists, target, strict=True)]
                    continue
                shifts = self._shifts(kind, numbers[:, rows], counts[:, rows], words)
                reached = start(shifts[0], words)
                for entry in shifts[1:]:
                    reached = add(reached, entry)
                found[rows] = holds(reached, target)
        return found

    def _decide_ordered(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of g formulas, (k, g) entries, can be neutral in the order of electronegativities."""
        ranks = electronegativity_ranks()[numbers]
        order = np.argsort(ranks, axis=0)
        numbers, counts, ranks = (np.take_along_axis(a, order, axis=0) for a in (numbers, counts, ranks))
        cuts = ranks[1:] != ranks[:-1]  # (k - 1, g), cut p lies between entries p and p + 1
        most, least = np.maximum(self.most[numbers], 0) * counts, np.maximum(-self.least[numbers], 0) * counts
        bound = np.minimum(most[:-1].sum(axis=0), least[1:].sum(axis=0))
        # Without a single charge it does not matter how the elements are ordered.
        found: NDArray[np.bool_] = np.all(self.zero[numbers], axis=0)
        for words, rows in _by_words(bound):
            mine = numbers[:, rows], counts[:, rows]
            if words > MAX_WORDS:
                for row in rows:
                    below = self._lists(2, numbers[:, row], counts[:, row])
                    above = self._lists(3, numbers[:, row], counts[:, row])
                    found[row] |= _meet_exactly(below, above, cuts[:, row])
            else:
                found[rows] |= _meet(self._shifts(2, *mine, words), self._shifts(3, *mine, words), cuts[:, rows], words)
        return found


def _padded(choices: list[list[int]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(119, s) charges in rising order and (119,) how many of them."""
    lengths = np.array([len(set(c)) for c in choices])
    table = np.full((len(choices), int(lengths.max(initial=1))), NEVER)
    for z, charges in enumerate(choices):
        table[z, : lengths[z]] = sorted(set(charges))
    return table, lengths


def _by_words(largest: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Formulas by the number of words that sums up to the given ones need; all the long ones together."""
    words = np.minimum(largest // 64 + 1, MAX_WORDS + 1)
    return [(int(count), np.flatnonzero(words == count)) for count in np.unique(words)]


def _meet(
    below: NDArray[np.uint64], above: NDArray[np.uint64], allowed: NDArray[np.bool_], words: int
) -> NDArray[np.bool_]:
    """(g,) whether cations (k, s, g) before and anions (k, s, g) behind an allowed cut have a sum in common."""
    k = len(below)
    prefix = [start(below[0], words)]
    for p in range(1, k - 1):
        prefix.append(add(prefix[-1], below[p]))
    found = np.zeros(below.shape[2], dtype=bool)
    suffix = start(above[-1], words)
    for p in range(k - 2, -1, -1):
        found |= ((prefix[p] & suffix) != 0).any(axis=0) & allowed[p]
        if p:
            suffix = add(suffix, above[p])
    return found


def _sum_exactly(charges: list[list[int]], target: int) -> bool:
    reached = 1
    for choices in charges:
        reached = add_exactly(reached, choices)
    return bool(reached >> target & 1)


def _meet_exactly(below: list[list[int]], above: list[list[int]], allowed: NDArray[np.bool_]) -> bool:
    prefix = 1
    for p in range(len(below) - 1):
        prefix = add_exactly(prefix, below[p])
        if allowed[p]:
            suffix = 1
            for choices in above[p + 1 :]:
                suffix = add_exactly(suffix, choices)
            if prefix & suffix:
                return True
    return False


@lru_cache(maxsize=16)
def charge_rule(table: str, *, mixed_valence: bool = False) -> ChargeRule:
    """The rule under a table; arguments as for ``ChargeRule``."""
    return ChargeRule(table, mixed_valence=mixed_valence)


def smact_valid(
    compositions: Compositions,
    *,
    table: str = "icsd24",
    use_pauling: bool = True,
    include_alloys: bool = True,
    mixed_valence: bool = False,
) -> NDArray[np.bool_]:
    """(n,) what ``smact.screening.smact_validity`` answers, or would without its limit on combinations.

    Args:
        compositions: the formulas.
        table: smact's ``oxidation_states_set``: a name of ``TABLES`` (``default`` where smact's is None) or a file.
        use_pauling: whether the order of electronegativities counts.
        include_alloys: whether compounds of metals only pass.
        mixed_valence: whether atoms of one element may have different states.

    Raises:
        SluiceError: if there is no such table.
        FormulaError: if there are too many atoms of an element for mixed valence.
    """
    rule = charge_rule(table, mixed_valence=mixed_valence)
    passed = compositions.sizes == 1
    if include_alloys:
        passed |= metals_only(compositions)
    asked = np.flatnonzero(~passed)
    chosen = compositions if len(asked) == len(compositions) else compositions[asked]
    passed[asked] = rule.ordered(chosen) if use_pauling else rule.neutral(chosen)
    return passed


def metals_only(compositions: Compositions) -> NDArray[np.bool_]:
    """(n,) whether all elements are metals to smact; false for an empty composition."""
    others = np.bincount(compositions.rows, ~is_metal()[compositions.numbers], minlength=len(compositions))
    return (others == 0) & (compositions.sizes > 0)


def charge_problems(compositions: Compositions, settings: ChargeSettings) -> NDArray[np.object_]:
    """(n,) why smact calls each formula invalid; "" for the valid ones."""
    table, mixed = settings.oxidation_states, settings.mixed_valence
    valid = smact_valid(
        compositions,
        table=table,
        use_pauling=settings.use_pauling,
        include_alloys=settings.include_alloys,
        mixed_valence=mixed,
    )
    problems = np.full(len(compositions), NOT_NEUTRAL, dtype=object)
    problems[valid] = ""
    problems[~valid & metals_only(compositions)] = METALS_ONLY
    if settings.use_pauling:
        asked = np.flatnonzero(problems == NOT_NEUTRAL)
        neutral = charge_rule(table, mixed_valence=mixed).neutral(compositions[asked])
        problems[asked[neutral]] = WRONG_ORDER
    return problems
