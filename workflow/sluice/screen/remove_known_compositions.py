"""Put a round's batches of compositions together and reject what is known or occurs twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.composition_keys import composition_keys, is_in
from sluice.chemistry.composition_store import stream_compositions
from sluice.screen.common import in_order, lineage_of
from sluice.step import report_progress, run_step
from sluice.store import Store, StoreWriter

REVISION = 1
KNOWN = "known composition"
DUPLICATE = "duplicate"
ROWS_PER_BUCKET = 1_000_000
RECORD = np.dtype([("key", "u8"), ("row", "i8")])
SCHEMA = "composition_charge"


def remove_known_compositions(*, candidates: list[Path], known: Path, unique: Path) -> None:
    """Merge the batches of a round into one store of compositions that are new and occur once.

    Compositions are the same when the ratios of their elements are. Of equal candidates the one with the lowest id
    stays. The answer does not depend on the order of the batches; what is remembered of each row lies on disk, so
    memory does not grow with their number.

    Args:
        candidates: the batches (schema ``composition_charge``).
        known: the formulas of the table, all splits (schema ``compositions``).
        unique: what stays (schema ``composition_unique``).
    """
    paths = in_order(candidates, SCHEMA)
    for path, schema in [*((path, SCHEMA) for path in paths), (known, "compositions")]:
        with Store(path, schema):
            pass  # verified here, read without that below
    old = known_keys(known)
    with (
        FirstRows(paths, unique.parent / f".{unique.stem}_scratch") as first,
        StoreWriter(
            unique,
            "composition_unique",
            inputs=[*paths, known],
            revision=REVISION,
            with_crystals=False,
            **lineage_of(paths),
        ) as writer,
    ):
        row = 0
        for chunk, compositions in stream_compositions(paths, SCHEMA):
            keys = composition_keys(compositions)
            is_known = is_in(keys, old)
            winner = np.asarray(first.same_as[row : row + len(chunk)])
            again = (winner != np.arange(row, row + len(chunk))) & ~is_known
            writer.append_chunk(chunk.select(~is_known & ~again))
            writer.drop(chunk.candidate_id[is_known], KNOWN, detail=_formulas(chunk.columns["formula"][is_known]))
            others = [f"duplicate of {name.decode()}" for name in np.asarray(first.ids[winner[again]]).tolist()]
            writer.drop(chunk.candidate_id[again], DUPLICATE, detail=others)
            row += len(chunk)
            report_progress(row, first.total, "compositions")
    print(f"{writer.counts['out']} of {row} compositions are new and occur once; {len(old)} are known")


def known_keys(path: Path) -> NDArray[np.uint64]:
    """Keys of the compositions of a table, ascending."""
    parts = [composition_keys(found) for _, found in stream_compositions([path], "compositions")]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))


def _formulas(column: NDArray[np.bytes_]) -> list[str]:
    return [text.decode() for text in column.tolist()]


class FirstRows:
    """For every row the first one of the same composition; keys wait in files, bucket by bucket.

    Args:
        paths: the stores, whose rows are numbered through.
        scratch: a directory of its own, emptied first and removed in the end.

    Attributes:
        total: number of rows.
        same_as: (total,) first row of the same composition, on disk.
        ids: (total,) candidate ids, on disk.
    """

    def __init__(self, paths: list[Path], scratch: Path) -> None:
        self.scratch = scratch
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self.total = 0
        for path in paths:
            with Store(path, SCHEMA, verify=False) as store:
                self.total += len(store)
        size = max(1, self.total)
        self.same_as = np.memmap(scratch / "same_as", "i8", "w+", shape=(size,))
        self.ids = np.memmap(scratch / "ids", "S64", "w+", shape=(size,))
        self.buckets = -(-size // ROWS_PER_BUCKET)
        self._spool(paths)
        for bucket in range(self.buckets):
            self._settle(scratch / f"bucket_{bucket}")

    def _spool(self, paths: list[Path]) -> None:
        row = 0
        for chunk, compositions in stream_compositions(paths, SCHEMA):
            self.ids[row : row + len(chunk)] = chunk.candidate_id
            records = np.zeros(len(chunk), RECORD)
            records["key"], records["row"] = composition_keys(compositions), np.arange(row, row + len(chunk))
            bucket = records["key"] % np.uint64(self.buckets)
            for number in np.unique(bucket).tolist():
                with (self.scratch / f"bucket_{number}").open("ab") as handle:
                    handle.write(records[bucket == number].tobytes())
            row += len(chunk)
            report_progress(row, self.total, "compositions", "hashing")

    def _settle(self, path: Path) -> None:
        if path.exists():
            records = np.fromfile(path, RECORD)
            _, first, group = np.unique(records["key"], return_index=True, return_inverse=True)
            self.same_as[records["row"]] = records["row"][first][group]

    def __enter__(self) -> FirstRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)


if __name__ == "__main__":
    run_step(remove_known_compositions)
