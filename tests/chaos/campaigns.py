"""Run, kill and compare campaigns as a user's machine would."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.store import Store

REPOSITORY = Path(__file__).parents[2]
DFT_TOLERANCE_EV_PER_ATOM = 1e-3
# What may differ after an interruption, within the tolerance: numbers that come out of restarted calculations.
DFT_SCHEMAS = ("results", "validated")

COUNTING_PW = """#!/bin/sh
finished=; [ -e ../../result.json ] && finished=finished
echo "$$ $(pwd) $finished" >> {tally}
exec pw.x "$@"
"""


def write_config(folder: Path, base: Path, **changes: object) -> Path:
    """A copy of a configuration with results under ``folder`` and a pw.x that counts its starts."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "counting-pw.x"
    program.write_text(COUNTING_PW.format(tally=folder / "pw-starts.txt"))
    program.chmod(0o755)
    config = yaml.safe_load(base.read_text()) | changes
    config["results"] = str(folder / "results")
    config.setdefault("validate", {})["command"] = str(program)
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(command: str, config: Path) -> subprocess.Popen:
    """Start ``sluice run`` or ``sluice resume`` in a process group of its own."""
    log = (config.parent / "driver-output.txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "sluice.cli", command, str(config), "--cores", "2"],
        cwd=REPOSITORY,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
    )


def workdir(config: Path) -> Path:
    """The campaign's working directory."""
    values = yaml.safe_load(config.read_text())
    return Path(values["results"]) / values["campaign"]


def wait_for(config: Path, rule: str, driver: subprocess.Popen, *, delay: float, timeout: float = 900.0) -> bool:
    """Wait until a job of ``rule`` has run for ``delay`` seconds or has ended; False if the driver ended first."""
    began, deadline = time.time(), time.monotonic() + timeout
    while time.monotonic() < deadline:
        for attempt in read_attempts(workdir(config) / ATTEMPTS_FILE):
            if attempt.step != rule or attempt.started < began:
                continue
            if attempt.outcome is not None or time.time() - attempt.started > delay:
                return True
        if driver.poll() is not None:
            return False
        time.sleep(0.05)
    raise TimeoutError(f"no job of {rule} within {timeout} s")


def kill(driver: subprocess.Popen, *, group: bool) -> None:
    """SIGKILL the driver alone or its whole process group."""
    if group:
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def stores(config: Path) -> dict[str, Path]:
    """All stores of a campaign by their path inside it."""
    folder = workdir(config)
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*.h5")) if not p.name.startswith(".")}


def differences(config: Path, undisturbed: Path) -> list[str]:
    """What differs between two campaigns beyond what an interruption may change."""
    mine, reference = stores(config), stores(undisturbed)
    found = [f"{name}: only in one" for name in sorted(set(mine) ^ set(reference))]
    for name in sorted(set(mine) & set(reference)):
        with Store(mine[name]) as a, Store(reference[name]) as b:
            if a.content_sha256 == b.content_sha256:
                continue
            if a.schema not in DFT_SCHEMAS:
                found.append(f"{name}: content differs")
            else:
                found += [f"{name}: {problem}" for problem in _dft_differences(a, b)]
    return found


def _dft_differences(a: Store, b: Store) -> list[str]:
    if a.ids() != b.ids():
        return [f"rows {a.ids()} and {b.ids()}"]
    found = []
    for name, column in a.columns.items():
        if column.volatile:
            continue
        mine, theirs = a.column(name), b.column(name)
        if column.unit == "eV/atom":
            apart = np.nanmax(np.abs(mine - theirs), initial=0.0)
            if apart > DFT_TOLERANCE_EV_PER_ATOM or np.any(np.isnan(mine) != np.isnan(theirs)):
                found.append(f"{name} differs by {apart} eV/atom")
        elif column.dtype.startswith(("S", "b", "?", "i")) and not np.array_equal(mine, theirs):
            found.append(f"{name} differs")
    return found


def repeated_steps(config: Path) -> dict[str, int]:
    """Jobs that were done more than once."""
    done = Counter(a.job for a in read_attempts(workdir(config) / ATTEMPTS_FILE) if a.outcome == "done")
    return {job: n for job, n in done.items() if n > 1}


def pw_starts(config: Path) -> int:
    """How often pw.x was started on a calculation (not to ask for its version)."""
    tally = config.parent / "pw-starts.txt"
    return sum("/dft/" in line for line in tally.read_text().splitlines()) if tally.exists() else 0


def repeated_tasks(config: Path) -> list[str]:
    """Calculations that pw.x was started on although their result was there."""
    tally = config.parent / "pw-starts.txt"
    lines = tally.read_text().splitlines() if tally.exists() else []
    return sorted({line.split()[1] for line in lines if "/dft/" in line and line.endswith(" finished")})


def library(config: Path) -> Path:
    """The campaign's task library."""
    return Path(yaml.safe_load(config.read_text())["results"]) / "dft"


def finished_tasks(config: Path) -> dict[str, str]:
    """Digest of every finished calculation's files: result and archive."""
    found = {}
    for path in sorted(library(config).glob("*/result.json")):
        contents = path.read_bytes() + (path.parent / "files.tar.xz").read_bytes()
        found[path.parent.name] = hashlib.sha256(contents).hexdigest()
    return found


@dataclass
class TaskComparison:
    """Calculations beside those of the undisturbed run.

    Attributes:
        problems: what differs beyond what an interruption may change.
        restarted: how many were started more often than undisturbed.
        largest_ev_per_atom: largest difference of energy among those.
    """

    problems: list[str] = field(default_factory=list)
    restarted: int = 0
    largest_ev_per_atom: float = 0.0


def compare_tasks(config: Path, undisturbed: Path) -> TaskComparison:
    """Untouched calculations agree to the bit, restarted ones within the tolerance."""
    found = TaskComparison()
    mine, reference = ({p.parent.name: p for p in library(c).glob("*/result.json")} for c in (config, undisturbed))
    found.problems += [f"task {name}: only in one" for name in sorted(set(mine) ^ set(reference))]
    for name in sorted(set(mine) & set(reference)):
        a, b = json.loads(mine[name].read_text()), json.loads(reference[name].read_text())
        if a["converged"] != b["converged"]:
            found.problems.append(f"task {name}: converged {a['converged']}: {a['reason']} {a['detail']}")
        elif a["pw_starts"] == b["pw_starts"] and not a["continuations"]:
            same = ("energy_ev_per_atom", "structure", "space_group", "magnetization_mu_b_per_cell")
            found.problems += [f"task {name}: {key} differs" for key in same if a.get(key) != b.get(key)]
        elif a["converged"]:
            found.restarted += 1
            apart = abs(a["energy_ev_per_atom"] - b["energy_ev_per_atom"])
            found.largest_ev_per_atom = max(found.largest_ev_per_atom, apart)
            if apart > DFT_TOLERANCE_EV_PER_ATOM:
                found.problems.append(f"task {name}: energy differs by {apart} eV/atom")
    return found


def summary_differences(config: Path, undisturbed: Path) -> list[str]:
    """Keys of summary.json that differ beyond costs, versions and the tolerance of DFT energies."""
    mine, reference = (json.loads((workdir(c) / "report" / "summary.json").read_text()) for c in (config, undisturbed))
    found = [f"summary.json: {key} only in one" for key in sorted(set(mine) ^ set(reference))]
    for key in sorted(set(mine) & set(reference) - {"cpu_seconds", "versions"}):
        if not _close(mine[key], reference[key]):
            found.append(f"summary.json: {key} differs")
    return found


def _close(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k]) for k in a if not k.endswith("seconds"))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= DFT_TOLERANCE_EV_PER_ATOM
    return a == b
