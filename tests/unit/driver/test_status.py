"""How far a campaign is, as its files tell it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from formula_stores import write_formulas
from rich.console import Console

from sluice.attempts import ATTEMPTS_FILE, Recorder, append_event
from sluice.config import Config
from sluice.config_file import check_config
from sluice.crystals import Crystals
from sluice.driver.lease import Lease
from sluice.driver.rules import campaign_rules, read_rules, repository
from sluice.driver.status import (
    _slurm_jobs,
    best_candidates,
    driver_line,
    progress_text,
    read_states,
    status_view,
)
from sluice.driver.view import PlainView, explain, failures_since, jobs_to_run, paced
from sluice.schemas import SCHEMAS
from sluice.store_writer import StoreWriter

RULES = read_rules(repository() / "workflow" / "rules")


@pytest.fixture
def config(tmp_path) -> Config:
    return check_config({"results": str(tmp_path), "campaign": "c", "rounds": 2, "generate": {"batches": 3}})


def record(config: Config, job: str, outcome: str | None = "done", reason: str = "") -> Recorder:
    recorder = Recorder(
        config.workdir / "attempts.jsonl", job=job, step=job.split("/", maxsplit=1)[0], log=f"logs/{job}.log"
    )
    if outcome:
        recorder.end(outcome, reason, cpu_seconds=2.0, gpu_seconds=0.0, max_rss_mb=1.0)
    return recorder


def shown(view) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(view)
    return console.file.getvalue()


def test_totals_are_those_of_the_dag(config):
    states = read_states(config, RULES)
    assert {n: s.total for n, s in states.items() if s.total not in (1, 2)} == {
        "generate_candidates": 6, "check_geometry": 6, "check_symmetry": 6, "check_charge": 6,
        "relax_candidates": 4, "compute_references": 4, "compute_compounds": 4,
    }  # fmt: skip
    assert states["build_report"].total == 1 and states["train_screener"].total == 2


def test_latest_attempt_of_a_job_counts(config):
    record(config, "generate_candidates/round_1_batch_0", "failed", "no memory")
    record(config, "generate_candidates/round_1_batch_0")
    record(config, "generate_candidates/round_1_batch_1", "failed", "no memory")
    record(config, "train_generator/round_1", "continued")
    record(config, "train_generator/round_1", "continued")
    running = record(config, "train_generator/round_1", None)
    running.progress(3, 60, "epochs", "learning", force=True)
    states = read_states(config, RULES)
    generate, train = states["generate_candidates"], states["train_generator"]
    assert (generate.done, generate.count("failed"), generate.cpu_seconds) == (1, 1, 4.0)
    assert (train.count("running"), train.continued, train.progress) == (1, 2, "learning 3/60 epochs")


def test_killed_jobs_do_not_count_as_running(config):
    event = {"event": "start", "attempt": "a", "job": "check_charge/round_1_batch_0", "step": "check_charge"}
    append_event(
        config.workdir / "attempts.jsonl", event | {"host": os.uname().nodename, "pid": 2**22 + 1, "pid_started": 1.0}
    )
    assert read_states(config, RULES)["check_charge"].count("killed") == 1


def open_attempt(config: Config, job: str, **values) -> None:
    event = {
        "event": "start",
        "attempt": job,
        "job": job,
        "step": job.split("/", maxsplit=1)[0],
        "log": f"logs/{job}.log",
    }
    event |= {"host": "node7", "pid": 1, "pid_started": 1.0}
    append_event(config.workdir / ATTEMPTS_FILE, event | values)


def test_every_job_is_done_running_waiting_or_failed(config):
    record(config, "generate_candidates/round_1_batch_0")
    record(config, "generate_candidates/round_1_batch_1", None)
    record(config, "generate_candidates/round_1_batch_2", "failed", "no memory")
    record(config, "generate_candidates/round_2_batch_0", "continued")
    state = read_states(config, RULES)["generate_candidates"]
    assert (state.count("done"), state.count("running"), state.count("failed"), state.waiting) == (1, 1, 1, 3)
    assert state.total == 6


def test_retries_and_failures_come_with_reason_and_log(config):
    record(config, "train_generator/round_1", "failed", "no memory")
    record(config, "train_generator/round_1", "continued")
    record(config, "train_generator/round_1")
    record(config, "train_screener/round_1", "failed", "first reason")
    record(config, "train_screener/round_1", "failed", "last reason")
    states = read_states(config, RULES)
    assert [a.reason for a in states["train_generator"].retried] == ["no memory"]
    text = shown(status_view(config, RULES))
    assert "retried train_generator/round_1: no memory" in text
    assert "retried train_screener/round_1: first reason" in text
    assert "failed train_screener/round_1: last reason; log: " in text and "logs/train_screener/round_1.log" in text
    assert "0/63 jobs" not in text and "1/63 jobs done" in text


def test_few_troubles_are_shown_failures_before_retries(config):
    record(config, "build_report", "failed", "still open")
    for i in range(12):
        record(config, "train_generator/round_1", "failed", f"number {i}")
    record(config, "train_generator/round_1")
    text = shown(status_view(config, RULES))
    assert "… and 5 more" in text and "number 11" in text and "number 4" not in text and "still open" in text


def test_attempts_on_other_hosts_run_as_long_as_slurm_has_their_job(config, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text("#!/bin/sh\necho 42\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("sluice.driver.status._slurm_jobs", _slurm_jobs.__wrapped__)
    open_attempt(config, "check_charge/round_1_batch_0", slurm_job="42")
    open_attempt(config, "check_charge/round_1_batch_1", slurm_job="43")
    open_attempt(config, "check_charge/round_1_batch_2")
    state = read_states(config, RULES)["check_charge"]
    assert list(state.states.values()) == ["running", "killed", "running"]
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert set(read_states(config, RULES)["check_charge"].states.values()) == {"running"}


def test_progress_in_words():
    assert progress_text({}) == ""
    assert progress_text({"done": 5, "total": None, "unit": "rows"}) == "5 rows"
    assert progress_text({"done": 0.5, "total": 1, "unit": "", "message": "x"}) == "x 0.5/1"


def test_table_of_a_new_campaign(config):
    text = shown(status_view(config, RULES))
    assert "0/63 jobs done; not running" in text
    for name in RULES:
        assert name in text


def test_a_campaign_of_compositions_has_its_own_rules_and_best(tmp_path):
    config = check_config(
        {"results": str(tmp_path), "campaign": "c", "candidates": "compositions", "generate": {"batches": 3}}
    )
    rules = campaign_rules(config)
    states = read_states(config, rules)
    assert {n: s.total for n, s in states.items() if s.total != 1} == {
        "label_crystals": 2, "generate_compositions": 3, "check_composition_charge": 3,
    }  # fmt: skip
    assert best_candidates(config) is None
    folder = config.workdir / "round_1/screen/compositions"
    folder.mkdir(parents=True)
    write_formulas(
        folder / "shortlist.h5", "composition_shortlist", ["MgF2", "Al2O3"], rank=[1, 2],
        predicted_formation_energy_ev_per_atom=[-3.5, -3.25], standard_deviation_ev_per_atom=[0.125, 0.25],
    )  # fmt: skip
    text = shown(status_view(config, rules))
    assert "0/17 jobs done" in text and "best so far by the shortlist" in text
    assert re.search(r"1[ │]+MgF2[ │]+-3.500[ │]+0.125", text) and "train_screener" not in text


def test_driver_line_names_the_living_and_the_dead(config):
    with Lease(config.workdir):
        assert driver_line(config.workdir).startswith(f"running: process {os.getpid()}")
    code = "import os, sys; from pathlib import Path; from sluice.driver.lease import Lease\n"
    code += "Lease(Path(sys.argv[1])).__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(config.workdir)], check=False)
    assert "is gone): `sluice resume` goes on" in driver_line(config.workdir)


def write(path: Path, schema: str, **values) -> None:
    n = len(next(iter(values.values())))
    lattice = np.tile(np.eye(3) * 4, (n, 1, 1))
    salt = Crystals(lattice, np.arange(n + 1) * 2, np.tile([11, 17], n).astype(np.uint8), np.zeros((2 * n, 3)))
    columns = {
        name: values.get(name, [b""] * n if column.dtype.startswith("S") else np.zeros(n, column.dtype))
        for name, column in SCHEMAS[schema][1].items()
    }
    with StoreWriter(path, schema) as writer:
        writer.append([f"c{i}" for i in range(n)], columns, crystals=salt)


def test_best_candidates_of_the_ranking_then_of_dft(config):
    assert best_candidates(config) is None
    write(
        config.workdir / "round_1/screen/ranked.h5",
        "ranked",
        rank=np.arange(7)[::-1],
        mlip_formation_energy_ev_per_atom=np.arange(7) - 9.5,
        relaxed_space_group=np.full(7, 225),
    )
    text = shown(best_candidates(config))
    assert "by ranking" in text and "interatomic potential" in text and "NaCl" in text
    assert text.index("-3.500") < text.index("-7.500") and "-9.500" not in text
    write(
        config.workdir / "round_1/validate/validated.h5",
        "validated",
        formation_energy_ev_per_atom=[-1.25, -2.5, np.nan],
        converged=[True, True, False],
        confirmed=[False, True, False],
    )
    text = shown(best_candidates(config))
    assert "by DFT" in text and "confirmed" in text and "nan" not in text
    assert text.index("-2.500") < text.index("-1.250")


def test_damaged_store_does_not_stop_the_status(config):
    path = config.workdir / "round_1/screen/ranked.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a store")
    assert "jobs done" in shown(status_view(config, RULES))


def test_failures_of_this_run_only(config):
    record(config, "collect_crystals", "failed", "old")
    assert list(failures_since(config.workdir, 0.0)) == ["collect_crystals"]
    time.sleep(0.02)
    began = time.time()
    record(config, "label_crystals/batch_0", "failed", "new")
    record(config, "label_crystals/batch_1", "failed", "mended")
    record(config, "label_crystals/batch_1")
    log = config.workdir / "logs/label_crystals/batch_0.log"
    assert failures_since(config.workdir, began - 0.01) == {"label_crystals/batch_0": ("new", log)}


def elsewhere(config, job, slurm_job) -> None:
    """An attempt on another node that left no end."""
    start = {"event": "start", "attempt": f"{job}{slurm_job}", "job": job, "step": job.split("/", maxsplit=1)[0]}
    start |= {"host": "another-node", "pid": 1, "pid_started": 0.0, "slurm_job": slurm_job, "log": f"logs/{job}.log"}
    append_event(config.workdir / ATTEMPTS_FILE, start)


def slurm_says(config, kind, job, words, *place) -> None:
    slurm_job, log = (*place, None, None)[:2]
    event = {"event": "slurm", "kind": kind, "job": job, "step": job.split("/", maxsplit=1)[0], "words": words}
    append_event(config.workdir / ATTEMPTS_FILE, event | {"slurm_job": slurm_job, "log": log})


def explained(config, began) -> str:
    log = config.workdir / "logs/driver.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("what Snakemake said last")
    console = Console(file=io.StringIO(), width=400)
    explain(config.workdir, log, 0, began, console)
    return console.file.getvalue()


def test_a_failed_run_names_every_reason_of_slurms_once(config):
    slurm_says(config, "refused", "label_crystals/batch_7", "SLURM did not take the job: of the run before")
    time.sleep(0.02)
    began = time.time()
    record(config, "label_crystals/batch_0", "failed", "no such file")
    slurm_says(config, "failed", "label_crystals/batch_0", "ended with FAILED: no such file")
    slurm_says(config, "waits", "label_crystals/batch_0", "is in the queue")
    slurm_says(config, "stuck", "label_crystals/batch_1", "does not start: it is held", "11", "slurm/11.log")
    slurm_says(
        config, "failed", "label_crystals/batch_1", "did not start within 120 s: it is held", "11", "slurm/11.log"
    )
    elsewhere(config, "label_crystals/batch_2", "12")
    (config.workdir / "slurm").mkdir()
    (config.workdir / "slurm/12.log").touch()
    slurm_says(config, "failed", "label_crystals/batch_2", "ended with OUT_OF_MEMORY", "12", "slurm/12.log")
    slurm_says(config, "refused", "label_crystals/batch_3", "SLURM did not take the job: invalid partition")
    lines = explained(config, began - 0.01).splitlines()
    workdir = config.workdir
    assert lines == [
        "label_crystals/batch_0: no such file", f"  log: {workdir}/logs/label_crystals/batch_0.log",
        "label_crystals/batch_2: SLURM job 12 ended with OUT_OF_MEMORY", f"  log: {workdir}/slurm/12.log",
        "label_crystals/batch_1: SLURM job 11 did not start within 120 s: it is held",
        f"  log: {workdir}/logs/driver.log",
        "label_crystals/batch_3: SLURM did not take the job: invalid partition", f"  log: {workdir}/logs/driver.log",
        f"Snakemake's log: {workdir}/logs/driver.log",
    ]  # fmt: skip


def test_an_attempt_taken_over_from_an_earlier_run_ends_in_this_one(config):
    elsewhere(config, "label_crystals/batch_2", "12")
    time.sleep(0.02)
    began = time.time()
    assert failures_since(config.workdir, began) == {}
    slurm_says(config, "lost", "label_crystals/batch_2", "was lost: NODE_FAIL on n1", "12")
    assert failures_since(config.workdir, began)["label_crystals/batch_2"][0].endswith("was lost: NODE_FAIL on n1")


def test_what_follows_at_once_is_not_before_the_run(config, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.00042)
    record(config, "generate_candidates/round_1_batch_0", "failed", "no memory")
    assert list(failures_since(config.workdir, 1000.00041)) == ["generate_candidates/round_1_batch_0"]


def test_without_a_reason_snakemakes_last_words_are_shown(config):
    slurm_says(config, "stuck", "collect_crystals", "does not start: it is held", "11")
    slurm_says(config, "waits", "collect_crystals", "may start again", "11")
    assert explained(config, 0.0).startswith("what Snakemake said last")


def test_status_tells_what_slurm_has_against_a_job(config, monkeypatch):
    monkeypatch.setattr("sluice.driver.status._slurm_jobs", lambda _: None)
    elsewhere(config, "generate_candidates/round_1_batch_0", "7")
    assert read_states(config, RULES)["generate_candidates"].count("running") == 1
    slurm_says(config, "failed", "generate_candidates/round_1_batch_0", "ended with TIMEOUT", "7")
    slurm_says(config, "stuck", "generate_candidates/round_1_batch_1", "does not start: it is held", "8")
    slurm_says(config, "refused", "generate_candidates/round_1_batch_2", "SLURM did not take the job: no account")
    state = read_states(config, RULES)["generate_candidates"]
    assert (state.count("killed"), state.failed, state.waiting, state.progress) == (1, 2, 4, "1 stuck")
    text = shown(status_view(config, RULES))
    assert "killed generate_candidates/round_1_batch_0: SLURM job 7 ended with TIMEOUT; log:" in text
    assert "stuck generate_candidates/round_1_batch_1: SLURM job 8 does not start: it is held" in text
    assert "refused generate_candidates/round_1_batch_2: SLURM did not take the job: no account" in text


def test_what_slurm_said_holds_until_the_job_moves(config, monkeypatch):
    monkeypatch.setattr("sluice.driver.status._slurm_jobs", lambda _: None)
    elsewhere(config, "train_generator/round_1", "7")
    slurm_says(config, "failed", "train_generator/round_1", "ended with OUT_OF_MEMORY", "7")
    slurm_says(config, "stuck", "train_generator/round_1", "does not start: it is held", "8")
    state = read_states(config, RULES)["train_generator"]
    assert (state.failed, state.waiting, len(state.retried), state.progress) == (0, 2, 1, "1 stuck")
    elsewhere(config, "train_generator/round_1", "8")
    state = read_states(config, RULES)["train_generator"]
    assert (state.count("running"), state.waiting, len(state.retried), state.stuck) == (1, 1, 1, "")
    assert "retried train_generator/round_1: SLURM job 7 ended with OUT_OF_MEMORY" in shown(status_view(config, RULES))


def test_plain_view_prints_what_is_new(config):
    record(config, "collect_crystals")
    console = Console(file=io.StringIO(), width=200)
    view = PlainView(config.workdir / ATTEMPTS_FILE, console)
    running = record(config, "label_crystals/batch_0", None)
    view.update()
    running.end("failed", "out of [red]paint", cpu_seconds=0, gpu_seconds=0, max_rss_mb=0)
    view.update()
    view.update()
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2 and "label_crystals/batch_0: started" in lines[0]
    assert "failed in 0 s: out of [red]paint" in lines[1]


def test_a_look_that_takes_long_is_taken_seldom(monkeypatch):
    now, looks = [100.0], []

    def look() -> None:
        looks.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    update = paced(look, share=0.1)
    for _ in range(20):
        update()
        now[0] += 1.0
    assert looks == [100.0, 105.5, 111.0, 116.5]


def test_job_counts_are_read_from_snakemakes_log(tmp_path):
    log = tmp_path / "driver.log"
    log.write_text("Job stats:\njob  count\n---- ---\nold   7\ntotal 7\n")
    start = log.stat().st_size
    assert jobs_to_run(log, start) == {}
    with log.open("a") as handle:
        handle.write("noise 3 x\nJob stats:\njob  count\n---  ---\nall  1\nlabel_crystals   2\ntotal   3\n")
    assert jobs_to_run(log, start) == {"all": 1, "label_crystals": 2, "total": 3}
