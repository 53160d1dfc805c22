"""Let candidates pass the trained classifiers of the configuration, and score them with the screener of the round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.config import Filter, ScoreSettings
from sluice.errors import ConfigError
from sluice.models.scoring import Model, load_model, score_crystals
from sluice.schemas import Column
from sluice.screen.common import crystals_of, further_columns, lineage
from sluice.step import report_progress, run_step
from sluice.store import Store, StoreWriter

REVISION = 2
ROWS = 4000  # between two progress reports
NO_SCORE = "no score"


def load_filter(one: Filter) -> Model:
    """The filter's model.

    Raises:
        ConfigError: if it is missing, or is no classifier.
    """
    if one.model is None or one.missing():
        raise ConfigError(one.missing())
    model = load_model(one.model)
    if model.task != "classification":
        raise ConfigError(
            f"screen.score.filters: {one.name}: {one.model} is a model of {model.task}; a filter needs a classifier"
        )
    return model


def score_candidates(*, candidates: Path, model: Path, settings: ScoreSettings, device: str, scored: Path) -> None:
    """Give every candidate that passes the filters the trained screener's score; higher is better.

    Args:
        candidates: new crystals that occur once (schema ``unique``).
        model: checkpoint of the round's screener.
        settings: trained classifiers that candidates must pass first.
        device: ``auto``, ``cpu`` or ``cuda``.
        scored: those that pass, with ``screener_score`` and each filter's ``filter_<number>_score``, but for those that
            a model has no answer for (schema ``scored``).

    Raises:
        ConfigError: if a filter's model is missing, or is no classifier.
    """
    screener = load_model(model)
    filters = [(one, load_filter(one)) for one in settings.filters]
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
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for whole in store.chunks(ROWS):
            chunk = whole
            probabilities: dict[str, NDArray[np.float64]] = {}
            for i, (one, filter_model) in enumerate(filters):
                found = score_crystals(filter_model, crystals_of(chunk), device)
                writer.drop(chunk.candidate_id[np.isnan(found)], NO_SCORE, detail=one.name, kind="failed")
                writer.drop(chunk.candidate_id[found < one.at_least], f"filter: {one.name}")
                good = found >= one.at_least  # NaN is not
                chunk = chunk.select(good)
                probabilities = {name: values[good] for name, values in probabilities.items()}
                probabilities[f"filter_{i}_score"] = found[good]
            scores = score_crystals(screener, crystals_of(chunk), device)
            good = np.isfinite(scores)
            kept = {name: values[good] for name, values in probabilities.items()}
            writer.append_chunk(chunk.select(good), screener_score=scores[good], **kept)
            writer.drop(chunk.candidate_id[~good], NO_SCORE, kind="failed")
            done += len(whole)
            report_progress(done, len(store), "candidates")


if __name__ == "__main__":
    run_step(score_candidates)
