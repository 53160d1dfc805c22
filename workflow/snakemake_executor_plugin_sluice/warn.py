"""Run a command in a SLURM batch job and pass SLURM's warning signal on to the process that computes, and only to it.

SLURM sends the warning (``--signal=B:USR1@300``) to the batch script. A shell or Snakemake would die of it; MPI's
launchers pass it on to ranks that die of it. So it goes to processes below this one that have a handler for it, and to
nothing below them; while none is found (a step may still be starting) the search goes on. Termination is left to SLURM,
which signals all processes of the job anyway.

Started by its path, with the standard library only: ``python …/warn.py command …``.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

WARNING = signal.SIGUSR1
# These handle the signal, but by handing it to processes that do not.
LAUNCHERS = {"sh", "bash", "dash", "srun", "mpirun", "orterun", "orted", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy"}
LAUNCHERS |= {"prterun", "prted", "prun"}
# Containers' runtimes handle every signal, by handing it to the first process inside (names cut as in /proc).
LAUNCHERS |= {"apptainer", "singularity", "starter", "starter-suid", "Apptainer runti", "Singularity run"}
PAUSE_S = 0.5


def children_by_parent() -> dict[int, list[int]]:
    """Process ids of all living processes by parent."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # the command's name is in parentheses and may hold anything
            state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            found.setdefault(int(parent), []).append(int(entry.name))
    return found


def handles(pid: int, signum: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    except (OSError, ValueError):
        pass
    return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def compute_processes(root: int, signum: int) -> list[int]:
    """The topmost processes below ``root`` (itself included) that handle the signal and are no launchers."""
    tree, found, waiting = children_by_parent(), [], [root]
    while waiting:
        pid = waiting.pop()
        if handles(pid, signum) and _name(pid) not in LAUNCHERS:
            found.append(pid)
        else:
            waiting.extend(tree.get(pid, []))
    return found


def spread(root: int) -> None:
    """Tell every compute process below ``root`` once, for as long as this process lives."""
    told: set[int] = set()
    while True:
        for pid in compute_processes(root, WARNING):
            if pid not in told:
                told.add(pid)
                print(f"warning of the time limit passed on to process {pid} ({_name(pid)})", flush=True)
                try:
                    os.kill(pid, WARNING)
                except ProcessLookupError:
                    continue
        time.sleep(PAUSE_S)


def main(command: list[str]) -> int:
    """Run the command; its exit code, 128 + n if signal n ended it."""
    warned, started = threading.Event(), threading.Event()

    def warn() -> None:
        warned.wait()
        started.wait()
        spread(child.pid)

    # the thread is there before the signal can come, since a handler should do next to nothing
    threading.Thread(target=warn, daemon=True).start()
    signal.signal(WARNING, lambda *_: warned.set())
    signal.signal(signal.SIGTERM, lambda *_: None)  # SLURM tells every process itself; wait for their last words
    child = subprocess.Popen(command)
    started.set()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
