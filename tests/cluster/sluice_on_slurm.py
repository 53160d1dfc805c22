"""`sluice` on the test cluster with the profile that users get, its pauses shortened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import yaml
from slurm_cluster import SlurmCluster, wait_until

from sluice.attempts import ATTEMPTS_FILE, Attempt, read_attempts
from snakemake_executor_plugin_sluice.identity import campaign_name
from snakemake_executor_plugin_sluice.slurm_queue import QueuedJob, parse_squeue, squeue_command

REPOSITORY = Path(__file__).parents[2]
# A database of a few crystals, made within seconds; nothing after labelling is asked for.
SMALL = {
    "campaign": "small",
    "chemistry": {"elements": ["Li", "Na", "Mg", "Ca", "F"], "space_groups": [225]},
    "curate": {"build": {"max_crystals": 100}, "batches": 2},
    "train": {"device": "cpu"},
}
SMALL_JOBS = {"collect_crystals", "label_crystals/batch_0", "label_crystals/batch_1"}


def edited_profile(folder: Path) -> Path:
    """The profile with the lines edited that a user of this cluster would edit, and shorter pauses."""
    values = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text())
    del values["default-resources"]["slurm_account"]
    values |= {"sluice-no-account": True, "sluice-poll-seconds": 1, "sluice-max-poll-seconds": 3, "latency-wait": 5}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


class SluiceCampaign:
    """One campaign, its configuration, its profile and its drivers."""

    def __init__(self, root: Path, slurm: SlurmCluster, values: dict, *options: str) -> None:
        self.slurm, self.options = slurm, options
        self.config = root / "campaign.yaml"
        self.config.write_text(yaml.safe_dump(values | {"results": str(root / "results")}))
        self.workdir = root / "results" / values["campaign"]
        self.profile = edited_profile(root / "profile")
        self.log = root / "driver.log"
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        """Start `sluice run` or `sluice resume`."""
        words = [sys.executable, "-m", "sluice.cli", command, str(self.config), "--profile", str(self.profile)]
        with self.log.open("ab") as output:
            self.driver = subprocess.Popen(
                [*words, *self.options, *options],
                cwd=REPOSITORY,
                env=self.slurm.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.driver

    def call(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        words = [sys.executable, "-m", "sluice.cli", command, *options]
        return subprocess.run(
            words, cwd=REPOSITORY, env=self.slurm.environment, capture_output=True, text=True, check=False
        )

    def kill(self) -> None:
        """SIGKILL of the driver and all that it has started here."""
        if self.driver is not None and self.driver.poll() is None:
            os.killpg(self.driver.pid, signal.SIGKILL)
            self.driver.wait()

    def text(self) -> str:
        """What the drivers have printed, without line breaks."""
        return " ".join(self.log.read_text(errors="replace").split()) if self.log.exists() else ""

    def snakemake_text(self) -> str:
        """What Snakemake has printed."""
        path = self.workdir / "logs" / "driver.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def attempts(self, step: str | None = None) -> list[Attempt]:
        """All attempts (of one step)."""
        return [a for a in read_attempts(self.workdir / ATTEMPTS_FILE) if step in (None, a.step)]

    def running(self, step: str) -> list[Attempt]:
        """Attempts of a step that have started and not ended."""
        return [a for a in self.attempts(step) if a.outcome is None]

    def wait_for(self, condition, seconds: float, what: str) -> None:
        """Wait; a driver that ends meanwhile is an error."""
        ended = lambda: self.driver is not None and self.driver.poll() is not None  # noqa: E731
        wait_until(lambda: condition() or ended(), seconds, what)
        assert condition(), f"{what}: {self.text()[-3000:]}\n{self.snakemake_text()[-3000:]}"

    def freeze(self, step: str, count: int, seconds: float = 600) -> list[psutil.Process]:
        """Stop all running jobs of a step once there are that many, so that they last."""
        frozen: dict[int, psutil.Process] = {}

        def all_frozen() -> bool:
            for attempt in self.running(step):
                if attempt.pid not in frozen:
                    frozen[attempt.pid] = psutil.Process(attempt.pid)
                    frozen[attempt.pid].suspend()
            return len(frozen) >= count

        self.wait_for(all_frozen, seconds, f"{count} × {step} run")
        return list(frozen.values())

    def jobs(self) -> dict[str, QueuedJob]:
        """The campaign's SLURM jobs in every state."""
        return parse_squeue(self.slurm.run(*squeue_command()).stdout, campaign_name(self.workdir))

    def living(self) -> set[str]:
        """Ids of those that wait or run."""
        return {number for number, job in self.jobs().items() if job.lives}
