"""Trivial steps for the tests of the SLURM executor, run by the real ``run_step``: ``python work.py STEP --flag …``.

Every start is one line in ``starts.txt``, so that a test can count how often a job really ran.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sluice.step import Continue, report_progress, run_step


def note_start(name: str) -> int:
    """Write down that a job starts; how often it has started by now."""
    line = f"{name} {os.environ.get('SLURM_JOB_ID', '-')} {time.time():.1f}\n"
    handle = os.open("starts.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)
    return sum(row.split()[0] == name for row in Path("starts.txt").read_text().splitlines())


def write_whole(path: Path, text: str) -> None:
    """Write under another name first, as the stores do."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def nap(*, name: str, seconds: float, output: Path) -> None:
    """Do nothing for a while."""
    note_start(name)
    time.sleep(seconds)
    write_whole(output, os.environ.get("SLURM_JOB_ID", "-"))


def hold(*, name: str, output: Path) -> None:
    """Do nothing until the test makes the file ``go``."""
    note_start(name)
    while not Path("go").exists():
        time.sleep(0.2)
    write_whole(output, os.environ.get("SLURM_JOB_ID", "-"))


def eat(*, name: str, megabytes: int, output: Path) -> None:
    """Use memory for a while."""
    note_start(name)
    memory = bytearray(megabytes * 1_000_000)
    memory[::4096] = b"x" * len(memory[::4096])
    time.sleep(4)
    write_whole(output, str(len(memory)))


def count(*, name: str, steps: int, seconds: float, output: Path) -> None:
    """Count with a checkpoint; on SLURM's warning save, ask to be continued."""
    warned: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: warned.append(1))
    note_start(name)
    checkpoint = Path(f"{name}.checkpoint")
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while done < steps:
        time.sleep(seconds)
        done += 1
        write_whole(checkpoint, str(done))
        report_progress(done, steps, "steps", force=True)
        if warned:
            raise Continue("told that the time limit is near")
    write_whole(output, str(done))


def rest(*, name: str, output: Path) -> None:
    """Ask to be continued without doing anything."""
    note_start(name)
    report_progress(0, 10, "steps", force=True)
    raise Continue(f"{output} is not begun")


def launch(*, name: str, command: str, output: Path) -> None:
    """Run a launcher of MPI ranks and keep what they print."""
    note_start(name)
    answer = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    write_whole(output, answer.stdout + answer.stderr)


STEPS = {step.__name__: step for step in (nap, hold, eat, count, rest, launch)}

if __name__ == "__main__":
    run_step(STEPS[sys.argv[1]], sys.argv[2:])
