"""Compositions as arrays that models learn from: encodings behind one interface, with inverses where there are some."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import smact
from numpy.typing import NDArray

from sluice.chemistry.compositions import MAX_Z, Compositions, atomic_numbers, symbols
from sluice.errors import SluiceError

Values = NDArray[np.float32]
# Elements of OQMD without the noble gases that it has hardly any compounds of: ElemNet (Jha et al., Sci. Rep. 2018).
_RARE = {"Po", "At", "Rn", "Fr", "Ra"}
ELEMENTS_86 = tuple(s for s in symbols()[1:95] if s not in {"He", "Ne", "Ar"} | _RARE)
# MatGAN and the WGAN of Hu et al. leave out Kr, too (MatGAN's own list of 85).
ELEMENTS_85 = tuple(s for s in ELEMENTS_86 if s != "Kr")
# ASSUME: the 87 rows of Xin et al. (2021) are ElemNet's elements and He; their list is not published.
ELEMENTS_87 = ("H", "He", *ELEMENTS_86[1:])
MAX_COUNT = 8
# Shares in single precision decide integers below a thousand: their ratios differ by more than the rounding does.
MAX_FACTOR = 999
RATIO_PRECISION = 4 * float(np.finfo(np.float32).eps)
LEAST_SHARE = 1e-4


class EncodingError(SluiceError):
    """Something that an encoding cannot do; says what."""


class Encoding(ABC):
    """One way to turn compositions into arrays.

    Attributes:
        name: by which settings and model files know it.
        shape: of one composition's array.
        invertible: whether ``decode`` exists.
    """

    name: ClassVar[str]
    invertible: ClassVar[bool]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one composition's array."""

    @abstractmethod
    def encode(self, compositions: Compositions) -> Values:
        """(n, *shape) arrays; of a composition with a problem the array means nothing."""

    def decode(self, values: NDArray[Any]) -> Compositions:
        """The compositions behind arrays, up to a common factor of the amounts; empty where an array has none.

        Raises:
            EncodingError: if the encoding has no inverse.
        """
        raise EncodingError(f"{self.name}: this encoding cannot be turned back into formulas")

    def problems(self, compositions: Compositions) -> list[str]:
        """Why each composition has no array; "" for those that have."""
        return [""] * len(compositions)

    def plain(self) -> dict[str, Any]:
        """Name and arguments, from which ``make_encoding`` builds it again."""
        return {"name": self.name}


def _outside(compositions: Compositions, allowed: NDArray[np.bool_], what: str) -> list[str]:
    """A reason for each composition with an element outside a set."""
    found = [""] * len(compositions)
    for entry in np.flatnonzero(~allowed[compositions.numbers])[::-1].tolist():
        row = int(np.searchsorted(compositions.offsets, entry, side="right")) - 1
        found[row] = f"{symbols()[compositions.numbers[entry]]} is none of {what}"
    return [f or ("no elements" if size == 0 else "") for f, size in zip(found, compositions.sizes, strict=True)]


class _OverElements(Encoding):
    """An encoding with one row or column for each element of a list."""

    def __init__(self, elements: Sequence[str]) -> None:
        self.elements = tuple(elements)
        unknown = [s for s in self.elements if s not in atomic_numbers()]
        if unknown or len(set(self.elements)) != len(self.elements) or not self.elements:
            raise EncodingError(f"{self.name}: the elements must be different symbols; wrong: {unknown or elements}")
        self.numbers = np.array([atomic_numbers()[s] for s in self.elements])
        self.position = np.full(MAX_Z + 1, -1)
        self.position[self.numbers] = np.arange(len(self.elements))

    def problems(self, compositions: Compositions) -> list[str]:
        """See ``Encoding``."""
        return _outside(compositions, self.position >= 0, f"the {len(self.elements)} elements of the encoding")

    def plain(self) -> dict[str, Any]:
        """See ``Encoding``."""
        return {"name": self.name, "elements": list(self.elements)}


class OneHotCounts(_OverElements):
    """A matrix, elements × counts, with a one where an element occurs so many times in the smallest integers.

    Args:
        elements: symbols of the rows.
        max_count: number of columns: counts 1 to ``max_count``.
    """

    name = "onehot"
    invertible = True

    def __init__(self, elements: Sequence[str] = ELEMENTS_85, max_count: int = MAX_COUNT) -> None:
        super().__init__(elements)
        self.max_count = max_count

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``Encoding``."""
        return len(self.elements), self.max_count

    def encode(self, compositions: Compositions) -> Values:
        """See ``Encoding``."""
        values = np.zeros((len(compositions), *self.shape), dtype=np.float32)
        counts, place = compositions.counts(), self.position[compositions.numbers]
        good = (place >= 0) & (counts <= self.max_count)
        values[compositions.rows[good], place[good], counts[good] - 1] = 1.0
        return values

    def decode(self, values: NDArray[Any]) -> Compositions:
        """Each element with an entry of at least 0.5 in its row, in the count of its largest entry."""
        largest, count = values.max(axis=2), values.argmax(axis=2) + 1
        return _from_dense(np.where(largest >= 0.5, count, 0).astype(float), self.numbers)

    def problems(self, compositions: Compositions) -> list[str]:
        """See ``Encoding``."""
        found = super().problems(compositions)
        counts = compositions.counts()
        for entry in np.flatnonzero(counts > self.max_count).tolist():
            row = int(np.searchsorted(compositions.offsets, entry, side="right")) - 1
            name = symbols()[compositions.numbers[entry]]
            found[row] = found[row] or (f"{counts[entry]} atoms of {name}, at most {self.max_count} can be encoded")
        return found

    def plain(self) -> dict[str, Any]:
        """See ``Encoding``."""
        return super().plain() | {"max_count": self.max_count}


class ElementFractions(_OverElements):
    """Share of each element among the atoms.

    Args:
        elements: symbols of the columns.
    """

    name = "fractions"
    invertible = True

    def __init__(self, elements: Sequence[str] = ELEMENTS_86) -> None:
        super().__init__(elements)

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``Encoding``."""
        return (len(self.elements),)

    def encode(self, compositions: Compositions) -> Values:
        """See ``Encoding``."""
        values = np.zeros((len(compositions), len(self.elements)), dtype=np.float32)
        place = self.position[compositions.numbers]
        good = place >= 0
        values[compositions.rows[good], place[good]] = compositions.fractions[good]
        return values

    def decode(self, values: NDArray[Any]) -> Compositions:
        """The smallest integers in the ratio of the shares, as far as single precision tells it.

        Shares that are in no ratio of integers below a thousand are amounts relative to the smallest one. Shares of
        1e-4 and less are none.
        """
        found = _from_dense(np.where(values > LEAST_SHARE, values, 0.0).astype(float), self.numbers)
        amounts = found.amounts.copy()
        for _, entries in found.by_size():
            if entries.shape[1]:
                amounts[entries] = _smallest_integers(found.amounts[entries])
        return Compositions(found.offsets, found.numbers, amounts)


def _smallest_integers(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, k) smallest integers in the ratio of each row's shares; without any, multiples of the smallest share."""
    ratios = shares / shares.min(axis=1, keepdims=True)
    found = ratios.copy()
    left = np.arange(len(ratios))
    for factor in range(1, MAX_FACTOR + 1):
        scaled = ratios[left] * factor
        whole = np.rint(scaled)
        fits = (np.abs(scaled - whole) <= RATIO_PRECISION * scaled).all(axis=1)
        found[left[fits]] = whole[fits]
        left = left[~fits]
        if len(left) == 0:
            break
    return found


def _from_dense(amounts: NDArray[np.float64], numbers: NDArray[np.int64]) -> Compositions:
    """Compositions from (n, elements) amounts."""
    order = np.argsort(numbers)
    amounts = amounts[:, order]
    rows, columns = np.nonzero(amounts)
    offsets = np.concatenate([[0], np.cumsum((amounts != 0).sum(axis=1))]).astype(np.int64)
    return Compositions(offsets, numbers[order][columns].astype(np.uint8), amounts[rows, columns])


class ElementEmbedding(Encoding):
    """Sum of vectors of the elements, each times its share of the atoms or its count.

    Args:
        table: (119, d) vectors by atomic number, learned or tabulated; a row of NaN has none.
        by: ``fractions`` or ``counts``; counts are those of the smallest integers.
    """

    name = "embedding"
    invertible = False

    def __init__(self, table: NDArray[np.float32] | Sequence[Sequence[float]], by: str = "fractions") -> None:
        self.table = np.asarray(table, dtype=np.float32)
        if self.table.ndim != 2 or len(self.table) != MAX_Z + 1:
            raise EncodingError(f"{self.name}: the table must have {MAX_Z + 1} rows, not shape {self.table.shape}")
        if by not in ("fractions", "counts"):
            raise EncodingError(f"{self.name}: by = {by!r}; allowed are fractions and counts")
        self.by = by
        self._known: NDArray[np.bool_] = np.asarray(np.isfinite(self.table).all(axis=1))

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``Encoding``."""
        return (self.table.shape[1],)

    def encode(self, compositions: Compositions) -> Values:
        """See ``Encoding``."""
        weight = compositions.fractions if self.by == "fractions" else compositions.counts().astype(float)
        vectors = np.nan_to_num(self.table[compositions.numbers]) * weight[:, None]
        return _sums(vectors, compositions).astype(np.float32)

    def problems(self, compositions: Compositions) -> list[str]:
        """See ``Encoding``."""
        return _outside(compositions, self._known, "the elements that have a vector")

    def plain(self) -> dict[str, Any]:
        """See ``Encoding``."""
        return {"name": self.name, "table": self.table.tolist(), "by": self.by}


def _sums(values: NDArray[np.float64], compositions: Compositions) -> NDArray[np.float64]:
    """(n, d) sums over the entries of each composition."""
    totals = np.zeros((len(compositions), values.shape[1]))
    filled = compositions.sizes > 0
    if filled.any():
        totals[filled] = np.add.reduceat(values, compositions.offsets[:-1][filled], axis=0)
    return totals


MAGPIE_STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")


@cache
def magpie_table() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names and (119, 22) values of the elements' properties that Magpie takes, NaN beyond berkelium.

    Source: Ward et al., npj Comput. Mater. 2, 16028 (2016), the table that smact ships; what nobody tabulated is the
    mean over the elements there, as in matminer.
    """
    frame = pd.read_csv(Path(smact.data_directory) / "magpie.csv", keep_default_na=False)
    names = tuple(str(name) for name in frame.columns[1:])
    table = np.full((MAX_Z + 1, len(names)), np.nan)
    table[[atomic_numbers()[s] for s in frame["element"]]] = frame[list(names)].to_numpy(float)
    return names, table


class Magpie(Encoding):
    """Six statistics over the atoms of 22 properties of the elements (Ward et al., npj Comput. Mater. 2016)."""

    name = "magpie"
    invertible = False

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``Encoding``."""
        return (len(MAGPIE_STATISTICS) * len(magpie_table()[0]),)

    @staticmethod
    def names() -> list[str]:
        """Name of each column."""
        return [f"{name} {statistic}" for name in magpie_table()[0] for statistic in MAGPIE_STATISTICS]

    def encode(self, compositions: Compositions) -> Values:
        """See ``Encoding``."""
        found = np.zeros((len(compositions), len(magpie_table()[0]), len(MAGPIE_STATISTICS)))
        fractions = compositions.fractions
        for rows, entries in compositions.by_size():
            if entries.shape[1] == 0:
                continue
            values = np.nan_to_num(magpie_table()[1])[compositions.numbers[entries]]  # (g, k, 22)
            weight = fractions[entries][..., None]  # (g, k, 1)
            mean = (weight * values).sum(axis=1)
            most = np.isclose(weight, weight.max(axis=1, keepdims=True))
            found[rows] = np.stack(
                [
                    values.min(axis=1),
                    values.max(axis=1),
                    np.ptp(values, axis=1),
                    mean,
                    (weight * np.abs(values - mean[:, None])).sum(axis=1),
                    np.where(most, values, np.inf).min(axis=1),
                ],
                axis=2,
            )
        return found.reshape(len(compositions), *self.shape).astype(np.float32)

    def problems(self, compositions: Compositions) -> list[str]:
        """See ``Encoding``."""
        return _outside(
            compositions, np.asarray(np.isfinite(magpie_table()[1]).all(axis=1)), "the elements that Magpie tabulates"
        )


ENCODINGS: dict[str, Callable[..., Encoding]] = {
    "onehot": OneHotCounts,
    "fractions": ElementFractions,
    "magpie": Magpie,
    "embedding": ElementEmbedding,
}


def make_encoding(plain: dict[str, Any]) -> Encoding:
    """The encoding that ``Encoding.plain`` described.

    Raises:
        EncodingError: if there is none of that name, or its arguments are wrong.
    """
    arguments = {key: value for key, value in plain.items() if key != "name"}
    if plain.get("name") not in ENCODINGS:
        raise EncodingError(f"{plain.get('name')!r} is no encoding; allowed are {', '.join(ENCODINGS)}")
    try:
        return ENCODINGS[plain["name"]](**arguments)
    except TypeError as error:
        raise EncodingError(f"{plain['name']}: {error}") from error
