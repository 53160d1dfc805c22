"""One job of a Flow: run by jobflow in a folder of its own, stopped in time, gone on with where it was."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custodian.custodian import CustodianError
from jobflow import Job, JobStore, run_locally
from monty.os.path import zpath
from pymatgen.core import Structure
from pymatgen.io.vasp.inputs import Incar, Poscar
from pymatgen.io.vasp.sets import get_vasprun_outcar

from sluice.step import Continue, add_foreign_cpu_seconds, children_cpu_seconds
from sluice.task_claims import ClaimLostError, check_claim, end_leftovers
from sluice.task_library import write_json
from sluice.time_limit import warned
from sluice.validate.espresso.history import History
from sluice.validate.vasp.handlers import STOP, aborted, ionic_steps, stop_asked
from sluice.validate.vasp.jobs import Options, planned
from sluice.validate.vasp.schemas import VaspDocument, corrections, explain

# Large, or the licensor's: not kept. What else is there is text.
NOT_KEPT = ("WAVECAR", "CHG", "AECCAR", "LOCPOT", "ELFCAR", "PROCAR", "POTCAR", "POT", "TMPCAR", "WAVEDER", "vaspwave")
KEPT_POTCAR = "POTCAR.spec"


@dataclass(frozen=True)
class Restart:
    """Where an interrupted job goes on.

    Attributes:
        structure: its last geometry (Å).
        prev_dir: its folder, where atomate2 can take density and wave functions from it; None if the run was cut off.
        changes: what its handlers have changed in the INCAR in all its runs; None for a tag that they took out.
    """

    structure: Structure
    prev_dir: Path | None
    changes: dict[str, Any]


def last_geometry(directory: Path) -> Structure | None:
    """The geometry that the next ionic step would have started from: CONTCAR's, or POSCAR's before there is one."""
    for name in ("CONTCAR", "CONTCAR.gz", "POSCAR", "POSCAR.gz"):
        with contextlib.suppress(Exception), warnings.catch_warnings():  # cut off in the middle of a line
            warnings.simplefilter("ignore")
            return Poscar.from_file(directory / name, check_for_potcar=False).structure
    return None


def _usable(directory: Path, names: tuple[str, ...]) -> bool:
    """Whether a maker can take the directory for its ``prev_dir``."""
    if not all((directory / n).exists() or (directory / f"{n}.gz").exists() for n in ("INCAR", "CONTCAR", *names)):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vasprun, _ = get_vasprun_outcar(str(directory))
            vasprun.get_band_structure(efermi="smart")
    except Exception:  # cut off; parsers raise whatever they like
        return False
    return True


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.stopped")


def _changes_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.changes.json")


def _incar_changes(directory: Path) -> dict[str, Any]:
    """What handlers changed in the INCAR of one run; after a clean stop its files are gzipped."""
    try:
        first, now = (Incar.from_file(zpath(str(directory / name))) for name in ("INCAR.orig", "INCAR"))
    except (OSError, EOFError, ValueError):  # killed before both were there, or in the middle of one
        return {}
    tags = sorted({*first, *now} - {"MAGMOM"})
    return {tag: now.get(tag) for tag in tags if first.get(tag) != now.get(tag)}


def _all_changes(folder: Path) -> dict[str, Any]:
    """What handlers changed in all runs of a job up to the one set aside, whose own changes are noted first.

    A restarted run begins with the changes of those before it: its two INCARs do not show them.
    """
    path = _changes_file(folder)
    noted: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        noted = json.loads(path.read_text(encoding="utf-8"))
    changes = noted | _incar_changes(_aside(folder))
    if changes != noted:
        write_json(path, changes)
    return changes


def set_aside(folder: Path, names: tuple[str, ...] = ()) -> Restart | None:
    """Rename the folder of an interrupted run and say how to go on; None if there is nothing to go on from.

    Called again before there is a new folder it says the same: a kill can come in between.

    Args:
        folder: where the run was.
        names: further files that the maker copies from a ``prev_dir``.
    """
    aside = _aside(folder)
    if folder.exists():
        if last_geometry(folder) is None and aside.exists():  # killed before it had written its inputs
            shutil.rmtree(folder)
        else:
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
    structure = last_geometry(aside)
    if structure is None:
        return None
    return Restart(structure, aside if _usable(aside, names) else None, _all_changes(folder))


def forget_restart(folder: Path) -> None:
    """Remove what an interrupted run left to go on from: the job has finished."""
    _changes_file(folder).unlink(missing_ok=True)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _directory(name: str | Path | None) -> Path | None:
    """A directory as atomate2 names it, without its host; None if it is not there."""
    if name is None:
        return None
    path = Path(str(name).split(":", 1)[-1])
    return path if path.is_dir() else None


def _with_moments(structure: Structure, before: Structure) -> Structure:
    """The geometry with the moments that the job was given; POSCARs have none."""
    moments = before.get_sorted_structure()
    if "magmom" not in before.site_properties or moments.species != structure.species:
        return structure
    return structure.copy(site_properties={"magmom": moments.site_properties["magmom"]})


def prepare(job: Job, store: JobStore, restart: Restart | None) -> Job:
    """The job as it is run now: with its inputs looked up, and from where an earlier run of it was.

    Args:
        job: from ``make_flow``.
        store: outputs of the jobs before it.
        restart: where an interrupted run of it was; None for none.
    """
    given = planned(job.resolve_args(store, inplace=False))
    maker, structure, prev_dir = job.maker, given["structure"], _directory(given["prev_dir"])
    structure = structure if isinstance(structure, Structure) else Structure.from_dict(structure)
    assert maker is not None
    if restart is not None:
        structure = _with_moments(restart.structure, structure)
        prev_dir = restart.prev_dir or prev_dir
        maker.input_set_generator.user_incar_settings |= restart.changes  # type: ignore[attr-defined]
    made = maker.make(structure, prev_dir=None if prev_dir is None else str(prev_dir))
    assert isinstance(made, Job)
    made.set_uuid(job.uuid)
    made.name = job.name
    return made


@contextlib.contextmanager
def _costs(history: History, **first: Any) -> Iterator[dict[str, Any]]:
    """Write a start and, unless the process dies, an end with the costs and what the block notes."""
    history.add("start", number=history.starts + 1, **first)
    began, before = time.time(), children_cpu_seconds()
    notes: dict[str, Any] = {"exit_code": None}
    try:
        yield notes
    finally:
        own = children_cpu_seconds() - before
        spent = max(own, notes.pop("cpu_seconds", 0.0))
        add_foreign_cpu_seconds(spent - own)
        history.add("end", wall_seconds=round(time.time() - began, 2), cpu_seconds=round(spent, 2), **notes)


class JobRunner:
    """Runs the jobs of one task.

    Args:
        store: the task's JobStore.
        options: how VASP is run.
        records: directory that stays; each job has a folder of its name in it.
        scratch: directory of the working folders.
    """

    def __init__(self, store: JobStore, options: Options, records: Path, scratch: Path) -> None:
        self.store, self.options, self.records, self.scratch = store, options, records, scratch
        self._advanced = False  # whether this process has got further with the task

    def document(self, job: Job) -> VaspDocument | None:
        """What the store holds of a job; None for nothing."""
        row = self.store.query_one({"uuid": job.uuid}, load=False)
        return None if row is None else VaspDocument.from_output(row["output"])

    def finished(self, job: Job) -> VaspDocument | None:
        """The document of a job that ended as it should; None if it has to be run, maybe to its end."""
        document, folder = self.document(job), self.scratch / job.name
        if document is None or not document.successful or (stop_asked(folder) and aborted(folder)):
            return None
        return document

    def history(self, job: Job) -> History:
        """What happened to a job."""
        (self.records / job.name).mkdir(parents=True, exist_ok=True)
        return History(self.records / job.name)

    def run(self, make: Callable[[], Job]) -> str:
        """Run a job to its end; called again after an interruption it goes on where it was.

        Args:
            make: makes the job, anew for every run: its handlers remember what they did, and since when.

        Returns:
            "" on success, else the reason of the failure.

        Raises:
            Continue: if the job's time limit is near.
            ClaimLostError: if another process has the task now.
        """
        while True:
            job = make()
            history, folder = self.history(job), self.scratch / job.name
            check_claim(self.records)
            if warned():
                raise Continue(f"{job.name}: VASP is not started so near the time limit", advanced=self._advanced)
            try:
                error = self._attempt(job, history, folder)
            except Continue as request:
                request.advanced = self._advanced or request.advanced
                raise
            if self.finished(job) is not None:
                self._advanced = True
                self.keep(folder)
                forget_restart(folder)
                return ""
            self.store.remove_docs({"uuid": job.uuid})
            if not stop_asked(folder):
                reason = explain(folder, error)
                history.add("gave_up", handler="custodian", problem=reason)
                self.keep(folder)
                return reason
            steps = ionic_steps(folder)
            self._advanced = self._advanced or steps > 0
            if not warned() and history.continuations >= self.options.max_continuations:
                self.keep(folder)
                return f"{STOP} after {history.continuations} continuations"
            self._continue(history, STOP)
            if warned():
                raise Continue(f"{job.name}: VASP stopped after {steps} geometries", advanced=self._advanced)

    @staticmethod
    def _continue(history: History, problem: str) -> None:
        changes = {"geometry": "CONTCAR"}
        history.add("correction", kind="continuation", handler="StopHandler", problem=problem, changes=changes)

    def _attempt(self, job: Job, history: History, folder: Path) -> BaseException | None:
        """One run under custodian; the error that ended it, if any."""
        assert job.maker is not None
        names = tuple(job.maker.copy_vasp_kwargs.get("additional_vasp_files", ()))  # type: ignore[attr-defined]
        self._record_interruption(history, folder)
        # The document of a run that was told to stop says success; once its folder is gone nothing else tells.
        self.store.remove_docs({"uuid": job.uuid})
        restart = set_aside(folder, names)
        now = prepare(job, self.store, restart)
        begun_with = {} if restart is None else {"from": "CONTCAR", "prev_dir": restart.prev_dir is not None}
        folder.mkdir(parents=True)
        error: BaseException | None = None
        with _costs(history, command=self.options.launch.line(), **begun_with) as notes:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="cd is deprecated", category=FutureWarning)
                    run_locally(
                        now, store=self.store, root_dir=str(folder), log=False, allow_external_references=True,
                        raise_immediately=True,
                    )  # fmt: skip
            except FileNotFoundError as problem:  # an output that VASP should have written
                error = problem
            except (Continue, ClaimLostError, OSError, MemoryError, SystemExit, KeyboardInterrupt):
                end_leftovers([folder])
                notes["interrupted"] = True
                raise
            except CustodianError as problem:
                error = problem
            except Exception as problem:  # parsers, on files that are not whole
                error = problem
            document = self.document(job)
            if document is not None:
                notes["cpu_seconds"] = document.cpu_seconds
        self._add_corrections(history, folder)
        return error

    def _add_corrections(self, history: History, folder: Path) -> None:
        for row in corrections(folder):
            if row["changes"]:
                history.add("correction", kind="failure", **row)

    def _record_interruption(self, history: History, folder: Path) -> None:
        """Count an interruption; a run that was started and never ended is given its end and the cost in its files."""
        last = history.events()[-1:]
        if not history.interrupted():
            if last and last[0].get("interrupted"):  # we were stopped and had time to say so
                self._add_corrections(history, folder)
                self._continue(history, "interrupted")
            return
        files = [folder / name for name in ("OSZICAR", "vasp.out") if (folder / name).exists()]
        lasted = max([path.stat().st_mtime - last[0]["time"] for path in files], default=0.0)
        lasted = max(0.0, lasted)
        spent = lasted * self.options.launch.ranks
        history.add("end", exit_code=None, wall_seconds=round(lasted, 2), cpu_seconds=round(spent, 2), interrupted=True)
        self._add_corrections(history, folder)
        self._continue(history, "interrupted")

    def keep(self, folder: Path) -> None:
        """Copy what is worth keeping of a run, compressed, to where it stays."""
        target = self.records / folder.name
        for path in sorted(folder.glob("*")):
            if not path.is_file() or (path.name.startswith(NOT_KEPT) and not path.name.startswith(KEPT_POTCAR)):
                continue
            if path.suffix == ".gz":
                shutil.copyfile(path, target / path.name)
            elif path.stat().st_size:
                with path.open("rb") as plain, gzip.open(target / f"{path.name}.gz", "wb") as packed:
                    shutil.copyfileobj(plain, packed)
