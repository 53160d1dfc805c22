"""Score candidates with the screener of the round."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.models.scoring import load_model, score_crystals
from sluice.screen.common import further_columns, lineage
from sluice.step import report_progress, run_step
from sluice.store import Store, StoreWriter

REVISION = 1
ROWS = 4000  # between two progress reports
NO_SCORE = "no score"


def score_candidates(*, candidates: Path, model: Path, device: str, scored: Path) -> None:
    """Give every candidate the trained screener's score; higher is better.

    Args:
        candidates: new crystals that occur once (schema ``unique``).
        model: checkpoint of the round's screener.
        device: ``auto``, ``cpu`` or ``cuda``.
        scored: all of them with ``screener_score``, but those that the screener has no answer for (schema ``scored``).
    """
    screener = load_model(model)
    with (
        Store(candidates, "unique") as store,
        StoreWriter(
            scored,
            "scored",
            columns=further_columns(store, "scored"),
            inputs=[candidates, model],
            revision=REVISION,
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for chunk in store.chunks(ROWS):
            assert chunk.crystals is not None
            scores = score_crystals(screener, chunk.crystals, device)
            good = np.isfinite(scores)
            writer.append_chunk(chunk.select(good), screener_score=scores[good])
            writer.drop(chunk.candidate_id[~good], NO_SCORE, kind="failed")
            done += len(chunk)
            report_progress(done, len(store), "candidates")


if __name__ == "__main__":
    run_step(score_candidates)
