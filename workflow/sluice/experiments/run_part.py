"""Do one job of an experiment: one variant, one repeat."""

from __future__ import annotations

import shutil
from pathlib import Path

from sluice.errors import SluiceError
from sluice.experiments.experiment import load_experiment
from sluice.experiments.folders import MACHINE_FILE, METRICS_FILE, replace_folder, temporary_folder
from sluice.experiments.plan import make_job
from sluice.experiments.results import machine, write_json
from sluice.step import run_step

REVISION = 1


def run_part(
    *,
    experiment: str,
    settings: str,
    prepared: Path,
    needed: list[Path],
    checkpoints: Path,
    threads: int,
    run: Path,
) -> None:
    """Train and measure; killed at any moment, the same call goes on from its checkpoints.

    Args:
        experiment: its name.
        settings: its configuration as JSON.
        prepared: what all jobs share.
        needed: runs that this one builds on.
        checkpoints: folder that outlives an interruption.
        threads: CPU threads.
        run: ``…/<variant>/repeat_<k>``, complete when it appears.

    Raises:
        SluiceError: if the experiment cannot be run, or states no metrics.
    """
    found = load_experiment(experiment)
    config = found.config_type.model_validate_json(settings)
    with temporary_folder(run) as folder:
        kept = checkpoints / f"revision_{REVISION}"
        for older in checkpoints.glob("*"):  # what an earlier version of the jobs made is made anew
            if older.is_dir() and older != kept:
                shutil.rmtree(older, ignore_errors=True)
            elif older.is_file():
                older.unlink()
        job = make_job(
            config, run=run, prepared=prepared, needed=needed, folder=folder, checkpoints=kept, threads=threads
        )
        found.run(config, job)
        if not (folder / METRICS_FILE).is_file():
            raise SluiceError(f"{experiment}: {job.variant}, repeat {job.repeat} wrote no {METRICS_FILE}")
        write_json(folder / MACHINE_FILE, machine())
        replace_folder(folder, run)


if __name__ == "__main__":
    run_step(run_part)
