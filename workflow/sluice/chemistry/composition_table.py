"""Tables of compositions with a number to learn: read from a CSV, duplicates merged, split by composition."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sluice.chemistry.compositions import Compositions, read_formulas
from sluice.config_composition import CompositionDataSettings
from sluice.errors import BadDataError

SHOWN = 20  # bad rows that a message names
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CompositionTable:
    """Compositions with what is to be learned.

    Attributes:
        compositions: n of them, each once.
        target: (n,) values, or classes 0 and 1.
        split: (n,) ``train``, ``val`` or ``test``, S5.
    """

    compositions: Compositions
    target: NDArray[np.float64]
    split: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: NDArray) -> CompositionTable:
        """Some of the rows."""
        return CompositionTable(self.compositions[index], self.target[index], self.split[index])

    def rows(self, split: str) -> NDArray[np.int64]:
        """Indices of a split's rows."""
        return np.flatnonzero(self.split == split.encode())

    def digest(self) -> str:
        """Digest of all of it."""
        found = hashlib.sha256()
        for array in (self.compositions.offsets, self.compositions.numbers, self.compositions.amounts):
            found.update(np.ascontiguousarray(array).tobytes())
        found.update(self.target.tobytes())
        found.update(self.split.tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Reading:
    """What became of the rows of a file.

    Attributes:
        compositions: of the good rows, duplicates merged.
        target: (n,) their numbers.
        rows: data rows in the file.
        bad: (row number, reason) of those that cannot be used; the first data row is number 2.
        duplicates: good rows that were merged into others.
        outliers: rows left out as too far from the mean.
    """

    compositions: Compositions
    target: NDArray[np.float64]
    rows: int
    bad: list[tuple[int, str]]
    duplicates: int
    outliers: int


def read_table(path: Path, settings: CompositionDataSettings, *, missing: float | str | None = None) -> Reading:
    """Read a CSV (also compressed) of formulas and numbers.

    Args:
        path: of the file.
        settings: its columns, and what becomes of its rows.
        missing: a number, or a text such as "", that stands for no number; its rows are left out and are no mistakes.

    Raises:
        BadDataError: if it cannot be read, lacks a column, holds too many bad rows, which are named, or no good ones.
    """
    try:
        # "NaN" is sodium and nitrogen.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadDataError(f"{path}: not a readable CSV: {error}") from error
    for column in (settings.formula_column, settings.target_column):
        if column not in frame:
            raise BadDataError(f"{path}: no column {column!r}; there are: {', '.join(frame.columns)}")
    compositions, problems = read_formulas(frame[settings.formula_column].tolist())
    cells = frame[settings.target_column]
    target = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    absent = (cells.str.strip() == missing).to_numpy() if isinstance(missing, str) else target == missing
    for row in np.flatnonzero(~np.isfinite(target) & ~absent).tolist():
        problems[row] = problems[row] or f"{settings.target_column} = {cells.iloc[row]!r} is no number"
    bad = refuse_bad_rows(path, problems, settings.max_bad_fraction)
    good = np.flatnonzero((np.array(problems) == "") & ~absent)
    if len(good) == 0:
        raise BadDataError(f"{path}: no row has a number in {settings.target_column}")
    merged, values = merge_duplicates(compositions[good], target[good], settings.duplicates)
    kept = np.arange(len(values))
    if settings.max_sigma is not None:
        kept = np.flatnonzero(np.abs(values - values.mean()) <= settings.max_sigma * values.std())
    return Reading(merged[kept], values[kept], len(frame), bad, len(good) - len(values), len(values) - len(kept))


def refuse_bad_rows(path: Path, problems: Sequence[str], max_bad_fraction: float) -> list[tuple[int, str]]:
    """(row number, reason) of the bad rows of a file, the first data row being number 2.

    Args:
        path: of the file.
        problems: of each row; "" for good ones.
        max_bad_fraction: share of bad rows that is tolerated.

    Raises:
        BadDataError: if there are more, or no good row; it names the first ones.
    """
    bad = [(row + 2, problem) for row, problem in enumerate(problems) if problem]
    if len(bad) > max_bad_fraction * len(problems) or len(bad) == len(problems):
        named = [f"  row {row}: {problem}" for row, problem in bad[:SHOWN]]
        more = [f"  … and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        raise BadDataError(
            f"{path}: {len(bad)} of {len(problems)} rows cannot be used, more than max_bad_fraction ="
            f" {max_bad_fraction:g}\n" + "\n".join(named + more)
        )
    return bad


def merge_duplicates(
    compositions: Compositions, target: NDArray[np.float64], how: str = "mean"
) -> tuple[Compositions, NDArray[np.float64]]:
    """Each composition once (Fe2O3 is Fe4O6), in the smallest integers, with the mean, lowest or highest value."""
    reduced = Compositions(compositions.offsets, compositions.numbers, compositions.counts().astype(float))
    _, first, group = np.unique(np.array(reduced.formulas()), return_index=True, return_inverse=True)
    if how == "mean":
        values = np.bincount(group, target) / np.bincount(group)
    else:
        order = np.argsort(target if how == "highest" else -target, kind="stable")
        values = np.empty(len(first))
        values[group[order]] = target[order]  # the last one written stays
    return reduced[first], values


def random_split(n: int, shares: Sequence[float], seed: int) -> NDArray[np.bytes_]:
    """(n,) ``train``, ``val`` or ``test`` at random; ``shares`` are those of validation and test."""
    order = np.random.default_rng(seed).permutation(n)
    n_val, n_test = round(shares[0] * n), round(shares[1] * n)
    split = np.full(n, b"train", dtype="S5")
    split[order[:n_val]] = b"val"
    split[order[n_val : n_val + n_test]] = b"test"
    return split


def composition_table(reading: Reading, settings: CompositionDataSettings, seed: int) -> CompositionTable:
    """The table with a random split by composition."""
    split = random_split(len(reading.target), (settings.validation_share, settings.test_share), seed)
    return CompositionTable(reading.compositions, reading.target, split)
