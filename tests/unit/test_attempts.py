"""The life of every job: appended by many, never lost, read after any kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from sluice import attempts
from sluice.attempts import Recorder, append_event, is_running, process_start, read_attempts, read_events


def test_one_attempt_from_start_to_end(tmp_path):
    path = tmp_path / "sub" / "attempts.jsonl"
    recorder = Recorder(path, job="relax/round_1", step="relax", log="logs/x.log")
    recorder.progress(3, 10, "crystals", "relaxing", force=True)
    [attempt] = read_attempts(path)
    assert attempt.state == "running" and attempt.pid == os.getpid()
    assert attempt.progress == {"done": 3, "total": 10, "unit": "crystals", "message": "relaxing"}
    recorder.end("done", "", cpu_seconds=1.234, gpu_seconds=0.5, max_rss_mb=100.06)
    [attempt] = read_attempts(path)
    assert (attempt.state, attempt.job, attempt.step, attempt.log) == ("done", "relax/round_1", "relax", "logs/x.log")
    assert (attempt.cpu_seconds, attempt.gpu_seconds, attempt.max_rss_mb) == (1.23, 0.5, 100.1)
    assert attempt.ended >= attempt.started


def test_progress_is_thinned_unless_forced(tmp_path):
    recorder = Recorder(tmp_path / "a", job="j", step="s")
    for done in range(100):
        recorder.progress(done, 100)
    assert sum(e["event"] == "progress" for e in read_events(tmp_path / "a")) == 1
    recorder.progress(100, 100, force=True)
    assert read_attempts(tmp_path / "a")[0].progress["done"] == 100


def test_progress_of_a_long_job_is_a_line_a_minute(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    recorder = Recorder(tmp_path / "a", job="j", step="s")
    for second in range(0, 86_400, 2):
        now[0] = 1000.0 + second
        recorder.progress(second, 86_400)
    done = [e["done"] for e in read_events(tmp_path / "a") if e["event"] == "progress"]
    assert done[:3] == [0, 2, 4], "soon after the start every two seconds"
    assert done[-1] > 86_400 - 120 and max(b - a for a, b in pairwise(done)) <= 62
    assert 1440 <= len(done) < 2000


def test_a_writer_waits_for_another_machines_line(tmp_path):
    """Network file systems append where the file ended when it was opened, unless it is locked."""
    path = tmp_path / "a"
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX)\n"
    code += "print('locked', flush=True); time.sleep(0.5); f.write('{\"event\": \"first\"}\\n'); f.close()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        append_event(path, {"event": "second"})
    assert [event["event"] for event in read_events(path)] == ["first", "second"]


def test_a_writer_that_hangs_does_not_hold_up_the_work(tmp_path, monkeypatch):
    path = tmp_path / "a"
    monkeypatch.setattr(attempts, "LOCK_PATIENCE", 0.1)
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX)\n"
    code += "print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        append_event(path, {"event": "mine"})
        other.kill()
    assert [event["event"] for event in read_events(path)] == ["mine"]


def test_missing_file_has_no_attempts(tmp_path):
    assert read_attempts(tmp_path / "none") == []


def test_lines_cut_off_are_passed_over(tmp_path):
    path = tmp_path / "a"
    recorder = Recorder(path, job="j", step="s")
    recorder.end("failed", "why", cpu_seconds=0, gpu_seconds=0, max_rss_mb=0)
    with path.open("a") as handle:
        handle.write('{"event": "start", "att\n[1, 2]\n\xff\n"text"\n{"no": "event"}\n')
    append_event(path, {"event": "progress", "attempt": "unknown", "done": 1, "total": 2})
    [attempt] = read_attempts(path)
    assert (attempt.state, attempt.reason) == ("failed", "why")


def _many(path: Path, number: int) -> None:
    for i in range(200):
        append_event(path, {"event": "x", "number": number, "i": i, "filling": "y" * 300})


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "a"
    workers = [multiprocessing.get_context("spawn").Process(target=_many, args=(path, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    events = list(read_events(path))
    assert len(events) == 800
    assert {(e["number"], e["i"]) for e in events} == {(n, i) for n in range(4) for i in range(200)}


def test_killed_process_shows_as_killed(tmp_path):
    code = "import sys, time; from pathlib import Path; from sluice.attempts import Recorder\n"
    code += "Recorder(Path(sys.argv[1]), job='j', step='s'); print('ready', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    assert read_attempts(tmp_path / "a")[0].state == "running"
    child.kill()
    child.wait()
    child.stdout.close()
    assert read_attempts(tmp_path / "a")[0].state == "killed"


def test_processes_are_told_apart_by_start_time_and_host():
    here, started = os.uname().nodename, process_start(os.getpid())
    assert started == process_start(os.getpid()) > 0
    assert is_running(here, os.getpid(), started) is True
    assert is_running(here, os.getpid(), started - 100) is False, "the pid was given to another process"
    assert is_running("elsewhere.invalid", os.getpid(), started) is None


def test_zombies_are_dead():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 20
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_start(child.pid) is None, "an ended, unreaped child counts as running"
    child.wait()


@pytest.mark.parametrize("outcome", ["done", "failed", "continued"])
def test_outcomes(tmp_path, outcome):
    Recorder(tmp_path / "a", job="j", step="s").end(outcome, "r", cpu_seconds=0, gpu_seconds=0, max_rss_mb=0)
    assert read_attempts(tmp_path / "a")[0].state == outcome
    assert json.loads((tmp_path / "a").read_text().splitlines()[-1])["reason"] == "r"
