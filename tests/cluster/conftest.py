"""One private SLURM for all tests of this directory, and small campaigns that run on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from slurm_cluster import PATIENCE, SlurmCluster, missing_programs, temporary_root, wait_until

from snakemake_executor_plugin_sluice.identity import campaign_name
from snakemake_executor_plugin_sluice.slurm_queue import QueuedJob, parse_squeue, squeue_command

# Not part of `make test`: these start daemons and take minutes. `make test-cluster` asks for them.
collect_ignore_glob = [] if os.environ.get("SLUICE_TEST_CLUSTER") else ["test_*.py"]
# Shells start background jobs with SIGINT ignored, nohup ignores SIGHUP, and drivers that tests end would inherit that.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
WORK = Path(__file__).with_name("work.py")
SNAKEFILE = """\
NAMES = {names!r}

rule all:
    localrule: True
    input: expand("{{name}}.txt", name=NAMES)

rule work:
    output: "{{name}}.txt"
    log: "logs/{{name}}.log"
    resources: {resources}
    params: flags={flags!r}
    shell:
        "{python} {work} {step} --name {{wildcards.name}} {{params.flags}} "
        "--output {{output}} --log {{log}}"
"""


@pytest.fixture(scope="session")
def _slurm() -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        pytest.skip(f"no SLURM here ({', '.join(missing)}): apt-get install slurmctld slurmd slurm-client munge")
    cluster = SlurmCluster(temporary_root())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def slurm(_slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, whole again after each test."""
    yield _slurm
    _slurm.recover()


@dataclass
class Driver:
    """A running Snakemake with the executor."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, seconds: float) -> int:
        """Exit code; the log is shown if it takes longer."""
        try:
            return self.process.wait(timeout=PATIENCE * seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"driver still runs after {PATIENCE * seconds} s:\n{self.text()}") from None

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, seconds: float) -> None:
        """Wait until it prints something."""
        wait_until(lambda: words in self.text() or self.process.poll() is not None, seconds, f"{words!r} in driver log")
        assert words in self.text(), self.text()

    def kill(self) -> None:
        """SIGKILL of the driver and its local children; SLURM's jobs are not among them."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()


class Campaign:
    """A directory with a Snakefile of one rule, run with ``--executor sluice``."""

    def __init__(self, root: Path, slurm: SlurmCluster) -> None:
        self.root, self.slurm, self.drivers = root, slurm, list[Driver]()
        self.name = campaign_name(root)

    def write(self, names: list[str], step: str, flags: str, resources: str = "mem_mb=400, runtime=3") -> None:
        """Write the Snakefile."""
        text = SNAKEFILE.format(
            names=names, step=step, flags=flags, resources=resources, python=sys.executable, work=WORK
        )
        (self.root / "Snakefile").write_text(text)

    def snakemake(self, *options: str) -> list[str]:
        """Snakemake's command line for this campaign."""
        return [sys.executable, "-m", "snakemake", "--directory", str(self.root), "--nocolor", *options]

    def start(self, *options: str, retries: int = 0) -> Driver:
        """Start a driver; options are added to the command line."""
        log = self.root / f"driver_{len(self.drivers)}.log"
        command = self.snakemake(
            *("--executor", "sluice", "--jobs", "10", "--scheduler", "greedy", "--retries", str(retries)),
            *("--latency-wait", "2", "--sluice-no-account", "--sluice-poll-seconds", "1"),
            *("--sluice-max-poll-seconds", "2", "--sluice-hold-seconds", "4", "--keep-going", *options),
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.root, env=self.environment(), stdout=output, stderr=output, process_group=0
            )
        self.drivers.append(Driver(process, log))
        return self.drivers[-1]

    def environment(self) -> dict[str, str]:
        """The cluster's, with programs of the campaign's own before SLURM's."""
        values = self.slurm.environment
        return values | {"PATH": f"{self.root / 'bin'}{os.pathsep}{values['PATH']}"}

    def unlock(self) -> None:
        """Remove the lock of a killed driver."""
        subprocess.run(self.snakemake("--unlock"), cwd=self.root, env=self.slurm.environment, check=True)

    def starts(self, name: str | None = None) -> list[str]:
        """SLURM job ids of all starts (of one job)."""
        path = self.root / "starts.txt"
        rows = [row.split() for row in path.read_text().splitlines()] if path.exists() else []
        return [row[1] for row in rows if name in (None, row[0])]

    def jobs(self) -> dict[str, QueuedJob]:
        """Jobs of this campaign in the queue, in every state."""
        return parse_squeue(self.slurm.run(*squeue_command()).stdout, self.name)

    def living(self) -> list[QueuedJob]:
        """Jobs that wait or run."""
        return [job for job in self.jobs().values() if job.lives]

    def wait_running(self, count: int = 1, seconds: float = 60) -> None:
        """Wait until that many steps have started."""
        wait_until(lambda: len(self.starts()) >= count, seconds, f"{count} steps started")

    def close(self) -> None:
        """End drivers that a failed test left."""
        for driver in self.drivers:
            if driver.process.poll() is None:
                os.killpg(driver.process.pid, signal.SIGKILL)
                driver.process.wait()


@pytest.fixture
def campaign(tmp_path: Path, slurm: SlurmCluster) -> Iterator[Campaign]:
    """An empty campaign."""
    (tmp_path / "logs").mkdir()
    made = Campaign(tmp_path, slurm)
    yield made
    made.close()
