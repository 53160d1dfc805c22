"""Submitting against an sbatch that answers as SLURM does when it is away, busy or unwilling."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from snakemake_executor_plugin_sluice import slurm_queue, submission
from snakemake_executor_plugin_sluice.executor import Executor
from snakemake_executor_plugin_sluice.identity import JobIdentity
from snakemake_executor_plugin_sluice.slurm_queue import QueuedJob
from snakemake_executor_plugin_sluice.submission import AbortedError, RefusedError, is_temporary, submit


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A program that fails with a message as often as told, then takes the job."""
    monkeypatch.setattr(submission, "FIRST_WAIT_S", 0.05)

    def make(message, failures):
        program = tmp_path / "sbatch"
        program.write_text(
            "#!/bin/sh\ncat > script\necho x >> calls\n"
            f'[ $(wc -l < calls) -gt {failures} ] && echo 42 && exit 0\necho "sbatch: error: {message}" >&2\nexit 1\n'
        )
        program.chmod(0o755)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path

    return make


def run(already_there=lambda: None, aborted=None, told=None):
    return submit(
        ["sbatch"],
        "#!/bin/sh\ntrue\n",
        aborted=aborted or threading.Event(),
        already_there=already_there,
        tell=(told if told is not None else []).append,
    )


def test_waits_for_an_absent_controller(sbatch):
    folder, told = sbatch("Unable to contact slurm controller (connect failure)", 3), []
    assert run(told=told) == "42"
    assert (folder / "calls").read_text().count("x") == 4
    assert (folder / "script").read_text() == "#!/bin/sh\ntrue\n"
    assert len(told) == 2 and "Unable to contact slurm controller" in told[0]


def test_refusal_carries_slurms_message(sbatch):
    folder = sbatch("invalid partition specified: nowhere", 3)
    with pytest.raises(RefusedError, match="invalid partition specified: nowhere"):
        run()
    assert (folder / "calls").read_text().count("x") == 1


def test_a_submission_that_timed_out_but_was_taken_is_not_repeated(sbatch):
    folder = sbatch("Batch job submission failed: Socket timed out on send/recv operation", 9)
    assert run(already_there=lambda: "17") == "17"
    assert (folder / "calls").read_text().count("x") == 1


def test_an_interrupt_ends_the_waiting(sbatch):
    sbatch("Unable to contact slurm controller (connect failure)", 1000)
    aborted = threading.Event()
    threading.Timer(0.3, aborted.set).start()
    with pytest.raises(AbortedError):
        run(aborted=aborted)


def test_an_interrupt_ends_a_call_that_hangs(sbatch, monkeypatch):
    folder = sbatch("never reached", 1)
    (folder / "sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(submission, "LAST_PATIENCE_S", 0.3)
    aborted = threading.Event()
    threading.Timer(0.3, aborted.set).start()
    began = time.monotonic()
    with pytest.raises(AbortedError):
        run(aborted=aborted)
    assert time.monotonic() - began < 10


def test_limits_on_submissions_are_temporary_and_bad_requests_are_not():
    assert is_temporary("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    assert not is_temporary("Requested node configuration is not available")


@pytest.mark.parametrize(
    ("number", "state", "late", "found"),
    [
        ("8", "RUNNING", 300.0, "8"),  # SLURM's clock is minutes behind ours
        ("7", "RUNNING", 300.0, None),  # the one before, which goes on for a moment
        ("7", "RUNNING", 0.0, "7"),  # its number was given out again
        ("8", "COMPLETING", 0.0, None),
        ("8", "FAILED", 0.0, None),
    ],
)
def test_a_job_taken_without_a_word_is_the_one_that_was_not_there_before(monkeypatch, number, state, late, found):
    executor, identity, now = object.__new__(Executor), JobIdentity("a", "b", "relax"), time.time()
    executor.campaign = "halides-1"
    queued = QueuedJob(number, state, "None", now - late, None, "n1", "halides-1", identity)
    monkeypatch.setattr(slurm_queue, "read_queue", lambda campaign: {number: queued})
    assert executor._find_submitted(identity, now, {"7"}) == found
    assert executor._find_submitted(JobIdentity("a", "c", "relax"), now, {"7"}) is None, "other settings"


@pytest.mark.parametrize("given", ["physics", "physics, chemistry"])
def test_a_named_account_is_sbatchs_to_judge_without_a_database(monkeypatch, given):
    monkeypatch.setenv("PATH", "/nowhere")  # no sacctmgr, or one whose database is away
    executor = object.__new__(Executor)
    assert executor._account(SimpleNamespace(resources={"slurm_account": given})) == "-A physics"
    assert executor._account(SimpleNamespace(resources={"slurm_account": 4711})) == "-A 4711"
