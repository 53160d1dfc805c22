"""Turn a shortlist into tasks: one for each compound, one for each element in any of them, dealt to batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pymatgen.core import Structure

from sluice.config import Chemistry, ValidateSettings
from sluice.errors import MissingProgramError, SluiceError
from sluice.step import run_step
from sluice.store import Store, StoreWriter
from sluice.task_library import LibraryError, TaskLibrary
from sluice.validate.calculate import Calculator, make_calculator, planning_of
from sluice.validate.run_batch import Task
from sluice.validate.task_stores import TASK_COLUMNS, lineage, write_tasks

REVISION = 1
CANNOT_BE_PLANNED = "cannot be planned"
# ASSUME: measured on small cells; large enough for cells of about 20 atoms.
KEPT_MB_PER_TASK = 0.2
WORKING_MB_PER_TASK = 500.0
FILES_PER_TASK = 5  # directory, result, archive, claim and its record


@dataclass(frozen=True)
class SpaceEstimate:
    """What tasks need on disk.

    Attributes:
        kept_mb: for good, in the library, in MB.
        working_mb: at most at one time, in the scratch directory, in MB.
        files: files and directories that stay.
    """

    kept_mb: float
    working_mb: float
    files: int


def estimate_space(tasks: Sequence[Task]) -> SpaceEstimate:
    """Estimate what a plan needs on disk, each batch working on one task at a time."""
    batches = len({task.batch for task in tasks})
    return SpaceEstimate(KEPT_MB_PER_TASK * len(tasks), WORKING_MB_PER_TASK * batches, FILES_PER_TASK * len(tasks))


def deal(tasks: Iterable[Task], batches: int) -> list[Task]:
    """Deal tasks to batches: the longest first, each to the batch with the least work so far; batch by batch."""
    ordered = sorted(tasks, key=lambda task: (-task.estimated_cpu_seconds, task.task_id, task.candidate_id))
    loads = [0.0] * batches
    dealt = []
    for task in ordered:
        batch = loads.index(min(loads))
        loads[batch] += task.estimated_cpu_seconds
        dealt.append(replace(task, batch=batch))
    return sorted(dealt, key=lambda task: task.batch)


class Planner:
    """Makes tasks.

    Args:
        settings: code, protocol, batches.
        calculator: addresses tasks.
    """

    def __init__(self, settings: ValidateSettings, calculator: Calculator | None = None) -> None:
        self.settings = settings
        self.calculator = make_calculator(settings) if calculator is None else calculator
        self.planning = planning_of(settings)

    def compound(self, candidate_id: str, structure: Structure, tier: str, parent_id: str = "") -> Task:
        """The task of a compound.

        Raises:
            SluiceError: if spglib cannot make sense of it or an element has no reference.
        """
        for element in structure.symbol_set:
            self.planning.reference_cell(element)
        prepared = self.planning.prepare_structure(structure)
        return replace(self._task(candidate_id, "", prepared, tier), parent_id=parent_id)

    def reference(self, element: str, tier: str) -> Task:
        """The task of an elemental reference.

        Raises:
            SluiceError: if the element has none.
        """
        return self._task(f"ref-{element}", element, self.planning.reference_cell(element), tier)

    def _task(self, candidate_id: str, element: str, structure: Structure, tier: str) -> Task:
        seconds = self.calculator.estimate(structure, element=element, tier=tier)
        return Task(
            task_id=self.calculator.address(structure, element=element, tier=tier),
            candidate_id=candidate_id,
            kind="reference" if element else "compound",
            element=element,
            batch=0,
            tier=tier,
            estimated_cpu_seconds=float(round(seconds, 1)),
            structure=structure,
        )


def plan_tasks(
    *, shortlist: Path, settings: ValidateSettings, chemistry: Chemistry, library: Path, tasks: Path
) -> None:
    """Plan the calculations of a round; the same plan whatever the task library holds already.

    Args:
        shortlist: candidates that the budget pays for (schema ``shortlist``).
        settings: code, protocol and number of batches.
        chemistry: its hardest element sets the cutoff tier.
        library: the task library, to say what is known already.
        tasks: the store to write (schema ``tasks``).

    Raises:
        MissingProgramError: if the code or pseudopotentials are missing.
    """
    tier = planning_of(settings).tier_name(chemistry.elements, settings)
    compounds: list[Task] = []
    failed: list[tuple[str, str]] = []
    with Store(shortlist, "shortlist") as store:
        planner = Planner(settings) if len(store) else None
        if planner is not None:
            planner.calculator.check(chemistry.elements)
        parents = [value.decode() for value in store.rows().parent_id]
        for name, parent, structure in zip(store.ids(), parents, store.crystals().structures(), strict=True):
            assert planner is not None
            try:
                compounds.append(planner.compound(name, structure, tier, parent))
            except MissingProgramError:
                raise
            except SluiceError as error:
                failed.append((name, str(error)))
        origin, came_in = lineage(store), len(store)
    elements = sorted({symbol for task in compounds for symbol in task.structure.symbol_set})
    references = [planner.reference(element, tier) for element in elements] if planner is not None else []
    plan = [*deal(references, settings.batches), *deal(compounds, settings.batches)]
    with StoreWriter(
        tasks,
        "tasks",
        columns=TASK_COLUMNS,
        settings={"validate": settings.model_dump(mode="json"), "tier": tier},
        inputs=[shortlist],
        revision=REVISION,
        **origin,
    ) as writer:
        write_tasks(writer, plan)
        writer.drop([name for name, _ in failed], CANNOT_BE_PLANNED, kind="failed", detail=[text for _, text in failed])
        writer.count(made=len(references), came_in=came_in)
    _tell(plan, TaskLibrary(library), tier)


def _tell(plan: Sequence[Task], library: TaskLibrary, tier: str) -> None:
    new = [task for task in plan if not _is_known(library, task.task_id)]
    seconds, space = sum(task.estimated_cpu_seconds for task in new), estimate_space(new)
    print(
        f"{len(plan)} tasks at tier {tier}, {len(plan) - len(new)} of them in the library already; "
        f"the others need about {seconds:.0f} CPU-s, {space.kept_mb:.0f} MB in {space.files} files for good "
        f"and up to {space.working_mb:.0f} MB while they run"
    )


def _is_known(library: TaskLibrary, task_id: str) -> bool:
    try:
        return library.result(task_id) is not None
    except LibraryError:
        return False


if __name__ == "__main__":
    run_step(plan_tasks)
