"""Score candidates with the round's screener, and let them pass the trained classifiers of the configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.config import Filter, ScoreSettings
from sluice.errors import ConfigError
from sluice.models.layers import GraphNetwork
from sluice.models.scoring import Model, load_model, score_crystals
from sluice.schemas import Column
from sluice.screen.common import crystals_of, further_columns, lineage
from sluice.step import report_progress, run_step
from sluice.store import Chunk, Store, StoreWriter

REVISION = 3
ROWS = 4000  # between two progress reports
NO_SCORE = "no score"
SCREENER = "screener"  # its name in reasons
LEFT_OUT = "filters_left_out"  # attribute of the store: warnings about filters whose models were not there


def load_filter(one: Filter) -> Model:
    """The filter's model.

    Raises:
        ConfigError: if it is missing, or is no classifier.
    """
    if one.model is None or one.missing():
        raise ConfigError(one.missing())
    model = load_model(one.model)
    if model.task != "classification" or not isinstance(model.network, GraphNetwork):
        raise ConfigError(
            f"screen.score.filters: {one.name}: {one.model} is a {model.kind} model of {model.task}; a filter needs a"
            " classifier of crystals"
        )
    return model


def score_candidates(*, candidates: Path, model: Path, settings: ScoreSettings, device: str, scored: Path) -> None:
    """Give every candidate the trained screener's score, higher is better, and keep those that pass it and the filters.

    Args:
        candidates: new crystals that occur once (schema ``unique``).
        model: checkpoint of the round's screener.
        settings: least score of the screener, and trained classifiers that candidates must pass after it.
        device: ``auto``, ``cpu`` or ``cuda``.
        scored: those that pass, with ``screener_score`` and each filter's ``filter_<number>_score``, but for those that
            a model has no answer for (schema ``scored``). The attribute ``filters_left_out`` holds a warning for every
            optional filter whose model was not there.

    Raises:
        ConfigError: if the model of a filter that is not optional is missing, or one is no classifier.
    """
    screener = load_model(model)
    left_out = settings.left_out()
    for warning in left_out:
        print(f"WARNING: {warning}", file=sys.stderr)
    filters = [(one, load_filter(one)) for one in settings.filters if not (one.optional and one.missing())]
    new = {f"filter_{i}_score": Column("f8") for i in range(len(filters))}
    with (
        Store(candidates, "unique") as store,
        StoreWriter(
            scored,
            "scored",
            columns=further_columns(store, "scored") | new,
            settings=settings,
            inputs=[candidates, model, *(filter_model.path for _, filter_model in filters)],
            revision=REVISION,
            attributes={LEFT_OUT: left_out},
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for whole in store.chunks(ROWS):
            chunk = whole
            scores = score_crystals(screener, crystals_of(chunk), device)
            chunk, found = _pass(writer, chunk, {"screener_score": scores}, at_least=settings.at_least, name=SCREENER)
            for i, (one, filter_model) in enumerate(filters):
                found[f"filter_{i}_score"] = score_crystals(filter_model, crystals_of(chunk), device)
                chunk, found = _pass(writer, chunk, found, at_least=one.at_least, name=one.name)
            writer.append_chunk(chunk, **found)
            done += len(whole)
            report_progress(done, len(store), "candidates")


def _pass(
    writer: StoreWriter, chunk: Chunk, scores: dict[str, NDArray[np.float64]], *, at_least: float, name: str
) -> tuple[Chunk, dict[str, NDArray[np.float64]]]:
    """Drop those whose last score is missing or too low; what goes on, with all of its scores."""
    last = list(scores.values())[-1]
    writer.drop(chunk.candidate_id[np.isnan(last)], NO_SCORE, detail=name, kind="failed")
    writer.drop(chunk.candidate_id[last < at_least], f"filter: {name}")
    good = last >= at_least  # NaN is not
    return chunk.select(good), {key: values[good] for key, values in scores.items()}


if __name__ == "__main__":
    run_step(score_candidates)
