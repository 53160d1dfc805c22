"""What the screening steps share: where a store comes from, checks, and the rows of several stores as one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from sluice.crystals import Crystals
from sluice.schemas import SCHEMAS, Column
from sluice.step import report_progress
from sluice.store import Chunk, Store, StoreWriter


@dataclass(frozen=True)
class Verdicts:
    """What a check says of n candidates.

    Attributes:
        reasons: (n,) text, why a candidate is rejected; "" if it passes.
        details: (n,) text, particulars of that; None if there are none.
        columns: what was found on the way, (n,) each, to go on with those that pass.
    """

    reasons: NDArray[np.object_]
    details: NDArray[np.object_] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def crystals_of(chunk: Chunk) -> Crystals:
    """The crystals of candidates that have some."""
    assert chunk.crystals is not None
    return chunk.crystals


def keep_passing(
    judge: Callable[[Chunk], Verdicts],
    candidates: tuple[Path, str],
    passing: tuple[Path, str],
    *,
    settings: BaseModel,
    revision: int,
) -> None:
    """Write those candidates of a store that a check passes, and the others with their reasons.

    Args:
        judge: the check.
        candidates: the store and its schema.
        passing: the store to write and its schema.
        settings: what decides the check.
        revision: the step's.
    """
    with (
        Store(*candidates) as store,
        StoreWriter(
            *passing,
            columns=further_columns(store, passing[1]),
            settings=settings,
            inputs=[candidates[0]],
            revision=revision,
            with_crystals=store.has_crystals,
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for chunk in store.chunks():
            found = judge(chunk)
            passed = found.reasons == ""
            writer.append_chunk(chunk.select(passed), **{name: v[passed] for name, v in found.columns.items()})
            details = "" if found.details is None else found.details[~passed].tolist()
            writer.drop(chunk.candidate_id[~passed], found.reasons[~passed].tolist(), detail=details)
            done += len(chunk)
            report_progress(done, len(store), "candidates")
        print(f"{writer.counts['out']} of {done} candidates pass ({writer.counts['out'] / max(1, done):.1%})")


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
    crystals = [part.crystals for part in parts if part.crystals is not None]
    return Chunk(
        Crystals.concatenate(crystals) if crystals else None,
        np.concatenate([part.candidate_id for part in parts]),
        np.concatenate([part.parent_id for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )


def stream(paths: Sequence[Path], schema: str) -> Iterator[Chunk]:
    """All rows of several stores that were verified before, a chunk at a time."""
    for path in paths:
        with Store(path, schema, verify=False) as store:
            yield from store.chunks()
