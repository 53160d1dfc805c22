"""What SLURM costs: one campaign on this machine and through a private SLURM on it, wall and CPU, per job.

``python benchmarks/slurm_overhead.py FOLDER --config config/test.yaml`` prints a table. Both runs compute everything
(each has a task library of its own). CPU time is taken where it is spent: by the steps (attempts file), by the batch
scripts of the SLURM jobs (a wrapper of sbatch adds ``times`` to them), by the driver, and by SLURM's daemons.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.driver.rules import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))
from sluice_on_slurm import edited_profile
from slurm_cluster import NODES, SlurmCluster, temporary_root

# The script's own shell waits for everything below it, so that `times` knows the whole job; not in a pipeline, whose
# shell would know of nothing.
SBATCH = """#!/bin/sh
sed -e 's/^exec //' -e '$a code=$?; times > {times}/$SLURM_JOB_ID; exit $code' | {sbatch} "$@"
"""


@dataclass(frozen=True)
class Run:
    """One run of the campaign; CPU seconds by who spent them."""

    wall: float
    jobs: int
    steps: float
    snakemake_in_jobs: float
    driver: float
    daemons: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.steps + self.snakemake_in_jobs + self.driver + self.daemons


def write_config(folder: Path, base: Path) -> Path:
    """A copy of a configuration with results under a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load(base.read_text()) | {"results": str(folder / "results")}
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(config: Path, environment: dict[str, str], *options: str) -> tuple[float, float]:
    """Run the campaign; wall seconds, CPU seconds of the driver and what it started on this machine."""
    began = time.monotonic()
    with config.with_suffix(".log").open("w") as log:
        command = [sys.executable, "-m", "sluice.cli", "run", str(config), *options]
        child = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"the campaign failed:\n{config.with_suffix('.log').read_text()[-3000:]}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime


def steps_of(config: Path) -> tuple[int, float]:
    """Number of jobs and CPU seconds of their steps."""
    values = yaml.safe_load(config.read_text())
    attempts = read_attempts(Path(values["results"]) / values["campaign"] / ATTEMPTS_FILE)
    return len(attempts), sum(a.cpu_seconds for a in attempts)


def run_locally(folder: Path, base: Path) -> Run:
    """On this machine, with the default profile."""
    config = write_config(folder, base)
    wall, cpu = run(config, dict(os.environ), "--cores", "2")
    jobs, steps = steps_of(config)
    return Run(wall, jobs, steps, 0.0, cpu - steps, 0.0)


def seconds(text: str) -> float:
    """``1m2.5s`` of the shell's ``times``."""
    minutes, rest = text.split("m")
    return 60 * float(minutes) + float(rest.rstrip("s"))


def run_through_slurm(folder: Path, base: Path) -> Run:
    """Through a private SLURM, with the profile that users get."""
    config = write_config(folder, base)
    times, tools = folder / "times", folder / "bin"
    for place in (times, tools):
        place.mkdir(exist_ok=True)
    (tools / "sbatch").write_text(SBATCH.format(times=times, sbatch=shutil.which("sbatch")))
    (tools / "sbatch").chmod((tools / "sbatch").stat().st_mode | stat.S_IXUSR)
    profile = folder / "profile"
    if not profile.exists():
        edited_profile(profile)
    cluster = SlurmCluster(temporary_root())
    try:
        cluster.start()
        environment = cluster.environment
        environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
        before = _daemons(cluster)
        wall, driver = run(config, environment, "--profile", str(profile))
        daemons = _daemons(cluster) - before
    finally:
        cluster.stop()
    jobs, steps = steps_of(config)
    # The second line is that of the shell's children.
    scripts = sum(seconds(word) for path in times.iterdir() for word in path.read_text().splitlines()[1].split())
    return Run(wall, jobs, steps, scripts - steps, driver, daemons)


def _daemons(cluster: SlurmCluster) -> float:
    total = 0.0
    for name in ("munged", "slurmctld", *(f"slurmd.{node}" for node in NODES)):
        process: psutil.Process | None = cluster.process(name)
        if process is not None:
            spent = process.cpu_times()
            total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config" / "test.yaml")
    options = parser.parse_args()
    folder = options.folder.absolute()
    runs = {"local, 2 cores": run_locally(folder / "local", options.config)}
    runs["SLURM, 3 nodes on the same 2 cores"] = run_through_slurm(folder / "slurm", options.config)
    print(
        "| run | jobs | wall s | CPU s | steps | Snakemake in jobs | driver | SLURM's daemons | beside steps, a job |"
    )
    print("|---" * 9 + "|")
    for name, one in runs.items():
        parts = (one.cpu, one.steps, one.snakemake_in_jobs, one.driver, one.daemons)
        a_job = (one.cpu - one.steps) / one.jobs
        print(f"| {name} | {one.jobs} | {one.wall:.0f} | {' | '.join(f'{x:.0f}' for x in parts)} | {a_job:.1f} |")


if __name__ == "__main__":
    main()
