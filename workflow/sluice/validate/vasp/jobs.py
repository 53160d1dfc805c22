"""The Flow of one task: atomate2's own maker with our way of running it and ids that follow from the task's id."""

from __future__ import annotations

import importlib
import shlex
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from atomate2.vasp.jobs.base import BaseVaspMaker
from jobflow import Flow, Job, Maker, OutputReference
from pymatgen.core import Structure

from sluice.errors import MissingProgramError
from sluice.validate.vasp.handlers import all_handlers
from sluice.validate.vasp.sets import FLOWS, VaspCalculationSettings

NAMESPACE = uuid.UUID("0c1e7a52-6a1d-5d0b-8a55-3f7f0f2b6d10")
MONITOR_SECONDS = 30.0


@dataclass(frozen=True)
class Launch:
    """How VASP is started.

    Attributes:
        template: the launching command with ``{ranks}``; empty for none.
        ranks: number of MPI ranks.
        command: program, by name or path; ``gamma_command`` that for the Γ point alone, None for the same.
    """

    template: str = "mpirun -np {ranks}"
    ranks: int = 1
    command: str = "vasp_std"
    gamma_command: str | None = None

    def line(self, command: str | None = None) -> str:
        """The whole command; where ``setpriv`` exists, launcher and ranks are told to die with their parent."""
        launcher = shlex.split(self.template.format(ranks=self.ranks))
        setpriv = shutil.which("setpriv")
        tie = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        own = tie if launcher and Path(launcher[0]).name != "srun" else []  # srun's ranks are slurmstepd's to end
        return shlex.join([*tie, *launcher, *own, *shlex.split(command or self.command)])

    def check(self) -> None:
        """See that the programs exist.

        Raises:
            MissingProgramError: says what to set.
        """
        launcher = shlex.split(self.template.format(ranks=self.ranks))[:1]
        commands = [self.command, *([self.gamma_command] if self.gamma_command else [])]
        for program in [*launcher, *(word for command in commands for word in shlex.split(command)[:1])]:
            if shutil.which(program) is None:
                raise MissingProgramError(
                    f"{program!r} not found; load VASP's module, or name the program in validate.command (the launcher"
                    " in validate.launch)"
                )


@dataclass(frozen=True)
class Options:
    """How the jobs of a task are run; nothing of it decides an energy.

    Attributes:
        launch: how VASP is started.
        max_attempts: runs of each job, each with changed inputs.
        max_continuations: continuations of each job after time limits and interruptions.
        max_seconds: wall time after which a run of VASP is stopped to be continued, None for never.
        hang_seconds: silence after which VASP counts as hanging.
        kpar: VASP's tag; ``ncore`` likewise.
        poll_seconds: how often VASP is looked at.
        monitor_seconds: how often its output is.
    """

    launch: Launch = Launch()
    max_attempts: int = 4
    max_continuations: int = 20
    max_seconds: float | None = None
    hang_seconds: float = 21_600.0
    kpar: int = 1
    ncore: int = 1
    poll_seconds: float = 1.0
    monitor_seconds: float = MONITOR_SECONDS


def make_maker(settings: VaspCalculationSettings, options: Options) -> Maker:
    """atomate2's maker of the flow, told how to run VASP; the static calculation's alone where nothing relaxes.

    Args:
        settings: the flow and what it sets otherwise than its makers do.
        options: how jobs are run.
    """
    maker = getattr(importlib.import_module(FLOWS[settings.flow].module), settings.flow)()
    if hasattr(maker, "clean_files"):
        maker.clean_files = None  # what is kept of a task is decided for all codes alike
    static = maker.static_maker
    for each in _vasp_makers(maker):
        each.run_vasp_kwargs = _run_keywords(options)
        each.stop_children_kwargs = {"handle_unsuccessful": True}
        sets = each.input_set_generator
        user = dict(sets.user_incar_settings)
        parallel = {"KPAR": options.kpar, "NCORE": options.ncore}
        user |= {tag: number for tag, number in parallel.items() if number > 1 and tag not in user}
        sets.user_incar_settings = user | {
            tag: value for tag, value in settings.changed.items() if tag != "ISIF" or each is not static
        }
    made: Maker = static if settings.relax == "none" else maker
    return made


def _vasp_makers(maker: Maker) -> Iterator[BaseVaspMaker]:
    for field in fields(maker):
        value = getattr(maker, field.name)
        if isinstance(value, BaseVaspMaker):
            yield value
        elif isinstance(value, Maker):
            yield from _vasp_makers(value)


def _run_keywords(options: Options) -> dict[str, Any]:
    launch = options.launch
    return {
        "vasp_cmd": launch.line(),
        "vasp_gamma_cmd": launch.line(launch.gamma_command),
        "max_errors": options.max_attempts,
        "handlers": all_handlers(max_seconds=options.max_seconds, hang_seconds=options.hang_seconds),
        "custodian_kwargs": {
            "polling_time_step": options.poll_seconds,
            "monitor_freq": max(1, round(options.monitor_seconds / options.poll_seconds)),
        },
    }


def job_name(number: int, name: str) -> str:
    """A job's name as that of a folder, e.g. ``1_mp_gga_relax_1``."""
    return f"{number}_{name.lower().replace(' ', '_').replace('-', '_')}"


def make_flow(task_id: str, structure: Structure, settings: VaspCalculationSettings, options: Options) -> Flow:
    """The Flow of a task, the same ids in every process; any of jobflow's managers can run it.

    Args:
        task_id: what the job ids are derived from.
        structure: geometry (Å).
        settings: what decides the number.
        options: how jobs are run.
    """
    made = make_maker(settings, options).make(structure)
    flow = made if isinstance(made, Flow) else Flow([made])
    jobs = [job for job, _ in flow.iterflow()]
    ids = {}
    for number, job in enumerate(jobs, start=1):
        old = job.uuid
        job.name = job_name(number, job.name)
        ids[old] = str(uuid.uuid5(NAMESPACE, f"{task_id}/{job.name}"))
        job.set_uuid(ids[old])
        job.hosts = []
    for job in jobs:
        job.function_args = tuple(_renamed(value, ids) for value in job.function_args)
        job.function_kwargs = {name: _renamed(value, ids) for name, value in job.function_kwargs.items()}
    return Flow(jobs, name=task_id)


def _renamed(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, OutputReference) and value.uuid in ids:
        return value.set_uuid(ids[value.uuid], inplace=False)
    return value


def planned(job: Job) -> dict[str, Any]:
    """What a job's maker is going to be given: ``structure`` and ``prev_dir``, resolved or not."""
    return {
        "prev_dir": None,
        **dict(zip(("structure", "prev_dir"), job.function_args, strict=False)),
        **job.function_kwargs,
    }
