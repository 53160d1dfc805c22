"""Chemical formulas as ragged arrays, the one form that all work on compositions starts from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import gcd

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

from sluice.crystals import Crystals
from sluice.errors import SluiceError

MAX_Z = 118
DECIMALS = 6  # of an amount that are read as meant when amounts are made integers
MAX_COUNT = 10**7  # larger integers are those of the shares of the atoms in millionths
_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉．", "0123456789.")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_HYDRATE = re.compile(r"[·•∙⋅*]")
_TOKEN = re.compile(r"([A-Z][a-z]?)|(\d+\.?\d*|\.\d+)|([()\[\]{}])")
_OTHER, _UPPER, _LOWER, _DIGIT, _END = range(5)


class FormulaError(SluiceError):
    """A text that is no chemical formula; says what in it is wrong."""


@cache
def atomic_numbers() -> dict[str, int]:
    """Atomic number of each symbol.

    # ASSUME: deuterium and tritium, D and T, are hydrogen.
    """
    return {Element.from_Z(z).symbol: z for z in range(1, MAX_Z + 1)} | {"D": 1, "T": 1}


@cache
def symbols() -> tuple[str, ...]:
    """Symbol by atomic number; "" at 0."""
    return ("", *(Element.from_Z(z).symbol for z in range(1, MAX_Z + 1)))


@dataclass(frozen=True)
class Compositions:
    """``n`` compositions with ``m`` entries in all, elements in order of atomic number, each once.

    Attributes:
        offsets: (n + 1,) int64, entries of composition i are ``offsets[i]:offsets[i + 1]``.
        numbers: (m,) uint8 atomic numbers.
        amounts: (m,) float64 amounts as in the formula, > 0.
    """

    offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    amounts: NDArray[np.float64]

    @classmethod
    def from_formulas(cls, formulas: Sequence[str]) -> Compositions:
        """Read formulas that are expected to be good.

        Raises:
            FormulaError: at the first one that is not, with its position.
        """
        found, problems = read_formulas(formulas)
        for row, problem in enumerate(problems):
            if problem:
                raise FormulaError(f"formula {row + 1}: {problem}")
        return found

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[int, float]]) -> Compositions:
        """Stack mappings from atomic number to amount."""
        items = [sorted(row.items()) for row in rows]
        entries = [entry for row in items for entry in row]
        return cls(
            np.concatenate([[0], np.cumsum([len(row) for row in items])]).astype(np.int64),
            np.array([z for z, _ in entries], dtype=np.uint8),
            np.array([amount for _, amount in entries], dtype=np.float64),
        )

    @classmethod
    def from_crystals(cls, crystals: Crystals) -> Compositions:
        """Atoms of each crystal by element."""
        rows = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
        return _collected(rows * (MAX_Z + 1) + crystals.numbers, np.ones(len(rows)), len(crystals))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: slice | NDArray | Sequence[int]) -> Compositions:
        """Select compositions by slice, boolean mask or integer indices (repeats allowed)."""
        chosen = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        counts = self.sizes[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Compositions(offsets, self.numbers[entries], self.amounts[entries])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) number of elements in each composition."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(m,) composition that each entry belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @property
    def fractions(self) -> NDArray[np.float64]:
        """(m,) share of each entry among the atoms of its composition."""
        totals = np.bincount(self.rows, self.amounts, minlength=len(self))
        return self.amounts / totals[self.rows]

    def by_size(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Groups of equally many elements: (g,) positions of the compositions and (g, k) of their entries."""
        sizes = self.sizes
        for size in np.unique(sizes):
            chosen = np.flatnonzero(sizes == size)
            yield chosen, self.offsets[chosen][:, None] + np.arange(size)

    def counts(self) -> NDArray[np.int64]:
        """(m,) smallest integers in the ratio of the amounts.

        # ASSUME: an amount is meant to six decimals, so that Al0.5CoCrFeNi is AlCo2Cr2Fe2Ni2; where that leads to
        # more than 10⁷ atoms of an element, its share of the atoms is meant to a millionth.
        """
        counts = np.rint(self.amounts).astype(np.int64)
        whole = (self.amounts == counts) & (counts <= MAX_COUNT)
        if len(counts) == 0:
            return counts
        filled = self.sizes > 0
        starts = self.offsets[:-1][filled]
        broken = np.flatnonzero(filled)[~np.logical_and.reduceat(whole, starts)]
        for row in broken.tolist():
            part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
            counts[part] = _integers(self.amounts[part].tolist())
        divisors = np.ones(len(self), dtype=np.int64)
        divisors[filled] = np.gcd.reduceat(counts, starts)
        return counts // divisors[self.rows]

    def formulas(self) -> list[str]:
        """Formula of each composition as it is held, elements by atomic number: ``O3TiSr``."""
        names = symbols()
        texts = [
            names[z] + ("" if amount == 1 else f"{amount:.10g}")
            for z, amount in zip(self.numbers.tolist(), self.amounts.tolist(), strict=True)
        ]
        bounds = self.offsets.tolist()
        return ["".join(texts[a:b]) for a, b in pairwise(bounds)]


def _integers(amounts: Sequence[float]) -> list[int]:
    """Smallest integers in the ratio of some amounts."""
    unit = 10**DECIMALS
    found = [round(amount * unit) for amount in amounts]
    divisor = gcd(*found)
    if min(found) == 0 or max(found) > MAX_COUNT * divisor:
        total = sum(amounts)
        found = [max(1, round(amount / total * unit)) for amount in amounts]
        divisor = gcd(*found)
    return [count // divisor for count in found]


def read_formulas(formulas: Sequence[str]) -> tuple[Compositions, list[str]]:
    """Read formulas such as ``SrTiO3``, ``Al0.5CoCrFeNi``, ``Ca3(PO4)2``, ``CuSO4·5H2O``, ``D2O``, ``Fe₂O₃``.

    A point between digits is a decimal point; hydrates are written with ``·`` or ``*``. The text ``NaN`` is sodium and
    nitrogen: read files with ``keep_default_na=False``.

    Args:
        formulas: one text a composition.

    Returns:
        The compositions, empty where a text is no formula, and for each "" or what is wrong with it.
    """
    problems = [""] * len(formulas)
    if len(formulas) == 0:
        return Compositions(np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(0)), problems
    rows, numbers, amounts, left = _read_plain(formulas)
    extra: list[tuple[int, int, float]] = []
    for row in left.tolist():
        try:
            found = parse_formula(formulas[row])
        except FormulaError as error:
            problems[row] = str(error)
            continue
        extra += [(row, z, amount) for z, amount in found.items()]
    if extra:
        rows = np.concatenate([rows, np.array([entry[0] for entry in extra])])
        numbers = np.concatenate([numbers, np.array([entry[1] for entry in extra])])
        amounts = np.concatenate([amounts, np.array([entry[2] for entry in extra])])
    return _collected(rows * (MAX_Z + 1) + numbers, amounts, len(formulas)), problems


def _collected(key: NDArray[np.int64], amounts: NDArray[np.float64], n: int) -> Compositions:
    """Compositions from entries in any order; ``key`` is composition × 119 + atomic number."""
    order = np.argsort(key, kind="stable")
    key, amounts = key[order], amounts[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    if len(first) < len(key):
        amounts, key = np.add.reduceat(amounts, first), key[first]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(key // (MAX_Z + 1), minlength=n))]).astype(np.int64)
    return Compositions(offsets, (key % (MAX_Z + 1)).astype(np.uint8), amounts.astype(np.float64))


@cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Class of each byte, and the atomic number of each symbol coded as 256 × first + second byte."""
    classes = np.full(256, _OTHER, dtype=np.uint8)
    classes[ord("A") : ord("Z") + 1] = _UPPER
    classes[ord("a") : ord("z") + 1] = _LOWER
    classes[ord("0") : ord("9") + 1] = _DIGIT
    classes[ord("\n")] = _END
    codes = np.zeros(65536, dtype=np.int64)
    for symbol, z in atomic_numbers().items():
        codes[256 * ord(symbol[0]) + (ord(symbol[1]) if len(symbol) > 1 else 0)] = z
    return classes, codes


def _read_plain(
    formulas: Sequence[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows, atomic numbers and amounts of formulas of symbols and integers only; the rows that are something else.

    All formulas are one array of bytes here: tokens start at capitals, digits are summed up by powers of ten.
    """
    try:
        text = "\n".join(formulas)
    except TypeError:  # a number or None among them
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0), np.arange(len(formulas))
    if text.count("\n") != len(formulas) - 1:
        text = "\n".join(formula.replace("\n", " ") for formula in formulas)
    classes, codes = _tables()
    buffer = np.frombuffer(("\n" + text + "\n").encode("ascii", errors="replace"), dtype=np.uint8)
    kind = classes[buffer]
    row = np.cumsum(kind == _END, dtype=np.int64) - 1  # of each byte; the closing newline has the row's number + 1
    before = kind[:-1]
    wrong = (
        (kind[1:] == _OTHER)
        | ((kind[1:] == _LOWER) & (before != _UPPER))
        | ((kind[1:] == _DIGIT) & (before == _END))
        | ((kind[1:] == _END) & (before == _END))
    )
    # An end that follows an end is an empty formula, the one before it.
    odd = np.unique(row[:-1][wrong])
    token = np.flatnonzero(kind == _UPPER)
    second = np.where(kind[token + 1] == _LOWER, buffer[token + 1], 0)
    numbers = codes[256 * buffer[token].astype(np.int64) + second]
    digit = np.flatnonzero(kind == _DIGIT)
    breaks = np.flatnonzero((kind == _UPPER) | (kind == _END))
    end = breaks[np.searchsorted(breaks, token, side="right")]
    owner = np.searchsorted(token, digit) - 1
    good = owner >= 0
    digit, owner = digit[good], owner[good]
    power = end[owner] - digit - 1
    values = (buffer[digit] - ord("0")) * 10.0 ** np.clip(power, 0, 300)
    amounts = np.bincount(owner, values, minlength=len(token)).astype(np.float64)
    has_digits = np.zeros(len(token), dtype=bool)
    has_digits[owner] = True
    amounts[~has_digits] = 1.0
    rows = row[token]
    strange = (numbers == 0) | (amounts == 0) | (amounts >= 1e15)
    left = np.zeros(len(formulas), dtype=bool)
    left[odd] = True
    left[rows[strange]] = True
    keep = ~left[rows]
    return rows[keep], numbers[keep], amounts[keep], np.flatnonzero(left)


def parse_formula(formula: str) -> dict[int, float]:
    """Amount of each element, by atomic number, in one formula, brackets and hydrates included.

    Raises:
        FormulaError: if it is none.
    """
    if not isinstance(formula, str):
        raise FormulaError(f"{formula!r} is no text; was a file read without keep_default_na=False?")
    shown = formula if len(formula) <= 60 else formula[:57] + "…"
    text = re.sub(r"\s+", "", formula).translate(_DIGITS)
    if not text:
        raise FormulaError("empty formula")
    total: dict[int, float] = {}
    for number, part in enumerate(_HYDRATE.split(text)):
        factor = re.match(r"\d+\.?\d*|\.\d+", part)
        if factor and number == 0:
            raise FormulaError(f"{shown!r}: a formula starts with an element, not with {factor.group()!r}")
        scale = float(factor.group()) if factor else 1.0
        for z, amount in _parse_part(part[factor.end() :] if factor else part, shown).items():
            total[z] = total.get(z, 0.0) + scale * amount
    total = {z: amount for z, amount in total.items() if amount > 0}
    if not total:
        raise FormulaError(f"{shown!r}: every amount is zero")
    if not all(np.isfinite(amount) and amount < 1e15 for amount in total.values()):
        raise FormulaError(f"{shown!r}: an amount is too large")
    return total


def _parse_part(text: str, shown: str) -> dict[int, float]:
    """One part of a formula, without hydrate signs."""
    stack: list[tuple[str, dict[int, float]]] = [("", {})]
    last: dict[int, float] | None = None  # what a number would multiply: an element or a bracket
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise FormulaError(f"{shown!r}: {text[position]!r} cannot be read")
        symbol, number, bracket = match.groups()
        position = match.end()
        if symbol or bracket in _BRACKETS or bracket:
            _add(stack[-1][1], last, 1.0)
            last = None
        if symbol:
            z = atomic_numbers().get(symbol)
            if z is None:
                raise FormulaError(f"{shown!r}: {symbol!r} is no element")
            last = {z: 1.0}
        elif number:
            if last is None:
                raise FormulaError(f"{shown!r}: the number {number} follows no element or bracket")
            _add(stack[-1][1], last, float(number))
            last = None
        elif bracket in _BRACKETS:
            stack.append((_BRACKETS[bracket], {}))
        else:
            expected, inner = stack.pop()
            if expected != bracket:
                raise FormulaError(f"{shown!r}: {bracket!r} closes nothing")
            last = inner
    _add(stack[-1][1], last, 1.0)
    if len(stack) > 1:
        raise FormulaError(f"{shown!r}: a {stack[-1][0]!r} is missing")
    if not stack[0][1]:
        raise FormulaError(f"{shown!r}: holds no element")
    return stack[0][1]


def _add(total: dict[int, float], part: dict[int, float] | None, factor: float) -> None:
    for z, amount in (part or {}).items():
        total[z] = total.get(z, 0.0) + factor * amount
