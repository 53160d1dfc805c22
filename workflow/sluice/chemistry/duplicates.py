"""Finding duplicates and known crystals among candidates, with the index on disk (memory measured to 200 000).

Rows are numbered through all sources: known crystals first, then those of earlier rounds, then candidates. Equal
fingerprints are settled by hashing; their representatives are compared by StructureMatcher within one composition and
space group. What has to be remembered per row lies in files on disk, bucketed by a hash of the composition.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from sluice.chemistry.matching import CrystalMatcher, fingerprints, formula_keys, patterns
from sluice.config import DuplicateSettings
from sluice.crystals import Crystals
from sluice.step import report_progress
from sluice.store import CHUNK, Chunk, Store

ROWS_PER_BUCKET = 100_000
RECORD = np.dtype([("formula", "u8"), ("group", "i2"), ("print", "u8", (2,)), ("id", "S64"), ("row", "i8")])
UNIQUE = -1
OFF_GRID = (0, 0)
MAX_ANSWERS = 1_000_000


@dataclass(frozen=True)
class Source:
    """A store whose crystals take part.

    Attributes:
        path: the store.
        schema: its schema.
        group_column: the column with the space group; 0 there means unknown.
        kind: what a candidate equal to one of these is called, e.g. ``known crystal``.
    """

    path: Path
    schema: str
    group_column: str
    kind: str


class DuplicateFinder:
    """Decides for every candidate whether an earlier row is the same crystal; the lowest id is the one that stays.

    Args:
        others: sources whose crystals are no candidates (known ones); they always win, in the order given.
        candidates: sources of candidates; their order does not matter for who wins.
        settings: StructureMatcher's tolerances.
        scratch: a directory of this finder's own, emptied first; ``close`` removes it.
    """

    def __init__(
        self, others: Sequence[Source], candidates: Sequence[Source], settings: DuplicateSettings, scratch: Path
    ) -> None:
        self.sources = [*others, *candidates]
        self.matcher = CrystalMatcher(settings)
        self._answers: dict[tuple[int, ...], bool] = {}
        self.scratch = scratch
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        lengths = []
        for source in self.sources:
            with Store(source.path, source.schema) as store:
                lengths.append(len(store))
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.total = int(self.starts[-1])
        self.first_candidate = int(self.starts[len(others)])
        self.buckets = max(1, -(-self.total // ROWS_PER_BUCKET))
        if self.total:
            self._ids = np.memmap(scratch / "ids", "S64", "w+", shape=(self.total,))
            self._same_as = np.memmap(scratch / "same_as", "i8", "w+", shape=(self.total,))
        self._find()

    def close(self) -> None:
        """Remove the files on disk."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> DuplicateFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verdicts(self, start: int, stop: int) -> list[tuple[str, str]]:
        """For a run of candidates (counted from the first one): ("", "") if it stays, else (kind, id of the other)."""
        found = []
        for row in range(self.first_candidate + start, self.first_candidate + stop):
            winner = self._winner(row)
            if winner == row:
                found.append(("", ""))
            else:
                source = int(np.searchsorted(self.starts, winner, side="right")) - 1
                found.append((self.sources[source].kind, bytes(self._ids[winner]).decode()))
        return found

    def _winner(self, row: int) -> int:
        while (other := int(self._same_as[row])) != UNIQUE:
            row = other
        return row

    def _rank(self, row: int, name: bytes) -> tuple[int, bytes, int]:
        """Order in which rows win: sources of others as given, then candidates by id."""
        return (min(row, self.first_candidate), name, row)

    def _chunks(self) -> Iterator[tuple[int, Source, Chunk]]:
        row = 0
        for source in self.sources:
            with Store(source.path, source.schema, verify=False) as store:
                for chunk in store.chunks(CHUNK):
                    yield row, source, chunk
                    row += len(chunk)

    def _find(self) -> None:
        if self.total == self.first_candidate:
            return
        self._spool_records()
        needed = np.memmap(self.scratch / "needed", "i4", "w+", shape=(self.total,))  # bucket + 1, 0: not needed
        for bucket in range(self.buckets):
            self._settle_prints(bucket, needed)
        self._spool_crystals(needed)
        for bucket in range(self.buckets):
            self._settle_matches(bucket)
            report_progress(bucket + 1, self.buckets, "buckets", "matching")

    def _spool_records(self) -> None:
        """Write what is needed to compare rows into buckets; equal rows of one chunk are settled at once."""
        for start, source, chunk in self._chunks():
            assert chunk.crystals is not None
            rows = np.arange(start, start + len(chunk))
            self._ids[rows], self._same_as[rows] = chunk.candidate_id, UNIQUE
            records = np.zeros(len(chunk), RECORD)
            records["formula"] = formula_keys(chunk.crystals)
            records["group"] = chunk.columns[source.group_column]
            records["print"] = fingerprints(chunk.crystals)
            records["id"], records["row"] = chunk.candidate_id, rows
            records = self._collapse(records)
            bucket_of = records["formula"] % np.uint64(self.buckets)
            for bucket in np.unique(bucket_of).tolist():
                with (self.scratch / f"records_{bucket}").open("ab") as handle:
                    handle.write(records[bucket_of == bucket].tobytes())
            report_progress(start + len(chunk), self.total, "crystals", "hashing")

    def _collapse(self, records: NDArray[Any]) -> NDArray[Any]:
        """Keep the winner of every set of equal fingerprints and note it for the others."""
        if len(records) == 0:
            return records
        source = np.minimum(records["row"], self.first_candidate)
        prints = records["print"]
        # The same arrays within a tolerance may get different groups; the prefilter keeps those apart.
        order = np.lexsort((records["row"], records["id"], source, records["group"], prints[:, 1], prints[:, 0]))
        records = records[order]
        new = np.ones(len(records), bool)
        new[1:] = (records["print"][1:] != records["print"][:-1]).any(axis=1)
        new[1:] |= records["group"][1:] != records["group"][:-1]
        winner = records["row"][np.flatnonzero(new)[np.cumsum(new) - 1]]
        lost = ~new & (records["row"] >= self.first_candidate)
        self._same_as[records["row"][lost]] = winner[lost]
        kept: NDArray[Any] = records[new]
        return kept

    def _records(self, bucket: int) -> NDArray[Any]:
        path = self.scratch / f"records_{bucket}"
        return np.fromfile(path, RECORD) if path.exists() else np.zeros(0, RECORD)

    def _settle_prints(self, bucket: int, needed: NDArray[np.int32]) -> None:
        """Settle equal fingerprints across chunks and mark the rows that StructureMatcher has to see."""
        records, family = _in_families(self._collapse(self._records(bucket)))
        sizes = np.bincount(family)
        candidates = np.bincount(family, records["row"] >= self.first_candidate)
        kept = records[((sizes > 1) & (candidates > 0))[family]] if len(records) else records
        needed[kept["row"]] = bucket + 1
        path = self.scratch / f"records_{bucket}"
        path.unlink(missing_ok=True)
        if len(kept):
            path.write_bytes(kept.tobytes())

    def _spool_crystals(self, needed: NDArray[np.int32]) -> None:
        for start, _, chunk in self._chunks():
            assert chunk.crystals is not None
            wanted = np.asarray(needed[start : start + len(chunk)])
            for mark in np.unique(wanted[wanted > 0]).tolist():
                index = np.flatnonzero(wanted == mark)
                part = chunk.crystals[index]
                with (self.scratch / f"crystals_{mark - 1}").open("ab") as handle:
                    for array in (index + start, part.lattice, part.atom_offsets, part.numbers, part.frac_coords):
                        np.save(handle, array, allow_pickle=False)

    def _settle_matches(self, bucket: int) -> None:
        records = self._records(bucket)
        if len(records) == 0:
            return
        rows, crystals = _load_crystals(self.scratch / f"crystals_{bucket}")
        order = np.argsort(rows)
        records, family = _in_families(records)
        places = order[np.searchsorted(rows[order], records["row"])]
        seen = [
            _Seen(crystals, place, tuple(p))
            for place, p in zip(places, patterns(crystals)[places].tolist(), strict=True)
        ]
        starts = np.flatnonzero(np.diff(family, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(records)]):
            self._match_family(records[start:stop], seen[start:stop])

    def _match_family(self, family: NDArray[Any], seen: list[_Seen]) -> None:
        """Compare every candidate of a family with all that win over it, lowest id first."""
        rows, names, groups = family["row"].tolist(), family["id"].tolist(), family["group"].tolist()
        kept: list[tuple[int, int, _Seen]] = []
        for row, _, group, crystal in sorted(
            zip(rows, names, groups, seen, strict=True), key=lambda e: self._rank(e[0], e[1])
        ):
            if row >= self.first_candidate:
                for other, its_group, winner in kept:
                    if (group == its_group or 0 in (group, its_group)) and self._same(winner, crystal):
                        self._same_as[row] = other
                        break
            if self._same_as[row] == UNIQUE:
                kept.append((row, group, crystal))

    def _same(self, first: _Seen, second: _Seen) -> bool:
        """Whether two crystals of one composition are the same; remembered by their patterns."""
        key = (*first.pattern, *second.pattern)
        by_pattern = OFF_GRID not in (first.pattern, second.pattern)
        if by_pattern and key in self._answers:
            return self._answers[key]
        answer = self.matcher.same(first.reduced(self.matcher), second.reduced(self.matcher))
        if by_pattern and len(self._answers) < MAX_ANSWERS:
            self._answers[key] = answer
        return answer


@dataclass
class _Seen:
    """A crystal that may have to be compared, reduced when that happens."""

    crystals: Crystals
    place: int
    pattern: tuple[int, ...]
    _reduced: Structure | None = None

    def reduced(self, matcher: CrystalMatcher) -> Structure:
        if self._reduced is None:
            self._reduced = matcher.reduce(self.crystals.structure(self.place))
        return self._reduced


def _in_families(records: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Records in order, and (n,) the number of each one's family.

    A family has one formula and one space group; one formula if the space group of one of its crystals is not known.
    """
    records = records[np.lexsort((records["row"], records["group"], records["formula"]))]
    if len(records) == 0:
        return records, np.zeros(0, np.int64)
    new_formula = np.append(True, records["formula"][1:] != records["formula"][:-1])
    formula = np.cumsum(new_formula) - 1
    vague = np.bincount(formula, records["group"] == 0) > 0
    new_group = np.append(True, records["group"][1:] != records["group"][:-1])
    return records, np.cumsum(new_formula | (new_group & ~vague[formula])) - 1


def _load_crystals(path: Path) -> tuple[NDArray[np.int64], Crystals]:
    rows, parts = [], []
    with path.open("rb") as handle:
        end = path.stat().st_size
        while handle.tell() < end:
            index, lattice, offsets, numbers, frac = (np.load(handle, allow_pickle=False) for _ in range(5))
            rows.append(index)
            parts.append(Crystals(lattice, offsets, numbers, frac))
    return np.concatenate(rows), Crystals.concatenate(parts)
