"""A driver that is itself a small SLURM job: ``sluice submit``, for sites where nothing may run on a login node.

The job runs ``sluice run``. Before its own time limit SLURM warns it; then it lets go of the campaign, whose jobs go
on, puts itself back into the queue and goes on when its turn comes. ``python -m sluice.driver.submit`` is that job.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sluice.config import Config
from sluice.driver.launch import CONFIG_COPY, environment, find_profile
from sluice.driver.lease import is_alive, read_lease
from sluice.driver.rules import repository
from sluice.driver.slurm_jobs import SlurmJobs
from sluice.errors import LeaseError, MissingProgramError, SluiceError
from sluice.time_limit import heed_warnings, warned

LOG_FOLDER = "logs"
MEMORY_MB = 2000
WARNING_S = 120  # before the driver's time limit; SLURM may be a minute early
GOODBYE_S = 60.0  # for `sluice run` to let go of the campaign
REQUEUE_WAIT_S = 5.0
LAST_WAIT_S = 300.0  # for SLURM to end the job that is back in the queue


@dataclass(frozen=True)
class DriverJob:
    """What the job runs, and what it asks of SLURM.

    Attributes:
        config: configuration file of the campaign.
        workdir: the campaign's directory.
        profile: name or folder of the Snakemake profile.
        minutes: the job's time limit.
        until: steps to stop after.
        partition: null: the profile's for jobs without a GPU.
        further: more options of sbatch.
        successor: whether it follows a job that could not go back into the queue.
    """

    config: str
    workdir: str
    profile: str
    minutes: int
    until: tuple[str, ...] = ()
    partition: str | None = None
    further: tuple[str, ...] = ()
    successor: bool = False

    @property
    def warning_seconds(self) -> int:
        """How long before the limit the job is warned."""
        return max(10, min(WARNING_S, 60 * self.minutes // 4))

    def settings(self) -> dict[str, Any]:
        """What the profile says."""
        path = find_profile(self.profile, repository()) / "config.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}

    @property
    def campaign_name(self) -> str:
        """Name of the campaign's jobs in SLURM."""
        return SlurmJobs(Path(self.workdir), self.settings().get("sluice-jobname-prefix")).name

    @property
    def name(self) -> str:
        """Name of the driver's job; another than that of the jobs it submits, which are cancelled by theirs."""
        return f"{self.campaign_name}-driver"

    def sbatch(self, *, after: str | None = None) -> list[str]:
        """The command that submits it, its script on standard input; ``after``: not before that job has ended."""
        settings = self.settings()
        defaults = settings.get("default-resources") or {}
        partition = self.partition or defaults.get("slurm_partition")
        account = None if settings.get("sluice-no-account") else defaults.get("slurm_account")
        command = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--job-name={self.name}"]
        command += [f"--time={self.minutes}", f"--signal=B:USR1@{self.warning_seconds}", f"--mem={MEMORY_MB}"]
        command += ["--ntasks=1", "--cpus-per-task=1", f"--output={self.workdir}/{LOG_FOLDER}/submit-%j.log"]
        command += [f"--partition={partition}"] if partition else []
        command += [f"--account={account}"] if account else []
        command += [f"--dependency=afterany:{after}"] if after else []
        return [*command, f"--chdir={Path.cwd()}", *self.further]

    def script(self) -> str:
        """The batch script."""
        words = [sys.executable, "-m", "sluice.driver.submit", json.dumps(asdict(self))]
        return f"#!/bin/sh\nexec {shlex.join(words)}\n"

    def submit(self, *, after: str | None = None) -> str:
        """Hand it to SLURM; the job's id.

        Raises:
            MissingProgramError: without sbatch.
            SluiceError: with SLURM's message, if it refuses.
        """
        try:
            done = subprocess.run(
                self.sbatch(after=after),
                input=self.script(),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                env=environment(local=False),
            )
        except FileNotFoundError as error:
            raise MissingProgramError("sbatch not found: `sluice submit` works where SLURM does") from error
        except subprocess.TimeoutExpired as error:
            raise SluiceError("sbatch did not answer within 120 s; try again") from error
        if done.returncode != 0:
            raise SluiceError(f"SLURM did not take the driver's job: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip().split(";")[0]


def submit_driver(config: Config, job: DriverJob) -> str:
    """Submit the driver of a campaign; the SLURM job's id.

    Raises:
        LeaseError: if the campaign has a driver, at work or in the queue.
        SluiceError: if the profile runs no SLURM jobs, or SLURM refuses.
    """
    if job.settings().get("executor", "local") == "local":
        raise SluiceError(
            f"--profile {job.profile}: runs everything on one machine; name one with a cluster's executor"
        )
    holder = read_lease(config.workdir)
    if holder is not None and is_alive(holder, config.workdir):
        raise LeaseError(f"{config.workdir}: this campaign is being run by {holder.describe()}")
    if waiting := _jobs_named(job.name):
        raise LeaseError(f"{config.workdir}: its driver is in the queue already, as SLURM job {waiting[0]}")
    (config.workdir / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    return job.submit()


def _jobs_named(name: str) -> list[str]:
    command = ["squeue", "--noheader", f"--name={name}", f"--user={os.getuid()}", "--format=%i"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return []  # sbatch will say what is the matter


def run_driver(job: DriverJob) -> int:
    """Be the job: run the campaign until it ends or the time limit is near; the exit code."""
    heed_warnings()
    print(f"driver: SLURM job {os.environ.get('SLURM_JOB_ID')}, start {_restarts() + 1}", flush=True)
    # A configuration that was edited meanwhile counts from the next `sluice submit` on, not in the middle.
    again = (job.successor or _restarts() > 0) and (Path(job.workdir) / CONFIG_COPY).is_file()
    words = ["resume", job.workdir] if again else ["run", job.config]
    command = [sys.executable, "-m", "sluice.cli", *words, "--profile", job.profile]
    for step in job.until:
        command += ["--until", step]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: None)  # SLURM ends all processes of the job; wait for the last words
    while child.poll() is None and not warned():
        time.sleep(0.5)
    if child.poll() is not None:
        return child.returncode if child.returncode >= 0 else 128 - child.returncode
    print("driver: the time limit is near, letting go of the campaign", flush=True)
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=GOODBYE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.returncode == 0:
        return 0
    return _requeue(job)


def _restarts() -> int:
    try:
        return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    except ValueError:
        return 0


def _requeue(job: DriverJob) -> int:
    """Back into the queue under the same id; where that is not allowed, as a new job that follows this one."""
    own = os.environ["SLURM_JOB_ID"]
    while True:  # slurmctld may be away; SLURM ends this job at its limit
        words = ""
        try:
            done = subprocess.run(["scontrol", "requeue", own], capture_output=True, text=True, timeout=30, check=False)
            if done.returncode == 0:
                print("driver: back in the queue", flush=True)
                time.sleep(LAST_WAIT_S)  # SLURM ends this job
                return 0
            words = done.stderr.strip()
            following = replace(job, successor=True).submit(after=own)
        except (SluiceError, OSError, subprocess.TimeoutExpired) as error:
            print(f"driver: not back in the queue, tries again ({words or error})", flush=True)
            time.sleep(REQUEUE_WAIT_S)
        else:
            print(f"driver: goes on as SLURM job {following} ({words})", flush=True)
            return 0


def main() -> None:
    """The job's entry point."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("job", help="the job as JSON")
    values = json.loads(parser.parse_args().job)
    values |= {name: tuple(values[name]) for name in ("until", "further")}
    sys.exit(run_driver(DriverJob(**values)))


if __name__ == "__main__":
    main()
