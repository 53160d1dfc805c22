"""What a campaign needs of this machine, what is there, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from sluice.config import Config
from sluice.driver.estimate import estimate_space
from sluice.driver.launch import count_gpus, environment
from sluice.errors import ConfigError, MissingProgramError, SluiceError

INSTALL_ESPRESSO = "apt-get install quantum-espresso (Debian, Ubuntu), conda install -c conda-forge qe, or a module"
INSTALL_VASP = "load the module of your VASP (it is licensed; docs/vasp.md)"


@dataclass(frozen=True)
class Check:
    """One thing looked at: ``ok`` is None for what a campaign can do without."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def check_packages() -> Check:
    """Whether every Python package that this one requires is there in a version that will do."""
    problems = []
    for text in requires("sluice-crystals") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement.name} is {found}, needs {requirement.specifier}")
    if problems:
        return Check("python packages", False, "; ".join(problems), "make install, or pip install -r requirements.lock")
    return Check("python packages", True, f"all there (sluice {version('sluice-crystals')})")


def check_gpu(config: Config) -> Check:
    """Whether models can be trained where the configuration says."""
    if importlib.util.find_spec("torch") is None:
        return Check("GPU", config.train.device != "cuda", "torch is not installed", "make install")
    import torch

    listed = count_gpus()
    if torch.cuda.is_available():
        return Check("GPU", True, f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}")
    advice = "none needed, training takes the CPU" if not listed else "torch has no CUDA: see envs/python-cuda.yaml"
    if config.train.device == "cuda":
        return Check("GPU", False, "none that torch can use", "set train.device to auto, or " + advice)
    return Check("GPU", None, "none" if not listed else f"{listed} GPUs that torch cannot use", advice)


def find_program(command: str) -> str | None:
    """Absolute path of a program given by name or path, of the first one where words follow."""
    program = next(iter(shlex.split(command)), "")
    return shutil.which(str(Path(program).expanduser()) if program.startswith("~") else program)


def check_code(config: Config) -> Check:
    """Whether the first-principles program is there."""
    command = config.validate_.command
    path = find_program(command)
    if path is None:
        how = INSTALL_VASP if config.validate_.code == "vasp" else INSTALL_ESPRESSO
        return Check(command, False, "not found", f"{how}; or set validate.command to its path")
    return Check(command, True, path)


def check_launcher(config: Config) -> Check:
    """Whether the program that starts MPI ranks is there and starts one; shows the whole command line."""
    settings = config.validate_
    line = f"{settings.launch.format(ranks=settings.ranks)} {settings.command}".strip()
    words = settings.launch.format(ranks=1).split()
    if not words:
        return Check("launcher", True, f"none asked for (validate.launch is empty): {line}")
    path = find_program(words[0])
    advice = f"{INSTALL_ESPRESSO}; or set validate.launch"
    if path is None:
        return Check(words[0], False, "not found", advice)
    problem = ""
    if Path(path).name == "mpirun":
        problem = _trial([*words, "true"])
    elif Path(path).name == "srun":
        problem, advice = _srun_lacks(words), "take another --mpi in validate.launch, or mpirun -np {ranks}"
    if problem:
        return Check(words[0], False, f"{path} {problem}", advice)
    return Check(words[0], True, f"{line} ({path})")


def _trial(words: list[str]) -> str:
    """Start a process with a launcher; what is wrong, empty if nothing."""
    try:
        tried = subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, env=environment(local=False)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    if tried.returncode == 0:
        return ""
    reason = next((line for line in tried.stderr.splitlines() if line.strip(" -")), "no message")
    return f"does not start a process: {reason}"


def _srun_lacks(words: list[str]) -> str:
    """Whether this SLURM has the way of starting MPI that is asked for; it can only be tried inside a job."""
    wanted = next((word.removeprefix("--mpi=") for word in words if word.startswith("--mpi=")), None)
    if wanted is None:
        return ""
    try:
        listed = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start: {error}"
    there = re.findall(r"[\w/]+", (listed.stdout + listed.stderr).partition("are...")[2])
    return "" if not there or wanted in there else f"knows no --mpi={wanted}; it has {', '.join(there)}"


def check_pseudos(config: Config) -> Check:
    """Whether the pseudopotentials of the campaign's elements are there and are the right ones."""
    if config.validate_.code == "vasp":
        return _check_potcars(config)
    from sluice.validate.espresso.pseudos import find_pseudos

    try:
        library = find_pseudos(config.validate_.pseudos)
    except SluiceError as error:
        return Check("pseudopotentials", False, str(error).split(";", maxsplit=1)[0], "sluice pseudos install")
    if problems := library.check(config.chemistry.elements):
        return Check("pseudopotentials", False, problems[0], "sluice pseudos install")
    return Check("pseudopotentials", True, f"{library.directory} ({', '.join(config.chemistry.elements)} verified)")


def _check_potcars(config: Config) -> Check:
    from sluice.validate.vasp.calculator import VaspCalculator
    from sluice.validate.vasp.potcars import HOW

    try:
        calculator = VaspCalculator(config.validate_)
        calculator.check_files(config.chemistry.elements)
    except SluiceError as error:
        return Check("POTCARs", False, str(error).replace(f"; {HOW}", ""), HOW)
    return Check("POTCARs", True, f"{calculator.potcars.folder} ({', '.join(config.chemistry.elements)} found)")


def check_filters(config: Config) -> list[Check]:
    """Whether the models that candidates have to pass are there."""
    found = []
    for one in config.screen.score.filters:
        if not one.missing():
            found.append(Check(f"filter {one.name}", True, str(one.model)))
            continue
        advice = f"sluice experiment {one.experiment}" if one.experiment else "give an existing model file"
        so = "; candidates are NOT filtered by it" if one.optional else ""
        found.append(Check(f"filter {one.name}", None if one.optional else False, f"no {one.model}{so}", advice))
    return found


def _nearest(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_directory(name: str, path: Path, needed: int, advice: str) -> Check:
    """Whether a directory (or the one it would be made in) can be written and has space."""
    try:
        place = _nearest(path)
        with tempfile.NamedTemporaryFile(dir=place, prefix=".sluice-doctor-"):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(name, False, f"{path} cannot be written: {error.strerror or error}", advice)
    text = f"{path}: {free / 2**30:.1f} GiB free, about {needed / 2**30:.1f} GiB needed"
    return Check(name, free >= needed, text, advice if free < needed else "")


def check_slurm() -> Check:
    """Whether a SLURM cluster is at hand."""
    if find_program("sbatch") is None:
        return Check("SLURM", None, "not found", "none needed on one machine; on a cluster run where sbatch is")
    return Check("SLURM", True, str(find_program("sbatch")))


def examine(config: Config) -> list[Check]:
    """Look at everything that a campaign needs."""
    space = estimate_space(config)
    scratch = config.validate_.scratch or config.library
    results = check_directory("results", config.results, space.kept_bytes, "set results to a directory with space")
    if config.candidates == "compositions":
        no_dft = Check("first principles", None, "not part of a campaign of compositions, which ends with formulas")
        return [check_packages(), check_gpu(config), no_dft, results, check_slurm()]
    return [
        check_packages(),
        check_gpu(config),
        check_code(config),
        check_launcher(config),
        check_pseudos(config),
        *check_filters(config),
        results,
        check_directory("scratch", scratch, space.scratch_bytes, "set validate.scratch to a directory with space"),
        Check("files", None, f"about {space.files} files at most will be kept", ""),
        check_slurm(),
    ]


def check_cores(config: Config, cores: int | None, *, with_dft: bool) -> list[Check]:
    """Whether one training and one calculation find the cores that they are to run on.

    Args:
        config: the campaign's.
        cores: what the run may use; None: all there are.
        with_dft: whether calculations are part of the run.
    """
    there = len(os.sched_getaffinity(0))
    given = there if cores is None else min(cores, there)
    threads, ranks = config.train.threads, config.validate_.ranks
    found = [Check("train.threads", threads <= there, f"{threads}, but {there} cores may be used", f"at most {there}")]
    if with_dft:
        text = f"validate.ranks is {ranks}, but this run has {given} cores (of {there} here, --cores, the profile's)"
        found.append(
            Check("validate.ranks", ranks <= given, text, f"--cores {ranks}, or validate.ranks at most {given}")
        )
    return found


def require_machine(config: Config, *, local: bool, cores: int | None = None, with_dft: bool = True) -> None:
    """Refuse to start a campaign that could not run to its end.

    Args:
        config: the campaign's.
        local: whether jobs run on this machine rather than on a cluster's nodes.
        cores: what the run may use; None: all there are.
        with_dft: whether first-principles calculations are part of the run.

    Raises:
        MissingProgramError: naming everything that is missing and what to do about it.
        ConfigError: likewise, if no program is missing.
    """
    places = [("results", config.workdir, "set results to a directory that can be written")]
    if with_dft:
        places.append(("task library", config.library, "set validate.library to a directory that can be written"))
        scratch = config.validate_.scratch or config.library
        places.append(("scratch", scratch, "set validate.scratch to a directory that can be written"))
    checks = [check_directory(name, path, 0, advice) for name, path, advice in places]
    if local:
        checks += [*check_cores(config, cores, with_dft=with_dft)]
        checks += [check_gpu(config)] if config.train.device == "cuda" else []
    programs = [check_code(config), check_launcher(config), check_pseudos(config)] if with_dft else []
    problems = [check for check in (*checks, *programs) if check.ok is False]
    if problems:
        lines = [f"  {check.name}: {check.found}\n    -> {check.advice}" for check in problems]
        kind = MissingProgramError if any(check.ok is False for check in programs) else ConfigError
        raise kind("the campaign cannot run:\n" + "\n".join(lines))
