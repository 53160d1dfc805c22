"""What the executor puts on record for ``sluice status``: why SLURM did not run a job, or ended it."""

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sluice.attempts import append_event, read_attempts, read_events, read_history
from snakemake_executor_plugin_sluice import executor as executor_module
from snakemake_executor_plugin_sluice import slurm_queue
from snakemake_executor_plugin_sluice.executor import Executor
from snakemake_executor_plugin_sluice.identity import identify
from snakemake_executor_plugin_sluice.slurm_queue import QueuedJob
from snakemake_executor_plugin_sluice.submission import RefusedError
from snakemake_executor_plugin_sluice.watching import Watched

NAME = "relax_candidates/round_1_batch_2"


class Job:
    """The parts of Snakemake's job that the executor looks at."""

    def __init__(self):
        self.name, self.jobid = "relax_candidates", 3
        self.rule = SimpleNamespace(name=self.name, shellcmd="relax")
        self.input, self.output, self.non_derived_params, self.wildcards = ["in.h5"], ["a.h5"], [1], ("1", "2")
        self.log = [f"logs/{NAME}.log"]

    def is_group(self):
        return False


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """An executor without Snakemake and SLURM, in a campaign's directory."""
    made = object.__new__(Executor)
    made.workdir, made.campaign, made.logger = tmp_path, "halides-1", logging.getLogger("test")
    made.settings = SimpleNamespace(hold_seconds=0.0, max_lost=1, max_continuations=5)
    made._watched, made._watch_lock, made._lost, made._named, made._used = {}, threading.Lock(), {}, set(), set()
    made._told, made.slurm_logdir, made.errors = set(), tmp_path / "slurm", []
    made.report_job_error = lambda info, msg=None, aux_logs=(): made.errors.append(msg)
    made.report_job_submission = lambda info: None
    made._job_submission_executor = SimpleNamespace(submit=lambda function, watched: function(watched))
    monkeypatch.setattr(executor_module, "get_job_wildcards", lambda job: "1_2")
    monkeypatch.setattr(slurm_queue, "cancel", lambda campaign, ids: "")
    return made


def watched(executor, number="7") -> Watched:
    executor._watch(Job(), identify(Job()), number, 0.0)
    return executor._watched[identify(Job()).outputs]


def queued(state, reason="None") -> QueuedJob:
    return QueuedJob("7", state, reason, 0.0, None, "n1", "halides-1", identify(Job()))


def records(executor) -> list[tuple]:
    events = list(read_events(executor.workdir / "attempts.jsonl"))
    assert all(e["event"] == "slurm" and e["job"] == NAME and e["step"] == "relax_candidates" for e in events)
    assert read_attempts(executor.workdir / "attempts.jsonl") == []
    return [(e["kind"], e.get("slurm_job"), e["words"]) for e in events]


def test_a_held_job_is_stuck_then_failed(executor):
    one = watched(executor)
    executor.settings.hold_seconds = 60.0
    held = {"7": queued("PENDING", "JobHeldUser")}
    assert not executor._settle(one.info, held)
    assert not executor._settle(one.info, {"7": queued("PENDING", "Priority")})
    assert not executor._settle(one.info, held)
    executor.settings.hold_seconds = 0.0
    assert executor._settle(one.info, held)
    found = records(executor)
    assert [kind for kind, *_ in found] == ["stuck", "waits", "stuck", "failed"]
    assert found[0] == ("stuck", "7", "does not start: it is held (`scontrol release` lets it go)")
    assert found[3][2].startswith("did not start within 0 s: it is held") and len(executor.errors) == 1


@pytest.mark.parametrize("state", ["TIMEOUT", "OUT_OF_MEMORY"])
def test_a_job_that_slurm_ended_carries_its_words_and_log(executor, state):
    one = watched(executor)
    assert executor._settle(one.info, {"7": queued(state)})
    assert records(executor) == [("failed", "7", f"ended with {state}")]
    [event] = read_events(executor.workdir / "attempts.jsonl")
    assert event["log"] == str(executor.workdir / "slurm/rule_relax_candidates/1_2/7.log")


def test_a_lost_job_waits_again_once_it_is_resubmitted(executor):
    executor._submit = lambda job, identity: executor._watch(job, identity, "8", 0.0)
    executor._settle(watched(executor).info, {"7": queued("NODE_FAIL")})
    assert records(executor) == [("lost", "7", "was lost: NODE_FAIL on n1"), ("waits", "8", "is in the queue")]
    assert read_history(executor.workdir / "attempts.jsonl")[1] == {}


def test_a_refused_job_is_on_record(executor):
    def refuse(job, identity, waits_for=None):
        raise RefusedError("invalid\npartition")

    executor._take_over, executor._submit = (lambda job, identity: []), refuse
    executor.run_job(Job())
    executor._settle(watched(executor).info, {"7": queued("NODE_FAIL")})
    assert records(executor) == [
        ("refused", None, "SLURM did not take the job: invalid partition"),
        ("waits", "7", "is in the queue"),
        ("lost", "7", "was lost: NODE_FAIL on n1"),
        ("refused", "7", "could not be submitted again: invalid partition"),
    ]


def test_what_an_earlier_driver_recorded_is_taken_back(executor):
    event = {"event": "slurm", "kind": "refused", "job": NAME, "step": "relax_candidates", "words": "no account"}
    append_event(executor.workdir / "attempts.jsonl", event)
    executor._named = executor._named_before()
    watched(executor)
    assert [kind for kind, *_ in records(executor)] == ["refused", "waits"]


def test_a_record_that_cannot_be_written_does_not_keep_the_failure_from_snakemake(executor):
    one = watched(executor)
    Path(executor.workdir / "attempts.jsonl").mkdir()
    executor._last_word = lambda watched: None
    assert executor._named_before() == set()
    assert executor._settle(one.info, {"7": queued("TIMEOUT")})
    assert len(executor.errors) == 1 and "TIMEOUT" in executor.errors[0]
