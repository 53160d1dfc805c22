"""The life of every job: an append-only JSON-lines file beside the stores, never deleted by Snakemake.

Events of one attempt share its ``attempt`` id: ``start``, any number of ``progress``, one ``end``. A missing ``end``
means that the process was killed. ``slurm`` events belong to no attempt: what SLURM's executor says of a job,
``failed``, ``lost``, ``stuck``, ``refused``, or ``waits`` once that no longer holds. Every line is one ``write`` to a
file opened for appending, under a lock: on a network file system two machines that append at once would else overwrite
each other.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ATTEMPTS_FILE = "attempts.jsonl"
LOCK_PATIENCE = 10.0  # seconds
# Seconds between two lines of progress: at first, at most, and as a share of the time since the start, so that jobs of
# days do not fill the file.
PROGRESS_FIRST, PROGRESS_MOST, PROGRESS_SHARE = 2.0, 60.0, 0.01


def job_name(log: Path) -> str:
    """The name of the job that has this log file: its path below ``logs`` without the suffix."""
    parts = log.with_suffix("").parts
    return "/".join(parts[parts.index("logs") + 1 :]) if "logs" in parts else log.stem


def process_start(pid: int) -> float | None:
    """Start of a live process in kernel ticks since boot, which no clock change moves; None if gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in "ZX" else float(fields[19])


def is_running(host: str, pid: int, started: float) -> bool | None:
    """Whether that very process lives; None where this cannot be told (another host)."""
    if host != socket.gethostname():
        return None
    return process_start(pid) == started


def append_event(path: Path, event: dict[str, Any]) -> None:
    """Append one event with its time (seconds since the epoch)."""
    # The leading newline keeps a line that a full disk cut short from spoiling this one.
    line = "\n" + json.dumps({"time": round(time.time(), 3), **event}, sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        _lock(handle)
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Wait for the file to be ours until it is closed; go without where there are no locks or patience ends."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # POSIX locks: those that network file systems know
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                return  # a writer that hangs must not hold up the work
            time.sleep(0.005)
        except OSError:
            return


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """All events in order; a line cut off by a kill or a full disk is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


@dataclass(frozen=True)
class SlurmWord:
    """What SLURM's executor said of a job.

    Attributes:
        job: as in ``Attempt``; ``step`` is its rule.
        kind: ``failed``, ``lost``, ``stuck``, ``refused`` or ``waits``.
        words: the reason; ``text`` names the SLURM job, too.
        time: in seconds since the epoch.
        slurm_job: id, None if SLURM gave none; ``log`` is that job's output.
    """

    job: str
    step: str
    kind: str
    words: str
    time: float
    slurm_job: str | None = None
    log: str | None = None

    @property
    def text(self) -> str:
        """The words with their subject."""
        return f"SLURM job {self.slurm_job} {self.words}" if self.slurm_job else self.words

    def log_in(self, workdir: Path) -> Path | None:
        """SLURM's log of the job, if it got as far as to write one."""
        return workdir / self.log if self.log and (workdir / self.log).exists() else None


@dataclass
class Attempt:
    """One attempt of one job as its events tell it.

    Attributes:
        job: rule and wildcards, e.g. ``relax_candidates/round_1/batch_2``.
        outcome: ``done``, ``failed``, ``continued`` or None while no end was recorded.
        advanced: whether a continued step says that it got further; None if it left that to its progress.
        seconds: CPU seconds of the process and its children; ``gpu_seconds`` likewise.
        max_rss_mb: peak resident memory of the largest process in MB.
        slurm: how SLURM says that it ended, if it recorded no end itself.
    """

    attempt: str
    job: str
    step: str
    host: str
    pid: int
    pid_started: float
    started: float
    slurm_job: str | None = None
    log: str | None = None
    ended: float | None = None
    outcome: str | None = None
    advanced: bool | None = None
    reason: str = ""
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    max_rss_mb: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    slurm: SlurmWord | None = None

    @property
    def told(self) -> str:
        """Why it ended, by itself or else by SLURM; empty if neither says."""
        return self.reason or (self.slurm.text if self.slurm else "")

    @property
    def ended_by_slurm(self) -> bool:
        """Whether SLURM says that it ended, and no process here says otherwise."""
        return self.slurm is not None and self.state in ("killed", "unknown")

    @property
    def state(self) -> str:
        """``done``, ``failed``, ``continued``, ``running``, ``killed``, or ``unknown`` for an open one elsewhere."""
        if self.outcome is not None:
            return self.outcome
        alive = is_running(self.host, self.pid, self.pid_started)
        return {True: "running", False: "killed", None: "unknown"}[alive]


def read_attempts(path: Path) -> list[Attempt]:
    """All attempts, oldest first."""
    return read_history(path)[0]


def read_history(path: Path) -> tuple[list[Attempt], dict[str, SlurmWord]]:
    """All attempts, oldest first, and job → what SLURM said of it last, if it holds and no attempt tells it."""
    found: dict[str, Attempt] = {}
    latest: dict[str, Attempt] = {}
    words: dict[str, SlurmWord] = {}
    for event in read_events(path):
        key = str(event.get("attempt", ""))
        if event["event"] == "start":
            found[key] = Attempt(
                attempt=key,
                job=event["job"],
                step=event["step"],
                host=event["host"],
                pid=event["pid"],
                pid_started=event["pid_started"],
                started=event["time"],
                slurm_job=event.get("slurm_job"),
                log=event.get("log"),
            )
            latest[event["job"]] = found[key]
            words.pop(event["job"], None)
        elif event["event"] == "slurm":
            _take_word(event, latest, words)
        elif key in found and event["event"] == "progress":
            found[key].progress = {k: event[k] for k in ("done", "total", "unit", "message") if k in event}
        elif key in found and event["event"] == "end":
            attempt = found[key]
            attempt.ended, attempt.slurm = event["time"], None
            attempt.outcome = event["outcome"]
            attempt.advanced = event.get("advanced")
            attempt.reason = event.get("reason", "")
            attempt.cpu_seconds = event.get("cpu_seconds", 0.0)
            attempt.gpu_seconds = event.get("gpu_seconds", 0.0)
            attempt.max_rss_mb = event.get("max_rss_mb", 0.0)
    return list(found.values()), words


def _take_word(event: dict[str, Any], latest: dict[str, Attempt], words: dict[str, SlurmWord]) -> None:
    """Give what SLURM said to the attempt that it is about, else keep it until it no longer holds."""
    fields: dict[str, Any] = {key: event.get(key) for key in SlurmWord.__dataclass_fields__}
    word = SlurmWord(**fields)
    words.pop(word.job, None)
    attempt = latest.get(word.job)
    if word.kind == "waits":
        return
    if word.kind in ("failed", "lost") and attempt is not None and attempt.slurm_job == word.slurm_job is not None:
        if attempt.outcome is None:
            attempt.slurm = word
        if attempt.outcome in (None, "failed"):
            return
    words[word.job] = word


class Recorder:
    """Writes the events of one attempt of this process."""

    def __init__(self, path: Path, *, job: str, step: str, log: str | None = None) -> None:
        self.path = path
        self.attempt = uuid.uuid4().hex[:12]
        self._last_progress, self._began = -math.inf, time.monotonic()
        append_event(
            path,
            {
                "event": "start",
                "attempt": self.attempt,
                "job": job,
                "step": step,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "pid_started": process_start(os.getpid()) or 0.0,
                "slurm_job": os.environ.get("SLURM_JOB_ID"),
                "log": log,
            },
        )

    def progress(
        self, done: float, total: float | None, unit: str = "", message: str = "", *, force: bool = False
    ) -> None:
        """Record how far the work is, now and then (``PROGRESS_FIRST`` and following) unless forced."""
        now = time.monotonic()
        pause = min(PROGRESS_MOST, max(PROGRESS_FIRST, PROGRESS_SHARE * (now - self._began)))
        if not force and now - self._last_progress < pause:
            return
        self._last_progress = now
        event = {"event": "progress", "attempt": self.attempt, "done": done, "total": total, "unit": unit}
        append_event(self.path, event | ({"message": message} if message else {}))

    def end(
        self,
        outcome: str,
        reason: str,
        *,
        cpu_seconds: float,
        gpu_seconds: float,
        max_rss_mb: float,
        advanced: bool | None = None,
    ) -> None:
        """Record how the attempt ended and what it cost; of one to be continued also whether it got further."""
        append_event(
            self.path,
            {
                "event": "end",
                "attempt": self.attempt,
                "outcome": outcome,
                "reason": reason,
                "cpu_seconds": round(cpu_seconds, 2),
                "gpu_seconds": round(gpu_seconds, 2),
                "max_rss_mb": round(max_rss_mb, 1),
                **({} if advanced is None else {"advanced": advanced}),
            },
        )
