"""Merge the labelled batches and divide them into training, validation and test crystals by formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.config import CurateSettings
from sluice.crystals import Crystals
from sluice.curate.shares import shuffle
from sluice.schemas import SCHEMAS
from sluice.step import run_step
from sluice.store import CHUNK, Chunk, Store, StoreWriter

REVISION = 1


def split_crystals(*, labelled: list[Path], settings: CurateSettings, seed: int, dataset: Path) -> None:
    """Write the dataset, sorted by id, so that neither batches nor their order matter.

    Args:
        labelled: every batch of labelled crystals (schema ``labelled``).
        settings: the shares of validation and test.
        seed: decides which formulas go where.
        dataset: all of them with a ``split`` of ``train``, ``val`` or ``test`` (schema ``dataset``).
    """
    chunks: list[Chunk] = []
    columns, campaign = {}, ""
    for path in labelled:
        with Store(path, "labelled") as store:
            columns.update(store.columns)
            campaign = str(store.attributes.get("campaign", campaign))
            chunks += list(store.chunks())
    merged = _merge(chunks)
    with StoreWriter(
        dataset,
        "dataset",
        columns={name: column for name, column in columns.items() if name not in SCHEMAS["dataset"][1]},
        settings=settings,
        inputs=labelled,
        campaign=campaign,
        revision=REVISION,
        attributes={"seed": seed},
    ) as writer:
        if merged is None:
            return
        assert merged.crystals is not None
        formulas = merged.crystals.reduced_formulas()
        split = assign_splits(formulas, settings.validation_share, settings.test_share, seed)
        for start in range(0, len(merged), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(merged)))
            writer.append_chunk(merged.select(rows), split=split[rows])


def _merge(chunks: list[Chunk]) -> Chunk | None:
    chunks = [chunk for chunk in chunks if len(chunk)]
    if not chunks:
        return None
    ids = np.concatenate([chunk.candidate_id for chunk in chunks])
    order = np.argsort(ids, kind="stable")
    return Chunk(
        Crystals.concatenate([c.crystals for c in chunks if c.crystals is not None])[order],
        ids[order],
        np.concatenate([chunk.parent_id for chunk in chunks])[order],
        {name: np.concatenate([c.columns[name] for c in chunks])[order] for name in chunks[0].columns},
    )


def assign_splits(formulas: list[str], validation_share: float, test_share: float, seed: int) -> NDArray[np.str_]:
    """(n,) ``train``, ``val`` or ``test`` for each crystal; all crystals of one formula get the same.

    The shares are of the formulas; a share above zero gets at least one formula where there are three or more.
    """
    order = shuffle(formulas, seed, "split")
    least = 1 if len(order) >= 3 else 0
    n_test = max(round(test_share * len(order)), least if test_share else 0)
    n_validation = max(round(validation_share * len(order)), least if validation_share else 0)
    where = dict.fromkeys(order, "train")
    where.update(dict.fromkeys(order[:n_test], "test"))
    where.update(dict.fromkeys(order[n_test : n_test + n_validation], "val"))
    return np.array([where[formula] for formula in formulas], dtype="U8")


if __name__ == "__main__":
    run_step(split_crystals)
