"""Compute the compounds of one batch whose references are there, and those of others that nobody has claimed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sluice.config import ValidateSettings
from sluice.step import run_step
from sluice.validate.compute_references import compute, run_scope
from sluice.validate.run_batch import Record, Task, failure_record
from sluice.validate.task_stores import read_results, read_tasks, reference_energies, write_results

REVISION = 1
REFERENCE_FAILED = "reference failed"


def compute_compounds(
    *, tasks: Path, references: list[Path], settings: ValidateSettings, batch: int, library: Path, results: Path
) -> None:
    """See to it that every compound of the batch has a result.

    A compound with an element whose reference failed is not computed: no formation energy could come of it.

    Args:
        tasks: the plan (schema ``tasks``).
        references: results of all batches of references (schema ``results``).
        settings: code, protocol, launch command, limits, scratch.
        batch: number of the batch.
        library: the task library.
        results: the store to write (schema ``results``), one row a compound, failed ones with their reason.
    """
    compounds = [task for task in read_tasks(tasks) if task.kind == "compound"]
    own = [task for task in compounds if task.batch == batch]
    energies, failed = reference_energies(list(read_results(references)))
    hopeless = {task.task_id: record for task in compounds if (record := without_reference(task, energies, failed))}
    possible = [task for task in compounds if task.task_id not in hopeless]
    records = compute(possible, batch, settings, library, scope=run_scope(tasks)) if possible else {}
    write_results(
        results, own, {**records, **hopeless}, settings=settings, inputs=[tasks, *references], revision=REVISION
    )


def without_reference(task: Task, energies: Mapping[str, object], failed: Mapping[str, str]) -> Record | None:
    """The failure of a compound for want of a reference; None if all are there."""
    missing = sorted(set(task.structure.symbol_set) - set(energies))
    if not missing:
        return None
    why = "; ".join(f"{element}: {failed.get(element, 'not computed')}" for element in missing)
    return failure_record(REFERENCE_FAILED, why)


if __name__ == "__main__":
    run_step(compute_compounds)
