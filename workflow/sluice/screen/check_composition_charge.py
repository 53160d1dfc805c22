"""Reject compositions without a charge-neutral assignment of oxidation states in electronegativity order."""

from __future__ import annotations

from pathlib import Path

from sluice.chemistry.charge_neutrality import charge_problems
from sluice.chemistry.composition_store import compositions_of
from sluice.config import ChargeSettings
from sluice.screen.common import Verdicts, keep_passing
from sluice.step import run_step
from sluice.store import Chunk

REVISION = 1


def check_composition_charge(*, candidates: Path, settings: ChargeSettings, charge: Path) -> None:
    """Keep the compositions of a batch that smact calls valid.

    Args:
        candidates: drawn compositions (schema ``composition_candidates``).
        settings: table of oxidation states and which of smact's rules hold.
        charge: those that pass (schema ``composition_charge``).
    """

    def judge(chunk: Chunk) -> Verdicts:
        return Verdicts(charge_problems(compositions_of(chunk), settings))

    source, passing = (candidates, "composition_candidates"), (charge, "composition_charge")
    keep_passing(judge, source, passing, settings=settings, revision=REVISION)


if __name__ == "__main__":
    run_step(check_composition_charge)
