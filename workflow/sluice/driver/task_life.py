"""The life of one first-principles task as the task library tells it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice.errors import SluiceError, StoreError
from sluice.store import Store
from sluice.task_claims import holder_of
from sluice.task_library import ARCHIVE_FILE, RESULT_FILE, TaskLibrary

HISTORY_FILE = "attempts.jsonl"


@dataclass(frozen=True)
class TaskLife:
    """What is known about a task.

    Attributes:
        task: its id.
        summary: where it stands, in words.
        events: starts, ends, corrections of its calculations, a line each.
        files: what lies where.
    """

    task: str
    summary: str
    events: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)


def find_tasks(workdir: Path, stores: Iterable[str]) -> dict[str, list[str]]:
    """Task id → candidate ids of all planned tasks of a campaign."""
    found: dict[str, list[str]] = {}
    for name in stores:
        if Path(name).name != "tasks.h5":
            continue
        try:
            with Store(workdir / name, "tasks", verify=False) as store:
                for task, candidate in zip(store.text("task_id"), store.ids(), strict=True):
                    if candidate not in found.setdefault(task, []):
                        found[task].append(candidate)
        except StoreError:
            continue
    return found


def task_life(library: Path, task: str) -> TaskLife:
    """Read result, history and claim of a task."""
    shelf = TaskLibrary(library)
    directory = shelf.directory(task)
    try:
        record = shelf.result(task)
    except SluiceError as error:
        return TaskLife(task, str(error))
    if record is not None:
        files = {"result": directory / RESULT_FILE, "inputs and outputs": directory / ARCHIVE_FILE}
        files = {what: path for what, path in files.items() if path.exists()}
        return TaskLife(task, _result_words(record), _history_lines(record.get("history", {})), files)
    work = shelf.work_directory(task)
    history = {path.parent.name: _read_lines(path) for path in sorted(work.glob(f"*/{HISTORY_FILE}"))}
    holder = holder_of(directory)
    if holder is not None:
        state = {True: "is being computed by", False: "was left behind by", None: "is claimed by"}[holder.is_alive()]
        summary = f"{state} {holder}"
    else:
        summary = "interrupted; goes on from where it was" if work.exists() else "not started yet"
    return TaskLife(task, summary, _history_lines(history), {"working files": work} if work.exists() else {})


def _result_words(record: Mapping[str, Any]) -> str:
    if record["converged"]:
        text = f"converged, {record['energy_ev_per_atom']:.6f} eV/atom, space group {record['space_group']}"
    else:
        text = f"failed: {record['reason']}" + (f" ({record['detail']})" if record.get("detail") else "")
    counts = f"{record['attempts']} attempts, {record['continuations']} continuations"
    costs = f"{record['cpu_seconds']:.0f} CPU-s, {record['wall_seconds']:.0f} s"
    return f"{text}; {counts}; {costs}; {record.get('setup', '')}".rstrip("; ")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut off by a kill
    return events


def _history_lines(history: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """One line an event: when, which calculation, what."""
    lines = []
    for job, events in history.items():
        for event in events:
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("time", 0)))
            lines.append(f"{moment} {job}: {_event_words(event)}")
    return lines


def _event_words(event: Mapping[str, Any]) -> str:
    kind = event.get("event", "")
    if kind == "start":
        return f"start {event.get('number', '')} of the program".replace("  ", " ")
    if kind == "end":
        if event.get("interrupted"):
            return f"interrupted after {event.get('wall_seconds', 0):.0f} s"
        return f"ended with exit code {event.get('exit_code')} after {event.get('wall_seconds', 0):.0f} s"
    if kind == "correction":
        changes = json.dumps(event.get("changes", {}), sort_keys=True)
        return f"{event.get('kind', 'correction')}: {event.get('problem')}; {event.get('handler')} changed {changes}"
    if kind == "gave_up":
        spent = ", all attempts are used up" if event.get("spent") else ""
        return f"gave up: {event.get('problem')}; {event.get('handler')} knows nothing more{spent}"
    return ", ".join(f"{key} {value}" for key, value in event.items() if key != "time")
