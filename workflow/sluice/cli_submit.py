"""`sluice submit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def submit(
    config: Annotated[Path, typer.Argument(help="Configuration file of the campaign.")] = Path("config/config.yaml"),
    *,
    profile: Annotated[str, typer.Option("--profile", help="Profile under profiles/, or a directory.")] = "slurm",
    hours: Annotated[float, typer.Option("--hours", min=1 / 60, help="Time limit of the driver's job.")] = 24.0,
    partition: Annotated[
        str | None, typer.Option("--partition", help="Of the driver's job; else the profile's.")
    ] = None,
    sbatch: Annotated[str, typer.Option("--sbatch", help='More options of sbatch, e.g. "--qos=long".')] = "",
    until: Annotated[list[str] | None, typer.Option("--until", help="Stop after this step.")] = None,
) -> None:
    """Let a small SLURM job drive the campaign; before its time limit it goes back into the queue and then goes on."""
    from sluice.config_file import load_config
    from sluice.driver.launch import find_profile, require_inside
    from sluice.driver.rules import campaign_rules, repository
    from sluice.driver.submit import DriverJob, submit_driver

    checked = load_config(config)
    require_inside(list(campaign_rules(checked)), until or [])
    folder = find_profile(profile, repository())
    job = DriverJob(
        config=str(config.absolute()),
        workdir=str(checked.workdir),
        profile=str(folder),
        minutes=max(1, round(60 * hours)),
        until=tuple(until or ()),
        partition=partition,
        further=tuple(shlex.split(sbatch)),
    )
    number = submit_driver(checked, job)
    typer.echo(f"SLURM job {number} drives the campaign; it prints to {checked.workdir}/logs/submit-{number}.log")
    typer.echo(f"`sluice status {checked.campaign}` shows how far it is.")
    typer.echo(f"`scancel {number}` ends the driver, `scancel --name={job.campaign_name}` the jobs it has submitted.")
