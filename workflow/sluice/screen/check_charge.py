"""Reject candidates without a charge-neutral assignment of oxidation states in electronegativity order."""

from __future__ import annotations

from pathlib import Path

from sluice.chemistry.charge_neutrality import charge_problems
from sluice.chemistry.compositions import Compositions
from sluice.config import ChargeSettings
from sluice.screen.common import Verdicts, crystals_of, keep_passing
from sluice.step import run_step
from sluice.store import Chunk

REVISION = 2


def check_charge(*, candidates: Path, settings: ChargeSettings, charge: Path) -> None:
    """Keep the candidates of a batch whose formula smact calls valid.

    Args:
        candidates: candidates of the symmetry asked for (schema ``symmetry``).
        settings: table of oxidation states and which of smact's rules hold.
        charge: those that pass (schema ``charge``).
    """

    def judge(chunk: Chunk) -> Verdicts:
        return Verdicts(charge_problems(Compositions.from_crystals(crystals_of(chunk)), settings))

    keep_passing(judge, (candidates, "symmetry"), (charge, "charge"), settings=settings, revision=REVISION)


if __name__ == "__main__":
    run_step(check_charge)
