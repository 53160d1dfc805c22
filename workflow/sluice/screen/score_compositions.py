"""Predict the formation energy of every composition that is left, and how sure that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.chemistry.composition_store import compositions_of
from sluice.errors import SluiceError
from sluice.models.composition import CompositionModel
from sluice.models.devices import pick_device
from sluice.models.modelfile import load_model
from sluice.screen.common import lineage
from sluice.screen.score_candidates import NO_SCORE
from sluice.step import report_progress, run_step
from sluice.store import Store, StoreWriter

REVISION = 1
ROWS = 8192  # predicted between two progress reports


def score_compositions(*, candidates: Path, model: Path, device: str, scored: Path) -> None:
    """Give every composition the scorer's formation energy and its standard deviation, eV/atom.

    Args:
        candidates: new compositions that occur once (schema ``composition_unique``).
        model: the scorer of the round.
        device: ``auto``, ``cpu`` or ``cuda``.
        scored: all but those that the scorer has no answer for (schema ``composition_scored``).

    Raises:
        SluiceError: if the model is none of compositions.
    """
    scorer = load_model(model)
    if not isinstance(scorer.network, CompositionModel):
        raise SluiceError(f"{model}: a {scorer.kind} model scores no compositions; give a composition_scorer.ckpt")
    where = pick_device(device)
    with (
        Store(candidates, "composition_unique") as store,
        StoreWriter(
            scored,
            "composition_scored",
            inputs=[candidates, model],
            revision=REVISION,
            with_crystals=False,
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for chunk in store.chunks(ROWS):
            found = scorer.network.predict(compositions_of(chunk), where)
            good = np.isfinite(found.value)
            writer.append_chunk(
                chunk.select(good),
                predicted_formation_energy_ev_per_atom=found.value[good],
                standard_deviation_ev_per_atom=found.uncertainty[good],
            )
            details = [reason for reason, fine in zip(found.reasons, good, strict=True) if not fine]
            writer.drop(chunk.candidate_id[~good], NO_SCORE, kind="failed", detail=details)
            done += len(chunk)
            report_progress(done, len(store), "compositions")
    print(f"{writer.counts['out']} of {done} compositions have a score")


if __name__ == "__main__":
    run_step(score_compositions)
