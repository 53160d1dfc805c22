"""Reject candidates without a charge-neutral assignment of oxidation states in electronegativity order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.chemistry.charge_neutrality import charge_problem
from sluice.config import ChargeSettings
from sluice.screen.common import further_columns, lineage
from sluice.step import report_progress, run_step
from sluice.store import Store, StoreWriter

REVISION = 1


def check_charge(*, candidates: Path, settings: ChargeSettings, charge: Path) -> None:
    """Keep the candidates of a batch whose formula smact calls valid.

    Args:
        candidates: candidates of the symmetry asked for (schema ``symmetry``).
        settings: table of oxidation states and which of smact's rules hold.
        charge: those that pass (schema ``charge``).
    """
    with (
        Store(candidates, "symmetry") as store,
        StoreWriter(
            charge,
            "charge",
            columns=further_columns(store, "charge"),
            settings=settings,
            inputs=[candidates],
            revision=REVISION,
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for chunk in store.chunks():
            assert chunk.crystals is not None
            problems = [charge_problem(formula, settings) for formula in chunk.crystals.reduced_formulas()]
            reasons = np.array(problems, dtype=object)
            passed = reasons == ""
            writer.append_chunk(chunk.select(passed))
            writer.drop(chunk.candidate_id[~passed], reasons[~passed].tolist())
            done += len(chunk)
            report_progress(done, len(store), "candidates")


if __name__ == "__main__":
    run_step(check_charge)
