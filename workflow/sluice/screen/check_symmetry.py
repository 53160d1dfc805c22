"""Reject candidates whose symmetry, as spglib finds it, is not the symmetry they were generated for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.chemistry.symmetry import SpaceGroupFinder
from sluice.config import SymmetrySettings
from sluice.screen.common import Verdicts, crystals_of, keep_passing
from sluice.step import run_step
from sluice.store import Chunk

REVISION = 1
OTHER_GROUP = "another space group"
NO_GROUP = "no space group found"


def check_symmetry(*, candidates: Path, settings: SymmetrySettings, symmetry: Path) -> None:
    """Keep the candidates of a batch that have the space group they were asked to have.

    Args:
        candidates: candidates of possible geometry (schema ``geometry``).
        settings: spglib's tolerance.
        symmetry: those that pass, with the ``space_group`` found (schema ``symmetry``).
    """
    finder = SpaceGroupFinder(settings.symprec)

    def judge(chunk: Chunk) -> Verdicts:
        found, asked = finder(crystals_of(chunk)), chunk.columns["requested_space_group"]
        reasons = np.where(found == asked, "", np.where(found == 0, NO_GROUP, OTHER_GROUP)).astype(object)
        details = [f"asked for {a}, found {f}" if f else "" for a, f in zip(asked, found, strict=True)]
        return Verdicts(reasons, np.array(details, object), {"space_group": found})

    keep_passing(judge, (candidates, "geometry"), (symmetry, "symmetry"), settings=settings, revision=REVISION)


if __name__ == "__main__":
    run_step(check_symmetry)
