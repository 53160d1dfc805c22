"""Writing a store: in chunks, to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from typing_extensions import Buffer

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.provenance import created_with, sha256_of_file, sha256_of_text
from sluice.schemas import SCHEMAS, Column
from sluice.store_format import (
    COUNTS,
    ID_DTYPE,
    LONGEST_WORD,
    MOST_WORDS,
    VOCABULARY,
    Chunk,
    Growing,
    as_bytes,
    finish_digest,
    root_digest,
)


class _Output(io.FileIO):
    """The file under HDF5, which is never told that a write failed.

    HDF5 goes on writing what it holds, also when a file is closed: with an exception of the write before still raised
    Python finds no attributes any more, and HDF5 crashes the process if the last write fails. So the first error is
    kept, and from then on every write is taken and nothing is done with it.

    Attributes:
        error: of the disk; or what the file was given up for.
    """

    error: OSError | None = None

    def write(self, data: Buffer) -> int:
        """Write all of ``data``."""
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def flush(self) -> None:
        """Nothing is held back here."""

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return size or 0


class StoreWriter:
    """Write one store, chunk by chunk; nothing is visible under ``path`` before the ``with`` block has ended well.

    Args:
        path: the store to write or replace.
        schema: a name of ``sluice.schemas.SCHEMAS``.
        columns: further columns beyond those of the schema.
        settings: what decided the content; its digest is stored.
        inputs: files this was made from; their digests are stored.
        campaign: name; ``round_number`` the round, 0 before the first.
        revision: the step's hand-raised revision.
        with_crystals: False for stores of plain rows (predictions, decisions, compositions).
        count_in: rows that came in (default: what leaves or fails, less ``count_made``, plus ``count_merged``).
        attributes: further root attributes, JSON-able.
        arrays: flat arrays beside the rows, of any length, filled by ``append_arrays``.

    Raises:
        StoreError: on unknown schemas, columns that do not fit, sums that do not add up, and full disks.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        *,
        columns: Mapping[str, Column] | None = None,
        settings: BaseModel | Mapping[str, Any] | None = None,
        inputs: Sequence[Path] = (),
        campaign: str = "",
        round_number: int = 0,
        revision: int = 1,
        with_crystals: bool = True,
        attributes: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Column] | None = None,
    ) -> None:
        if schema not in SCHEMAS:
            raise StoreError(f"{path}: unknown schema {schema!r}; known: {', '.join(SCHEMAS)}")
        version, required = SCHEMAS[schema]
        self.path, self.columns = Path(path), {**required, **(columns or {})}
        self.with_crystals, self.arrays = with_crystals, dict(arrays or {})
        self.counts = dict.fromkeys(COUNTS, 0)
        self._count_in: int | None = None
        self._attributes: dict[str, Any] = {
            "schema": schema,
            "schema_version": version,
            "campaign": campaign,
            "round": round_number,
            "revision": revision,
            "settings_sha256": sha256_of_text(_settings_text(settings)),
            "settings": _settings_text(settings),
            "inputs_sha256": json.dumps({_input_name(p): sha256_of_file(p) for p in inputs}, sort_keys=True),
            "created_with": created_with(),
            **{k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in (attributes or {}).items()},
        }
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._output: _Output | None = None
        self._vocabulary: dict[str, dict[str, int]] = {name: {} for name in VOCABULARY}
        self._words_written = dict.fromkeys(VOCABULARY, 0)
        self._growing: dict[str, Growing] = {}

    def __enter__(self) -> StoreWriter:
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                stale.unlink(missing_ok=True)
            self._output = _Output(self._temporary, "w+")
            self._file = h5py.File(self._output, "w", libver=("v110", "v110"))
            self._create()
        return self

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """End in a message if the disk took something amiss, whatever HDF5 made of it.

        Raises:
            StoreError: on an error of the disk.
        """
        try:
            yield
        except Exception as error:
            problem: Exception = self._problem() or error
            if not isinstance(problem, OSError):
                raise
            raise self._disk_error(problem) from error
        if kept := self._problem():
            raise self._disk_error(kept)

    def _problem(self) -> OSError | None:
        """What the disk took amiss, unknown to HDF5."""
        return self._output.error if self._output is not None else None

    def _create(self) -> None:
        if self.with_crystals:
            self._grow("crystals/lattice", "f8", (3, 3), "angstrom")
            self._grow("crystals/atom_offsets", "i8")
            self._grow("crystals/numbers", "u1")
            self._grow("crystals/frac_coords", "f8", (3,))
            self._growing["crystals/atom_offsets"].append(np.zeros(1, np.int64))
        for name in ("candidate_id", "parent_id"):
            self._grow(f"ids/{name}", ID_DTYPE)
        if self.with_crystals:
            self._grow("ids/structure_hash", "S16")
        for name, column in self.columns.items():
            self._grow(f"properties/{name}", column.dtype, (), column.unit, volatile=column.volatile)
        for name, column in self.arrays.items():
            self._grow(f"arrays/{name}", column.dtype, (), column.unit)
        self._grow("failures/candidate_id", ID_DTYPE)
        self._grow("failures/kind", "S8")
        for name in VOCABULARY:
            self._grow(f"failures/{name}", "i4")

    def _grow(
        self, name: str, dtype: str, row: tuple[int, ...] = (), unit: str = "", *, volatile: bool = False
    ) -> None:
        rows = max(256, (256 << 10) // max(1, np.dtype(dtype).itemsize * int(np.prod(row, dtype=np.int64))))
        dataset = self._file.create_dataset(
            name, (0, *row), dtype, maxshape=(None, *row), chunks=(rows, *row), compression="lzf", shuffle=True
        )
        dataset.attrs["units"] = unit
        if volatile:
            dataset.attrs["volatile"] = True
        self._growing[name] = Growing(dataset)

    def append(
        self,
        candidate_id: Sequence[str] | NDArray,
        columns: Mapping[str, NDArray | Sequence[Any]],
        *,
        crystals: Crystals | None = None,
        parent_id: Sequence[str] | NDArray | None = None,
    ) -> None:
        """Append rows; every column of the store must be given, each of the same length."""
        n = len(candidate_id)
        if set(columns) != set(self.columns):
            missing, extra = set(self.columns) - set(columns), set(columns) - set(self.columns)
            raise StoreError(f"{self.path}: missing columns {sorted(missing)}, unknown columns {sorted(extra)}")
        if (crystals is not None) != self.with_crystals or (crystals is not None and len(crystals) != n):
            raise StoreError(f"{self.path}: {n} ids with {0 if crystals is None else len(crystals)} crystals")
        values: dict[str, NDArray] = {
            "ids/candidate_id": as_bytes(candidate_id),
            "ids/parent_id": as_bytes([""] * n if parent_id is None else parent_id),
        }
        for name, given in columns.items():
            dtype = self.columns[name].dtype
            values[f"properties/{name}"] = as_bytes(given, dtype) if dtype.startswith("S") else np.asarray(given)
        for name, array in values.items():
            if array.shape != (n,):
                raise StoreError(f"{self.path}: {name} has shape {array.shape}, expected ({n},)")
        if crystals is not None:
            last = self._growing["crystals/numbers"].dataset.shape[0]
            values["crystals/lattice"] = crystals.lattice
            values["crystals/atom_offsets"] = crystals.atom_offsets[1:] + last
            values["crystals/numbers"] = crystals.numbers
            values["crystals/frac_coords"] = crystals.frac_coords
            values["ids/structure_hash"] = crystals.structure_hashes()
        with self._writing():
            for name, array in values.items():
                self._growing[name].append(array)
        self.counts["out"] += n

    def append_arrays(self, arrays: Mapping[str, NDArray]) -> None:
        """Append to the flat arrays, to as many of them as are given."""
        with self._writing():
            for name, values in arrays.items():
                self._growing[f"arrays/{name}"].append(values)

    def append_chunk(self, chunk: Chunk, **new_columns: NDArray) -> None:
        """Append a chunk of another store with the columns it has, plus new ones."""
        known = {name: chunk.columns[name] for name in self.columns if name in chunk.columns}
        self.append(chunk.candidate_id, {**known, **new_columns}, crystals=chunk.crystals, parent_id=chunk.parent_id)

    def drop(
        self,
        candidate_id: Sequence[str] | NDArray,
        reason: str | Sequence[str],
        *,
        kind: Literal["rejected", "failed"] = "rejected",
        detail: str | Sequence[str] = "",
    ) -> None:
        """Record candidates that do not go on; ``reason`` is a category, ``detail`` the particulars."""
        n = len(candidate_id)
        texts = {
            "reason": [reason] * n if isinstance(reason, str) else list(reason),
            "detail": [detail] * n if isinstance(detail, str) else list(detail),
        }
        with self._writing():
            self._growing["failures/candidate_id"].append(as_bytes(candidate_id))
            self._growing["failures/kind"].append(np.full(n, kind.encode(), "S8"))
            for name, words in texts.items():
                self._growing[f"failures/{name}"].append(np.array([self._code(name, w) for w in words], "i4"))
        self.counts[kind] += n

    def _code(self, name: str, word: str) -> int:
        """Number of a word; a full book is written out and begun anew, so that memory does not grow with the words."""
        book = self._vocabulary[name]
        code = book.get(word)
        if code is None:
            if len(book) >= MOST_WORDS:
                self._write_words(name, LONGEST_WORD)
            code = book[word] = self._words_written[name] + len(book)
        return code

    def _write_words(self, name: str, size: int) -> None:
        book, dataset = self._vocabulary[name], f"failures/{name}_words"
        if dataset not in self._growing:
            self._grow(dataset, f"S{size}")
        self._growing[dataset].append(np.array([_cut(word, size) for word in book] or [b""], f"S{size}"))
        self._words_written[name] += len(book)
        book.clear()

    def count(self, *, made: int = 0, merged: int = 0, came_in: int | None = None) -> None:
        """Tell the funnel what was made, merged away, and (else derived) how many rows came in; adds up."""
        self.counts["made"] += made
        self.counts["merged"] += merged
        if came_in is not None:
            self._count_in = (self._count_in or 0) + came_in

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._disk_error(error) from error
            self._discard()
            return
        try:
            with self._writing():
                self._finish()
            with self._writing():
                self._temporary.replace(self.path)
                _sync(self.path.parent)
        except BaseException:
            self._discard()
            raise

    def _finish(self) -> None:
        counts = self.counts
        gone = counts["out"] + counts["rejected"] + counts["failed"]
        derived = gone - counts["made"] + counts["merged"]
        counts["in"] = derived if self._count_in is None else self._count_in
        if counts["in"] != derived:
            raise StoreError(
                f"{self.path}: rows do not add up (in + made - merged != out + rejected + failed): {counts}"
            )
        for name in VOCABULARY:
            longest = max((len(word.encode()) for word in self._vocabulary[name]), default=1)
            self._write_words(name, LONGEST_WORD if self._words_written[name] else max(1, longest))
        for growing in self._growing.values():
            growing.dataset.attrs["sha256"] = finish_digest(growing.digest, growing.dataset)
        for name, value in self._attributes.items():
            self._file.attrs[name] = value
        for name in COUNTS:
            self._file.attrs[f"count_{name}"] = counts[name]
        self._file.attrs["content_sha256"] = root_digest(self._file)
        self._file.flush()
        self._file.close()
        if self._output is not None:
            os.fsync(self._output.fileno())
            self._output.close()

    def _discard(self) -> None:
        if self._output is not None:
            self._output.error = self._output.error or OSError("given up")
            with contextlib.suppress(OSError, RuntimeError, AttributeError):
                self._file.close()
            self._output.close()
        self._temporary.unlink(missing_ok=True)

    def _disk_error(self, error: OSError) -> StoreError:
        try:
            free = f"{shutil.disk_usage(self.path.parent).free / 2**20:.0f} MiB free there"
        except OSError:
            free = "free space unknown"
        self._discard()
        return StoreError(
            f"{self.path}: cannot be written ({error}; {free}). An older store of that name is untouched."
        )


def _input_name(path: Path) -> str:
    """What an input is called in the provenance: its path inside the campaign, or the end of an absolute one."""
    return "/".join(path.parts[-3:]) if path.is_absolute() else str(path)


def _cut(word: str, size: int) -> bytes:
    """A text in at most so many bytes; what is lost is shown."""
    text = word.encode()
    return text if len(text) <= size else text[: size - 3].decode(errors="ignore").encode() + "…".encode()


def _settings_text(settings: BaseModel | Mapping[str, Any] | None) -> str:
    if settings is None:
        return "{}"
    if isinstance(settings, BaseModel):
        return json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return json.dumps(dict(settings), sort_keys=True, default=str)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
