"""What writing and reading stores share: rows in memory, names, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.provenance import sha256_of_text

CHUNK = 20_000  # crystals held in memory at a time
ID_DTYPE = "S64"
FAILURE_DATASETS = ("candidate_id", "kind", "reason", "detail")
COUNTS = ("in", "made", "merged", "out", "rejected", "failed")
VOCABULARY = ("reason", "detail")
MOST_WORDS = 1 << 16  # distinct texts of a vocabulary held in memory while a store is written
LONGEST_WORD = 256  # bytes, in a vocabulary of more than those


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
    if isinstance(values, np.ndarray) and values.dtype.kind == "S" and values.itemsize <= np.dtype(dtype).itemsize:
        return values.astype(dtype)
    array = np.asarray([v if isinstance(v, bytes) else str(v).encode() for v in values], dtype=bytes)
    if array.size and array.dtype.itemsize > np.dtype(dtype).itemsize:
        longest = max(array.tolist(), key=len).decode()
        raise StoreError(f"text longer than {np.dtype(dtype).itemsize} bytes: {longest!r}")
    return array.astype(dtype)


@dataclass
class Growing:
    """A dataset that is appended to, with the digest of its values."""

    dataset: h5py.Dataset
    digest: Any = field(default_factory=hashlib.sha256)

    def append(self, values: NDArray) -> None:
        """Write further rows."""
        values = np.ascontiguousarray(values, dtype=self.dataset.dtype)
        start = len(self.dataset)
        self.dataset.resize(start + len(values), axis=0)
        if len(values):
            self.dataset[start:] = values
        self.digest.update(values.tobytes())


def dataset_digest(dataset: h5py.Dataset) -> str:
    """Digest of a finished dataset: type, shape, unit and values, read a few MiB at a time."""
    digest = hashlib.sha256()
    rows = max(1, (8 << 20) // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))))
    for start in range(0, len(dataset), rows):
        digest.update(np.ascontiguousarray(dataset[start : start + rows]).tobytes())
    return finish_digest(digest, dataset)


def finish_digest(digest: Any, dataset: h5py.Dataset) -> str:
    """Digest of a dataset whose values went through ``digest``."""
    head = f"{dataset.dtype.str}|{dataset.shape}|{dataset.attrs.get('units', '')}|"
    return hashlib.sha256(head.encode() + digest.digest()).hexdigest()


def walk_datasets(handle: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset by its path, sorted."""
    found: dict[str, h5py.Dataset] = {}
    handle.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return dict(sorted(found.items()))


def root_digest(handle: h5py.File) -> str:
    """Digest of a whole store without provenance and volatile columns."""
    parts = [f"{handle.attrs['schema']}|{handle.attrs['schema_version']}"]
    parts += [
        f"{name}={d.attrs['sha256']}" for name, d in walk_datasets(handle).items() if not d.attrs.get("volatile", False)
    ]
    parts += [f"{name}={int(handle.attrs['count_' + name])}" for name in COUNTS]
    return sha256_of_text("\n".join(parts))
