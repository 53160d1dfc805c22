"""Snakemake's SLURM executor, hardened for campaigns of weeks: ``--executor sluice``.

A thin subclass of snakemake-executor-plugin-slurm. That one builds sbatch's arguments; this one decides what happens
when something goes wrong: it re-attaches to jobs of the campaign, waits for an absent slurmctld, settles vanished jobs,
names why a job cannot start, retries submissions, cancels promptly and continues jobs that saved their state.
"""

from snakemake_executor_plugin_slurm import common_settings

from .executor import Executor
from .settings import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
