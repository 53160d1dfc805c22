"""Processes of a campaign on this host: found by what they inherited, ended without a trace."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from sluice.attempts import ATTEMPTS_FILE, process_start, read_attempts
from sluice.errors import LeaseError
from sluice.step import DRIVER_VARIABLE

_DRY = {"-n", "--dry-run", "--dryrun"}


@cache
def driver_token() -> str:
    """``host:pid:start`` of this process, for the environment of what it starts."""
    return f"{socket.gethostname()}:{os.getpid()}:{process_start(os.getpid())}"


def started_by(driver: str) -> list[psutil.Process]:
    """Living processes whose environment names that driver: steps, shells, mpirun and pw.x, even if orphaned."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(DRIVER_VARIABLE) == driver:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_processes(processes: Iterable[psutil.Process], *, patience: float = 0.0) -> int:
    """Ask processes to end (if there is patience), then kill them; returns how many there were."""
    left = list(processes)
    count = len(left)
    if patience > 0:
        for process in left:
            _signal(process, "terminate")
        _, left = psutil.wait_procs(left, timeout=patience)
    for process in left:
        _signal(process, "kill")
    psutil.wait_procs(left, timeout=10)
    return count


def _signal(process: psutil.Process, kind: str) -> None:
    with suppress(psutil.Error):
        getattr(process, kind)()


def foreign_snakemakes(workdir: Path, dead_driver: str | None = None) -> list[psutil.Process]:
    """Living Snakemakes that work in this campaign's directory without a driver; dry runs do not count.

    Neither does one that ``dead_driver`` has started: it ends as soon as it sees that its driver is gone.
    """
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            works = any(Path(w).name == "snakemake" for w in words[:4]) and not _DRY & set(words)
            works = works and "--mode remote" not in " ".join(words)  # runs one job in SLURM, on this host by chance
            if works and Path(process.cwd()) == workdir.resolve():
                orphaned = dead_driver is not None and process.environ().get(DRIVER_VARIABLE) == dead_driver
                found += [] if orphaned else [process]
        except (psutil.Error, OSError):
            continue
    return found


def refuse_foreign_snakemakes(workdir: Path, dead_driver: str | None = None) -> None:
    """Leave a campaign alone that plain Snakemake works on.

    Raises:
        LeaseError: naming the process.
    """
    if busy := foreign_snakemakes(workdir, dead_driver):
        raise LeaseError(
            f"{workdir}: Snakemake (process {busy[0].pid} on {socket.gethostname()}) works on this campaign. "
            "Wait for it or stop it, then try again."
        )


def end_orphaned_steps(workdir: Path, dead_driver: str | None) -> int:
    """Kill what a dead driver, or a dead plain Snakemake, left running on this host."""
    orphans = started_by(dead_driver) if dead_driver else []
    known = {p.pid for p in orphans}
    for attempt in read_attempts(workdir / ATTEMPTS_FILE):
        if attempt.state == "running" and attempt.slurm_job is None and attempt.pid not in known:
            try:
                step = psutil.Process(attempt.pid)
                orphans += [*step.children(recursive=True), step]
            except psutil.Error:
                continue
    return end_processes(orphans)


def slurm_job_lives(job: str) -> bool | None:
    """Whether SLURM still has a job queued or running; None where it cannot be asked."""
    if shutil.which("squeue") is None:
        return None
    try:
        asked = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        return False if "Invalid job id" in asked.stderr else None
    return bool(asked.stdout.strip())
