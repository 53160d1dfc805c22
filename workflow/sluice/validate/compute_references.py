"""Compute the elemental references of one batch, and those of others that nobody has claimed."""

from __future__ import annotations

from pathlib import Path

from sluice.config import ValidateSettings
from sluice.step import run_step
from sluice.store import Store
from sluice.task_library import TaskLibrary
from sluice.time_limit import heed_warnings
from sluice.validate.calculate import make_calculator
from sluice.validate.run_batch import BatchRunner, Record, Task
from sluice.validate.task_stores import read_tasks, write_results

REVISION = 1


def compute_references(*, tasks: Path, settings: ValidateSettings, batch: int, library: Path, results: Path) -> None:
    """See to it that every elemental reference of the batch has a result.

    Args:
        tasks: the plan (schema ``tasks``).
        settings: code, protocol, launch command, limits, scratch.
        batch: number of the batch.
        library: the task library.
        results: the store to write (schema ``results``), one row a reference, failed ones with their reason.
    """
    references = [task for task in read_tasks(tasks) if task.kind == "reference"]
    own = [task for task in references if task.batch == batch]
    records = compute(references, batch, settings, library, scope=run_scope(tasks)) if references else {}
    write_results(results, own, records, settings=settings, inputs=[tasks], revision=REVISION)


def run_scope(tasks: Path) -> str:
    """Names the plan, the same for every batch of it and another for a plan made anew."""
    with Store(tasks, "tasks", verify=False) as store:
        return f"{store.attributes['campaign']}/{store.attributes['round']}/{tasks.stat().st_mtime_ns}"


def compute(
    tasks: list[Task],
    batch: int,
    settings: ValidateSettings,
    library: Path,
    *,
    scope: str,
) -> dict[str, Record]:
    """Work off a batch in the library.

    Args:
        tasks: those of all batches.
        batch: ours.
        settings: limits and scratch.
        library: the task library.
        scope: what counts as one run.

    Returns:
        task id → record of our own tasks.
    """
    heed_warnings()
    runner = BatchRunner(
        TaskLibrary(library),
        make_calculator(settings),
        scratch=settings.scratch,
        max_attempts=settings.max_attempts,
        scope=scope,
    )
    return runner.run(tasks, batch)


if __name__ == "__main__":
    run_step(compute_references)
