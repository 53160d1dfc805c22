"""Run Snakemake on a campaign as a child that cannot outlive its driver."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from sluice.config import Config
from sluice.driver.processes import driver_token, end_processes, started_by
from sluice.driver.rules import repository
from sluice.driver.slurm_jobs import SlurmJobs
from sluice.errors import SluiceError
from sluice.step import DRIVER_VARIABLE

CONFIG_COPY = "config.yaml"
DRIVER_LOG = "logs/driver.log"
INTERRUPT_SECONDS = 60.0  # for Snakemake to cancel its SLURM jobs


@dataclass(frozen=True)
class RunOptions:
    """How Snakemake is to run: cores (None: the profile's), profile (name under profiles/ or path), last rules."""

    cores: int | None = None
    profile: str | None = None
    until: tuple[str, ...] = ()


def find_profile(name: str | None, repository: Path) -> Path:
    """The directory of a Snakemake profile given by name or path.

    Raises:
        SluiceError: if there is none; lists those of the repository.
    """
    for folder in (repository / "profiles" / (name or "default"), Path(name or "default")):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
    known = ", ".join(sorted(p.parent.name for p in (repository / "profiles").glob("*/config.yaml")))
    raise SluiceError(f"--profile {name}: no such profile; there are: {known}, or give a directory with a config.yaml")


def store_config(config: Config) -> Path:
    """Write the configuration with absolute paths into the campaign's directory; what ``resume`` runs."""
    path = config.workdir / CONFIG_COPY
    text = "# Written by `sluice run`: the configuration last used, with absolute paths.\n"
    text += yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{CONFIG_COPY}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def count_gpus() -> int:
    """Number of NVIDIA GPUs that may be used here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def environment(*, local: bool = True) -> dict[str, str]:
    """The environment of a run: this Python first on the path, root may use MPI, local steps tied to this driver."""
    values = dict(os.environ)
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values.get('PATH', os.defpath)}"
    values.pop(DRIVER_VARIABLE, None)
    if local:  # jobs of a cluster live on when their driver dies
        values[DRIVER_VARIABLE] = driver_token()
    values.setdefault("SLUICE_PACKAGE", str(repository()))  # what envs/*.yaml install
    if os.geteuid() == 0:
        values |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return values


class Workflow:
    """Snakemake for one campaign.

    Args:
        repository: folder with the Snakefile.
        configfile: the campaign's configuration.
        options: cores, profile, last rules.
    """

    def __init__(self, repository: Path, configfile: Path, options: RunOptions) -> None:
        self.repository, self.configfile, self.options = repository, configfile.absolute(), options
        self.profile = find_profile(options.profile, repository)
        settings = yaml.safe_load((self.profile / "config.yaml").read_text(encoding="utf-8")) or {}
        self.is_local = settings.get("executor", "local") == "local"
        self.slurm_jobs = SlurmJobs(self.configfile.parent, settings.get("sluice-jobname-prefix"))
        cores = options.cores if options.cores is not None else settings.get("cores")
        self.cores = cores if isinstance(cores, int) else None  # None: all

    def command(self, *words: str) -> list[str]:
        """The command line, options of the run included."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.repository / "Snakefile")]
        command += ["--configfile", str(self.configfile), "--workflow-profile", str(self.profile)]
        if self.options.cores is not None:
            command += ["--cores", str(self.options.cores)]
        if self.is_local and (gpus := count_gpus()):
            command += ["--resources", f"gpu={gpus}"]
        if self.options.until:
            command += ["--until", *self.options.until]
        return [*command, *words]

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake for a moment (unlock, touch …) and keep what it prints."""
        plain = Workflow(self.repository, self.configfile, RunOptions(cores=1, profile=self.options.profile))
        return subprocess.run(
            [*plain.command(), *words],
            cwd=self.configfile.parent,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def dry_run(self) -> int:
        """Print every job that would run; the exit code."""
        return subprocess.run(self.command("--dry-run"), env=environment(), check=False).returncode

    def start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the run; the child has a process group of its own, and the kernel kills it when this process dies."""
        # What is still marked as incomplete after the settling is being made in SLURM, and may be done any moment.
        further = [] if self.is_local else ["--ignore-incomplete"]
        return subprocess.Popen(
            [sys.executable, "-m", "sluice.driver.child", str(os.getpid()), *self.command(*further)],
            cwd=self.configfile.parent,
            env=environment(local=self.is_local),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def cancel(child: subprocess.Popen[bytes], jobs: SlurmJobs, *, patience: float = INTERRUPT_SECONDS) -> str:
    """End a run on a cluster together with its SLURM jobs.

    Snakemake gets one SIGINT, upon which its executor cancels what it has submitted; a second one would leave jobs
    behind. What is in the queue after that (jobs of an earlier driver, or of a Snakemake that hangs) is cancelled here.

    Returns:
        What became of the jobs, in words.
    """
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    left = jobs.cancel()
    if left is None:
        return f"SLURM does not answer, so jobs may go on: `scancel --name={jobs.name}` ends them"
    if left:
        return f"SLURM jobs {', '.join(left)} are cancelled but have not ended yet"
    return "no SLURM job of this campaign is left"


def stop(child: subprocess.Popen[bytes], *, local: bool = True, patience: float = 10.0) -> None:
    """End a run: Snakemake starts nothing more, steps write their last words, then what is left is killed.

    On a cluster (not ``local``) only Snakemake ends: asked to, it would wait for its jobs, and they are to go on.
    """
    if not local:
        child.kill()
        child.wait()
        return
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    end_processes((p for p in started_by(driver_token()) if p.pid != child.pid), patience=patience)
    try:
        child.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    end_processes(started_by(driver_token()))


def require_inside(rules: Sequence[str], until: Sequence[str]) -> None:
    """Refuse names that are no rules.

    Raises:
        SluiceError: naming them and the rules there are.
    """
    if unknown := [name for name in until if name not in rules]:
        raise SluiceError(f"--until {' '.join(unknown)}: no such step; steps are: {', '.join(rules)}")
