"""One run of an experiment: data first, then Snakemake, then the results in their place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.config import usable_cores
from sluice.datasets.registry import require_data
from sluice.driver.launch import count_gpus, environment, find_profile, stop
from sluice.driver.lease import Lease
from sluice.driver.rules import repository
from sluice.driver.run import Stopped, stop_signals
from sluice.driver.view import PlainView, explain
from sluice.errors import ConfigError, SluiceError
from sluice.experiments.experiment import ExperimentConfig, Mode
from sluice.experiments.plan import load_experiment_config, plan_experiment, replaced

SNAKEFILE = "workflow/rules/experiments/experiment.smk"
CONFIGS = "config/experiments"
RESULTS = Path("results/experiments")


def run_experiment(
    name: str,
    mode: Mode,
    *,
    cores: int | None,
    profile: str | None,
    console: Console,
    cap: float | None = None,
    jobs_per_gpu: int = 1,
    base: Path = RESULTS,
) -> int:
    """Run an experiment to its report, or go on with it; the exit code.

    Each mode works in a directory of its own below ``<base>/<name>/``; what the last finished run found is copied to
    ``<base>/<name>/`` itself.

    Raises:
        ConfigError: if the configuration cannot be run.
        MissingProgramError: if a data set is missing; before any job.
        LeaseError: if another driver runs the same experiment.
    """
    folder = repository()
    experiment, config = load_experiment_config(folder / CONFIGS / f"{name}.yaml")
    if cap is not None:
        config = replaced(config, "cpu_hours", cap)
    planned = plan_experiment(experiment, config, mode)
    data = {data_set: require_data(data_set) for data_set in planned.data}
    planned = planned.model_copy(update={"data_folders": data})
    cores = cores if cores is not None else usable_cores()
    if cores > usable_cores():
        raise ConfigError(f"--cores {cores}: {usable_cores()} cores may be used here")
    workdir = (base / name / mode).absolute()
    words = command(folder, workdir, cores, profile, jobs_per_gpu)
    estimate = experiment.cpu_hours(planned)
    limit = f", cap {planned.cpu_hours:g}" if mode == "default" else ""
    console.print(f"{name}: {mode}, about {estimate:.2g} CPU-hours{limit}; {workdir}", highlight=False, soft_wrap=True)
    for cut in planned.applied:
        console.print(f"  {'quick' if mode == 'quick' else 'cut'}: {cut.describe()}", highlight=False, markup=False)
    began = time.monotonic()
    with stop_signals():
        try:
            with Lease(workdir, on_loss=partial(os.kill, os.getpid(), signal.SIGTERM)):
                code = _drive(planned, workdir, words, console)
        except Stopped as request:
            console.print(f"stopped by {request}; the same command goes on from here", style="yellow", highlight=False)
            return 128 + request.number
    if code == 0:
        publish_results(workdir / "results", workdir.parent)
        show_results(workdir.parent, console)
    console.print(f"wall time: {time.monotonic() - began:.0f} s", highlight=False)
    return code


def command(folder: Path, workdir: Path, cores: int, profile: str | None, jobs_per_gpu: int = 1) -> list[str]:
    """Snakemake's command line; ``folder`` is the repository.

    Raises:
        ConfigError: if the profile sends jobs elsewhere.
    """
    words = ["--snakefile", str(folder / SNAKEFILE), "--directory", str(workdir)]
    chosen = find_profile(profile, folder)
    settings = yaml.safe_load((chosen / "config.yaml").read_text(encoding="utf-8")) or {}
    if (executor := settings.get("executor", "local")) != "local":
        # ASSUME: its jobs would outlive a driver that dies; unlike a campaign's they are not found again.
        raise ConfigError(
            f"--profile {profile}: its executor is {executor}, but experiments run where they are started; "
            "start the command inside an allocation of the cluster instead"
        )
    words += ["--configfile", str(workdir / "config.yaml"), "--workflow-profile", str(chosen), "--cores", str(cores)]
    if count_gpus():
        # ASSUME: jobs take the first GPU that they see; several would have to be shared out.
        words += ["--resources", f"gpu={jobs_per_gpu}"]
    # A job that was interrupted left checkpoints beside its outputs: done again, it goes on from there.
    return [sys.executable, "-m", "snakemake", *words, "--rerun-incomplete"]


def _store_config(config: ExperimentConfig, workdir: Path) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    temporary = workdir / f".config.yaml.{os.getpid()}.tmp"
    temporary.write_text("# Written by `sluice experiment`: what is run.\n" + text, encoding="utf-8")
    temporary.replace(workdir / "config.yaml")


def _drive(config: ExperimentConfig, workdir: Path, words: list[str], console: Console) -> int:
    _store_config(config, workdir)
    # The lease is held: a lock of Snakemake's is a dead run's.
    shutil.rmtree(workdir / ".snakemake" / "locks", ignore_errors=True)
    log = workdir / "logs" / "driver.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.time()
    with log.open("ab") as handle:
        start = handle.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "sluice.driver.child", str(os.getpid()), *words],
            cwd=workdir,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            with PlainView(workdir / ATTEMPTS_FILE, console) as view:
                code = _wait(child, view, workdir, console)
        finally:
            stop(child)
    if code != 0:
        console.print("[bold red]The experiment failed.[/]")
        explain(workdir, log, start, began, console)
    return code


def _wait(child: subprocess.Popen[bytes], view: PlainView, workdir: Path, console: Console) -> int:
    """Wait for the end and say what goes on: jobs as they start and end, on a terminal how far each one is."""
    with console.status("") as status:
        while True:
            try:
                return child.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                view.update()
                if console.is_terminal:
                    status.update(_progress(workdir))


def _progress(workdir: Path) -> str:
    running = [a for a in read_attempts(workdir / ATTEMPTS_FILE) if a.state == "running"]
    shown = []
    for attempt in running:
        done, total = attempt.progress.get("done"), attempt.progress.get("total")
        share = f" {100 * done / total:.0f} %" if done is not None and total else ""
        shown.append(f"{attempt.job}{share}")
    return ", ".join(shown) or "working"


def publish_results(results: Path, target: Path) -> None:
    """Copy the results of a finished run to where they are looked for, each as a whole; comparison.csv last."""
    for path in sorted(results.iterdir(), key=lambda p: p.name == "comparison.csv"):
        if path.name.startswith("."):
            continue
        temporary = target / f".{path.name}.{os.getpid()}.tmp"
        if path.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(path, temporary)
            shutil.rmtree(target / path.name, ignore_errors=True)
        else:
            shutil.copyfile(path, temporary)
        temporary.replace(target / path.name)


def show_results(folder: Path, console: Console) -> None:
    """Print the table, the goals and where the report is."""
    import pandas as pd

    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows = pd.read_csv(folder / "comparison.csv", dtype=str, keep_default_na=False)
    table = Table(title=f"{facts['title']} ({facts['mode']})", pad_edge=False)
    for name in ("quantity", "paper", "sluice_mean", "sluice_std", "repeats", "unit"):
        table.add_column(name.replace("_", " "), justify="left" if name in ("quantity", "unit") else "right")
    for _, row in rows.iterrows():
        table.add_row(
            *(str(row[name]) for name in ("quantity", "paper", "sluice_mean", "sluice_std", "repeats", "unit"))
        )
    console.print(table)
    for goal in facts["goals"]:
        value = "no value" if goal["value"] is None else f"{goal['value']:.4g}"
        console.print(
            f"goal {goal['quantity']} {goal['goal']}: {value}, {'met' if goal['met'] else 'missed'}",
            style="green" if goal["met"] else "yellow",
            highlight=False,
        )
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def publish_table(name: str, base: Path = RESULTS, docs: Path | None = None) -> list[Path]:
    """Write ``docs/experiments/<name>.{md,csv}`` from the last run that was not quick; the files.

    Raises:
        SluiceError: if there is none.
    """
    folders = [base / name / mode / "results" for mode in ("full", "default")]
    found = [folder for folder in folders if (folder / "run.json").is_file()]
    if not found:
        raise SluiceError(
            f"{base / name}: no finished run to publish; run `sluice experiment {name}` first (not --quick)"
        )
    from sluice.experiments.publish import write_tables

    newest = max(found, key=lambda folder: (folder / "run.json").stat().st_mtime)
    return write_tables(newest, docs or repository() / "docs" / "experiments", name)
