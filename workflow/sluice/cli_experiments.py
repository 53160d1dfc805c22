"""`sluice experiment` and `sluice data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sluice.errors import ConfigError

data_app = typer.Typer(help="Published data sets: where they come from, getting them.", no_args_is_help=True)


def experiment(
    name: Annotated[str | None, typer.Argument(help="Its name; left out: list the experiments.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A small run of minutes, to see that it works.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The paper's size; nothing is cut to meet the cap.")] = False,
    cap: Annotated[
        float | None, typer.Option("--cap", min=0.01, help="CPU-hours to cut it to, in place of its `cpu_hours`.")
    ] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="CPU cores to use; else all.")] = None,
    jobs_per_gpu: Annotated[
        int, typer.Option("--jobs-per-gpu", min=1, help="Jobs that share a GPU; small networks leave most of it idle.")
    ] = 1,
    profile: Annotated[str | None, typer.Option("--profile", help="Profile under profiles/, or a directory.")] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Run nothing; write docs/experiments/NAME.{md,csv} from the last full run."),
    ] = False,
) -> None:
    """Reproduce a paper's table: run it, or go on with it; results go to results/experiments/NAME."""
    from rich.console import Console

    from sluice.driver.experiment import CONFIGS, publish_table, run_experiment
    from sluice.driver.rules import repository
    from sluice.experiments.plan import experiment_names, load_experiment_config

    console = Console()
    if name is None:
        folder = repository() / CONFIGS
        for known in experiment_names(folder):
            _, config = load_experiment_config(folder / f"{known}.yaml")
            console.print(f"{known}: {config.title} ({config.paper})", highlight=False, markup=False)
        return
    if quick and full:
        raise ConfigError("--quick and --full exclude each other")
    if cap is not None and (quick or full):
        raise ConfigError("--cap decides what is cut; with --quick or --full nothing is cut by estimate")
    if publish and (cap is not None or jobs_per_gpu > 1):
        raise ConfigError("--publish runs nothing: --cap and --jobs-per-gpu say how to run")
    if publish:
        for path in publish_table(name):
            typer.echo(f"{path} written")
        return
    mode: Literal["default", "quick", "full"] = "quick" if quick else "full" if full else "default"
    raise typer.Exit(
        run_experiment(name, mode, cap=cap, cores=cores, jobs_per_gpu=jobs_per_gpu, profile=profile, console=console)
    )


@data_app.command("list")
def data_list() -> None:
    """List the data sets, whether each is here, its licence and where it comes from."""
    from rich.console import Console
    from rich.table import Table

    from sluice.datasets.registry import local_copy, registry

    table = Table(pad_edge=False)
    for column in ("data set", "what", "here", "licence", "source"):
        table.add_column(column, overflow="fold")
    for name, entry in registry().items():
        found = local_copy(name)
        here = str(found) if found else "by hand" if entry.by_hand else f"no: sluice data fetch {name}"
        table.add_row(name, entry.title, here, entry.licence, entry.homepage)
    Console().print(table)
    for name, entry in registry().items():
        if entry.by_hand:
            typer.echo(f"{name} by hand: {entry.by_hand}")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of the data set, see `sluice data list`.")],
    directory: Annotated[
        Path | None, typer.Option("--directory", help="Put its folder there instead of the user's cache.")
    ] = None,
) -> None:
    """Get a data set from its authors, check it and convert it."""
    from sluice.datasets.fetch import fetch_data

    typer.echo(f"{name}: {fetch_data(name, directory)}")


@data_app.command("convert")
def data_convert(
    name: Annotated[str, typer.Argument(help="Name of the data set: mp_structures.")],
    source: Annotated[Path, typer.Argument(help="Folder with mp-*.cif of the clone that `sluice data list` names.")],
    directory: Annotated[
        Path | None, typer.Option("--directory", help="Put its folder there instead of the user's cache.")
    ] = None,
) -> None:
    """Make a data set, that cannot be fetched, of its authors' files; minutes to half an hour."""
    from sluice.datasets.registry import cache_folder
    from sluice.errors import SluiceError
    from sluice.experiments.mp_convert import convert_mp_structures

    if name != "mp_structures":
        raise SluiceError(f"{name}: made of files got by hand is mp_structures alone; others: `sluice data list`")
    folder = cache_folder(name) if directory is None else directory / name
    typer.echo(f"{name}: {convert_mp_structures(source, folder)} structures, {folder.absolute()}")
