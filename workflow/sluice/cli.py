"""The ``sluice`` command."""

from __future__ import annotations

import math
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from sluice.cli_experiments import data_app, experiment
from sluice.cli_score import score
from sluice.cli_submit import submit
from sluice.errors import SluiceError

if TYPE_CHECKING:
    from rich.console import Console

    from sluice.config import Config
    from sluice.driver.launch import Workflow

# Heavy imports stand inside the commands: `sluice --help` answers at once.
DEFAULT_CONFIG = Path("config/config.yaml")


class SluiceGroup(TyperGroup):
    """Commands whose errors meant for the user are one red message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SluiceError as error:
            from rich.console import Console
            from rich.text import Text

            Console(stderr=True, soft_wrap=True).print(Text(f"Error: {error}", style="red"))
            ctx.exit(2)


app = typer.Typer(
    name="sluice",
    cls=SluiceGroup,
    help="Discovery campaigns for inorganic crystals: generate, screen, confirm by first principles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
pseudos_app = typer.Typer(help="Pseudopotentials for Quantum ESPRESSO.", no_args_is_help=True)
app.add_typer(pseudos_app, name="pseudos")
config_app = typer.Typer(help="The configuration: defaults, documentation, checks.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.command()(experiment)
app.command()(score)
app.command()(submit)

ConfigArgument = Annotated[Path, typer.Argument(help="Configuration file of the campaign.")]
CampaignArgument = Annotated[
    str | None,
    typer.Argument(help="Campaign: its name, directory or configuration; may be left out if there is only one."),
]
CoresOption = Annotated[int | None, typer.Option("--cores", min=1, help="CPU cores to use; else the profile's.")]
ProfileOption = Annotated[str | None, typer.Option("--profile", help="Profile under profiles/, or a directory.")]
UntilOption = Annotated[list[str] | None, typer.Option("--until", help="Stop after this step, e.g. rank_candidates.")]


def _console() -> Console:
    from rich.console import Console

    return Console()


def find_campaign(name: str | None, results: Path = Path("results")) -> Config:
    """The configuration that a campaign was last run with.

    Args:
        name: a campaign's name, directory or configuration file; None for the only campaign in ``results``.
        results: where campaigns are looked for by name.

    Raises:
        SluiceError: if there is none, or more than one to choose from.
    """
    from sluice.config_file import load_config
    from sluice.driver.launch import CONFIG_COPY

    if name is None:
        found = sorted(results.glob(f"*/{CONFIG_COPY}"))
        if len(found) == 1:
            return load_config(found[0])
        if not found:
            raise SluiceError(f"no campaign in {results.absolute()}: start one with `sluice run CONFIG`")
        names = ", ".join(path.parent.name for path in found)
        raise SluiceError(f"several campaigns in {results.absolute()}: name one of {names}")
    for path in (results / name / CONFIG_COPY, Path(name) / CONFIG_COPY):
        if path.is_file():
            return load_config(path)
    if Path(name).is_file():
        config = load_config(Path(name))
        stored = config.workdir / CONFIG_COPY
        return load_config(stored) if stored.is_file() else config
    raise SluiceError(
        f"{name}: no campaign of that name in {results.absolute()}, no directory of one, no configuration"
    )


@app.command()
def run(
    config: ConfigArgument = DEFAULT_CONFIG,
    cores: CoresOption = None,
    profile: ProfileOption = None,
    until: UntilOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show the jobs that would run.")] = False,
) -> None:
    """Run a campaign to its report; finished work is kept, interrupted work is settled first."""
    from sluice.config_file import load_config
    from sluice.driver.launch import RunOptions, Workflow
    from sluice.driver.rules import repository
    from sluice.driver.run import run_campaign

    checked = load_config(config)
    options = RunOptions(cores, profile, tuple(until or ()))
    if dry_run:
        raise typer.Exit(_dry_run(checked, Workflow(repository(), config, options)))
    raise typer.Exit(run_campaign(checked, options, _console()))


def _dry_run(config: Config, workflow: Workflow) -> int:
    """Every job that would run, then what the campaign would cost and what is missing; the exit code."""
    from sluice.driver.estimate import cost_table
    from sluice.driver.run import warn_of_filters

    console = _console()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = workflow.dry_run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if code == 0:
        console.print(cost_table(config))
        console.print(
            f"DAG: {time.monotonic() - began:.1f} s ({cpu:.1f} CPU-s, {after.ru_maxrss / 1024:.0f} MB)", highlight=False
        )
    warn_of_filters(config, console)
    return code


@app.command()
def resume(
    campaign: CampaignArgument = None,
    cores: CoresOption = None,
    profile: ProfileOption = None,
    until: UntilOption = None,
) -> None:
    """Go on with a campaign as it was last configured."""
    from sluice.driver.launch import RunOptions
    from sluice.driver.run import run_campaign

    options = RunOptions(cores, profile, tuple(until or ()))
    raise typer.Exit(run_campaign(find_campaign(campaign), options, _console()))


@app.command()
def status(
    campaign: CampaignArgument = None,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
) -> None:
    """Show how far a campaign is: jobs done, running, failed, continued, and the best candidates so far."""
    from rich.live import Live

    from sluice.driver.rules import campaign_rules
    from sluice.driver.status import status_view

    config = find_campaign(campaign)
    rules = campaign_rules(config)
    console = _console()
    if once or not console.is_terminal:
        console.print(status_view(config, rules))
        return
    try:
        with Live(status_view(config, rules), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(2.0)
                live.update(status_view(config, rules), refresh=True)
    except KeyboardInterrupt:
        return


@app.command()
def why(
    name: Annotated[str, typer.Argument(metavar="ID", help="A candidate, a task (or how it begins), or a job.")],
    campaign: CampaignArgument = None,
) -> None:
    """Tell the life of one candidate or task: every step, score, reason, attempt, correction and log."""
    from sluice.driver.rules import campaign_rules
    from sluice.driver.why import why as life

    config = find_campaign(campaign)
    told = life(config, campaign_rules(config), name)
    _console().print(told, soft_wrap=True, highlight=False)


@app.command()
def report(campaign: CampaignArgument = None) -> None:
    """Build the report again from the stores there are, and print its path."""
    from sluice.driver.run import rebuild_report

    typer.echo(rebuild_report(find_campaign(campaign)))


@app.command()
def doctor(config: ConfigArgument = DEFAULT_CONFIG) -> None:
    """See whether this machine can run a campaign, and what to do about what is missing."""
    from rich.table import Table

    from sluice.config import Config
    from sluice.config_file import load_config
    from sluice.driver.doctor import examine
    from sluice.driver.estimate import cost_table

    given = config != DEFAULT_CONFIG or config.exists()
    checked = load_config(config) if given else Config()
    checks = examine(checked)
    table = Table(pad_edge=False, show_lines=False)
    for name in ("", "what", "found", "what to do"):
        table.add_column(name, overflow="fold")
    marks = {True: "[green]ok[/]", False: "[bold red]missing[/]", None: "[dim]-[/]"}
    for check in checks:
        table.add_row(marks[check.ok], check.name, check.found, check.advice)
    console = _console()
    console.print(table)
    console.print(cost_table(checked))
    if any(check.ok is False for check in checks):
        console.print("[bold red]A campaign cannot run here yet.[/]")
        raise typer.Exit(1)
    console.print("[green]A campaign can run here.[/]")


@app.command()
def dft(
    crystals: Annotated[list[Path], typer.Argument(metavar="INPUT.cif…", help="Crystals, one in each file.")],
    *,
    output: Annotated[Path, typer.Option("--output", help="CSV to write; a store is written beside it.")] = Path(
        "formation_energies.csv"
    ),
    code: Annotated[str | None, typer.Option("--code", help="First-principles code: espresso or vasp.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="fast, balanced or stringent.")] = None,
    ranks: Annotated[int | None, typer.Option("--ranks", min=1, help="MPI ranks of one calculation.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Take from its section `validate` what no option says, e.g. spin elements."),
    ] = None,
    library: Annotated[Path | None, typer.Option("--library", help="Task library; results in it are reused.")] = None,
    elements: Annotated[
        str | None,
        typer.Option(
            "--elements",
            metavar="Li,Na,…",
            help="A whole chemistry: its hardest element sets one cutoff tier for all files; else each has its own.",
        ),
    ] = None,
) -> None:
    """Relax crystals of your own and compute their formation energies; may be repeated to go on."""
    from sluice.config import Config
    from sluice.config_file import check_config, load_config
    from sluice.driver.launch import environment
    from sluice.validate.compute_files import dft_files

    _require_files(*crystals)
    chemistry = None if elements is None else _symbols("--elements", elements)
    base = load_config(config) if config is not None else Config()
    values = base.model_dump(mode="json", by_alias=True)
    said = {"code": code, "protocol": protocol, "ranks": ranks}
    if code not in (None, base.validate_.code):
        del values["validate"]["command"]  # the other code's; the new one has a default of its own
    values["validate"] |= {name: value for name, value in said.items() if value is not None}
    checked = check_config(values)
    os.environ.update(environment(local=False))
    entries = dft_files(
        crystals,
        output=output,
        settings=checked.validate_,
        library=library or checked.library,
        elements=chemistry,
    )
    raise typer.Exit(0 if any(math.isfinite(entry.raw) or math.isfinite(entry.corrected) for entry in entries) else 1)


def _symbols(option: str, text: str) -> tuple[str, ...]:
    from sluice.config import check_elements

    try:
        symbols = check_elements(tuple(part.strip() for part in text.split(",") if part.strip()))
    except ValueError as error:
        raise SluiceError(f"{option} {text}: {error}") from error
    if not symbols:
        raise SluiceError(f"{option}: give element symbols with commas between them, e.g. Li,Na,Cl")
    return symbols


def _require_files(*paths: Path) -> None:
    if missing := [str(path) for path in paths if not path.exists()]:
        raise SluiceError(f"no such file or directory: {', '.join(missing)}")


@pseudos_app.command("install")
def pseudos_install(
    directory: Annotated[Path | None, typer.Option("--directory", help="Where to put them.")] = None,
    source: Annotated[
        str, typer.Option("--from", help="auto, debian, archive, or a directory that has them.")
    ] = "auto",
) -> None:
    """Get SSSP PBE efficiency 1.3.0 and verify every file."""
    from sluice.validate.espresso.pseudos import LIBRARY, install_pseudos

    places: Literal["auto", "debian", "archive"] | Path
    if source in ("auto", "debian", "archive"):
        places = source  # type: ignore[assignment]
    else:
        places = Path(source)
        if not places.is_dir():
            raise SluiceError(f"--from {source}: not auto, debian, archive or a directory")
    typer.echo(f"{LIBRARY}: {install_pseudos(directory, places).directory}")


@config_app.command("default")
def config_default() -> None:
    """Print the default configuration, every key with its unit and comment."""
    from sluice.config_docs import default_yaml

    typer.echo(default_yaml(), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    import json

    from sluice.config import Config

    typer.echo(json.dumps(Config.model_json_schema(by_alias=True), indent=2))


@config_app.command("check")
def config_check(config: ConfigArgument = DEFAULT_CONFIG) -> None:
    """Check a configuration without running anything."""
    from sluice.config_file import load_config

    checked = load_config(config)
    typer.echo(f"{config}: campaign {checked.campaign}, results in {checked.workdir}")


if __name__ == "__main__":
    app()
