"""Rank the scored compositions and shortlist the best; the store that predicting structures starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.composition_store import compositions_of, systems
from sluice.chemistry.element_distance import nearest_compositions
from sluice.config_composition_campaign import FormulaShortlistSettings
from sluice.screen.common import joined, lineage
from sluice.screen.select_candidates import Entry, best
from sluice.step import report_progress, run_step
from sluice.store import Chunk, Store, StoreWriter

REVISION = 1
TOO_HIGH = "energy too high"
TOO_UNSURE = "too uncertain"
ENOUGH_OF_SYSTEM = "enough of these elements"
BELOW_CUT = "below the cut"
ENERGY, DEVIATION = "predicted_formation_energy_ev_per_atom", "standard_deviation_ev_per_atom"


def acquisition(chunk: Chunk, settings: FormulaShortlistSettings) -> NDArray[np.float64]:
    """(n,) what the ranking minimizes, eV/atom: with exploration above 0 the lower confidence bound of the energy."""
    return np.asarray(chunk.columns[ENERGY] - settings.exploration * chunk.columns[DEVIATION])


def refusals(chunk: Chunk, settings: FormulaShortlistSettings) -> NDArray[np.object_]:
    """(n,) why a composition does not take part; "" if it does."""
    reasons = np.full(len(chunk), "", dtype=object)
    if settings.max_deviation is not None:
        reasons[chunk.columns[DEVIATION] > settings.max_deviation] = TOO_UNSURE
    if settings.max_formation_energy is not None:
        reasons[chunk.columns[ENERGY] > settings.max_formation_energy] = TOO_HIGH
    return reasons


def shortlist_compositions(
    *, candidates: Path, known: Path, settings: FormulaShortlistSettings, shortlist: Path
) -> None:
    """Shortlist the compositions with the lowest mean - exploration × standard deviation.

    Args:
        candidates: scored compositions (schema ``composition_scored``).
        known: the table (schema ``compositions``): the nearest of its training formulas by element mover's distance is
            given with each composition.
        settings: how many, of one set of elements at most, how far uncertainty counts, what is left out.
        shortlist: the chosen by rank (schema ``composition_shortlist``).
    """
    with (
        Store(candidates, "composition_scored") as store,
        StoreWriter(
            shortlist,
            "composition_shortlist",
            settings=settings,
            inputs=[candidates, known],
            revision=REVISION,
            with_crystals=False,
            **lineage(store),
        ) as writer,
    ):
        chosen = _choose(store, settings)
        place = {name: i for i, (_, name, _) in enumerate(chosen)}
        last = chosen[-1][:2] if len(chosen) == settings.size else (np.inf, b"")
        parts, done = [], 0
        for chunk in store.chunks():
            taken = np.array([name in place for name in chunk.candidate_id.tolist()], bool)
            parts.append(chunk.select(taken))
            gone = chunk.select(~taken)
            reasons = refusals(gone, settings)
            keys = zip(acquisition(gone, settings).tolist(), gone.candidate_id.tolist(), strict=True)
            late = [ENOUGH_OF_SYSTEM if key < last else BELOW_CUT for key in keys]
            writer.drop(gone.candidate_id, [given or rank for given, rank in zip(reasons.tolist(), late, strict=True)])
            done += len(chunk)
            report_progress(done, len(store), "compositions")
        if chosen:
            rows = joined(parts)
            order = np.argsort([place[name] for name in rows.candidate_id.tolist()], kind="stable")
            _append(writer, rows.select(order), known, settings)
    print(f"{writer.counts['out']} of {done} compositions are shortlisted")


def _choose(store: Store, settings: FormulaShortlistSettings) -> list[Entry]:
    """The best of a store of any size: what drops out of the best of a part cannot come back in."""
    chosen: list[Entry] = []
    for whole in store.chunks():
        chunk = whole.select(refusals(whole, settings) == "")
        values, names = acquisition(chunk, settings).tolist(), chunk.candidate_id.tolist()
        fresh = list(zip(values, names, systems(compositions_of(chunk)), strict=True))
        chosen = best(chosen + fresh, most=settings.size, most_per_formula=settings.max_per_system)
    return chosen


def _append(writer: StoreWriter, rows: Chunk, known: Path, settings: FormulaShortlistSettings) -> None:
    """The shortlist's rows by rank, each with the training formula that is nearest to it."""
    with Store(known, "compositions") as store:
        table = store.rows()
    table = table.select(table.columns["split"] == b"train")
    compositions = compositions_of(rows)
    which, distance = nearest_compositions(compositions, compositions_of(table))
    writer.append_chunk(
        rows,
        rank=np.arange(1, len(rows) + 1),
        acquisition_ev_per_atom=acquisition(rows, settings),
        elements=np.array(systems(compositions), dtype="S128"),
        nearest_known=table.columns["formula"][which[:, 0]],
        element_movers_distance=distance[:, 0],
    )


if __name__ == "__main__":
    run_step(shortlist_compositions)
