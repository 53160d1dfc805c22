"""The life of one candidate or task, put together from stores, attempts and the task library: ``sluice why``."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from sluice.attempts import ATTEMPTS_FILE, Attempt, SlurmWord, read_history
from sluice.config import Config
from sluice.driver.rules import Job, Rule, job_of
from sluice.driver.task_life import TaskLife, find_tasks, task_life
from sluice.errors import SluiceError, StoreError
from sluice.store import Store

ROWS = 1 << 20  # ids looked at in one go
NEAREST = 5
MOST_NAMES = 50_000  # among which the nearest to an unknown one is looked for
STYLES = {"went on": "green", "rejected": "yellow", "failed": "red"}


@dataclass(frozen=True)
class Appearance:
    """A row of a store that is about the candidate.

    Attributes:
        job: what wrote the store; None if no rule is known to.
        path: the store, relative to the campaign.
        candidate_id: of the row.
        parent_id: of the row, "" if none.
        outcome: ``went on``, ``rejected`` or ``failed``.
        values: column → value with its unit, of a row that went on.
        reason: why it did not, with particulars.
    """

    job: Job | None
    path: str
    candidate_id: str
    parent_id: str = ""
    outcome: str = "went on"
    values: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def _order(rules: dict[str, Rule], name: str) -> tuple[int, int, str]:
    """Round, place in the pipeline, path."""
    first = name.split("/", 1)[0]
    number = int(first.removeprefix("round_")) if first.startswith("round_") and first[6:].isdigit() else 0
    job = job_of(rules, name)
    return number, list(rules).index(job.rule) if job else len(rules), name


def campaign_stores(workdir: Path, rules: dict[str, Rule]) -> list[str]:
    """All stores below a campaign by their relative path, in pipeline order."""
    names = [str(p.relative_to(workdir)) for p in workdir.rglob("*.h5") if not p.name.startswith(".")]
    return sorted((name for name in names if not name.startswith(".")), key=lambda name: _order(rules, name))


def _open(workdir: Path, names: Iterable[str]) -> Iterator[tuple[str, Store]]:
    for name in names:
        try:
            with Store(workdir / name, verify=False) as store:
                yield name, store
        except StoreError:
            continue  # damaged or half made; `sluice status` and the next run see to it


def _rows_about(store: Store, wanted: set[str], *, children: bool) -> list[int]:
    """Rows whose candidate, or also whose parent, is one of those wanted."""
    names = np.array(sorted(name.encode() for name in wanted), dtype="S64")
    found: list[int] = []
    for start in range(0, len(store), ROWS):
        ids, parents = store.identities(start, start + ROWS)
        hit = np.isin(ids, names)
        if children:
            hit |= np.isin(parents, names)
        found += [start + int(i) for i in np.flatnonzero(hit)]
    return found


def _ancestors(workdir: Path, names: list[str], wanted: set[str]) -> set[str]:
    """The candidates that these were made from, and these themselves."""
    known = set(wanted)
    for _, store in _open(workdir, reversed(names)):
        for row in _rows_about(store, known, children=False):
            parent = store.identities(row, row + 1)[1][0].decode()
            if parent:
                known.add(parent)
    return known


def appearances(workdir: Path, rules: dict[str, Rule], candidate: str) -> list[Appearance]:
    """Every row about a candidate, what it was made from and what was made from it, in pipeline order."""
    names = campaign_stores(workdir, rules)
    known = _ancestors(workdir, names, {candidate})
    found: list[Appearance] = []
    for name, store in _open(workdir, names):
        job = job_of(rules, name)
        units = {column: spec.unit for column, spec in store.columns.items()}
        for row in _rows_about(store, known, children=True):
            chunk = store.rows(row, row + 1)
            own, parent = chunk.candidate_id[0].decode(), chunk.parent_id[0].decode()
            known.add(own)
            values = {key: shown(column[0], units[key]) for key, column in chunk.columns.items()}
            if chunk.crystals is not None:
                values = {"formula": chunk.crystals.reduced_formulas()[0], **values}
            found.append(Appearance(job, name, own, parent, values=values))
        for own, kind, reason, detail in store.failures_of(known):
            text = f"{reason}: {detail}" if detail else reason
            found.append(Appearance(job, name, own, outcome=kind, reason=text))
    return found


def shown(value: Any, unit: str) -> str:
    """A value as people write it, with its unit."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.bool_):
        return "yes" if value else "no"
    text = f"{value:.6g}" if isinstance(value, np.floating) else str(value)
    return f"{text} {unit}" if unit and text != "nan" else text


def nearest(workdir: Path, rules: dict[str, Rule], name: str, tasks: list[str]) -> list[str]:
    """Names that exist and are most like this one; large stores are passed over."""
    names = set(tasks)
    for _, store in _open(workdir, reversed(campaign_stores(workdir, rules))):
        if len(names) + len(store) <= MOST_NAMES:
            names |= set(store.ids())
    starts = sorted(n for n in names if n.startswith(name))
    return list(dict.fromkeys(starts[:NEAREST] + difflib.get_close_matches(name, sorted(names), NEAREST)))[:NEAREST]


def why(config: Config, rules: dict[str, Rule], name: str) -> RenderableType:
    """The life of a candidate, a task or a job by its name.

    Args:
        config: the campaign.
        rules: as ``read_rules`` gives them.
        name: id of a candidate, of a task of the library (or its beginning), or a job as ``sluice status`` names it.

    Raises:
        SluiceError: if nothing has that name; names the nearest.
    """
    workdir = config.workdir
    attempts: dict[str, list[Attempt]] = {}
    history, words = read_history(workdir / ATTEMPTS_FILE)
    for attempt in history:
        attempts.setdefault(attempt.job, []).append(attempt)
    if name in attempts or name in words:
        lines = [*_attempt_lines(workdir, attempts.get(name, [])), *_word_lines(workdir, words.get(name))]
        return Group(Text(f"job {name}", style="bold"), *lines)
    planned = find_tasks(workdir, campaign_stores(workdir, rules))
    tasks = [task for task in planned if task == name] or [
        task for task in planned if len(name) > 3 and task.startswith(name)
    ]
    candidates = sorted({candidate for task in tasks for candidate in planned[task]}) or [name]
    rows = [row for candidate in candidates for row in appearances(workdir, rules, candidate)]
    rows = list({(row.path, row.candidate_id, row.outcome): row for row in rows}.values())
    if not rows:
        likely = nearest(workdir, rules, name, list(planned))
        hint = f"; nearest: {', '.join(likely)}" if likely else "; `sluice status` shows how far the campaign is"
        raise SluiceError(f"{name}: no candidate, task or job of campaign {config.campaign}{hint}")
    own = {row.candidate_id for row in rows}
    lives = [task_life(config.library, task) for task, of in planned.items() if own & set(of) or task in tasks]
    return Group(*_candidate_lines(workdir, rows, attempts), *_task_lines(lives))


def _candidate_lines(workdir: Path, rows: list[Appearance], attempts: dict[str, list[Attempt]]) -> list[Text]:
    names = list(dict.fromkeys(row.candidate_id for row in rows))
    lines = [Text(" → ".join(names), style="bold")]
    before: dict[str, str] = {}
    told: set[str] = set()
    for row in rows:
        job = row.job.name if row.job else row.path
        line = Text(f"{job}: ").append(row.outcome, style=STYLES.get(row.outcome, ""))
        if len(names) > 1:
            line.append(f" as {row.candidate_id}")
        new = {key: value for key, value in row.values.items() if before.get(key) != value and value not in ("", "nan")}
        words = row.reason or ", ".join(f"{key} {value}" for key, value in new.items())
        if words:
            line.append(f": {words}")
        before |= row.values
        lines.append(line)
        if job not in told:
            told.add(job)
            lines += _attempt_lines(workdir, attempts.get(job, []))
    return lines


def _attempt_lines(workdir: Path, attempts: list[Attempt]) -> list[Text]:
    lines = []
    for number, attempt in enumerate(attempts, start=1):
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
        text = f"    attempt {number}, {began} on {attempt.host}"
        text += f", SLURM job {attempt.slurm_job}" if attempt.slurm_job else ""
        text += f": {'killed' if attempt.ended_by_slurm else attempt.state}"
        if attempt.ended is not None:
            text += f" after {attempt.ended - attempt.started:.1f} s, {attempt.cpu_seconds:.1f} CPU-s"
        text += f": {attempt.told}" if attempt.told and attempt.state != "running" else ""
        text += f"; log: {workdir / attempt.log}" if attempt.log and number == len(attempts) else ""
        slurm_log = attempt.slurm.log_in(workdir) if attempt.slurm else None
        text += f"; SLURM's log: {slurm_log}" if slurm_log else ""
        lines.append(Text(text, style="dim" if attempt.state == "done" else "yellow"))
    return lines


def _word_lines(workdir: Path, word: SlurmWord | None) -> list[Text]:
    """What SLURM has against a job that no attempt tells of."""
    if word is None:
        return []
    said = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(word.time))
    log = word.log_in(workdir)
    return [Text(f"    {word.kind}, {said}: {word.text}{f'; log: {log}' if log else ''}", style="yellow")]


def _task_lines(lives: list[TaskLife]) -> list[Text]:
    lines: list[Text] = []
    for life in lives:
        lines.append(Text(f"task {life.task}: ", style="bold").append(life.summary, style=""))
        lines += [Text(f"    {line}", style="dim") for line in life.events]
        lines += [Text(f"    {what}: {where}", style="dim") for what, where in life.files.items()]
    return lines
