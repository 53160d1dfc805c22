"""How far a campaign is, read from its attempts file and its stores: the table of ``sluice status``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice.attempts import ATTEMPTS_FILE, Attempt, SlurmWord, read_history
from sluice.config import Config
from sluice.driver.lease import is_alive, read_lease
from sluice.driver.rules import Rule
from sluice.errors import StoreError
from sluice.store import Store

BEST = 5  # candidates shown
TROUBLES = 8  # failures and retries shown
SLURM_SECONDS = 15.0  # between two looks at SLURM's queue


@dataclass
class RuleState:
    """One rule and the attempts at its jobs.

    Attributes:
        name: of the rule.
        stage: it belongs to.
        total: how many jobs it has in all.
        latest: job → its latest attempt.
        states: job → where that attempt stands.
        continued: how often jobs were continued after a time limit.
        retried: attempts that failed or were killed and were followed by another one.
        words: job that is to be started, again or for the first time → what SLURM has against it.
    """

    name: str
    stage: str
    total: int
    latest: dict[str, Attempt] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    continued: int = 0
    retried: list[Attempt] = field(default_factory=list)
    words: dict[str, SlurmWord] = field(default_factory=dict)

    def add(self, attempt: Attempt) -> None:
        """Take the next attempt into account."""
        before = self.latest.get(attempt.job)
        if before is not None and self.states[attempt.job] in ("failed", "killed"):
            self.retried.append(before)
        self.latest[attempt.job] = attempt
        self.states[attempt.job] = state_of(attempt)
        self.continued += attempt.outcome == "continued"

    def hear(self, word: SlurmWord) -> None:
        """Take into account what SLURM said since a job's latest attempt."""
        state = self.states.get(word.job)
        if state in ("done", "running"):
            return
        if state in ("failed", "killed"):
            self.retried.append(self.latest[word.job])
            self.states[word.job] = "retried"
        self.words[word.job] = word

    def count(self, *states: str) -> int:
        """Jobs whose latest attempt is in one of the states."""
        return sum(state in states for state in self.states.values())

    @property
    def waiting(self) -> int:
        """Jobs that have not been started, or are to be continued."""
        return max(0, self.total - self.count("done", "running") - self.failed)

    @property
    def failed(self) -> int:
        """Jobs whose latest attempt failed or was killed, or that SLURM refused or gave up."""
        return self.count("failed", "killed") + sum(word.kind in ("failed", "refused") for word in self.words.values())

    @property
    def stuck(self) -> str:
        """How many of the waiting jobs do not start by themselves, in words; empty if none."""
        number = sum(word.kind == "stuck" for word in self.words.values())
        return f"{number} stuck" if number else ""

    @property
    def done(self) -> int:
        """Jobs that ended well."""
        return self.count("done")

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the latest attempts that have ended."""
        return sum(attempt.cpu_seconds for attempt in self.latest.values())

    @property
    def progress(self) -> str:
        """How far the running jobs are, e.g. ``relaxing 12/50 crystals``, and how many are stuck."""
        texts = [self.stuck] if self.stuck else []
        for attempt in self.latest.values():
            if self.states[attempt.job] == "running":
                texts.append(progress_text(attempt.progress) or f"{time.time() - attempt.started:.0f} s")
        return "; ".join(texts[:2]) + (f" (+{len(texts) - 2})" if len(texts) > 2 else "")


def state_of(attempt: Attempt) -> str:
    """``done``, ``failed``, ``continued``, ``running`` or ``killed``; of one on another host as far as it can be told.

    An open attempt elsewhere runs as long as SLURM has its job; without a job it is taken at its word.
    """
    if attempt.ended_by_slurm:
        return "killed"
    if attempt.state != "unknown":
        return attempt.state
    living = _slurm_jobs(int(time.monotonic() // SLURM_SECONDS)) if attempt.slurm_job else None
    return "killed" if living is not None and attempt.slurm_job not in living else "running"


@lru_cache(maxsize=1)
def _slurm_jobs(_: int) -> frozenset[str] | None:
    """This user's jobs in SLURM's queue, asked once in a while; None where SLURM does not answer."""
    try:
        asked = subprocess.run(
            ["squeue", "-h", "--me", "-o", "%i"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return frozenset(asked.stdout.split()) if asked.returncode == 0 else None


def progress_text(progress: dict[str, Any]) -> str:
    """Progress of one step in words, empty if it has not told any."""
    if not progress:
        return ""
    done, total = progress.get("done") or 0, progress.get("total")
    amount = f"{done:g}" if total is None else f"{done:g}/{total:g}"
    return " ".join(part for part in (progress.get("message", ""), amount, progress.get("unit", "")) if part)


def expected_jobs(config: Config, rules: Iterable[str]) -> dict[str, int]:
    """How many jobs each rule has in this campaign."""
    batches = {
        "generate_candidates": config.generate.batches,
        "check_geometry": config.generate.batches,
        "check_symmetry": config.generate.batches,
        "check_charge": config.generate.batches,
        "generate_compositions": config.generate.batches,
        "check_composition_charge": config.generate.batches,
        "relax_candidates": config.screen.relax.batches,
        "compute_references": config.validate_.batches,
        "compute_compounds": config.validate_.batches,
    }
    once = {
        "collect_crystals": 1,
        "label_crystals": config.curate.batches,
        "split_crystals": 1,
        "collect_compositions": 1,
        "build_report": 1,
        "build_composition_report": 1,
    }
    return {name: once[name] if name in once else config.rounds * batches.get(name, 1) for name in rules}


def read_states(config: Config, rules: dict[str, Rule]) -> dict[str, RuleState]:
    """The state of every rule, in pipeline order."""
    totals = expected_jobs(config, rules)
    states = {name: RuleState(name, rule.stage, totals[name]) for name, rule in rules.items()}
    attempts, words = read_history(config.workdir / ATTEMPTS_FILE)
    for attempt in attempts:
        if attempt.step in states:
            states[attempt.step].add(attempt)
    for word in words.values():
        if word.step in states:
            states[word.step].hear(word)
    return states


def driver_line(workdir: Path) -> str:
    """Who drives the campaign, in words."""
    holder = read_lease(workdir)
    if holder is None:
        return "not running"
    if is_alive(holder, workdir, watch_seconds=0.0):
        return f"running: {holder.describe()}"
    return f"interrupted ({holder.describe()} is gone): `sluice resume` goes on"


def states_table(states: dict[str, RuleState]) -> Table:
    """Stage, step, jobs done, running, waiting, retried, continued and failed, progress, CPU time."""
    # Names stay whole on a terminal of 80 columns; the rest gives way.
    table = Table(title=None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("stage", "step"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "run", "wait", "retry", "cont", "fail"):
        table.add_column(name, justify="right")
    table.add_column("progress", overflow="fold")
    table.add_column("CPU s", justify="right")
    stage = ""
    for state in states.values():
        running, failed = state.count("running"), state.failed
        finished = state.done >= state.total
        style = "green" if finished else "red" if failed else "bold" if running else "dim"
        if state.stage != stage and stage:
            table.add_section()
        table.add_row(
            state.stage if state.stage != stage else "",
            Text(state.name, style=style),
            f"{min(state.done, state.total)}/{state.total}",
            str(running or ""),
            str(state.waiting or ""),
            str(len(state.retried) or ""),
            str(state.continued or ""),
            str(failed or ""),
            state.progress,
            f"{state.cpu_seconds:.0f}" if state.latest else "",
        )
        stage = state.stage
    return table


def troubles(states: Mapping[str, RuleState], workdir: Path, most: int = TROUBLES) -> list[Text]:
    """What failed, is stuck or was tried again, with reason and log, the latest last."""
    found: list[tuple[bool, float, str]] = []  # whether it stands, when it began, words
    for state in states.values():
        for attempt in state.retried:
            found.append((False, attempt.started, f"retried {attempt.job}: {_reason(attempt)}"))
        for job, attempt in state.latest.items():
            if state.states[job] in ("failed", "killed"):
                text = f"{state.states[job]} {job}: {_reason(attempt)}"
                found.append((True, attempt.started, text + _log_words(workdir, attempt.log, attempt.slurm)))
        for job, word in state.words.items():
            found.append((True, word.time, f"{word.kind} {job}: {word.text}{_log_words(workdir, None, word)}"))
    found.sort(key=lambda one: one[:2])
    lines = [Text(f"… and {len(found) - most} more", style="dim")] if len(found) > most else []
    return lines + [Text(text, style="red" if stands else "yellow") for stands, _, text in found[-most:]]


def _reason(attempt: Attempt) -> str:
    return attempt.told or "killed (driver gone, out of memory, or by hand)"


def _log_words(workdir: Path, log: str | None, word: SlurmWord | None) -> str:
    """Where the step's log is, and SLURM's, as far as they exist."""
    text = f"; log: {workdir / log}" if log else ""
    slurm_log = word.log_in(workdir) if word else None
    return text + (f"; SLURM's log: {slurm_log}" if slurm_log else "")


def best_candidates(config: Config, most: int = BEST) -> Table | None:
    """The best candidates so far: of DFT where there are results, else of the latest round's ranking or shortlist."""
    if config.candidates == "compositions":
        return _best_formulas(config, most)
    validated, ranked = _validated_rows(config), _ranked_rows(config)
    if not validated and not ranked:
        return None
    table = Table(title=f"best so far by {'DFT' if validated else 'ranking'}", title_justify="left")
    for name in ("round", "formula", "space group", "eV/atom", ""):
        table.add_column(name)
    for row in sorted(validated)[:most] or ranked[:most]:
        table.add_row(str(row.round), row.formula, str(row.space_group), f"{row.energy:.3f}", row.remark)
    return table


def _best_formulas(config: Config, most: int) -> Table | None:
    """The first formulas of the shortlist, if it is there."""
    table = Table(title="best so far by the shortlist", title_justify="left")
    for name in ("rank", "formula", "predicted eV/atom", "standard deviation"):
        table.add_column(name)
    for _, store in _open_stores(config, "screen/compositions/shortlist.h5", "composition_shortlist"):
        names = ("predicted_formation_energy_ev_per_atom", "standard_deviation_ev_per_atom")
        energies, deviations = (store.column(name, 0, most) for name in names)
        ranks, formulas = store.column("rank", 0, most), store.text("formula")[:most]
        for rank, formula, energy, deviation in zip(ranks, formulas, energies, deviations, strict=True):
            table.add_row(str(rank), formula, f"{energy:.3f}", f"{deviation:.3f}")
    return table if table.row_count else None


@dataclass(order=True)
class _Candidate:
    energy: float  # formation energy, eV/atom
    round: int
    formula: str
    space_group: int
    remark: str = ""


def _validated_rows(config: Config) -> list[_Candidate]:
    rows = []
    for number, store in _open_stores(config, "validate/validated.h5", "validated"):
        formulas = store.crystals().reduced_formulas()
        values = [store.column(n) for n in ("formation_energy_ev_per_atom", "space_group", "converged", "confirmed")]
        for formula, energy, group, converged, confirmed in zip(formulas, *values, strict=True):
            if converged:
                rows.append(_Candidate(float(energy), number, formula, int(group), "confirmed" if confirmed else ""))
    return rows


def _ranked_rows(config: Config) -> list[_Candidate]:
    rows: list[_Candidate] = []
    for number, store in _open_stores(config, "screen/ranked.h5", "ranked"):
        ranks = store.column("rank")
        energies, groups = store.column("mlip_formation_energy_ev_per_atom"), store.column("relaxed_space_group")
        rows = []
        for i in sorted(range(len(ranks)), key=lambda i: ranks[i])[:BEST]:
            formula = store.crystals(i, i + 1).reduced_formulas()[0]
            rows.append(_Candidate(float(energies[i]), number, formula, int(groups[i]), "interatomic potential"))
    return rows


def _open_stores(config: Config, name: str, schema: str) -> Iterable[tuple[int, Store]]:
    for number in range(1, config.rounds + 1):
        path = config.workdir / f"round_{number}" / name
        if path.exists():
            try:
                with Store(path, schema, verify=False) as store:
                    yield number, store
            except StoreError:
                continue


def status_view(config: Config, rules: dict[str, Rule]) -> RenderableType:
    """Everything that ``sluice status`` shows."""
    states = read_states(config, rules)
    done = sum(min(s.done, s.total) for s in states.values())
    total = sum(s.total for s in states.values())
    head = Text(f"campaign {config.campaign}: {done}/{total} jobs done; {driver_line(config.workdir)}")
    parts: list[RenderableType] = [head, states_table(states), *troubles(states, config.workdir)]
    if (best := best_candidates(config)) is not None:
        parts.append(best)
    if (page := config.workdir / "report" / "index.html").exists():
        parts.append(Text(f"report: {page}"))
    return Group(*parts)
