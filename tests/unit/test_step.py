"""From a function to a command: flags, exit codes, last words, and steps that do not outlive their driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from pydantic import BaseModel

from sluice.attempts import process_start, read_attempts
from sluice.step import DRIVER_VARIABLE, make_parser, track


class Settings(BaseModel):
    size: int = 3


def everything(
    *,
    source: Path,
    parts: list[Path],
    settings: Settings,
    number: int = 2,
    ratio: float | None = None,
    name: str = "x",
    fast: bool = False,
    where_to: Path | None = None,
) -> None:
    """Do everything.

    More text.
    """


def test_flags_mirror_the_parameters():
    words = ["--source", "a", "--parts", "b", "c", "--settings", '{"size": 5}', "--ratio", "0.5", "--fast"]
    values = vars(make_parser(everything).parse_args([*words, "--where-to", "d"]))
    assert values["source"] == Path("a") and values["parts"] == [Path("b"), Path("c")]
    assert values["settings"] == Settings(size=5)
    assert (values["number"], values["ratio"], values["fast"], values["name"]) == (2, 0.5, True, "x")
    assert values["where_to"] == Path("d")


def test_defaults_and_empty_lists():
    values = vars(make_parser(everything).parse_args(["--source", "a", "--parts", "--settings", "{}"]))
    assert values["parts"] == [] and values["ratio"] is None and values["where_to"] is None


@pytest.mark.parametrize(
    "words",
    [
        ["--parts", "--settings", "{}"],
        ["--source", "a", "--parts", "--settings", "{}", "--nope", "1"],
        ["--source", "a", "--parts", "--settings", "{}", "--number", "x"],
    ],
)
def test_wrong_flags_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        make_parser(everything).parse_args(words)
    assert stop.value.code == 2


def test_positional_parameters_are_refused():
    def step(path: Path) -> None: ...

    with pytest.raises(TypeError, match="keyword-only"):
        make_parser(step)


def test_track_passes_everything_on():
    assert list(track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), "counting")) == ["a", "b"]


STEP = """
    import os, subprocess, sys, time
    from pathlib import Path
    from sluice.errors import BadDataError
    from sluice.step import Continue, add_foreign_cpu_seconds, add_gpu_seconds, report_progress, run_step, track

    def work(*, what: str, out: Path | None = None) -> None:
        '''Work.'''
        print("working on", what)
        if what == "bad":
            raise BadDataError("3 rows are bad")
        if what == "bug":
            raise KeyError("oops")
        if what == "continue":
            raise Continue("5 of 10 epochs")
        if what == "gpu":
            add_gpu_seconds(2.5)
            add_foreign_cpu_seconds(1000.0)
            for _ in track(range(4), "four"):
                pass
        if what == "burn":
            child = subprocess.run([sys.executable, "-c", "x = sum(i * i for i in range(3_000_000))"], check=True)
        if what == "sleep":
            child = subprocess.Popen(["sleep", "100"])
            out.write_text(str(child.pid))
            time.sleep(100)

    if __name__ == "__main__":
        run_step(work)
"""


@pytest.fixture
def run(tmp_path):
    script = tmp_path / "work_step.py"
    script.write_text(textwrap.dedent(STEP))

    def start(*words: str, wait: bool = True, **env: str):
        command = [sys.executable, str(script), *words, "--log", "logs/do_it/batch_3.log"]
        environment = os.environ | env
        if wait:
            return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    return start


def attempts(folder: Path):
    return read_attempts(folder / "attempts.jsonl")


def test_done(run, tmp_path):
    done = run("--what", "well")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [attempt] = attempts(tmp_path)
    assert (attempt.state, attempt.job, attempt.step) == ("done", "do_it/batch_3", "work")
    assert attempt.cpu_seconds > 0 and attempt.max_rss_mb > 10
    assert "working on well" in (tmp_path / "logs/do_it/batch_3.log").read_text()


def test_expected_failure_is_one_line_with_the_log(run, tmp_path):
    done = run("--what", "bad")
    assert done.returncode == 1
    assert done.stderr == "work: 3 rows are bad  (log: logs/do_it/batch_3.log)\n"
    assert attempts(tmp_path)[0].reason == "3 rows are bad"
    assert "Traceback" not in (tmp_path / "logs/do_it/batch_3.log").read_text()


def test_bug_leaves_its_traceback_in_the_log(run, tmp_path):
    done = run("--what", "bug")
    assert done.returncode == 1 and "KeyError" in done.stderr and "Traceback" not in done.stderr
    assert "Traceback" in (tmp_path / "logs/do_it/batch_3.log").read_text()
    assert attempts(tmp_path)[0].state == "failed"


def test_continuation_has_its_own_exit_code_and_outcome(run, tmp_path):
    assert run("--what", "continue").returncode == 75
    assert attempts(tmp_path)[0].state == "continued"
    assert attempts(tmp_path)[0].reason == "5 of 10 epochs"


def test_costs_and_progress(run, tmp_path):
    run("--what", "gpu")
    assert attempts(tmp_path)[0].gpu_seconds == 2.5
    assert attempts(tmp_path)[0].progress == {"done": 4, "total": 4, "unit": "items", "message": "four"}
    plain = attempts(tmp_path)[0].cpu_seconds - 1000
    assert 0 < plain < 500, "programs that are no children count too"
    run("--what", "burn")
    assert attempts(tmp_path)[1].cpu_seconds > plain, "CPU time of children does not count"


def test_attempts_add_up_over_retries(run, tmp_path):
    run("--what", "bad")
    run("--what", "well")
    assert [a.state for a in attempts(tmp_path)] == ["failed", "done"]


def wait_until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_sigterm_leaves_last_words(run, tmp_path):
    child = run("--what", "sleep", "--out", "pid", wait=False)
    assert wait_until((tmp_path / "pid").exists)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 143
    assert attempts(tmp_path)[0].state == "failed"
    assert "stopped" in attempts(tmp_path)[0].reason
    psutil.Process(int((tmp_path / "pid").read_text())).kill()


def test_step_and_its_children_end_with_their_driver(run, tmp_path):
    driver = subprocess.Popen(["sleep", "100"])
    token = f"{os.uname().nodename}:{driver.pid}:{process_start(driver.pid)}"
    child = run("--what", "sleep", "--out", "pid", wait=False, **{DRIVER_VARIABLE: token})
    assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    grandchild = int((tmp_path / "pid").read_text())
    time.sleep(1.5)
    assert child.poll() is None, "the driver lives, so the step must"
    driver.kill()
    driver.wait()
    assert child.wait(timeout=30) == 137
    assert wait_until(lambda: process_start(grandchild) is None)
    assert attempts(tmp_path)[0].state == "killed"


def test_driver_on_another_host_is_not_watched(run):
    assert run("--what", "well", **{DRIVER_VARIABLE: "elsewhere.invalid:1:0.0"}).returncode == 0


def test_bad_settings_are_refused_before_anything(tmp_path):
    script = tmp_path / "s.py"
    script.write_text(
        "from pydantic import BaseModel\nfrom sluice.step import run_step\n"
        "class S(BaseModel):\n    size: int\n"
        "def work(*, settings: S) -> None:\n    'Work.'\nrun_step(work)\n"
    )
    words = [sys.executable, str(script), "--settings", json.dumps({"size": "x"})]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "settings" in done.stderr
    assert not (tmp_path / "attempts.jsonl").exists()
