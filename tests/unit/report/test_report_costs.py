"""Costs from the record of attempts."""

from __future__ import annotations

import os
import socket

import pytest
from report_campaign import write_attempts

from sluice.attempts import append_event, process_start
from sluice.report.costs import read_costs


def test_attempts_are_summed_by_step(tmp_path):
    write_attempts(tmp_path / "attempts.jsonl")
    costs = read_costs(tmp_path / "attempts.jsonl")
    relax = costs.steps["relax_candidates"]
    assert relax.attempts == 3
    assert relax.states == {"unknown": 1, "failed": 1, "done": 1}  # another host: whether it was killed is not known
    assert relax.cpu_seconds == 35.0
    assert relax.max_rss_mb == 104.0
    assert relax.job_seconds == pytest.approx(40.0 + 50.0 + 50.0)
    assert costs.steps["train_generator"].states == {"continued": 1, "done": 1}
    assert costs.cpu_seconds == 395.0


def test_wall_time_counts_overlap_once_and_pauses_not(tmp_path):
    path = tmp_path / "attempts.jsonl"
    for k, (start, end) in enumerate([(0.0, 10.0), (5.0, 20.0), (100.0, 101.0)]):
        begin = {"event": "start", "attempt": f"{k}", "job": "j", "step": "s", "host": "h", "pid": 1}
        append_event(path, begin | {"pid_started": 0.0, "time": start})
        append_event(path, {"event": "end", "attempt": f"{k}", "outcome": "done", "time": end})
    assert read_costs(path).wall_seconds == pytest.approx(21.0)


def test_killed_attempt_of_this_host_is_told_from_the_report_that_runs(tmp_path):
    path = tmp_path / "attempts.jsonl"
    here = {"event": "start", "host": socket.gethostname(), "job": "j"}
    started = process_start(os.getpid())
    append_event(path, here | {"attempt": "1", "step": "s", "pid": os.getpid(), "pid_started": 1.0})
    append_event(path, here | {"attempt": "2", "step": "build_report", "pid": os.getpid(), "pid_started": started})
    costs = read_costs(path)
    assert costs.steps["s"].states == {"killed": 1}
    assert list(costs.steps) == ["s"]


def test_no_record_no_costs(tmp_path):
    costs = read_costs(tmp_path / "attempts.jsonl")
    assert (costs.steps, costs.cpu_seconds, costs.wall_seconds) == ({}, 0.0, 0.0)
