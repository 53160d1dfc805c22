"""Interrupted runs of VASP under atomate2 and custodian: killed, warned, out of time, stopped by themselves."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from jobflow import Job
from pymatgen.core import Structure
from vasp_runs import MEV, relaxed_energy, run
from vasp_stand_ins import Emulator

from sluice.step import Continue
from sluice.time_limit import forget_warnings, heed_warnings
from sluice.validate.vasp import handlers
from sluice.validate.vasp import run as running
from sluice.validate.vasp.handlers import StopHandler
from sluice.validate.vasp.run import JobRunner, forget_restart, set_aside
from sluice.validate.vasp.schemas import VaspDocument

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning")  # monty, by jobflow


def test_a_kill_in_the_middle_goes_on_from_the_last_geometry(
    emulator: Emulator, halite: Structure, tmp_path: Path
) -> None:
    emulator.fail({"kind": "kill", "step": 3, "job": "relax_1", "times": 1})
    result = run(emulator, halite, tmp_path, relax="cell")
    assert result.converged and result.attempts == 2
    assert emulator.jobs == ["relax_1", "relax_1", "relax_2", "static"]
    assert not np.allclose(emulator.runs[0]["lattice"], emulator.runs[1]["lattice"])
    assert result.energy_ev_per_atom == pytest.approx(relaxed_energy(halite), abs=MEV)


def as_a_step(emulator: Emulator, structure: Structure, where: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a step does
    run(emulator, structure, where, relax="cell")


@pytest.mark.parametrize(
    ("job", "by"), [("relax_1", signal.SIGKILL), ("relax_2", signal.SIGTERM), ("static", signal.SIGKILL)]
)
def test_an_interrupted_flow_goes_on_where_it_was(
    emulator: Emulator, halite: Structure, tmp_path: Path, job: str, by: signal.Signals
) -> None:
    emulator.slow_down(0.02)
    process = FORK.Process(target=as_a_step, args=(emulator, halite, tmp_path))
    process.start()
    end = time.monotonic() + 120
    folder = tmp_path / "work" / "scratch"
    while True:  # until VASP is at work in the job, and a relaxation past its first step
        found = [path for path in folder.glob(f"*{job}/OSZICAR") if path.exists()]
        if found and found[0].read_text().count("DAV") > (7 if job == "relax_1" else 1):
            break
        assert time.monotonic() < end and process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, by)
    process.join()
    before = emulator.jobs
    time.sleep(0.2)  # the kernel ends VASP with its parent
    emulator.slow_down(0.0)
    result = run(emulator, halite, tmp_path, relax="cell")
    order = ["relax_1", "relax_2", "static"]
    assert before == order[: order.index(job) + 1]
    assert emulator.jobs == before + order[order.index(job) :]  # finished jobs are not run again
    assert result.converged and result.continuations == 1 and result.attempts == 1
    name = next(name for name in result.history if name.endswith(job))
    assert [event["event"] for event in result.history[name]] == ["start", "end", "correction", "start", "end"]
    assert result.history[name][2]["problem"] == "interrupted"
    if job == "relax_1":
        assert not np.allclose(emulator.runs[1]["lattice"], emulator.runs[0]["lattice"])
    assert result.energy_ev_per_atom == pytest.approx(relaxed_energy(halite), abs=MEV)


def test_a_run_out_of_time_stops_itself_and_goes_on_with_its_density(
    emulator: Emulator, halite: Structure, tmp_path: Path
) -> None:
    emulator.slow_down(0.6)

    def hurry_when_told_to_stop() -> None:
        while not list(tmp_path.glob("work/scratch/*/STOPCAR.asked")):
            time.sleep(0.05)
        emulator.slow_down(0.0)

    threading.Thread(target=hurry_when_told_to_stop, daemon=True).start()
    result = run(emulator, halite, tmp_path, relax="cell", max_seconds=10.0)
    assert result.converged and result.attempts == 1 and result.continuations >= 1
    events = result.history["1_mp_gga_relax_1"]
    assert [e["kind"] for e in events if e["event"] == "correction"] == ["continuation"] * result.continuations
    starts = [e for e in events if e["event"] == "start"]
    assert "prev_dir" not in starts[0] and all(start["prev_dir"] for start in starts[1:])


def test_too_many_continuations_are_a_failure(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    emulator.slow_down(0.1)
    result = run(emulator, halite, tmp_path, max_seconds=0.1, max_continuations=1)
    assert not result.converged and result.reason == "out of time after 1 continuations"
    assert len(emulator.runs) == 2


def test_the_warning_before_a_time_limit_stops_vasp_and_the_step_is_continued(
    emulator: Emulator, halite: Structure, tmp_path: Path
) -> None:
    emulator.slow_down(0.1)
    heed_warnings()

    def warn_when_the_first_geometry_is_done() -> None:
        while not any(" F= " in path.read_text() for path in tmp_path.glob("work/scratch/*/OSZICAR")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=warn_when_the_first_geometry_is_done, daemon=True).start()
    try:
        with pytest.raises(Continue, match=r"relax_1: VASP stopped after \d+ geometries") as request:
            run(emulator, halite, tmp_path, relax="cell")
        assert request.value.advanced
        with pytest.raises(Continue, match="not started so near the time limit"):
            run(emulator, halite, tmp_path, relax="cell")
    finally:
        forget_warnings()
    assert emulator.jobs == ["relax_1"]
    emulator.slow_down(0.0)
    result = run(emulator, halite, tmp_path, relax="cell")
    assert result.converged and result.continuations == 1 and result.attempts == 1
    assert emulator.jobs == ["relax_1", "relax_1", "relax_2", "static"]


def test_changes_of_handlers_outlast_every_stop(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    emulator.fail({"kind": "eddrmm", "times": 1})
    emulator.slow_down(0.2)
    scratch = tmp_path / "work" / "scratch"
    output = scratch / "1_mp_gga_relax_1" / "OSZICAR"

    def warn_when_at_work(runs: int) -> None:
        while len(emulator.runs) < runs or not (output.exists() and "DAV" in output.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    for runs in (2, 3):  # the first is the one that custodian corrects
        heed_warnings()
        threading.Thread(target=warn_when_at_work, args=(runs,), daemon=True).start()
        try:
            with pytest.raises(Continue, match="relax_1: VASP stopped"):
                run(emulator, halite, tmp_path, relax="cell")
        finally:
            forget_warnings()
    emulator.slow_down(0.0)
    result = run(emulator, halite, tmp_path, relax="cell")
    assert result.converged and result.continuations == 2 and result.attempts == 2
    assert emulator.jobs == ["relax_1"] * 4 + ["relax_2", "static"]
    # The next job begins as its maker says.
    assert [run["incar"]["ALGO"] for run in emulator.runs] == ["Fast", "Normal", "Normal", "Normal", "Fast", "Fast"]
    assert sorted(path.name[2:] for path in scratch.iterdir()) == ["mp_gga_relax_1", "mp_gga_relax_2", "mp_gga_static"]


def stopped_run(folder: Path, structure: Structure, first: str, now: str, *, packed: bool) -> None:
    """The files of a run that its handlers changed the INCAR of; gzipped, as after a clean stop, or not."""
    folder.mkdir()
    for name, text in {"CONTCAR": structure.to(fmt="poscar"), "INCAR.orig": first, "INCAR": now}.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)


@pytest.mark.parametrize("packed", [False, True])
def test_setting_aside_twice_gives_the_same_restart(halite: Structure, tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "1_job"
    assert set_aside(folder) is None
    moved = halite.copy()
    moved.perturb(0.1)
    stopped_run(folder, moved, "ALGO = Fast\nNPAR = 4", "ALGO = Normal\nISTART = 0", packed=packed)
    restart = set_aside(folder)
    assert restart is not None and np.allclose(restart.structure.frac_coords, moved.frac_coords)
    assert (restart.prev_dir, restart.changes) == (None, {"ALGO": "Normal", "ISTART": 0, "NPAR": None})
    assert set_aside(folder) == restart  # killed before there was a new folder
    folder.mkdir()
    assert set_aside(folder) == restart  # killed before anything was in it
    # The next run starts with those changes and is changed once more.
    stopped_run(folder, halite, "ALGO = Normal\nISTART = 0", "ALGO = Normal\nISTART = 0\nISYM = 0", packed=packed)
    again = set_aside(folder)
    assert again is not None and again.changes == restart.changes | {"ISYM": 0}
    assert np.allclose(again.structure.frac_coords, halite.frac_coords)
    forget_restart(folder)
    assert set_aside(folder) is None and not list(tmp_path.iterdir())


def test_kills_between_a_stop_and_the_next_run_cost_nothing(
    emulator: Emulator, halite: Structure, tmp_path: Path
) -> None:
    """Neither geometry and density nor, as the document of a stopped run says success, the rest of the relaxation."""
    emulator.slow_down(0.1)
    finished = JobRunner.finished
    calls: list[str] = []

    def killed_when_stopped(runner: JobRunner, job: Job) -> VaspDocument | None:
        calls.append(job.name)
        return finished(runner, job) if len(calls) == 1 else sys.exit(137)

    def killed(*_: object) -> None:
        sys.exit(137)

    for what, name, by in ((JobRunner, "finished", killed_when_stopped), (running, "prepare", killed)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(what, name, by)
            run(emulator, halite, tmp_path, relax="cell", max_seconds=0.1)
    scratch = tmp_path / "work" / "scratch"
    assert [path.name for path in scratch.iterdir()] == ["1_mp_gga_relax_1.stopped"]
    emulator.slow_down(0.0)
    result = run(emulator, halite, tmp_path, relax="cell")
    assert emulator.jobs == ["relax_1", "relax_1", "relax_2", "static"]
    starts = [event for event in result.history["1_mp_gga_relax_1"] if event["event"] == "start"]
    assert [(start.get("from"), start.get("prev_dir")) for start in starts] == [(None, None), ("CONTCAR", True)]
    assert result.energy_ev_per_atom == pytest.approx(relaxed_energy(halite), abs=MEV)


def test_a_job_that_ended_before_the_warning_is_progress(
    emulator: Emulator, halite: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a flow whose jobs take a time limit each would count as standing still."""
    keep = JobRunner.keep

    def keep_and_warn(runner: JobRunner, folder: Path) -> None:
        keep(runner, folder)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(JobRunner, "keep", keep_and_warn)
    heed_warnings()
    try:
        with pytest.raises(Continue, match="not started so near the time limit") as request:
            run(emulator, halite, tmp_path, relax="cell")
        assert emulator.jobs == ["relax_1"] and request.value.advanced is True
        with pytest.raises(Continue) as request:
            run(emulator, halite, tmp_path, relax="cell")
        assert emulator.jobs == ["relax_1"] and request.value.advanced is False
    finally:
        forget_warnings()


@pytest.mark.parametrize("steps", [0, 2])
def test_vasp_that_does_not_stop_in_time_got_as_far_as_its_geometries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    (tmp_path / "OSZICAR").write_text("DAV:   1 ...\n" + "   1 F= -.1E+02 E0= -.1E+02\n" * steps)
    monkeypatch.setattr(handlers, "warned", lambda: True)
    monkeypatch.setattr(handlers, "seconds_left", lambda: -1.0)
    with pytest.raises(Continue, match="did not stop in time") as request:
        StopHandler().check(str(tmp_path))
    assert request.value.advanced is (steps > 0)


def test_a_damaged_job_store_costs_the_last_job_at_most(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    emulator.fail({"kind": "set_core_wf", "job": "static", "times": 1})
    assert not run(emulator, halite, tmp_path, relax="cell").converged
    store = tmp_path / "work" / "jobs.json"
    store.write_text(store.read_text()[:-100])
    result = run(emulator, halite, tmp_path, relax="cell")
    assert result.converged and emulator.jobs == ["relax_1", "relax_2", "static", "static"]
