"""Stores: the HDF5 files that stages hand to each other.

Layout: ``/crystals`` {lattice (n, 3, 3) Å, atom_offsets (n + 1), numbers (m), frac_coords (m, 3)}, ``/ids``
{candidate_id, parent_id, structure_hash}, ``/properties/<column>`` with a ``units`` attribute, ``/failures``
{candidate_id, kind, reason, detail}, ``/arrays/<name>`` for flat arrays beside the rows. Each dataset carries the
SHA-256 of its values; the root carries the digest of those. Written in chunks to a temporary name, synced, renamed: a
reader sees the old store or the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.schemas import SCHEMAS, Column
from sluice.store_format import (
    CHUNK,
    COUNTS,
    FAILURE_DATASETS,
    ID_DTYPE,
    VOCABULARY,
    Chunk,
    Failures,
    as_bytes,
    dataset_digest,
    root_digest,
    walk_datasets,
)
from sluice.store_writer import StoreWriter

__all__ = ["CHUNK", "Chunk", "Column", "Failures", "Store", "StoreWriter", "as_bytes", "is_valid_store"]


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
                f"{self.path}: schema_version of {self.schema!r} is {attrs['schema_version']}, not {version}"
            )
        datasets = walk_datasets(self._file)
        expected = [f"properties/{name}" for name in required] + ["ids/candidate_id", "ids/parent_id"]
        expected += [f"failures/{name}" for name in FAILURE_DATASETS]
        for name in expected:
            if name not in datasets:
                raise StoreError(f"{self.path}: dataset {name!r} is missing")
        if verify:
            for name, dataset in datasets.items():
                try:
                    digest = dataset_digest(dataset)
                except OSError as error:
                    raise StoreError(f"{self.path}: dataset {name!r} cannot be read: {error}") from error
                if dataset.attrs.get("sha256") != digest:
                    raise StoreError(f"{self.path}: dataset {name!r} does not match its digest (damaged or edited)")
            if root_digest(self._file) != attrs["content_sha256"]:
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
    def _properties(self) -> Any:
        """The columns' datasets by name; there may be none."""
        return self._file.get("properties", {})

    @property
    def columns(self) -> dict[str, Column]:
        """The columns with dtype and unit."""
        return {
            name: Column(d.dtype.str.lstrip("<|=>"), str(d.attrs["units"]), bool(d.attrs.get("volatile", False)))
            for name, d in self._properties.items()
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
        if name not in self._properties:
            raise StoreError(f"{self.path}: no column {name!r}; it has {', '.join(self._properties)}")
        values: NDArray[Any] = self._file[f"properties/{name}"][start:stop]
        return values

    def array(self, name: str) -> NDArray[Any]:
        """One of the flat arrays beside the rows.

        Raises:
            StoreError: if there is no such array.
        """
        if f"arrays/{name}" not in self._file:
            raise StoreError(f"{self.path}: no array {name!r}")
        values: NDArray[Any] = self._file[f"arrays/{name}"][:]
        return values

    def text(self, name: str) -> list[str]:
        """Values of a text column."""
        return [v.decode() for v in self.column(name)]

    def ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Candidate ids."""
        return [v.decode() for v in self._file["ids/candidate_id"][start:stop]]

    def identities(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.bytes_], NDArray[np.bytes_]]:
        """Candidate ids and parent ids as they are stored."""
        return self._file["ids/candidate_id"][start:stop], self._file["ids/parent_id"][start:stop]

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
            {name: d[start:stop] for name, d in self._properties.items()},
        )

    def chunks(self, size: int = CHUNK) -> Iterator[Chunk]:
        """All rows, ``size`` at a time, so that memory does not grow with the store."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)

    def failures(self) -> Failures:
        """Everything that was rejected or failed, in order."""
        group = self._file["failures"]
        words = {name: [w.decode() for w in group[f"{name}_words"][:]] for name in VOCABULARY}
        return Failures(
            [v.decode() for v in group["candidate_id"][:]],
            [v.decode() for v in group["kind"][:]],
            [words["reason"][i] for i in group["reason"][:]],
            [words["detail"][i] for i in group["detail"][:]],
        )

    def failures_of(self, candidates: Iterable[str]) -> list[tuple[str, str, str, str]]:
        """Candidate id, kind, reason and detail of those of these candidates that did not go on."""
        group = self._file["failures"]
        wanted = np.array(sorted(name.encode() for name in candidates), dtype=ID_DTYPE)
        found = []
        for start in range(0, len(group["candidate_id"]), 1 << 20):
            ids = group["candidate_id"][start : start + (1 << 20)]
            for i in np.flatnonzero(np.isin(ids, wanted)):
                row = start + int(i)
                words = [group[f"{name}_words"][int(group[name][row])].decode() for name in VOCABULARY]
                found.append((ids[i].decode(), group["kind"][row].decode(), words[0], words[1]))
        return found

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
