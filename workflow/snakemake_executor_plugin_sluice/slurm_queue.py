"""What SLURM says about jobs, and what that means."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from .identity import JobIdentity

# job, state, reason, submitted, ended, nodes, name, comment (the comment last: it may hold anything)
SQUEUE_FORMAT = "%i|%T|%r|%V|%e|%N|%j|%k"


class Fate(Enum):
    """What a job's state means to the driver."""

    WAITS = "waits"  # queued or running
    DONE = "done"
    FAILED = "failed"  # by its own fault or its limits
    LOST = "lost"  # by SLURM's or a node's fault
    STUCK = "stuck"  # will not start unless somebody acts


_DONE = {"COMPLETED"}
_FAILED = {"FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "DEADLINE"}
_LOST = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"}
_STUCK_STATES = {"SPECIAL_EXIT", "REQUEUE_HOLD", "RESV_DEL_HOLD"}

# SLURM's word for why a job is pending -> what a user should know; matched at the start, upper and lower case alike.
STUCK_REASONS = {
    "jobheldadmin": "an administrator holds it (ask them, or `scontrol release` if you may)",
    "jobhelduser": "it is held (`scontrol release` lets it go)",
    "job held": "it is held (`scontrol release` lets it go)",
    "launch failed requeued held": "its launch failed on the node and SLURM holds it since",
    "launch_failed_requeued_held": "its launch failed on the node and SLURM holds it since",
    "job requeued in held state": "SLURM put it back into the queue and holds it since",
    "dependencyneversatisfied": "it depends on a job that failed",
    "badconstraints": "no node has what it asks for",
    "partitiontimelimit": "its run time is above the partition's limit (lower `runtime` or take another partition)",
    "partitionnodelimit": "it asks for more nodes than the partition gives",
    "invalidaccount": "the account is not valid (set slurm_account)",
    "invalidqos": "the quality of service is not valid (set sluice-qos)",
    "accountnotallowed": "the partition does not take this account",
    "qosnotallowed": "the partition or account does not take this quality of service",
    "assocmaxcpuminutesperjob": "it asks for more core minutes than your account may use in a job",
    "assocmaxgresperjob": "it asks for more GPUs than your account may use in a job",
    "qosmaxcpuminutesperjob": "it asks for more core minutes than the quality of service gives a job",
    "qosmaxgresperjob": "it asks for more GPUs than the quality of service gives a job",
    "assocmaxwalldurationperjoblimit": "its run time is above your account's limit",
    "assocmaxcpuperjoblimit": "it asks for more cores than your account may use in a job",
    "assocmaxmemperjob": "it asks for more memory than your account may use in a job",
    "assocmaxnodeperjoblimit": "it asks for more nodes than your account may use in a job",
    "qosmaxwalldurationperjoblimit": "its run time is above the limit of the quality of service",
    "qosmaxcpuperjoblimit": "it asks for more cores than the quality of service gives a job",
    "qosmaxmemoryperjob": "it asks for more memory than the quality of service gives a job",
    "qosmaxnodeperjoblimit": "it asks for more nodes than the quality of service gives a job",
    "maxmemperlimit": "it asks for more memory than the partition gives",
}
# These wait for somebody to repair something: worth saying, but no error.
REPAIR_REASONS = {
    "nodes required for job are down": "all nodes it could run on are down, drained or reserved",
    "reqnodenotavail": "nodes that it needs are down or reserved",
    "partitiondown": "its partition is down",
    "partitioninactive": "its partition is inactive",
    "reservationdeleted": "its reservation is gone",
    **{
        f"{whose}grp{what}minutes": f"the hours of your {owner} are used up"
        for whose, owner in (("assoc", "account"), ("qos", "quality of service"))
        for what in ("cpu", "mem", "gres", "billing", "energy")
    },
}


@dataclass(frozen=True)
class QueuedJob:
    """One row of squeue.

    Attributes:
        submitted: seconds since the epoch; None if SLURM does not know.
        ended: likewise; for a running job the expected end.
    """

    job_id: str
    state: str
    reason: str
    submitted: float | None
    ended: float | None
    nodes: str
    name: str
    identity: JobIdentity | None

    @property
    def fate(self) -> Fate:
        """What the state means."""
        return fate_of(self.state, self.reason)

    @property
    def lives(self) -> bool:
        """Whether it may still do work."""
        return self.fate in (Fate.WAITS, Fate.STUCK)


def _in_words(reason: str, table: dict[str, str]) -> str | None:
    lowered = reason.strip().lower()
    return next((words for start, words in table.items() if lowered.startswith(start)), None)


def stuck_reason(reason: str) -> str | None:
    """Why a pending job will not start by itself, in words; None if it may."""
    return _in_words(reason, STUCK_REASONS)


def repair_reason(reason: str) -> str | None:
    """What a pending job waits for that somebody has to repair, in words."""
    return _in_words(reason, REPAIR_REASONS)


def fate_of(state: str, reason: str = "") -> Fate:
    """What a state of SLURM's (and, for a pending job, its reason) means."""
    word = state.split(" ", maxsplit=1)[0].rstrip("+")  # "CANCELLED by 1000", "CANCELLED+"
    for states, fate in ((_DONE, Fate.DONE), (_FAILED, Fate.FAILED), (_LOST, Fate.LOST), (_STUCK_STATES, Fate.STUCK)):
        if word in states:
            return fate
    return Fate.STUCK if word == "PENDING" and stuck_reason(reason) is not None else Fate.WAITS


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def squeue_command() -> list[str]:
    """List this user's jobs in every state; jobs of one campaign are told by their name."""
    return ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--format={SQUEUE_FORMAT}"]


def squeue_environment() -> dict[str, str]:
    """The environment without what a user has set for squeue: a filter there would make living jobs look vanished."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SQUEUE_") and name != "SLURM_TIME_FORMAT"
    }


def parse_squeue(text: str, campaign: str) -> dict[str, QueuedJob]:
    """Jobs of one campaign by id; rows of others and lines that are no rows are passed over."""
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 7)
        if len(fields) < 8 or fields[6] != campaign:
            continue
        job_id, state, reason, submitted, ended, nodes, name, comment = fields
        identity = JobIdentity.from_comment(comment)
        found[job_id] = QueuedJob(job_id, state, reason, _seconds(submitted), _seconds(ended), nodes, name, identity)
    return found


def read_queue(campaign: str, *, timeout: float = 60.0) -> dict[str, QueuedJob] | None:
    """Jobs of a campaign that SLURM knows of; None if it does not answer."""
    try:
        answer = subprocess.run(
            squeue_command(), env=squeue_environment(), capture_output=True, text=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_squeue(answer.stdout, campaign) if answer.returncode == 0 else None


def ask_accounting(job_id: str) -> tuple[str, str] | None:
    """State and exit code of a job that has left the queue; None without accounting."""
    if shutil.which("sacct") is None:
        return None
    command = ["sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,ExitCode"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split("|") for line in answer.stdout.splitlines() if "|" in line]
    return (rows[-1][0], rows[-1][1]) if answer.returncode == 0 and rows else None


def cancel(campaign: str, job_ids: list[str], *, timeout: float = 30.0) -> str:
    """Cancel jobs if they are the campaign's; what SLURM complained about, empty if nothing."""
    complaints = []
    for first in range(0, len(job_ids), 500):  # command lines are limited
        try:
            answer = subprocess.run(
                ["scancel", f"--name={campaign}", *job_ids[first : first + 500]],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            complaints.append(answer.stderr.strip())
        except (OSError, subprocess.TimeoutExpired) as error:
            complaints.append(str(error))
    return "; ".join(c for c in complaints if c)
