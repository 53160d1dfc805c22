"""Reject candidates without a charge-neutral assignment of oxidation states in electronegativity order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sluice.chemistry.charge_neutrality import charge_problems
from sluice.chemistry.compositions import Compositions
from sluice.config import ChargeSettings
from sluice.crystals import Crystals
from sluice.screen.common import Verdicts, keep_passing
from sluice.step import run_step

REVISION = 2


def check_charge(*, candidates: Path, settings: ChargeSettings, charge: Path) -> None:
    """Keep the candidates of a batch whose formula smact calls valid.

    Args:
        candidates: candidates of the symmetry asked for (schema ``symmetry``).
        settings: table of oxidation states and which of smact's rules hold.
        charge: those that pass (schema ``charge``).
    """

    def judge(crystals: Crystals, _: Mapping[str, NDArray[Any]]) -> Verdicts:
        return Verdicts(charge_problems(Compositions.from_crystals(crystals), settings))

    keep_passing(judge, (candidates, "symmetry"), (charge, "charge"), settings=settings, revision=REVISION)


if __name__ == "__main__":
    run_step(check_charge)
