"""How a batch of tasks is worked off beside other batches: by claims, helping others when its own are done."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Structure
from rich.console import Console

from sluice.errors import SluiceError
from sluice.step import Continue, report_progress
from sluice.task_claims import Claim, ClaimLostError, end_leftovers, holder_of
from sluice.task_library import LibraryError, TaskLibrary
from sluice.time_limit import warned

POLL_SECONDS = 2.0
MAX_POLL_SECONDS = 20.0
MESSAGE_SECONDS = 60.0

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Task:
    """One calculation.

    Attributes:
        task_id: its address in the library.
        candidate_id: the candidate, or ``ref-<element>``.
        kind: ``reference`` or ``compound``; ``element`` of a reference, else "".
        batch: the batch that has to see to it that there is a result.
        tier: cutoff tier.
        estimated_cpu_seconds: expected cost.
        structure: what is computed.
        parent_id: the candidate that a step made this one from; "" if none did.
    """

    task_id: str
    candidate_id: str
    kind: str
    element: str
    batch: int
    tier: str
    estimated_cpu_seconds: float
    structure: Structure
    parent_id: str = ""


Record = dict[str, Any]
# Computes a task in the given working and scratch directories and returns the record of its result.
Compute = Callable[[Task, Path, Path], Record]


def scratch_directory(library: TaskLibrary, task_id: str, scratch: Path | None) -> Path:
    """Where the large files of a task lie while it runs."""
    return (library.work_directory(task_id) / "scratch" if scratch is None else scratch.resolve()) / task_id


def failure_record(reason: str, detail: str, **further: Any) -> Record:
    """The record of a calculation without an energy; ``reason`` is a category, ``detail`` the particulars."""
    return {
        "converged": False,
        "reason": reason,
        "detail": detail[:500],
        "energy_ev_per_atom": None,
        "space_group": 0,
        "magnetization_mu_b_per_cell": None,
        "cpu_seconds": 0.0,
        "wall_seconds": 0.0,
        "attempts": 0,
        "continuations": 0,
        "transient": False,
        **further,
    }


class BatchRunner:
    """Works off the tasks of one batch, then those of the others that nobody has claimed.

    Args:
        library: results and claims.
        compute: the calculation itself.
        scratch: directory for large working files; None: inside the library.
        max_attempts: a failure that was recorded with fewer attempts allowed is computed again.
        scope: what counts as one run; failures that may have been the machine's fault are final only inside it.
        poll_seconds: first pause between two looks at tasks that others are busy with.
    """

    def __init__(
        self,
        library: TaskLibrary,
        compute: Compute,
        *,
        scratch: Path | None = None,
        max_attempts: int = 1,
        scope: str = "",
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.library, self.compute, self.scratch = library, compute, scratch
        self.max_attempts, self.scope, self.poll_seconds = max_attempts, scope, poll_seconds
        self.computed: list[str] = []  # ids of tasks that this process computed
        self._results: dict[str, Record] = {}

    def run(self, tasks: Sequence[Task], batch: int) -> dict[str, Record]:
        """See to it that every task of the batch has a result.

        Args:
            tasks: those of all batches; earlier ones are taken first.
            batch: ours.

        Returns:
            The records of our own tasks by task id, whoever computed them.

        Raises:
            SluiceError: where something is wrong that concerns all tasks (missing program, full disk).
            Continue: if the job's time limit is near; tasks that are cut short are free for others.
        """
        own = [task for task in tasks if task.batch == batch]
        others = [task for task in tasks if task.batch != batch]
        pause, told = self.poll_seconds, time.monotonic()
        report_progress(0, len(own), "tasks", force=True)
        while True:
            worked = self._work_on([*own, *others], own)
            waiting = [task for task in own if task.task_id not in self._results]
            message = "" if worked else self._message(waiting)
            report_progress(len(own) - len(waiting), len(own), "tasks", message, force=worked)
            if worked:
                pause = self.poll_seconds
                continue
            if not waiting:
                return {task.task_id: self._results[task.task_id] for task in own}
            if warned():
                text = f"{len(waiting)} of {len(own)} tasks are still to be computed"
                raise Continue(text, advanced=bool(self.computed) or self._others_at_work(waiting))
            if time.monotonic() - told > MESSAGE_SECONDS:
                told = time.monotonic()
                console.print(self._message(waiting))
            self._pause(pause)
            pause = min(MAX_POLL_SECONDS, 1.5 * pause)

    def _work_on(self, tasks: Sequence[Task], own: Sequence[Task]) -> bool:
        """Compute one task unless the time limit is near; False if there is none to be computed.

        Raises:
            Continue: if the time limit cuts a task short while tasks of our own are without a result.
        """
        if warned():
            for task in own:
                if task.task_id not in self._results:
                    self._adopt(task.task_id)
            return False
        try:
            return self._one_task(tasks)
        except Continue as request:
            request.advanced = bool(self.computed) or request.advanced
            if all(task.task_id in self._results for task in own):
                return False  # it was another batch's task
            raise

    def _others_at_work(self, waiting: Sequence[Task]) -> bool:
        """Whether somebody computes a task that we wait for: then waiting is no standstill."""
        holders = [holder_of(self.library.directory(task.task_id)) for task in waiting]
        return any(holder is not None and holder.is_alive() is not False for holder in holders)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not warned():
            time.sleep(min(1.0, seconds))

    def _message(self, waiting: list[Task]) -> str:
        return f"waiting for other processes to finish {', '.join(t.task_id for t in waiting[:3])}" if waiting else ""

    def _one_task(self, tasks: Sequence[Task]) -> bool:
        """Compute the first task that has no result and that nobody holds; False if there is none."""
        for task in tasks:
            if task.task_id in self._results or self._adopt(task.task_id):
                continue
            claim = self._claim(task.task_id)
            if claim is None:
                continue
            with claim:
                self._work(task, claim)
            return True
        return False

    def _claim(self, task_id: str) -> Claim | None:
        scratch = scratch_directory(self.library, task_id, self.scratch)

        def stop() -> None:
            # Where a step turned SIGTERM into SystemExit, end it as a whole: custodian would take the killed program
            # for a crash and start it again in the new holder's directory. Elsewhere ``check_claim`` stops the task.
            if callable(signal.getsignal(signal.SIGTERM)):
                os.kill(os.getpid(), signal.SIGTERM)
            end_leftovers([self.library.work_directory(task_id), scratch])

        return self.library.try_claim(task_id, on_lost=stop)

    def _adopt(self, task_id: str) -> bool:
        """Take over a result that is there already."""
        try:
            record = self.library.result(task_id)
        except LibraryError as error:
            console.print(f"{error} (set aside)")
            self.library.set_aside_damaged(task_id)
            return False
        if record is None or not self._is_final(record):
            return False
        if self.library.needs_tidying(task_id) and (claim := self._claim(task_id)) is not None:
            with claim:
                self.library.tidy(claim, scratch=scratch_directory(self.library, task_id, self.scratch))
        self._results[task_id] = record
        return True

    def _is_final(self, record: Record) -> bool:
        if record["converged"]:
            return True
        here = not record.get("transient") or record.get("scope") == self.scope
        return here and int(record.get("max_attempts", 0)) >= self.max_attempts

    def _work(self, task: Task, claim: Claim) -> None:
        if self._adopt_inside(task.task_id):  # finished between our look and our claim
            return
        work = self.library.work_directory(task.task_id)
        scratch = scratch_directory(self.library, task.task_id, self.scratch)
        if claim.taken_over and (ended := end_leftovers([work, scratch])):
            console.print(f"{task.task_id}: ended {len(ended)} processes that a dead process had left behind")
        work.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        console.print(f"{task.task_id}: {task.candidate_id} ({task.structure.composition.reduced_formula}) starts")
        try:
            record = self._compute(task, work, scratch)
        except ClaimLostError as error:
            console.print(str(error))
            return
        record |= {"kind": task.kind, "element": task.element, "tier": task.tier, "max_attempts": self.max_attempts}
        record["scope"] = self.scope
        if self.library.publish(claim, record, scratch=scratch):
            self.computed.append(task.task_id)
            outcome = "converged" if record["converged"] else f"failed: {record['reason']}"
            console.print(f"{task.task_id}: {outcome} ({record['wall_seconds']:.0f} s)")
        else:
            console.print(f"{task.task_id}: the claim was lost to another process; this result is dropped")

    def _adopt_inside(self, task_id: str) -> bool:
        try:
            record = self.library.result(task_id)
        except LibraryError:
            return False
        if record is None or not self._is_final(record):
            return False
        self._results[task_id] = record
        return True

    def _compute(self, task: Task, work: Path, scratch: Path) -> Record:
        try:
            return self.compute(task, work, scratch)
        except (SluiceError, Continue):
            raise
        except (OSError, MemoryError) as error:
            # The machine's fault, not the crystal's: the job fails and is tried again.
            raise SluiceError(f"{task.task_id}: {error}; free what is missing (disk, memory) and resume") from error
        except Exception as error:
            traceback.print_exc()
            return failure_record("calculation crashed", f"{type(error).__name__}: {error}", transient=True)
        finally:
            end_leftovers([work, scratch])  # nothing of ours may run on, however we were stopped


def launch_environment() -> None:
    """Set what parallel programs need to run as one of several batches of a machine."""
    # Threads of the linear algebra would compete with the ranks for the same cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
