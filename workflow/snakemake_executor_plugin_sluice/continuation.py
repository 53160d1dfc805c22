"""Whether a job that ended without its outputs saved its state and should simply be started again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sluice.attempts import Attempt, read_attempts


@dataclass(frozen=True)
class Continuation:
    """What the attempts file says about a SLURM job that has ended.

    Attributes:
        wanted: the step asked to be continued.
        granted: it may: it made progress, and has not been continued too often.
        words: why not, or how far it is; for a failed step its reason.
        finished: the step's last words were that everything is written.
    """

    wanted: bool
    granted: bool
    words: str
    finished: bool = False


def _done(attempt: Attempt) -> float | None:
    done = attempt.progress.get("done")
    return float(done) if isinstance(done, (int, float)) else None


def _progress_words(attempt: Attempt) -> str:
    done, total, unit = (attempt.progress.get(key) for key in ("done", "total", "unit"))
    if done is None:
        return "progress unknown"
    return f"{done:g}{f' of {total:g}' if total else ''} {unit or ''}".strip()


def judge(
    attempts: Path, slurm_job: str, since: float, max_continuations: int, logs: Collection[str] = ()
) -> Continuation | None:
    """Read how the step that ran in a SLURM job ended; None if no step left word.

    Args:
        attempts: the campaign's attempts file.
        slurm_job: id of the SLURM job.
        since: when it was submitted, in seconds since the epoch; a SLURM that lost its state gives ids out again.
        max_continuations: cap on continuing in a row.
        logs: log files of the job; a step with another log belongs to another job that got the same id.

    Continuing counts from the last attempt that was anything but a continuation; attempts that were killed without a
    word neither count nor interrupt the count. From one continuation to the next a step must advance: by its own word
    where it gives one, else by its progress.
    """
    everything = read_attempts(attempts)
    mine = [
        a
        for a in everything
        if a.slurm_job == slurm_job and a.started >= since - 1 and (not logs or a.log is None or a.log in logs)
    ]
    if not mine or mine[-1].outcome is None:
        return None
    last = mine[-1]
    if last.outcome != "continued":
        return Continuation(False, False, last.reason, finished=last.outcome == "done")
    earlier: list[Attempt] = []
    for attempt in reversed([a for a in everything if a.job == last.job and a is not last]):
        if attempt.outcome == "continued":
            earlier.append(attempt)
        elif attempt.outcome is not None:
            break
    if len(earlier) >= max_continuations:
        return Continuation(True, False, f"it was continued {len(earlier)} times already, which is the limit")
    before = _done(earlier[0]) if earlier else None
    now = _done(last)
    stands = now is None or (before is not None and now <= before) if last.advanced is None else not last.advanced
    if earlier and stands:
        return Continuation(True, False, f"it made no progress since it was last continued ({_progress_words(last)})")
    return Continuation(
        True, True, f"continuation {len(earlier) + 1} of at most {max_continuations}, {_progress_words(last)}"
    )
