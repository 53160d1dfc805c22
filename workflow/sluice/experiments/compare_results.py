"""Hold an experiment's results against its paper: table, figures, report, model."""

from __future__ import annotations

import shutil
from pathlib import Path

from sluice.experiments.experiment import COLUMNS, load_experiment
from sluice.experiments.folders import replace_folder, temporary_folder
from sluice.experiments.plan import by_variant
from sluice.experiments.results import add_notes, comparison_csv, describe_run, write_figures, write_json
from sluice.experiments.show import make_page
from sluice.models.modelfile import write_atomically
from sluice.step import run_step

REPORT_FILES = ("comparison.csv", "report.html", "run.json")

REVISION = 3


def compare_results(*, experiment: str, settings: str, prepared: Path, runs: list[Path], results: Path) -> None:
    """Write the folder of results: comparison.csv, figures, report.html, model.ckpt, run.json.

    Args:
        experiment: its name.
        settings: its whole configuration as JSON.
        prepared: what all jobs shared.
        runs: folders of all jobs.
        results: the folder, complete when it appears.

    Raises:
        SluiceError: if a run cannot be read.
    """
    found = load_experiment(experiment)
    config = found.config_type.model_validate_json(settings)
    comparison = found.compare(config, prepared, by_variant(runs))
    comparison.rows = add_notes(comparison.rows, config)
    with temporary_folder(results) as folder:
        facts = describe_run(config, comparison, runs)
        write_atomically(folder / "comparison.csv", comparison_csv(comparison.rows, COLUMNS).encode())
        write_json(folder / "run.json", facts)
        write_figures(folder / "figures", comparison.figures)
        write_atomically(folder / "report.html", make_page(config, comparison, facts).encode())
        if comparison.model is not None:
            shutil.copyfile(comparison.model, folder / "model.ckpt")
        for name, path in comparison.files.items():
            shutil.copyfile(path, folder / name)
        replace_folder(folder, results)


if __name__ == "__main__":
    run_step(compare_results)
