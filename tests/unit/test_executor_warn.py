"""The wrapper that passes SLURM's warning on, with real processes and real signals."""

import signal
import subprocess
import sys
import time

import pytest

from snakemake_executor_plugin_sluice.executor import WRAPPER

COMPUTE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (pathlib.Path(sys.argv[1]).write_text("warned"), sys.exit(75)))
pathlib.Path("ready").touch()
time.sleep(30)
"""


@pytest.fixture
def wrapped(tmp_path):
    """Start commands under the wrapper; what a failed test left is killed."""
    started = []

    def start(*command):
        started.append(subprocess.Popen([sys.executable, str(WRAPPER), *command], cwd=tmp_path, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_exit_code_is_passed_on(wrapped, command, code):
    assert wrapped("sh", "-c", command).wait(20) == code


def test_warning_reaches_the_compute_process_through_shells_that_live_on(wrapped, tmp_path):
    (tmp_path / "compute.py").write_text(COMPUTE)
    inner = f"{sys.executable} compute.py result; code=$?; echo shell lived > shell; exit $code"
    process = wrapped("bash", "-c", f"sh -c '{inner}'; exit $?")
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 75
    assert (tmp_path / "result").read_text() == "warned"
    assert (tmp_path / "shell").read_text() == "shell lived\n"


RUNTIME = """
import ctypes, signal, subprocess, sys
ctypes.CDLL(None).prctl(15, b"starter-suid", 0, 0, 0)  # PR_SET_NAME
inside = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda number, _: inside.send_signal(number))
sys.exit(inside.wait())
"""


def test_warning_is_not_handed_to_a_shell_in_a_container_which_would_die_of_it(wrapped, tmp_path):
    (tmp_path / "compute.py").write_text(COMPUTE)
    (tmp_path / "runtime.py").write_text(RUNTIME)
    inner = f"{sys.executable} compute.py result; exit $?"
    process = wrapped(sys.executable, "runtime.py", "sh", "-c", inner)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 75
    assert (tmp_path / "result").read_text() == "warned"


def test_early_warning_waits_for_the_compute_process(wrapped, tmp_path):
    (tmp_path / "compute.py").write_text(COMPUTE)
    process = wrapped("sh", "-c", f"touch begun; sleep 1; {sys.executable} compute.py result; exit $?")
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 75


def test_process_without_a_handler_is_left_alone(wrapped, tmp_path):
    process = wrapped("sh", "-c", "touch ready; sleep 2; echo whole > result")
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert (tmp_path / "result").read_text() == "whole\n"


def test_nothing_below_the_compute_process_is_told(wrapped, tmp_path):
    (tmp_path / "inner.py").write_text(COMPUTE)
    outer = (
        "import signal, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, 'inner.py', 'inner_result'])\n"
        "def stop(*_):\n    time.sleep(1)\n    inner.kill()\n    inner.wait()\n    sys.exit(75)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        "time.sleep(30)\n"
    )
    process = wrapped(sys.executable, "-c", outer)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 75
    assert not (tmp_path / "inner_result").exists()
