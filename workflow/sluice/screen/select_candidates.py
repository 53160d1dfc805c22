"""Choose the candidates worth a relaxation, not too many of one formula, and deal them to batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sluice.config import RelaxSettings
from sluice.screen.common import further_columns, joined, lineage
from sluice.step import run_step
from sluice.store import Store, StoreWriter

REVISION = 1
BELOW_CUT = "below the relaxation cut"
ENOUGH_OF_FORMULA = "enough of this formula"

Entry = tuple[float, bytes, str]  # negative score, id, formula: sorts best first, ties by id


def best(entries: list[Entry], *, most: int, most_per_formula: int) -> list[Entry]:
    """The best entries in order, at most so many in all and of one formula."""
    chosen: list[Entry] = []
    taken: Counter[str] = Counter()
    for entry in sorted(entries):
        if taken[entry[2]] < most_per_formula:
            taken[entry[2]] += 1
            chosen.append(entry)
            if len(chosen) == most:
                break
    return chosen


def _choose(store: Store, settings: RelaxSettings) -> list[Entry]:
    """The best of a store of any size: what drops out of the best of a part cannot come back in."""
    chosen: list[Entry] = []
    for chunk in store.chunks():
        assert chunk.crystals is not None
        scores, ids = -chunk.columns["screener_score"], chunk.candidate_id.tolist()
        fresh = list(zip(scores.tolist(), ids, chunk.crystals.reduced_formulas(), strict=True))
        chosen = best(chosen + fresh, most=settings.candidates, most_per_formula=settings.max_per_formula)
    return chosen


def select_candidates(*, candidates: Path, settings: RelaxSettings, selected: Path) -> None:
    """Select the best candidates by screener score for relaxation.

    Args:
        candidates: scored candidates (schema ``scored``).
        settings: how many, how many of one formula, and the batches they are dealt to.
        selected: the chosen, best first, with their ``batch`` (schema ``selected``).
    """
    with (
        Store(candidates, "scored") as store,
        StoreWriter(
            selected,
            "selected",
            columns=further_columns(store, "selected"),
            settings=settings,
            inputs=[candidates],
            revision=REVISION,
            **lineage(store),
        ) as writer,
    ):
        chosen = _choose(store, settings)
        place = {name: i for i, (_, name, _) in enumerate(chosen)}
        last = chosen[-1][:2] if len(chosen) == settings.candidates else (np.inf, b"")
        parts = []
        for chunk in store.chunks():
            ids = chunk.candidate_id.tolist()
            taken = np.array([name in place for name in ids], bool)
            parts.append(chunk.select(taken))
            keys = list(zip((-chunk.columns["screener_score"]).tolist(), ids, strict=True))
            reasons = [ENOUGH_OF_FORMULA if key < last else BELOW_CUT for key in keys]
            writer.drop(chunk.candidate_id[~taken], [r for r, t in zip(reasons, taken, strict=True) if not t])
        if parts:
            rows = joined(parts)
            order = np.argsort([place[name] for name in rows.candidate_id.tolist()], kind="stable")
            writer.append_chunk(rows.select(order), batch=np.arange(len(order)) % settings.batches)


if __name__ == "__main__":
    run_step(select_candidates)
