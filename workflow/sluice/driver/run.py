"""One run of a campaign from its lease to its last word."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.config import Config
from sluice.config_file import load_config
from sluice.driver.doctor import require_machine
from sluice.driver.estimate import estimate_space
from sluice.driver.launch import (
    CONFIG_COPY,
    DRIVER_LOG,
    INTERRUPT_SECONDS,
    RunOptions,
    Workflow,
    cancel,
    environment,
    require_inside,
    stop,
    store_config,
)
from sluice.driver.lease import Lease
from sluice.driver.rules import Rule, campaign_rules, repository
from sluice.driver.settle import Settled, register, settle, unrecorded_jobs
from sluice.driver.view import LiveView, PlainView, explain, jobs_to_run, paced
from sluice.errors import ConfigError, SluiceError

STAGES_WITHOUT_DFT = ("curate", "train", "generate", "screen")


class Stopped(Exception):
    """A signal asked the driver to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_campaign(config: Config, options: RunOptions, console: Console) -> int:
    """Run a campaign to its end, or go on with it; the exit code.

    Raises:
        MissingProgramError: if the campaign's last stage could not run.
        ConfigError: if directories cannot be written, or more cores or GPUs are asked for than there are.
        LeaseError: if another driver is at work.
    """
    folder = repository()
    rules = campaign_rules(config)
    require_inside(list(rules), options.until)
    workflow = Workflow(folder, config.workdir / CONFIG_COPY, options)
    with_dft = config.candidates == "crystals" and (
        not options.until or any(rules[name].stage not in STAGES_WITHOUT_DFT for name in options.until)
    )
    require_machine(config, local=workflow.is_local, cores=workflow.cores, with_dft=with_dft)
    require_filters(config)
    warn_of_filters(config, console)
    _warn_of_space(config, console)
    began = time.monotonic()
    with stop_signals():
        try:
            with Lease(config.workdir, on_loss=partial(os.kill, os.getpid(), signal.SIGTERM)) as lease:
                # The mark outlives a kill before everything is settled: what lies there may be of the earlier settings.
                unsettled = config.workdir / ".unsettled"
                same = is_last_config(config) and not unsettled.exists()
                if not same:
                    unsettled.touch()
                store_config(config)
                dead = lease.previous.driver if lease.previous else None
                settled = settle(
                    config.workdir,
                    rules,
                    dead_driver=dead,
                    same_config=same,
                    snakemake=workflow.ask,
                    slurm_jobs=workflow.slurm_jobs,
                )
                unsettled.unlink(missing_ok=True)
                if text := settled.describe():
                    console.print(f"settled an interrupted run: {text}", highlight=False)
                _refuse_slurm_jobs(settled, workflow)
                code = _drive(config, rules, workflow, console)
                _put_on_record(config.workdir, rules, workflow)
        except Stopped as request:
            again = f"sluice resume {config.campaign}" + (f" --profile {options.profile}" if options.profile else "")
            console.print(f"stopped by {request}; `{again}` goes on from here", style="yellow", highlight=False)
            return 128 + request.number
    _last_words(config, code, time.monotonic() - began, console)
    return code


def require_filters(config: Config) -> None:
    """See that the models that candidates must pass are there before anything starts.

    Raises:
        ConfigError: if one is not; says which experiment makes it.
    """
    if missing := config.screen.score.refused():
        raise ConfigError("\n".join(missing))


def warn_of_filters(config: Config, console: Console) -> None:
    """Say which filters are missing: those that a campaign does without, and those that it cannot start without."""
    score = config.screen.score
    for text, style in [*((t, "bold yellow") for t in score.left_out()), *((t, "bold red") for t in score.refused())]:
        console.print(f"WARNING: {text}", style=style, highlight=False, markup=False, soft_wrap=True)


def _refuse_slurm_jobs(settled: Settled, workflow: Workflow) -> None:
    """Do not do on this machine what SLURM is doing.

    Raises:
        SluiceError: naming the jobs and both ways out.
    """
    if settled.running and workflow.is_local:
        raise SluiceError(
            f"{len(settled.running)} outputs of this campaign are being made in SLURM ({settled.running[0]} …): resume "
            f"with the profile it ran with, or end those jobs with `scancel --name={workflow.slurm_jobs.name}`"
        )


def _put_on_record(workdir: Path, rules: dict[str, Rule], workflow: Workflow) -> None:
    """Jobs that ended between the settling and Snakemake's look at the files are known to nobody else."""
    if workflow.is_local:
        return
    attempts = {attempt.job: attempt for attempt in read_attempts(workdir / ATTEMPTS_FILE)}
    if jobs := unrecorded_jobs(workdir, rules, attempts.values()):
        register(jobs, workflow.ask)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into ``Stopped``, once: what ends the run must not be interrupted itself.

    SIGHUP stays ignored where it is, as under nohup.
    """

    def ask(number: int, _: FrameType | None) -> None:
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        raise Stopped(number)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for name in before:
        signal.signal(name, ask)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def is_last_config(config: Config) -> bool:
    """Whether the campaign's last run had this very configuration."""
    try:
        return load_config(config.workdir / CONFIG_COPY) == config
    except ConfigError:
        return False


def _drive(config: Config, rules: dict[str, Rule], workflow: Workflow, console: Console) -> int:
    log = config.workdir / DRIVER_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.time()
    with log.open("ab") as handle:
        start = handle.tell()
        child = workflow.start(handle)
        view: PlainView | LiveView
        if console.is_terminal:
            view = LiveView(config, rules, console, partial(jobs_to_run, log, start))
        else:
            view = PlainView(config.workdir / ATTEMPTS_FILE, console)
        try:
            with view:
                look = paced(view.update)
                while True:
                    try:
                        code = child.wait(timeout=1.0)
                        break
                    except subprocess.TimeoutExpired:
                        look()
        except Stopped as request:
            if not workflow.is_local:
                _leave_cluster(child, workflow, console, interrupted=request.number == signal.SIGINT)
            raise
        finally:
            stop(child, local=workflow.is_local)
    if code != 0:
        console.print("[bold red]The run failed.[/]")
        explain(config.workdir, log, start, began, console)
    return code


def _leave_cluster(child: subprocess.Popen[bytes], workflow: Workflow, console: Console, *, interrupted: bool) -> None:
    """Ctrl-C ends the SLURM jobs, too; a driver that is told to end by its machine or its terminal leaves them."""
    if interrupted:
        console.print(f"cancelling this campaign's SLURM jobs (at most {INTERRUPT_SECONDS:.0f} s) …", style="yellow")
        console.print(cancel(child, workflow.slurm_jobs), style="yellow", highlight=False)
        return
    stop(child, local=False)
    living = workflow.slurm_jobs.living()
    number = "SLURM jobs" if living is None else f"{len(living)} SLURM jobs"
    text = f"{number} of this campaign go on without a driver; `scancel --name={workflow.slurm_jobs.name}` ends them"
    with suppress(OSError):  # the terminal may be gone
        console.print(text, style="yellow", highlight=False)


def _last_words(config: Config, code: int, seconds: float, console: Console) -> None:
    """Print the table of validated crystals, where the report is, and the wall time."""
    minutes = f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"
    page, summary = (config.workdir / "report" / name for name in ("index.html", "summary.json"))
    if code == 0 and page.exists() and summary.exists():
        from sluice.report.summarize import summary_table

        console.print(summary_table(json.loads(summary.read_text(encoding="utf-8"))))
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    console.print(f"wall time: {minutes}", highlight=False)


def _warn_of_space(config: Config, console: Console) -> None:
    space = estimate_space(config)
    config.results.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(config.results).free
    if free < space.kept_bytes + space.scratch_bytes:
        needed = (space.kept_bytes + space.scratch_bytes) / 2**30
        console.print(
            f"{config.results}: {free / 2**30:.1f} GiB free, the campaign may need {needed:.1f} GiB", style="yellow"
        )


def rebuild_report(config: Config) -> Path:
    """Build the report from the stores there are; the page.

    Raises:
        SluiceError: if there is no finished round yet, or the report cannot be built.
    """
    workdir = config.workdir
    if config.candidates == "compositions":
        step, words = "build_composition_report", _composition_report(workdir)
    else:
        step, words = "build_report", _crystal_report(config)
    configuration = json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True)
    command = [sys.executable, "-m", f"sluice.report.{step}", *words, "--configuration", configuration]
    command += ["--html", "report/index.html", "--summary", "report/summary.json", "--log", f"logs/{step}.log"]
    done = subprocess.run(command, cwd=workdir, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SluiceError(f"the report could not be built: {done.stderr.strip()} (log: {workdir}/logs/{step}.log)")
    return workdir / "report" / "index.html"


def _composition_report(workdir: Path) -> list[str]:
    """Arguments of a report of compositions.

    Raises:
        SluiceError: if there is no shortlist yet.
    """
    if not (workdir / "round_1/screen/compositions/shortlist.h5").exists():
        raise SluiceError(f"{workdir}: there is no shortlist yet, so there is nothing to report; see `sluice status`")
    return ["--compositions", "curate/compositions.h5", "--table", "report/shortlist.csv"]


def _crystal_report(config: Config) -> list[str]:
    """Arguments of a report of crystals.

    Raises:
        SluiceError: if there is no finished round yet.
    """
    workdir = config.workdir
    decisions = [f"round_{n}/decision.h5" for n in range(1, config.rounds + 1)]
    decisions = [name for name in decisions if (workdir / name).exists()]
    if not decisions:
        raise SluiceError(f"{workdir}: no round is finished yet, so there is nothing to report; see `sluice status`")
    words = ["--dataset", "curate/dataset.h5", "--decisions", *decisions]
    return [*words, "--table", "report/validated.csv", "--cifs", "report/cifs"]
