"""Put the relaxed batches together, reject what relaxed into something known or into each other, and rank the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.duplicates import DuplicateFinder, Source
from sluice.config import Objective, ScreenSettings
from sluice.errors import ConfigError
from sluice.models.scoring import load_model, score_crystals
from sluice.schemas import Column
from sluice.screen.common import further_columns, in_order, joined, lineage_of
from sluice.screen.remove_duplicates import DUPLICATE, keep_unique, others
from sluice.step import run_step
from sluice.store import Chunk, Store, StoreWriter

REVISION = 1
NO_OBJECTIVE = "objective is not a number"


def desirability(values: NDArray[np.float64], objective: Objective) -> NDArray[np.float64]:
    """(n,) how much each value is wanted, from 0 to 1.

    With a direction: the share of the others that a value beats, ties counting half, which keeps any order and takes
    no notice of outliers or units. With a target range: 1 inside; outside it falls as 1 / (1 + d/w) with the distance
    d to the range over its width w.
    """
    if objective.target is not None:
        lower, upper = objective.target
        outside = np.maximum(np.maximum(lower - values, values - upper), 0.0)
        wanted: NDArray[np.float64] = 1.0 / (1.0 + outside / (upper - lower))
        return wanted
    if len(values) < 2:
        return np.ones(len(values))
    signed = values if objective.direction == "maximize" else -values
    in_order = np.sort(signed)
    worse, not_better = np.searchsorted(in_order, signed, "left"), np.searchsorted(in_order, signed, "right")
    return (worse + 0.5 * (not_better - worse - 1)) / (len(values) - 1)


def combine(values: NDArray[np.float64], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """(n,) weighted mean of the desirabilities of (n, k) values, one column for each objective."""
    weights = np.array([o.weight for o in objectives])
    wanted = np.stack([desirability(values[:, j], o) for j, o in enumerate(objectives)], axis=1)
    mean: NDArray[np.float64] = wanted @ weights / weights.sum()
    return mean


def objective_values(chunk: Chunk, objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """(n, k) the quantities to rank n candidates by.

    Raises:
        ConfigError: if an objective names no column of the candidates.
    """
    assert chunk.crystals is not None
    found = np.zeros((len(chunk), len(objectives)))
    for j, objective in enumerate(objectives):
        if objective.model is not None:
            found[:, j] = score_crystals(load_model(objective.model), chunk.crystals, "cpu")  # few are left
            continue
        column = chunk.columns.get(objective.quantity)
        if column is None or column.dtype.kind not in "fiub":
            known = [name for name, values in chunk.columns.items() if values.dtype.kind in "fiub"]
            raise ConfigError(
                f"screen.objectives.{j}.quantity = {objective.quantity!r}: no such number among the candidates' "
                f"columns; allowed are {', '.join(sorted(known))}, or `output` with a `model`"
            )
        found[:, j] = column.astype(np.float64)
    return found


def objective_columns(objectives: Sequence[Objective]) -> dict[str, Column]:
    """A column for each output of a model; in the model's unit, which a checkpoint does not name."""
    return {f"objective_{j}_output": Column("f8") for j, o in enumerate(objectives) if o.model is not None}


def rank_candidates(
    *,
    candidates: list[Path],
    known: Path,
    earlier: list[Path],
    settings: ScreenSettings,
    ranked: Path,
) -> None:
    """Rank the relaxed candidates of a round by its objectives.

    The objective is the weighted mean of the desirabilities (see ``desirability``); rank 1 is the greatest, ties are
    broken by id.

    Args:
        candidates: the batches (schema ``relaxed``).
        known: the database (schema ``dataset``).
        earlier: shortlists of the rounds before.
        settings: objectives and tolerances of duplicates.
        ranked: new crystals by rank, with ``objective`` from 0 to 1 (schema ``ranked``).
    """
    paths = in_order(candidates, "relaxed")
    sources = [Source(path, "relaxed", "relaxed_space_group", DUPLICATE) for path in paths]
    models = [o.model for o in settings.objectives if o.model is not None]
    with Store(paths[0], "relaxed", verify=False) as first:
        columns = further_columns(first, "ranked") | objective_columns(settings.objectives)
    kept: list[Chunk] = []
    values: list[NDArray[np.float64]] = []
    with (
        DuplicateFinder(
            others(known, earlier, "relaxed_space_group"),
            sources,
            settings.duplicates,
            ranked.parent / f".{ranked.stem}_scratch",
        ) as finder,
        StoreWriter(
            ranked,
            "ranked",
            columns=columns,
            settings=settings,
            inputs=[*paths, known, *models],
            revision=REVISION,
            **lineage_of(paths),
        ) as writer,
    ):

        def keep(chunk: Chunk) -> None:
            found = objective_values(chunk, settings.objectives)
            good = np.asarray(np.isfinite(found).all(axis=1))
            writer.drop(chunk.candidate_id[~good], NO_OBJECTIVE, kind="failed")
            kept.append(chunk.select(good))
            values.append(found[good])

        keep_unique(writer, finder, paths, "relaxed", keep)
        _write_by_rank(writer, kept, values, settings.objectives)


def _write_by_rank(
    writer: StoreWriter, kept: list[Chunk], values: list[NDArray[np.float64]], objectives: Sequence[Objective]
) -> None:
    if not kept:
        return
    rows, together = joined(kept), np.concatenate(values)
    objective = combine(together, objectives)
    order = np.lexsort((rows.candidate_id, -objective))
    writer.append_chunk(
        rows.select(order),
        rank=np.arange(1, len(order) + 1),
        objective=objective[order],
        **{f"objective_{j}_output": together[order, j] for j, o in enumerate(objectives) if o.model is not None},
    )


if __name__ == "__main__":
    run_step(rank_candidates)
