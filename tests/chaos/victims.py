"""Whom to kill in a running campaign, and how."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from sluice.driver.processes import started_by

# Relative frequencies. `machine` is the driver with all it started at once, as when a computer loses its power.
VICTIMS = {"driver": 4, "machine": 4, "snakemake": 2, "step": 4, "pw.x": 3, "mpirun": 2, "store": 6}
STORE_PATIENCE = 20.0  # seconds to wait for a file that is being written
_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")
_STEP = re.compile(r"^sluice\.(curate|train|generate|screen|validate|report)\.\w+$")
_NO_STORES = {".snakemake", "logs", "benchmarks"}


@dataclass
class Kill:
    """One kill as the tally keeps it.

    Attributes:
        victim: a key of ``VICTIMS``, or ``store machine`` and ``store step`` for who died over a half-written file.
        during: rules whose jobs were running, or what the driver was doing instead.
        after: seconds since the campaign was started or resumed.
        file: what was being written.
        task: directory of the calculation that was hit.
        ends_run: whether the driver died with it.
    """

    victim: str
    during: list[str]
    after: float
    file: str = ""
    task: str = ""
    ends_run: bool = False
    processes: int = 0

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass
class Family:
    """The processes of a running campaign by what they are."""

    driver: psutil.Process
    snakemake: psutil.Process | None = None
    steps: dict[int, tuple[psutil.Process, str]] = field(default_factory=dict)  # pid → process, rule
    launchers: list[psutil.Process] = field(default_factory=list)
    programs: list[psutil.Process] = field(default_factory=list)
    everyone: list[psutil.Process] = field(default_factory=list)

    @property
    def during(self) -> list[str]:
        """Rules at work."""
        rules = sorted({rule for _, rule in self.steps.values()})
        return rules or (["between jobs"] if self.snakemake is not None else ["settling"])


def family_of(pid: int) -> Family:
    """Look at the processes below a driver."""
    found = Family(psutil.Process(pid))
    with suppress(psutil.Error):
        found.everyone = found.driver.children(recursive=True)
    for process in found.everyone:
        with suppress(psutil.Error):
            words, name = process.cmdline(), process.name()
            module = words[2] if len(words) > 2 and words[1] == "-m" else ""
            if _STEP.match(module) and Path(words[0]).name.startswith("python"):
                found.steps[process.pid] = (process, module.rsplit(".", 1)[1])
            elif module == "snakemake" and process.ppid() == pid:
                found.snakemake = process
            elif name == "mpirun":
                found.launchers.append(process)
            elif name == "pw.x":
                found.programs.append(process)
    return found


def half_written(*folders: Path) -> tuple[Path, int] | None:
    """A temporary file of a living process, and that process."""
    for folder in folders:
        for where, inside, files in os.walk(folder):
            inside[:] = [name for name in inside if name not in _NO_STORES]
            for name in files:
                match = _TEMPORARY.match(name)
                if match and psutil.pid_exists(int(match.group(1))):
                    return Path(where) / name, int(match.group(1))
    return None


def kill_half_written(
    driver: subprocess.Popen, folders: tuple[Path, ...], *, whole_machine: bool, began: float
) -> Kill | None:
    """Wait for a file that is being written and kill its writer before it is renamed; None if none came in time."""
    deadline = time.monotonic() + STORE_PATIENCE
    while time.monotonic() < deadline and driver.poll() is None:
        if (found := half_written(*folders)) is not None:
            path, pid = found
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            caught = path.exists()  # else it was faster; its process is dead all the same
            victim = ("store " if caught else "") + ("machine" if whole_machine else "step")
            family = family_of(driver.pid)
            during = [family.steps[pid][1]] if pid in family.steps else family.during
            count = 1 + (_kill_machine(family) if whole_machine else 0)
            return Kill(victim, during, time.monotonic() - began, path.name, ends_run=whole_machine, processes=count)
        time.sleep(0.002)
    return None


def _kill_machine(family: Family) -> int:
    """Kill the driver and all it started, none of which sees the others die first."""
    with suppress(psutil.Error):
        family.driver.suspend()
    if family.snakemake is not None:
        with suppress(psutil.Error):
            family.snakemake.suspend()
    everyone = [family.driver, *family.everyone]
    with suppress(psutil.Error):
        everyone += family.driver.children(recursive=True)
    for process in everyone:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    return len({process.pid for process in everyone})


def task_of(program: psutil.Process) -> str:
    """Task and job of a pw.x or its launcher: the parts around the library's working directory."""
    with suppress(psutil.Error):
        parts = Path(program.cwd()).parts
        if "work" in parts:
            place = len(parts) - 1 - parts[::-1].index("work")
            return "/".join((parts[place - 1], *parts[place + 1 :]))
    return ""


def kill(driver: int, victim: str, pick: float, *, began: float, spared: set[str]) -> Kill | None:
    """Kill one victim now; None if there is none of that kind.

    Args:
        driver: pid of ``sluice run``.
        victim: a key of ``VICTIMS`` but ``store``.
        pick: from [0, 1), which of several.
        began: when the campaign was started or resumed, by the monotonic clock.
        spared: calculations that have used up the attempts a crash may cost.
    """
    family = family_of(driver)
    result = Kill(victim, family.during, time.monotonic() - began)
    if victim in ("pw.x", "mpirun"):
        programs = family.programs if victim == "pw.x" else family.launchers
        programs = [p for p in programs if (task := task_of(p)) and task not in spared]
        if not programs:
            return None
        chosen = programs[int(pick * len(programs))]
        result.task, result.processes = task_of(chosen), 1
        with suppress(psutil.Error):
            result.during = [rule for p, rule in family.steps.values() if chosen in p.children(recursive=True)]
        _end(chosen)
    elif victim == "step":
        if not family.steps:
            return None
        process, rule = sorted(family.steps.values(), key=lambda one: one[0].pid)[int(pick * len(family.steps))]
        result.during, result.processes = [rule], 1
        _end(process)
    elif victim == "snakemake":
        if family.snakemake is None:
            return None
        result.processes = 1  # the one that runs the jobs, or one that is asked something in between
        _end(family.snakemake)
    elif victim == "driver":
        result.ends_run, result.processes = True, 1
        _end(family.driver)
    else:
        result.ends_run = True
        result.processes = _kill_machine(family)
    return result


def _end(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)


def survivors(driver: str) -> int:
    """How many processes that a driver (``host:pid:start``) started are still there."""
    return len(started_by(driver))
