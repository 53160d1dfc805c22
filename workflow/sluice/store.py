"""Stores: the HDF5 files that stages hand to each other.

Layout: ``/crystals`` {lattice (n, 3, 3) Å, atom_offsets (n + 1), numbers (m), frac_coords (m, 3)}, ``/ids``
{candidate_id, parent_id, structure_hash}, ``/properties/<column>`` with a ``units`` attribute, ``/failures``
{candidate_id, kind, reason, detail}. Each dataset carries the SHA-256 of its values; the root carries the digest of
those. Written in chunks to a temporary name, synced, renamed: a reader sees the old store or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.provenance import created_with, sha256_of_file, sha256_of_text
from sluice.schemas import SCHEMAS, Column

CHUNK = 20_000  # crystals held in memory at a time
ID_DTYPE = "S64"
FAILURE_DATASETS = ("candidate_id", "kind", "reason", "detail")
COUNTS = ("in", "made", "merged", "out", "rejected", "failed")
_VOCABULARY = ("reason", "detail")


@dataclass(frozen=True)
class Chunk:
    """A run of rows of a store: crystals (None in a store without), ids and every column."""

    crystals: Crystals | None
    candidate_id: NDArray[np.bytes_]
    parent_id: NDArray[np.bytes_]
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.candidate_id)

    def select(self, index: NDArray) -> Chunk:
        """The rows of a boolean mask or integer index."""
        return Chunk(
            None if self.crystals is None else self.crystals[index],
            self.candidate_id[index],
            self.parent_id[index],
            {name: values[index] for name, values in self.columns.items()},
        )


@dataclass(frozen=True)
class Failures:
    """Candidates that did not go on: ``kind`` is ``rejected`` or ``failed``."""

    candidate_id: list[str]
    kind: list[str]
    reason: list[str]
    detail: list[str]

    def __len__(self) -> int:
        return len(self.candidate_id)


def as_bytes(values: Sequence[str] | NDArray, dtype: str = ID_DTYPE) -> NDArray[np.bytes_]:
    """Text as fixed-length bytes.

    Raises:
        StoreError: if a value does not fit, rather than cutting it.
    """
    array = np.asarray([v if isinstance(v, bytes) else str(v).encode() for v in values], dtype=bytes)
    if array.size and array.dtype.itemsize > np.dtype(dtype).itemsize:
        longest = max(array.tolist(), key=len).decode()
        raise StoreError(f"text longer than {np.dtype(dtype).itemsize} bytes: {longest!r}")
    return array.astype(dtype)


@dataclass
class _Growing:
    """A dataset that is appended to, with the digest of its values."""

    dataset: h5py.Dataset
    digest: Any = field(default_factory=hashlib.sha256)

    def append(self, values: NDArray) -> None:
        values = np.ascontiguousarray(values, dtype=self.dataset.dtype)
        start = len(self.dataset)
        self.dataset.resize(start + len(values), axis=0)
        if len(values):
            self.dataset[start:] = values
        self.digest.update(values.tobytes())


def _dataset_digest(dataset: h5py.Dataset) -> str:
    digest = hashlib.sha256()
    rows = max(1, (8 << 20) // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))))
    for start in range(0, len(dataset), rows):
        digest.update(np.ascontiguousarray(dataset[start : start + rows]).tobytes())
    return _finish(digest, dataset)


def _finish(digest: Any, dataset: h5py.Dataset) -> str:
    head = f"{dataset.dtype.str}|{dataset.shape}|{dataset.attrs.get('units', '')}|"
    return hashlib.sha256(head.encode() + digest.digest()).hexdigest()


def _walk(handle: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    handle.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return dict(sorted(found.items()))


def _root_digest(handle: h5py.File) -> str:
    parts = [f"{handle.attrs['schema']}|{handle.attrs['schema_version']}"]
    parts += [f"{name}={d.attrs['sha256']}" for name, d in _walk(handle).items() if not d.attrs.get("volatile", False)]
    parts += [f"{name}={int(handle.attrs['count_' + name])}" for name in COUNTS]
    return sha256_of_text("\n".join(parts))


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
    ) -> None:
        if schema not in SCHEMAS:
            raise StoreError(f"{path}: unknown schema {schema!r}; known: {', '.join(SCHEMAS)}")
        version, required = SCHEMAS[schema]
        self.path, self.columns = Path(path), {**required, **(columns or {})}
        self.with_crystals = with_crystals
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
            "inputs_sha256": json.dumps({p.name: sha256_of_file(p) for p in inputs}, sort_keys=True),
            "created_with": created_with(),
            **{k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in (attributes or {}).items()},
        }
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._vocabulary: dict[str, dict[str, int]] = {name: {} for name in _VOCABULARY}
        self._growing: dict[str, _Growing] = {}

    def __enter__(self) -> StoreWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stale in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                stale.unlink(missing_ok=True)
            self._file = h5py.File(self._temporary, "w", locking=False, libver=("v110", "v110"))
            self._create()
        except OSError as error:
            raise self._disk_error(error) from error
        return self

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
        self._grow("failures/candidate_id", ID_DTYPE)
        self._grow("failures/kind", "S8")
        for name in _VOCABULARY:
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
        self._growing[name] = _Growing(dataset)

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
            "ids/parent_id": as_bytes([b""] * n if parent_id is None else parent_id),
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
        try:
            for name, array in values.items():
                self._growing[name].append(array)
        except OSError as error:
            raise self._disk_error(error) from error
        self.counts["out"] += n

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
        try:
            self._growing["failures/candidate_id"].append(as_bytes(candidate_id))
            self._growing["failures/kind"].append(np.full(n, kind.encode(), "S8"))
            for name, words in texts.items():
                book = self._vocabulary[name]
                self._growing[f"failures/{name}"].append(np.array([book.setdefault(w, len(book)) for w in words], "i4"))
        except OSError as error:
            raise self._disk_error(error) from error
        self.counts[kind] += n

    def count(self, *, made: int = 0, merged: int = 0, came_in: int | None = None) -> None:
        """Tell the funnel what was made, merged away, and (else derived) how many rows came in; adds up."""
        self.counts["made"] += made
        self.counts["merged"] += merged
        if came_in is not None:
            self._count_in = (self._count_in or 0) + came_in

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self._discard()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._disk_error(error) from error
            return
        try:
            self._finish()
            os.replace(self._temporary, self.path)
            _sync(self.path.parent)
        except OSError as problem:
            raise self._disk_error(problem) from problem
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
        for name in _VOCABULARY:
            words = np.array([w.encode() for w in self._vocabulary[name]] or [b""], dtype=bytes)
            words = words.astype(f"S{max(1, words.dtype.itemsize)}")
            self._grow(f"failures/{name}_words", words.dtype.str)
            self._growing[f"failures/{name}_words"].append(words)
        for growing in self._growing.values():
            growing.dataset.attrs["sha256"] = _finish(growing.digest, growing.dataset)
        for name, value in self._attributes.items():
            self._file.attrs[name] = value
        for name in COUNTS:
            self._file.attrs[f"count_{name}"] = counts[name]
        self._file.attrs["content_sha256"] = _root_digest(self._file)
        self._file.flush()
        self._file.close()
        handle = os.open(self._temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _discard(self) -> None:
        try:
            self._file.close()
        except (OSError, RuntimeError, AttributeError):
            pass
        self._temporary.unlink(missing_ok=True)

    def _disk_error(self, error: OSError) -> StoreError:
        self._discard()
        try:
            free = f"{shutil.disk_usage(self.path.parent).free / 2**20:.0f} MiB free there"
        except OSError:
            free = "free space unknown"
        return StoreError(
            f"{self.path}: cannot be written ({error}; {free}). An older store of that name is untouched."
        )


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


class Store:
    """A store opened for reading, as a context manager.

    Args:
        path: the file.
        schema: what it must be; a tuple where several will do; None for any.
        verify: read everything once and compare the digests.

    Raises:
        StoreError: if it is missing, truncated, foreign, of another schema or version, or damaged; names the field.
    """

    def __init__(self, path: Path, schema: str | tuple[str, ...] | None = None, *, verify: bool = True) -> None:
        self.path = Path(path)
        wanted = (schema,) if isinstance(schema, str) else schema
        if not self.path.exists():
            raise StoreError(f"{self.path}: no such store")
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise StoreError(f"{self.path}: not a readable HDF5 file (truncated or foreign): {error}") from error
        try:
            self._check(wanted, verify)
        except BaseException:
            self._file.close()
            raise

    def _check(self, wanted: tuple[str, ...] | None, verify: bool) -> None:
        attrs = self._file.attrs
        for name in ("schema", "schema_version", "content_sha256"):
            if name not in attrs:
                raise StoreError(f"{self.path}: not a Sluice store (root attribute {name!r} is missing)")
        self.schema = str(attrs["schema"])
        if wanted is not None and self.schema not in wanted:
            raise StoreError(f"{self.path}: schema is {self.schema!r}, expected {' or '.join(wanted)}")
        if self.schema not in SCHEMAS:
            raise StoreError(f"{self.path}: unknown schema {self.schema!r}")
        version, required = SCHEMAS[self.schema]
        if int(attrs["schema_version"]) != version:
            raise StoreError(
                f"{self.path}: schema_version of {self.schema!r} is {attrs['schema_version']}, this Sluice reads {version}"
            )
        datasets = _walk(self._file)
        expected = [f"properties/{name}" for name in required] + ["ids/candidate_id", "ids/parent_id"]
        expected += [f"failures/{name}" for name in FAILURE_DATASETS]
        for name in expected:
            if name not in datasets:
                raise StoreError(f"{self.path}: dataset {name!r} is missing")
        if verify:
            for name, dataset in datasets.items():
                try:
                    digest = _dataset_digest(dataset)
                except OSError as error:
                    raise StoreError(f"{self.path}: dataset {name!r} cannot be read: {error}") from error
                if dataset.attrs.get("sha256") != digest:
                    raise StoreError(f"{self.path}: dataset {name!r} does not match its digest (damaged or edited)")
            if _root_digest(self._file) != attrs["content_sha256"]:
                raise StoreError(f"{self.path}: content_sha256 does not match (damaged or edited)")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._file["ids/candidate_id"])

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes as plain Python values."""
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in self._file.attrs.items()}

    @property
    def content_sha256(self) -> str:
        """Digest of everything but provenance and volatile columns."""
        return str(self._file.attrs["content_sha256"])

    @property
    def counts(self) -> dict[str, int]:
        """``in``, ``made``, ``merged``, ``out``, ``rejected``, ``failed``."""
        return {name: int(self._file.attrs[f"count_{name}"]) for name in COUNTS}

    @property
    def columns(self) -> dict[str, Column]:
        """The columns with dtype and unit."""
        return {
            name: Column(d.dtype.str.lstrip("<|=>"), str(d.attrs["units"]), bool(d.attrs.get("volatile", False)))
            for name, d in self._file["properties"].items()
        }

    @property
    def has_crystals(self) -> bool:
        """Whether the rows are crystals."""
        return "crystals" in self._file

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Values of one column (bytes for text).

        Raises:
            StoreError: if there is no such column.
        """
        if name not in self._file["properties"]:
            raise StoreError(f"{self.path}: no column {name!r}; it has {', '.join(self._file['properties'])}")
        values: NDArray[Any] = self._file[f"properties/{name}"][start:stop]
        return values

    def text(self, name: str) -> list[str]:
        """Values of a text column."""
        return [v.decode() for v in self.column(name)]

    def ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Candidate ids."""
        return [v.decode() for v in self._file["ids/candidate_id"][start:stop]]

    def structure_hashes(self) -> list[str]:
        """Structure hashes as stored."""
        return [v.decode() for v in self._file["ids/structure_hash"][:]]

    def crystals(self, start: int = 0, stop: int | None = None) -> Crystals:
        """Crystals of a run of rows."""
        group = self._file["crystals"]
        stop = len(self) if stop is None else min(stop, len(self))
        offsets = group["atom_offsets"][start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return Crystals(
            group["lattice"][start:stop],
            offsets - first,
            group["numbers"][first:last],
            group["frac_coords"][first:last],
        )

    def rows(self, start: int = 0, stop: int | None = None) -> Chunk:
        """A run of rows with everything that belongs to them."""
        return Chunk(
            self.crystals(start, stop) if self.has_crystals else None,
            self._file["ids/candidate_id"][start:stop],
            self._file["ids/parent_id"][start:stop],
            {name: d[start:stop] for name, d in self._file["properties"].items()},
        )

    def chunks(self, size: int = CHUNK) -> Iterator[Chunk]:
        """All rows, ``size`` at a time, so that memory does not grow with the store."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)

    def failures(self) -> Failures:
        """Everything that was rejected or failed, in order."""
        group = self._file["failures"]
        words = {name: [w.decode() for w in group[f"{name}_words"][:]] for name in _VOCABULARY}
        return Failures(
            [v.decode() for v in group["candidate_id"][:]],
            [v.decode() for v in group["kind"][:]],
            [words["reason"][i] for i in group["reason"][:]],
            [words["detail"][i] for i in group["detail"][:]],
        )

    def reasons(self) -> Counter[str]:
        """How often each reason for not going on was given; memory does not grow with the store."""
        group = self._file["failures"]
        words = [w.decode() for w in group["reason_words"][:]]
        found: Counter[str] = Counter()
        for start in range(0, len(group["reason"]), 1 << 20):
            codes, counts = np.unique(group["reason"][start : start + (1 << 20)], return_counts=True)
            for code, n in zip(codes, counts, strict=True):
                found[words[code]] += int(n)
        return found


def is_valid_store(path: Path) -> bool:
    """Whether a finished, undamaged store lies there."""
    try:
        with Store(path):
            return True
    except StoreError:
        return False
