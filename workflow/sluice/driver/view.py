"""What a run shows while it runs: bars on a terminal, one line a job elsewhere."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sluice.attempts import ATTEMPTS_FILE, Attempt, read_attempts, read_history
from sluice.config import Config
from sluice.driver.rules import Rule
from sluice.driver.status import RuleState, progress_text, read_states

VIEW_SHARE = 0.05  # of the driver's time, for looking at how far it is
CLOCKS_APART = 60.0  # seconds that the clocks of a cluster's nodes may be apart
_STATS_ROW = re.compile(rb"^(\w+)\s+(\d+)\s*$")


def jobs_to_run(log: Path, start: int) -> dict[str, int]:
    """Snakemake's table of job counts as printed to its log from byte ``start`` on; empty until it is there."""
    with log.open("rb") as handle:
        handle.seek(start)
        lines = handle.read().splitlines()
    counts: dict[str, int] = {}
    inside = False
    for line in lines:
        if line.startswith(b"Job stats:"):
            inside = True
        elif inside and (match := _STATS_ROW.match(line)):
            counts[match.group(1).decode()] = int(match.group(2))
            if match.group(1) == b"total":
                break
    return counts


def paced(update: Callable[[], None], *, share: float = VIEW_SHARE) -> Callable[[], None]:
    """The update, skipped where it would take more than a share of the time (10 000 attempts: 0.7 s)."""
    next_time = -math.inf

    def maybe() -> None:
        nonlocal next_time
        began = time.monotonic()
        if began >= next_time:
            update()
            now = time.monotonic()
            next_time = now + (now - began) / share

    return maybe


class PlainView:
    """One line for every job that starts or ends."""

    def __init__(self, attempts: Path, console: Console) -> None:
        self._path, self._console = attempts, console
        self._began = time.monotonic()
        self._seen: dict[str, str] = {a.attempt: a.state for a in read_attempts(self._path)}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.update()

    def update(self) -> None:
        """Print what has happened since the last time."""
        for attempt in read_attempts(self._path):
            state = attempt.state
            if self._seen.get(attempt.attempt) != state:
                self._seen[attempt.attempt] = state
                self._print(attempt, state)

    def _print(self, attempt: Attempt, state: str) -> None:
        seconds = time.monotonic() - self._began
        clock = f"[{int(seconds) // 3600:d}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}]"
        text = f"{clock} {attempt.job}: {'started' if state == 'running' else state}"
        if attempt.ended is not None:
            text += f" in {attempt.ended - attempt.started:.0f} s"
        if attempt.reason:
            text += f": {attempt.reason}"
        self._console.print(text, style="red" if state in ("failed", "killed") else None, markup=False, highlight=False)


class LiveView:
    """A bar for every rule that has something to do."""

    def __init__(
        self, config: Config, rules: dict[str, Rule], console: Console, to_run: Callable[[], dict[str, int]]
    ) -> None:
        self._config, self._rules, self._to_run = config, rules, to_run
        self._progress = Progress(
            TextColumn("{task.fields[stage]:9}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        self._bars = {
            name: self._progress.add_task(name, stage=rule.stage, note="", visible=False, total=None)
            for name, rule in rules.items()
        }
        self._live = Live(self._progress, console=console, refresh_per_second=4)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.update()
        self._live.__exit__(kind, error, trace)

    def update(self) -> None:
        """Redraw."""
        to_run = self._to_run()
        for name, state in read_states(self._config, self._rules).items():
            self._progress.update(
                self._bars[name],
                total=state.total,
                completed=min(state.done, state.total),
                note=_note(state),
                visible=name in to_run or bool(state.latest),
            )


def _note(state: RuleState) -> str:
    running = [a for a in state.latest.values() if a.state == "running"]
    notes = [f"{state.failed} failed"] if state.failed and not running else []
    notes += [state.stuck] if state.stuck else []
    notes += [progress_text(a.progress) for a in running if a.progress][:1]
    if not notes and running:
        notes = [f"{max(time.time() - a.started for a in running):.0f} s"]
    return ", ".join(notes)


def failures_since(workdir: Path, began: float) -> dict[str, tuple[str, Path | None]]:
    """Jobs that failed since ``began`` (seconds since the epoch), or that SLURM did not run: reason and log."""
    latest: dict[str, Attempt] = {}
    began = round(began, 3)  # as events are: one that follows at once must not lie before it
    latest_start = time.time() + CLOCKS_APART  # what lies ahead of it is from before the clock was set back
    attempts, words = read_history(workdir / ATTEMPTS_FILE)
    for attempt in attempts:
        # one taken over from an earlier driver began before, but ended in this run
        moment = attempt.ended or (attempt.slurm.time if attempt.slurm else attempt.started)
        if began <= moment and attempt.started <= latest_start:
            latest[attempt.job] = attempt
    failed: dict[str, tuple[str, Path | None]] = {}
    for job, attempt in latest.items():
        if attempt.state in ("failed", "killed") or attempt.ended_by_slurm:
            log = attempt.slurm.log_in(workdir) if attempt.slurm else None
            log = log or (workdir / attempt.log if attempt.log else None)
            failed[job] = attempt.told or "killed (out of memory?)", log
    return failed | {w.job: (w.text, w.log_in(workdir)) for w in words.values() if began <= w.time <= latest_start}


def explain(workdir: Path, log: Path, start: int, began: float, console: Console) -> None:
    """Say which jobs failed since ``began`` and why; if none did, what Snakemake said last, from byte ``start`` on."""
    failed = failures_since(workdir, began)
    for job, (reason, own_log) in failed.items():
        console.print(f"{job}: {reason}\n  log: {own_log or log}", style="red", markup=False, highlight=False)
    if not failed:
        with log.open("rb") as handle:
            handle.seek(start)
            tail = handle.read().decode(errors="replace").strip().splitlines()[-15:]
        console.print("\n".join(tail), markup=False, highlight=False)
    console.print(f"Snakemake's log: {log}", highlight=False, soft_wrap=True)
