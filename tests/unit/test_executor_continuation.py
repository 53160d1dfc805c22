"""Which jobs are continued: those that asked for it and got further since they last did."""

import time
from pathlib import Path

import pytest

from sluice.attempts import append_event
from snakemake_executor_plugin_sluice.continuation import judge


@pytest.fixture
def history(tmp_path):
    """Writes attempts of one job as (outcome, steps done); SLURM jobs are numbered from 1."""
    path = tmp_path / "attempts.jsonl"

    def write(*attempts, job="train_generator/round_1", first=1) -> Path:
        for number, (outcome, done) in enumerate(attempts, first):
            key = f"{job}{number}"
            start = {"event": "start", "attempt": key, "job": job, "step": "train", "host": "h", "pid": 1}
            append_event(path, start | {"pid_started": 0.0, "slurm_job": str(number), "log": None})
            if done is not None:
                append_event(path, {"event": "progress", "attempt": key, "done": done, "total": 100, "unit": "steps"})
            if outcome is not None:
                end = {"event": "end", "attempt": key, "outcome": outcome, "reason": "because"}
                append_event(path, end | {"cpu_seconds": 0.0, "gpu_seconds": 0.0, "max_rss_mb": 0.0})
        return path

    return write


def test_progress_is_continued(history):
    path = history(("continued", 10), ("continued", 20))
    verdict = judge(path, "2", 0.0, 50)
    assert verdict.wanted and verdict.granted
    assert verdict.words == "continuation 2 of at most 50, 20 of 100 steps"


@pytest.mark.parametrize("done", [10, 9, None])
def test_no_progress_is_not(history, done):
    verdict = judge(history(("continued", 10), ("continued", done)), "2", 0.0, 50)
    assert verdict.wanted and not verdict.granted
    assert "no progress" in verdict.words


@pytest.mark.parametrize(("advanced", "granted"), [(True, True), (False, False), (None, False)])
def test_a_step_that_says_whether_it_advanced_is_believed(history, advanced, granted):
    """A calculation counts whole tasks, but gets on within one."""
    path = history(("continued", 0), ("continued", 0))
    end = {"event": "end", "attempt": "train_generator/round_12", "outcome": "continued", "reason": "because"}
    append_event(path, end | ({} if advanced is None else {"advanced": advanced}))
    assert judge(path, "2", 0.0, 50).granted == granted


def test_the_cap_counts_continuations_in_a_row(history):
    path = history(("continued", 1), ("failed", 2), ("continued", 3), (None, 4), ("continued", 5), ("continued", 6))
    assert judge(path, "6", 0.0, 3).granted
    assert not judge(path, "6", 0.0, 2).granted


def test_other_jobs_do_not_count(history):
    history(("continued", 50), job="train_screener/round_1")
    assert judge(history(("continued", 10), first=2), "2", 0.0, 1).granted


def test_ends_without_a_wish(history):
    path = history(("failed", 1), ("done", 2), (None, 3))
    assert judge(path, "1", 0.0, 50).words == "because"
    assert judge(path, "2", 0.0, 50).finished
    assert judge(path, "3", 0.0, 50) is None
    assert judge(path, "4", 0.0, 50) is None


def test_an_older_job_of_the_same_number_is_another_job(history):
    path = history(("done", 1))
    assert judge(path, "1", time.time() + 60, 50) is None


def test_a_step_with_another_log_is_another_job_with_the_same_number(history):
    path = history(("done", 1))
    event = {"event": "start", "attempt": "x", "job": "other", "step": "s", "host": "h", "pid": 1, "pid_started": 0.0}
    append_event(path, event | {"slurm_job": "1", "log": "logs/other.log"})
    end = {"event": "end", "attempt": "x", "outcome": "failed", "reason": "not mine"}
    append_event(path, end | {"cpu_seconds": 0.0, "gpu_seconds": 0.0, "max_rss_mb": 0.0})
    assert judge(path, "1", 0.0, 50, ["logs/mine.log"]).finished
    assert judge(path, "1", 0.0, 50, ["logs/other.log"]).words == "not mine"
