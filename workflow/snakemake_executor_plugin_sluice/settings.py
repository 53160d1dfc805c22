"""Options of the executor; ``--sluice-max-poll-seconds`` on the command line, the same without dashes in a profile."""

from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_plugin_slurm import ExecutorSettings as SlurmSettings
from snakemake_interface_common.exceptions import WorkflowError


def _option(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description, "env_var": False, "required": False})


# Snakemake reads the types of the fields, so they are classes here and not strings.
@dataclass
class ExecutorSettings(SlurmSettings):
    """The stock plugin's settings and those of the hardening."""

    poll_seconds: float = _option(5.0, "Seconds between two looks at the queue while jobs end.")
    max_poll_seconds: float = _option(30.0, "Longest time between two looks at the queue while nothing ends.")
    hold_seconds: float = _option(
        120.0, "Seconds that a job may be held, or wait for something that cannot come, until that is an error."
    )
    max_lost: int = _option(
        3, "How often a job that its node or SLURM lost is submitted again without counting as a failure."
    )
    max_continuations: int = _option(
        50, "How often in a row a job that saved its state and made progress is submitted again."
    )
    warning_seconds: int = _option(
        300, "Seconds before the time limit at which a job is told to save its state; a quarter of the limit at most."
    )

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.array_jobs:
            raise WorkflowError("--sluice-array-jobs: job arrays are not supported, since their tasks' states mix up.")
        if not 0 < self.poll_seconds <= self.max_poll_seconds:
            raise WorkflowError(
                f"--sluice-poll-seconds {self.poll_seconds}: must be positive and at most "
                f"--sluice-max-poll-seconds ({self.max_poll_seconds})."
            )
        for name in ("hold_seconds", "max_lost", "max_continuations", "warning_seconds"):
            if getattr(self, name) < 0:
                raise WorkflowError(f"--sluice-{name.replace('_', '-')} {getattr(self, name)}: must not be negative.")
