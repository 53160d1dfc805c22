"""Prepare what all jobs of an experiment share: splits, graphs, tables."""

from __future__ import annotations

from pathlib import Path

from sluice.experiments.experiment import load_experiment
from sluice.experiments.folders import replace_folder, temporary_folder
from sluice.step import run_step

REVISION = 1


def prepare_data(*, experiment: str, settings: str, prepared: Path) -> None:
    """Write the folder that the experiment's jobs read.

    Args:
        experiment: its name.
        settings: its configuration as JSON.
        prepared: the folder, complete when it appears.

    Raises:
        ConfigError: if there is no such experiment.
        BadDataError: if its data are not what they should be.
    """
    found = load_experiment(experiment)
    config = found.config_type.model_validate_json(settings)
    with temporary_folder(prepared) as folder:
        found.prepare(config, folder)
        replace_folder(folder, prepared)


if __name__ == "__main__":
    run_step(prepare_data)
