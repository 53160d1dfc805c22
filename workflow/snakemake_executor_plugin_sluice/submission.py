"""Hand a script to sbatch, as often as it takes, and tell a deaf controller from a refusal."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from snakemake_executor_plugin_slurm.validation import validate_or_get_slurm_job_id

# What sbatch says when the controller is away, busy, or full: worth waiting for.
TEMPORARY = (
    "unable to contact slurm controller",
    "connection refused",
    "connection failure",
    "connection timed out",
    "connection reset",
    "broken pipe",
    "no route to host",
    "network is unreachable",
    "socket timed out",
    "transport endpoint is not connected",
    "zero bytes were transmitted",
    "resource temporarily unavailable",
    "temporarily unable to accept job",
    "slurm controller not responding",
    "message connection failed",
    "unable to establish controller machine",
    "slurmctld is in standby",
    "maxsubmitjob",  # QOSMaxSubmitJobPerUserLimit, AssocMaxSubmitJobLimit
)
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0
PATIENCE_S = 120.0  # with one call of sbatch
LAST_PATIENCE_S = 5.0  # once the run is being cancelled


class RefusedError(Exception):
    """SLURM will not take the job as it is; the message is SLURM's."""


class AbortedError(Exception):
    """The run was cancelled before the job could be submitted."""


def is_temporary(message: str) -> bool:
    """Whether the same submission may succeed later."""
    lowered = message.lower()
    return any(words in lowered for words in TEMPORARY)


def _ask(command: Sequence[str], script: str, aborted: threading.Event) -> tuple[int, str, str]:
    """Exit code, output and errors of one call; TimeoutExpired if it takes too long."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        deadline, unsent = time.monotonic() + PATIENCE_S, script or None
        while True:
            try:
                output, errors = process.communicate(unsent, timeout=0.2)
                return process.returncode, output, errors
            except subprocess.TimeoutExpired:
                unsent = None  # communicate goes on with the rest by itself
                if aborted.is_set():
                    deadline = min(deadline, time.monotonic() + LAST_PATIENCE_S)
                if time.monotonic() > deadline:
                    process.kill()
                    raise


def submit(
    command: Sequence[str],
    script: str,
    *,
    aborted: threading.Event,
    already_there: Callable[[], str | None],
    tell: Callable[[str], None],
) -> str:
    """Submit and return the job's id; waits while the controller is away.

    Args:
        command: sbatch and its options; the script goes to its standard input.
        script: the batch script.
        aborted: ends the waiting.
        already_there: looks for the job in the queue, since a submission that timed out may have been taken.
        tell: called with a message when waiting begins and ends.

    Raises:
        RefusedError: if SLURM refuses the job.
        AbortedError: if ``aborted`` was set.
    """
    wait, waited = FIRST_WAIT_S, False
    while not aborted.is_set():
        message = ""
        try:
            code, output, errors = _ask(command, script, aborted)
            if code == 0:
                if waited:
                    tell("SLURM takes jobs again")
                return validate_or_get_slurm_job_id(output.strip().split(";")[0], output)
            message = errors.strip() or output.strip() or f"exit code {code}"
            if not is_temporary(message):
                raise RefusedError(message)
        except subprocess.TimeoutExpired:
            message = f"sbatch did not answer within {PATIENCE_S:.0f} s"
        if not waited:
            tell(f"SLURM takes no jobs at the moment, will try again: {message}")
        waited = True
        aborted.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)
        if not aborted.is_set() and (job_id := already_there()) is not None:
            return job_id
    raise AbortedError
