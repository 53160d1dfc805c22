"""The function that runs the Flow of one task to a result."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

from jobflow import Job, JobStore
from maggma.stores import JSONStore, MemoryStore
from pymatgen.core import Structure

from sluice.task_claims import check_claim
from sluice.validate.espresso.history import History
from sluice.validate.espresso.run import GeometryError, check_geometry, environment, locked
from sluice.validate.remote import Queue, run_flow
from sluice.validate.vasp.jobs import Options, make_flow
from sluice.validate.vasp.run import JobRunner
from sluice.validate.vasp.schemas import CalculationResult, VaspDocument
from sluice.validate.vasp.sets import VaspCalculationSettings

NOT_FINISHED = "the calculation did not finish in jobflow-remote"
STORE_FILE, BACKUP_FILE = "jobs.json", "jobs.json.whole"


def open_store(path: Path) -> JobStore:
    """The task's own JobStore in a file; of one that a kill left unreadable, the copy made after the job before.

    What atomate2 puts into its ``data`` store (densities of states and the like) is not kept.
    """
    if path.exists():
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()
            if path.with_name(BACKUP_FILE).exists():
                shutil.copyfile(path.with_name(BACKUP_FILE), path)
    store = JobStore(JSONStore(str(path), read_only=False), additional_stores={"data": MemoryStore()})
    store.connect()
    return store


def _back_up(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.copyfile(path, temporary)
    temporary.replace(path.with_name(BACKUP_FILE))


def run_calculation(
    *,
    structure: Structure,
    settings: VaspCalculationSettings,
    task_id: str,
    task_dir: Path,
    scratch: Path,
    options: Options,
    queue: Queue | None = None,
) -> CalculationResult:
    """Relax and calculate one structure; called again after an interruption it goes on where it was.

    Finished jobs are taken from the task's JobStore; an unfinished one is run again by its maker, from its CONTCAR and,
    where VASP had closed its files, with its folder as ``prev_dir``. A calculation that fails is a result with a
    reason, not an exception.

    Args:
        structure: from ``prepare_structure`` or a reference, used as it is (Å).
        settings: from ``calculation_settings``.
        task_id: the same for the same work; job ids are derived from it.
        task_dir: the task's own directory; compressed outputs, histories and the JobStore stay there.
        scratch: directory of VASP's working folders.
        options: how jobs are run.
        queue: jobflow-remote's; None runs the jobs in this process.

    Raises:
        MissingProgramError: if VASP or the launcher is missing.
        Continue: if the job's time limit is near.
        SluiceError: if another process works in the directory.
    """
    options.launch.check()
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    try:
        check_geometry(structure)
    except GeometryError as error:
        return _result({}, structure, str(error), None)
    task_dir, asked = task_dir.resolve(), (task_id, structure, settings, options)
    with locked(task_dir), warnings.catch_warnings():
        # Of POTCARs that pymatgen's table does not have, of inputs that custodian changes: noted in the history.
        warnings.simplefilter("ignore")
        store = open_store(task_dir / STORE_FILE)
        try:
            runner = JobRunner(store, options, task_dir, scratch.resolve())
            if queue is not None:
                flow = make_flow(task_id, structure, settings, options)
                run_flow(flow, store, task_dir, queue, check=lambda: check_claim(task_dir))
            reason, document, names = "", None, []
            for job in _jobs(*asked):
                names.append(job)
                document = runner.finished(job)
                if document is None:
                    reason = NOT_FINISHED if queue is not None else runner.run(lambda: _jobs(*asked)[len(names) - 1])
                    document = runner.finished(job)
                    _back_up(task_dir / STORE_FILE)
                if reason:
                    break
            histories = {job.name: runner.history(job) for job in names}
        finally:
            store.close()
    return _result(histories, structure, reason, document)


def _jobs(task_id: str, structure: Structure, settings: VaspCalculationSettings, options: Options) -> list[Job]:
    return [job for job, _ in make_flow(task_id, structure, settings, options).iterflow()]


def _result(
    histories: Mapping[str, History], start: Structure, reason: str, document: VaspDocument | None
) -> CalculationResult:
    found = None if reason else document
    return CalculationResult(
        converged=found is not None,
        reason=reason,
        energy_ev_per_atom=math.nan if found is None else found.energy_ev / len(found.structure),
        structure=start if found is None else found.structure,
        magnetization=math.nan if found is None else found.magnetization,
        document=found,
        cpu_seconds=sum(log.total("cpu_seconds") for log in histories.values()),
        wall_seconds=sum(log.total("wall_seconds") for log in histories.values()),
        attempts=max((log.failures + 1 for log in histories.values()), default=0),
        continuations=sum(log.continuations for log in histories.values()),
        history={name: log.events() for name, log in histories.items()},
    )
