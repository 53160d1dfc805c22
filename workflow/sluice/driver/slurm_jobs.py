"""A campaign's jobs in SLURM as its driver sees them: which live, what they make, how they are cancelled."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakemake_executor_plugin_sluice.slurm_queue import QueuedJob

CANCEL_SECONDS = 20.0  # for jobs to leave the queue after scancel

# The executor's package imports Snakemake, which a run on one machine does without: it is imported where it is needed.


@dataclass(frozen=True)
class SlurmJobs:
    """The SLURM jobs of one campaign.

    Attributes:
        workdir: the campaign's working directory.
        prefix: begins their name instead of the directory's name (``sluice-jobname-prefix`` of the profile).
    """

    workdir: Path
    prefix: str | None = None

    @property
    def name(self) -> str:
        """The name that all of them carry."""
        from snakemake_executor_plugin_sluice.identity import campaign_name

        return campaign_name(self.workdir, self.prefix)

    def living(self) -> dict[str, QueuedJob] | None:
        """Jobs that wait or run, by id; None if SLURM is not here or does not answer."""
        if shutil.which("squeue") is None:
            return None
        from snakemake_executor_plugin_sluice.slurm_queue import read_queue

        queue = read_queue(self.name)
        return None if queue is None else {number: job for number, job in queue.items() if job.lives}

    def making(self) -> dict[str, str] | None:
        """What waiting and running jobs make: digest of rule and outputs → job id; None as above."""
        living = self.living()
        if living is None:
            return None
        return {job.identity.outputs: number for number, job in living.items() if job.identity is not None}

    def cancel(self, *, patience: float = CANCEL_SECONDS) -> list[str] | None:
        """Cancel whatever is left of them and wait for it to end.

        Returns:
            Ids of jobs that live on all the same; None if SLURM does not answer.
        """
        from snakemake_executor_plugin_sluice.slurm_queue import cancel

        deadline = time.monotonic() + patience
        while (living := self.living()) and time.monotonic() < deadline:
            cancel(self.name, sorted(living))
            time.sleep(1.0)
        return None if living is None else sorted(living)


def outputs_digest(rule: str, outputs: tuple[str, ...]) -> str:
    """The digest by which SLURM jobs say what they make."""
    from snakemake_executor_plugin_sluice.identity import digest_of_outputs

    return digest_of_outputs([(rule, outputs)])
