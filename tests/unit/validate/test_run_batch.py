"""Batches beside each other, as real processes; the calculation is a cheap one that leaves a trace."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from sluice.errors import SluiceError
from sluice.step import Continue
from sluice.task_claims import check_claim
from sluice.task_library import TaskLibrary
from sluice.time_limit import forget_warnings, heed_warnings
from sluice.validate.run_batch import BatchRunner, Record, Task, failure_record

FORK = multiprocessing.get_context("fork")
CELL = Structure(Lattice.cubic(3.0), ["Po"], [[0.0, 0.0, 0.0]])


def make_task(number: int, batch: int) -> Task:
    return Task(f"task-{number:02d}", f"c{number}", "compound", "", batch, "T45", 1.0, CELL)


def converged(energy: float) -> Record:
    return failure_record("", "") | {
        "converged": True,
        "energy_ev_per_atom": energy,
        "structure": {"lattice": CELL.lattice.matrix.tolist(), "numbers": [84], "frac_coords": [[0.0, 0.0, 0.0]]},
    }


class Tracing:
    """Stands in for the first-principles code: notes every start, takes a moment."""

    def __init__(self, trace: Path, seconds: float = 0.03) -> None:
        self.trace, self.seconds = trace, seconds

    def __call__(self, task: Task, work: Path, scratch: Path) -> Record:
        with self.trace.open("a") as handle:
            handle.write(f"{task.task_id} {os.getpid()}\n")
        assert work.is_dir() and scratch.is_dir()
        (work / "pw.in").write_text("input")
        time.sleep(self.seconds)
        return converged(float(task.task_id[-2:]))


def starts(trace: Path) -> list[str]:
    return [line.split()[0] for line in trace.read_text().splitlines()]


def work_off(path: Path, trace: Path, tasks: list[Task], batch: int, answers: Path) -> None:
    runner = BatchRunner(TaskLibrary(path), Tracing(trace), poll_seconds=0.05)
    records = runner.run(tasks, batch)
    (answers / str(batch)).write_text(" ".join(f"{k}={r['energy_ev_per_atom']}" for k, r in records.items()))


def test_eight_processes_run_each_of_twenty_tasks_once_and_each_answers_for_its_own(tmp_path: Path) -> None:
    # Batches 0 and 1 have everything to do, the other processes nothing of their own: they help.
    tasks = [make_task(n, n % 2) for n in range(20)]
    trace, answers = tmp_path / "trace", tmp_path / "answers"
    answers.mkdir()
    processes = [
        FORK.Process(target=work_off, args=(tmp_path / "dft", trace, tasks, batch, answers)) for batch in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(starts(trace)) == sorted(task.task_id for task in tasks)
    assert len({line.split()[1] for line in trace.read_text().splitlines()}) > 2  # others did help
    for batch in range(8):
        expected = " ".join(f"{t.task_id}={float(t.task_id[-2:])}" for t in tasks if t.batch == batch)
        assert (answers / str(batch)).read_text() == expected


def start_and_hang(path: Path, started: Path) -> None:
    def hang(task: Task, work: Path, scratch: Path) -> Record:
        (work / "geometry").write_text("half way")
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=work)
        started.write_text(str(child.pid))
        time.sleep(600)
        return converged(0.0)

    BatchRunner(TaskLibrary(path), hang).run([make_task(0, 0)], 0)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_holders_task_goes_on_where_it_was_and_its_calculation_is_ended(tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = FORK.Process(target=start_and_hang, args=(tmp_path / "dft", started))
    process.start()
    wait_for(started)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    orphan = int(started.read_text())
    os.kill(orphan, 0)  # lives on
    seen = []

    def resume(task: Task, work: Path, scratch: Path) -> Record:
        seen.append((work / "geometry").read_text())
        return converged(-1.0)

    records = BatchRunner(TaskLibrary(tmp_path / "dft"), resume).run([make_task(0, 0)], 0)
    assert seen == ["half way"]
    assert records["task-00"]["energy_ev_per_atom"] == -1.0
    assert state_of(orphan) in ("Z", "")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_sigterm_ends_the_calculation_and_frees_the_task_at_once(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def terminated() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a step does
        start_and_hang(tmp_path / "dft", started)

    process = FORK.Process(target=terminated)
    process.start()
    wait_for(started)
    process.terminate()
    process.join(timeout=20)
    assert process.exitcode == 143
    assert state_of(int(started.read_text())) in ("Z", "")
    claim = TaskLibrary(tmp_path / "dft").try_claim("task-00")
    assert claim is not None and not claim.taken_over


def test_a_step_that_lost_its_claim_ends_as_a_whole(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def step() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a step does

        def hang(task: Task, work: Path, scratch: Path) -> Record:
            started.write_text("yes")
            time.sleep(600)
            return converged(0.0)

        BatchRunner(TaskLibrary(tmp_path / "dft", heartbeat_seconds=0.1), hang).run([make_task(0, 0)], 0)

    process = FORK.Process(target=step)
    process.start()
    wait_for(started)
    (tmp_path / "dft" / "task-00" / "claim.0002").mkdir()  # what a taker does
    process.join(timeout=20)
    assert process.exitcode == 143
    assert TaskLibrary(tmp_path / "dft").result("task-00") is None


def test_who_lost_a_claim_outside_a_step_goes_on_with_other_tasks(tmp_path: Path) -> None:
    library = TaskLibrary(tmp_path / "dft", heartbeat_seconds=0.1)

    def compute(task: Task, work: Path, scratch: Path) -> Record:
        if task.task_id == "task-00":
            (work.parent / "claim.0002").mkdir()
            check_claim(work)
        else:  # the other process finishes the first
            (library.directory("task-00") / "claim.0002" / "released.json").touch()
            other = library.try_claim("task-00")
            assert other is not None
            with other:
                library.publish(other, converged(-3.0))
        return converged(-1.0)

    runner = BatchRunner(library, compute, poll_seconds=0.05)
    records = runner.run([make_task(0, 0), make_task(1, 0)], 0)
    assert runner.computed == ["task-01"]
    assert [records[name]["energy_ev_per_atom"] for name in ("task-00", "task-01")] == [-3.0, -1.0]


def test_who_has_nothing_left_to_do_waits_for_tasks_of_its_own_that_others_compute(tmp_path: Path) -> None:
    library, task = TaskLibrary(tmp_path / "dft"), make_task(0, 0)

    def other() -> None:
        BatchRunner(TaskLibrary(tmp_path / "dft"), Tracing(tmp_path / "trace", 1.0)).run([task], 0)

    process = FORK.Process(target=other)
    process.start()
    wait_for(tmp_path / "trace")
    runner = BatchRunner(library, Tracing(tmp_path / "trace"), poll_seconds=0.05)
    assert runner.run([task], 0)["task-00"]["converged"]
    process.join()
    assert runner.computed == [] and starts(tmp_path / "trace") == ["task-00"]


def test_a_crash_is_a_failure_with_a_reason_and_the_others_go_on(tmp_path: Path) -> None:
    def crash(task: Task, work: Path, scratch: Path) -> Record:
        if task.task_id == "task-01":
            raise ZeroDivisionError("division by zero")
        return converged(-1.0)

    tasks = [make_task(n, 0) for n in range(3)]
    records = BatchRunner(TaskLibrary(tmp_path / "dft"), crash).run(tasks, 0)
    assert [records[task.task_id]["converged"] for task in tasks] == [True, False, True]
    assert records["task-01"]["reason"] == "calculation crashed"
    assert "ZeroDivisionError" in records["task-01"]["detail"]


@pytest.mark.parametrize("error", [SluiceError("pw.x is missing"), OSError(28, "No space left on device")])
def test_what_is_no_fault_of_the_crystal_fails_the_job_and_leaves_no_result(tmp_path: Path, error: Exception) -> None:
    def broken(task: Task, work: Path, scratch: Path) -> Record:
        raise error

    library = TaskLibrary(tmp_path / "dft")
    with pytest.raises(SluiceError, match=r"missing|No space"):
        BatchRunner(library, broken).run([make_task(0, 0)], 0)
    assert library.result("task-00") is None
    assert BatchRunner(library, Tracing(tmp_path / "trace")).run([make_task(0, 0)], 0)["task-00"]["converged"]


def test_a_failure_is_not_repeated_unless_more_attempts_are_allowed(tmp_path: Path) -> None:
    calls = []

    def fail(task: Task, work: Path, scratch: Path) -> Record:
        calls.append(task.task_id)
        return failure_record("scf not converged", "after 100 iterations")

    for max_attempts in (2, 2, 1, 3):
        runner = BatchRunner(TaskLibrary(tmp_path / "dft"), fail, max_attempts=max_attempts)
        assert runner.run([make_task(0, 0)], 0)["task-00"]["reason"] == "scf not converged"
    assert len(calls) == 2


def test_a_damaged_result_is_computed_again(tmp_path: Path) -> None:
    library, trace = TaskLibrary(tmp_path / "dft"), tmp_path / "trace"
    BatchRunner(library, Tracing(trace)).run([make_task(0, 0)], 0)
    path = library.directory("task-00") / "result.json"
    path.write_text(path.read_text()[:-30])
    assert BatchRunner(library, Tracing(trace)).run([make_task(0, 0)], 0)["task-00"]["converged"]
    assert starts(trace) == ["task-00", "task-00"]


def test_working_files_go_to_scratch_and_are_cleaned_even_if_the_producer_died_before_it(tmp_path: Path) -> None:
    library, scratch = TaskLibrary(tmp_path / "dft"), tmp_path / "scratch"
    places = []

    def note(task: Task, work: Path, where: Path) -> Record:
        places.append(where)
        return converged(0.0)

    BatchRunner(library, note, scratch=scratch).run([make_task(0, 0)], 0)
    assert places == [scratch / "task-00"] and not places[0].exists()
    library.work_directory("task-00").mkdir()
    places[0].mkdir()
    BatchRunner(library, note, scratch=scratch).run([make_task(0, 0)], 0)
    assert not library.work_directory("task-00").exists() and not places[0].exists()


def test_a_failure_that_may_be_the_machines_is_final_only_in_its_own_run(tmp_path: Path) -> None:
    calls = []

    def fail(task: Task, work: Path, scratch: Path) -> Record:
        calls.append(task.task_id)
        return failure_record("no output", "mpirun: not enough slots", transient=True)

    for scope in ("run 1", "run 1", "run 2"):
        runner = BatchRunner(TaskLibrary(tmp_path / "dft"), fail, scope=scope)
        assert runner.run([make_task(0, 0)], 0)["task-00"]["reason"] == "no output"
    assert len(calls) == 2


@pytest.fixture
def heeding():
    heed_warnings()
    yield
    forget_warnings()


def warn_in_the_middle(cut: str):
    """Gets the warning while it computes one task, and stops there."""

    def compute(task: Task, work: Path, scratch: Path) -> Record:
        (work / "geometry").write_text("half way")
        if task.task_id != cut:
            return converged(-1.0)
        os.kill(os.getpid(), signal.SIGUSR1)
        raise Continue("stopped", advanced=False)

    return compute


@pytest.mark.parametrize(("cut", "advanced"), [("task-00", False), ("task-01", True)])
def test_a_batch_that_is_warned_gives_its_task_back_and_goes_on_later(tmp_path, heeding, cut, advanced):
    library, tasks = TaskLibrary(tmp_path / "dft"), [make_task(n, 0) for n in range(3)]
    with pytest.raises(Continue) as request:
        BatchRunner(library, warn_in_the_middle(cut)).run(tasks, 0)
    assert request.value.advanced is advanced
    claim = library.try_claim(cut)
    assert claim is not None and not claim.taken_over
    with claim:
        assert (library.work_directory(cut) / "geometry").read_text() == "half way"
    forget_warnings()
    trace = tmp_path / "trace"
    records = BatchRunner(library, Tracing(trace)).run(tasks, 0)
    assert all(record["converged"] for record in records.values())
    assert starts(trace) == [task.task_id for task in tasks if task.task_id >= cut]


def test_a_batch_that_is_warned_while_it_helps_another_is_done(tmp_path, heeding):
    library, tasks = TaskLibrary(tmp_path / "dft"), [make_task(0, 0), make_task(1, 1)]
    records = BatchRunner(library, warn_in_the_middle("task-01")).run(tasks, 0)
    assert list(records) == ["task-00"] and records["task-00"]["converged"]
    assert library.result("task-01") is None


def test_a_batch_that_is_warned_while_it_waits_goes_on_later(tmp_path, heeding):
    library, task = TaskLibrary(tmp_path / "dft"), make_task(0, 0)
    other = library.try_claim("task-00")
    assert other is not None
    with other:
        process = subprocess.Popen([sys.executable, "-c", "import os, signal, sys, time; time.sleep(1); "
                                    "os.kill(int(sys.argv[1]), signal.SIGUSR1)", str(os.getpid())])  # fmt: skip
        runner = BatchRunner(library, Tracing(tmp_path / "trace"), poll_seconds=30)
        began = time.monotonic()
        with pytest.raises(Continue, match="1 of 1 tasks are still to be computed") as request:
            runner.run([task], 0)
        process.wait()
    assert request.value.advanced and time.monotonic() - began < 20


def test_a_batch_that_is_warned_before_anything_is_computed_does_not_advance(tmp_path, heeding):
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(Continue) as request:
        BatchRunner(TaskLibrary(tmp_path / "dft"), Tracing(tmp_path / "trace")).run([make_task(0, 0)], 0)
    assert request.value.advanced is False


def test_a_batch_that_is_warned_early_takes_results_that_are_there(tmp_path, heeding):
    library, task = TaskLibrary(tmp_path / "dft"), make_task(0, 0)
    BatchRunner(library, Tracing(tmp_path / "trace")).run([task], 0)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert BatchRunner(library, Tracing(tmp_path / "trace")).run([task], 0)["task-00"]["converged"]
