"""Relaxation, then a static calculation: the Flow of one task, and the function that runs it to a result."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Flow, Job, JobStore, Maker
from maggma.stores import JSONStore
from pymatgen.core import Structure

from sluice.errors import SluiceError
from sluice.task_claims import check_claim
from sluice.validate.espresso.inputs import ERROR_FILE, OUTPUT_FILE, STATE_FILE
from sluice.validate.espresso.jobs import BaseEspressoMaker, RelaxMaker, StaticMaker, Workplace
from sluice.validate.espresso.pseudos import PseudoLibrary
from sluice.validate.espresso.run import GeometryError, Launch, check_geometry, locked
from sluice.validate.espresso.schemas import CalculationResult
from sluice.validate.espresso.sets import CalculationSettings, space_group_number
from sluice.validate.remote import Queue, run_flow

STORE_FILE = "jobs.json"
NAMESPACE = uuid.UUID("5b6f5a0e-3f0b-5a55-9d0c-9a9d7f1c2e11")


@dataclass
class RelaxStaticMaker(Maker):
    """Makes the Flow of one task with job ids that follow from the task's id.

    Attributes:
        name: of the flow.
        task_id: what the job ids are derived from.
        settings: plain values of ``CalculationSettings``.
        workplace: plain values of ``Workplace``.
    """

    name: str = "relax and static"
    task_id: str = ""
    settings: dict = field(default_factory=dict)
    workplace: dict = field(default_factory=dict)

    def job_id(self, name: str) -> str:
        """The id of a job of this task, the same in every process."""
        return str(uuid.uuid5(NAMESPACE, f"{self.task_id}/{name}"))

    def make(self, structure: Structure, done: tuple[str, ...] = ()) -> Flow:
        """Build the flow.

        Args:
            structure: geometry (Å).
            done: names of jobs that are in the store already; they are left out and referred to.

        Returns:
            The flow of the jobs that are left, maybe none.
        """
        settings = CalculationSettings(**self.settings)
        jobs: list[Flow | Job] = []
        source: Any = structure
        makers: list[BaseEspressoMaker] = []
        if settings.relax != "none":
            makers.append(RelaxMaker.from_settings(settings, self.workplace))
        makers.append(StaticMaker(settings=self.settings, workplace=self.workplace))
        for maker in makers:
            made = maker.make(source)
            made.set_uuid(self.job_id(maker.name))
            source = made.output["structure"]
            if maker.name not in done:
                jobs.append(made)
        return Flow(jobs, name=self.name)


def open_store(path: Path) -> JobStore:
    """The task's own JobStore in a file; one that a kill left unreadable is begun anew (the work is in the folders)."""
    if path.exists():
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            path.replace(path.with_suffix(".broken"))
    store = JobStore(JSONStore(str(path), read_only=False))
    store.connect()
    return store


def _documents(store: JobStore, maker: RelaxStaticMaker) -> dict[str, dict[str, Any]]:
    found = {}
    for name in ("relax", "static"):
        row = store.query_one({"uuid": maker.job_id(name)}, load=True)
        if row is not None:
            found[name] = row["output"]
    return found


def run_calculation(
    *,
    structure: Structure,
    settings: CalculationSettings,
    task_id: str,
    task_dir: Path,
    pseudos: PseudoLibrary,
    launch: Launch | None = None,
    scratch: Path | None = None,
    max_attempts: int = 4,
    max_continuations: int = 20,
    max_seconds: float | None = None,
    queue: Queue | None = None,
) -> CalculationResult:
    """Relax and calculate one structure; called again after an interruption it goes on where it was.

    Finished jobs are taken from the task's JobStore, an unfinished one restarts from its last geometry and density. A
    calculation that fails is a result with a reason, not an exception.

    Args:
        structure: from ``prepare_structure`` or a reference, used as it is (Å).
        settings: from ``calculation_settings``; ``settings.relax`` says what may move.
        task_id: the same for the same work; job ids are derived from it.
        task_dir: the task's own directory; inputs, compressed outputs, histories and the JobStore stay there.
        pseudos: from ``find_pseudos``.
        launch: how pw.x is started.
        scratch: directory for pw.x's working files; None puts them into ``task_dir``. They are removed on success.
        max_attempts: attempts at each job, each with changed inputs.
        max_continuations: continuations of each job.
        max_seconds: wall time after which one pw.x stops itself to be continued.
        queue: jobflow-remote's; None runs the jobs in this process.

    Raises:
        MissingProgramError: if pw.x, the launcher or a pseudopotential is missing.
        SluiceError: if another process works in the directory.
    """
    launch = launch or Launch()
    launch.check()
    for element in {site.specie.symbol for site in structure}:
        pseudos.path(element)
    task_dir = task_dir.resolve()
    try:
        check_geometry(structure)
    except GeometryError as error:
        return _result({}, structure, str(error))
    outdir = task_dir / "work" if scratch is None else scratch.resolve() / task_id
    workplace = asdict(
        Workplace(
            str(task_dir), str(outdir), str(pseudos.directory), launch, max_attempts, max_continuations, max_seconds
        )
    )
    maker = RelaxStaticMaker(task_id=task_id, settings=settings.model_dump(), workplace=workplace)
    with locked(task_dir):
        store = open_store(task_dir / STORE_FILE)
        try:
            done = tuple(name for name, row in _documents(store, maker).items() if row["converged"])
            _clear_failed(task_dir, store, maker, done)
            flow = maker.make(structure, done)
            if flow.jobs:
                run_flow(flow, store, task_dir, queue, check=lambda: check_claim(task_dir))
            documents = _documents(store, maker)
        finally:
            store.close()
        if documents.get("static", {}).get("converged"):
            _pack(task_dir, outdir)
    return _result(documents, structure, None)


def _clear_failed(task_dir: Path, store: JobStore, maker: RelaxStaticMaker, done: tuple[str, ...]) -> None:
    """A job that failed earlier is begun anew; its folder is kept under another name."""
    for name, row in _documents(store, maker).items():
        if name not in done and not row["converged"]:
            store.remove_docs({"uuid": maker.job_id(name)})
            folder = task_dir / name
            number = sum(1 for _ in task_dir.glob(f"{name}.failed*")) + 1
            if (folder / STATE_FILE).exists():
                folder.replace(task_dir / f"{name}.failed{number}")


def _pack(task_dir: Path, outdir: Path) -> None:
    """Remove pw.x's working files and compress what it printed."""
    shutil.rmtree(outdir, ignore_errors=True)
    for pattern in (f"*/{OUTPUT_FILE}*", f"*/{ERROR_FILE}*"):
        for path in task_dir.glob(pattern):
            if path.suffix == ".gz":
                continue
            if path.stat().st_size == 0:
                path.unlink()
                continue
            with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
                shutil.copyfileobj(plain, packed)
            path.unlink()


def _result(documents: dict[str, dict[str, Any]], start: Structure, reason: str | None) -> CalculationResult:
    static = documents.get("static", {})
    rows = list(documents.values())
    converged = bool(static.get("converged"))
    if not converged and reason is None:
        reason = next((f"{name}: {row['reason']}" for name, row in documents.items() if not row["converged"]), None)
        reason = reason or "the calculation did not finish"
    source = (static or documents.get("relax", {})).get("structure")
    structure = start if source is None else _structure(source)
    energy = float(static["energy_ev"]) if converged else math.nan
    moment = static.get("magnetization")
    pressure = documents.get("relax", {}).get("pressure_kbar")
    return CalculationResult(
        converged=converged,
        reason=reason,
        energy_ev=energy,
        energy_ev_per_atom=energy / len(structure),
        structure=structure,
        space_group=space_group_number(structure),
        magnetization=math.nan if moment is None else float(moment),
        cpu_seconds=float(sum(row["cpu_seconds"] for row in rows)),
        wall_seconds=float(sum(row["wall_seconds"] for row in rows)),
        attempts=max((row["failures"] + 1 for row in rows), default=0),
        continuations=sum(row["continuations"] for row in rows),
        pw_starts=sum(row["pw_starts"] for row in rows),
        history={name: row["attempts"] for name, row in documents.items()},
        pw_version=next((row["pw_version"] for row in rows if row["pw_version"]), ""),
        relaxed_pressure_kbar=math.nan if pressure is None else float(pressure),
    )


def _structure(source: Any) -> Structure:
    if isinstance(source, Structure):
        return source
    if not isinstance(source, dict):
        raise SluiceError(f"a job's structure is a {type(source).__name__}")
    return Structure.from_dict(source)
