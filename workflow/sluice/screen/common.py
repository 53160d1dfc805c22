"""What the screening steps share: where a store comes from, and the rows of several stores as one stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sluice.crystals import Crystals
from sluice.schemas import SCHEMAS, Column
from sluice.store import Chunk, Store


def lineage(store: Store) -> dict[str, Any]:
    """Campaign and round of a store, as keywords for the writer of the next one."""
    return {"campaign": store.attributes["campaign"], "round_number": store.attributes["round"]}


def further_columns(store: Store, schema: str, *, without: Sequence[str] = ()) -> dict[str, Column]:
    """Columns of a store that go on to one of another schema though that does not ask for them."""
    required = SCHEMAS[schema][1]
    return {n: c for n, c in store.columns.items() if n not in required and n not in without}


def in_order(paths: Sequence[Path], schema: str) -> list[Path]:
    """Stores ordered by their first candidate id (ties and empty ones by name), however they were listed."""
    keyed = []
    for path in paths:
        with Store(path, schema, verify=False) as store:
            keyed.append((store.ids(0, 1), len(path.name), str(path), path))
    return [entry[-1] for entry in sorted(keyed)]


def lineage_of(paths: Sequence[Path]) -> dict[str, Any]:
    """Campaign and round of the first of several stores."""
    with Store(paths[0], verify=False) as store:
        return lineage(store)


def joined(parts: Sequence[Chunk]) -> Chunk:
    """Several runs of rows (at least one) as one."""
    return Chunk(
        Crystals.concatenate([part.crystals for part in parts if part.crystals is not None]),
        np.concatenate([part.candidate_id for part in parts]),
        np.concatenate([part.parent_id for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )


def stream(paths: Sequence[Path], schema: str) -> Iterator[Chunk]:
    """All rows of several stores that were verified before, a chunk at a time."""
    for path in paths:
        with Store(path, schema, verify=False) as store:
            yield from store.chunks()
