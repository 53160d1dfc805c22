"""Reject candidates whose symmetry, as spglib finds it, is not the symmetry they were generated for."""

from __future__ import annotations

from pathlib import Path

from sluice.chemistry.symmetry import SpaceGroupFinder
from sluice.config import SymmetrySettings
from sluice.screen.common import further_columns, lineage
from sluice.step import report_progress, run_step
from sluice.store import Store, StoreWriter

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
    with (
        Store(candidates, "geometry") as store,
        StoreWriter(
            symmetry,
            "symmetry",
            columns=further_columns(store, "symmetry"),
            settings=settings,
            inputs=[candidates],
            revision=REVISION,
            **lineage(store),
        ) as writer,
    ):
        done = 0
        for chunk in store.chunks():
            assert chunk.crystals is not None
            found, asked = finder(chunk.crystals), chunk.columns["requested_space_group"]
            passed, none = found == asked, found == 0
            other = ~passed & ~none
            writer.append_chunk(chunk.select(passed), space_group=found[passed])
            writer.drop(chunk.candidate_id[none & ~passed], NO_GROUP)
            details = [f"asked for {a}, found {f}" for a, f in zip(asked[other], found[other], strict=True)]
            writer.drop(chunk.candidate_id[other], OTHER_GROUP, detail=details)
            done += len(chunk)
            report_progress(done, len(store), "candidates")


if __name__ == "__main__":
    run_step(check_symmetry)
