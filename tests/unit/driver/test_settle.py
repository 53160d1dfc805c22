"""After an interruption: finished work is kept, the rest is done again, nothing of the living is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from snakemake.persistence.file import FilePersistence

from sluice.attempts import Recorder, append_event, process_start
from sluice.driver.processes import end_processes, started_by
from sluice.driver.rules import read_rules, repository
from sluice.driver.settle import read_markers, settle
from sluice.driver.slurm_jobs import SlurmJobs, outputs_digest
from sluice.errors import LeaseError, SluiceError
from sluice.step import DRIVER_VARIABLE
from sluice.store_writer import StoreWriter

STORE = "curate/crystals.h5"
MODEL = ("round_1/train/generator.ckpt", "round_1/train/generator_metrics.csv")


class Asked:
    """Stands where Snakemake is called and remembers the words."""

    def __init__(self) -> None:
        self.words: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.words.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def put_in_order(tmp_path, asked):
    def run(*, same_config: bool = True, dead_driver: str | None = None):
        rules = read_rules(repository() / "workflow" / "rules")
        jobs = SlurmJobs(tmp_path)
        return settle(
            tmp_path, rules, dead_driver=dead_driver, same_config=same_config, snakemake=asked, slurm_jobs=jobs
        )

    return run


def mark(folder: Path, output: str, *, age: float = 100.0, external: str | None = None) -> Path:
    """Mark an output as started, as Snakemake itself does."""
    persistence = FilePersistence(path=folder / ".snakemake")
    persistence._mark_incomplete(output, external)
    path = Path(persistence._record_path(persistence._incomplete_path, output))
    os.utime(path, (time.time() - age,) * 2)
    return path


def write_store(folder: Path, name: str = STORE) -> Path:
    with StoreWriter(folder / name, "crystals"):
        pass
    return folder / name


def write_text(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("weights")
    return folder / name


def test_nothing_to_settle(put_in_order, asked):
    found = put_in_order()
    assert found.describe() == "" and asked.words == []


def test_markers_are_read_as_snakemake_writes_them(tmp_path):
    mark(tmp_path, STORE)
    long = "a" * 300 + "/" + "b" * 200 + ".h5"
    mark(tmp_path, long, external="42")
    found = {m.output: m.external_job for m in read_markers(tmp_path)}
    assert found == {STORE: None, long: "42"}


def test_finished_store_is_adopted(tmp_path, put_in_order, asked):
    marker, store = mark(tmp_path, STORE), write_store(tmp_path)
    found = put_in_order()
    assert found.adopted == [STORE] and store.exists() and not marker.exists()
    [words] = asked.words
    assert words[:3] == ("--touch", "--force", STORE) and words[-2:] == ("--allowed-rules", "collect_crystals")


def test_store_of_other_settings_is_not_adopted(tmp_path, put_in_order, asked):
    marker, store = mark(tmp_path, STORE), write_store(tmp_path)
    found = put_in_order(same_config=False)
    assert found.cleared == [STORE] and not store.exists() and not marker.exists() and asked.words == []


def test_store_from_before_the_job_is_not_adopted(tmp_path, put_in_order):
    store = write_store(tmp_path)
    mark(tmp_path, STORE, age=-50.0)
    assert put_in_order().cleared == [STORE] and not store.exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_store_is_done_again(tmp_path, put_in_order, share):
    mark(tmp_path, STORE)
    store = write_store(tmp_path)
    os.truncate(store, int(store.stat().st_size * share))
    assert put_in_order().cleared == [STORE] and not store.exists()


def test_missing_output_is_done_again(tmp_path, put_in_order):
    marker = mark(tmp_path, STORE)
    assert put_in_order().cleared == [STORE] and not marker.exists()


def test_marker_cut_off_by_a_full_disk(tmp_path, put_in_order):
    marker = mark(tmp_path, STORE)
    marker.write_text('{"external')
    os.utime(marker, (time.time() - 100,) * 2)
    store = write_store(tmp_path)
    assert put_in_order().adopted == [STORE] and store.exists()


def finish(folder: Path, outcome: str = "done") -> None:
    recorder = Recorder(folder / "attempts.jsonl", job="train_generator/round_1", step="train_generator")
    recorder.end(outcome, "", cpu_seconds=1, gpu_seconds=0, max_rss_mb=1)


def test_model_is_adopted_if_its_job_said_so(tmp_path, put_in_order):
    for output in MODEL:
        mark(tmp_path, output)
        write_text(tmp_path, output)
    finish(tmp_path)
    found = put_in_order()
    assert sorted(found.adopted) == sorted(MODEL)


@pytest.mark.parametrize("outcome", [None, "failed", "continued"])
def test_model_without_last_words_is_done_again(tmp_path, put_in_order, outcome):
    for output in MODEL:
        mark(tmp_path, output)
        write_text(tmp_path, output)
    if outcome:
        finish(tmp_path, outcome)
    assert sorted(put_in_order().cleared) == sorted(MODEL)


def test_last_words_of_an_earlier_attempt_do_not_count(tmp_path, put_in_order):
    finish(tmp_path)
    time.sleep(0.1)
    for output in MODEL:
        mark(tmp_path, output, age=0.0)
        write_text(tmp_path, output)
    assert sorted(put_in_order().cleared) == sorted(MODEL)


def test_half_of_a_job_is_not_adopted(tmp_path, put_in_order):
    for output in MODEL:
        mark(tmp_path, output)
    write_text(tmp_path, MODEL[0])
    finish(tmp_path)
    assert sorted(put_in_order().cleared) == sorted(MODEL)
    assert not (tmp_path / MODEL[0]).exists()


def test_directories_are_made_again(tmp_path, put_in_order):
    write_text(tmp_path, "report/cifs/a.cif")
    mark(tmp_path, "report/cifs")
    assert put_in_order().cleared == ["report/cifs"]
    assert not (tmp_path / "report" / "cifs").exists()


def test_unknown_outputs_are_cleared_but_only_inside_the_campaign(tmp_path, put_in_order, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "precious"
    outside.write_text("")
    inside = write_text(tmp_path, "old/name.h5")
    mark(tmp_path, "old/name.h5")
    mark(tmp_path, os.path.relpath(outside, tmp_path))
    put_in_order()
    assert outside.exists() and not inside.exists() and read_markers(tmp_path) == []


def test_stale_lock_is_removed_by_snakemake(tmp_path, put_in_order, asked):
    FilePersistence(path=tmp_path / ".snakemake")._write_locks("output", [STORE])
    assert put_in_order().unlocked
    assert asked.words == [("--unlock",)]


def fake_squeue(folder: Path, monkeypatch, *, output: str = "", code: int = 0, error: str = "") -> None:
    tools = folder / "tools"
    tools.mkdir()
    (tools / "squeue").write_text(f"#!/bin/sh\necho '{error}' >&2\nprintf '{output}'\nexit {code}\n")
    (tools / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)


def test_slurm_job_that_runs_on_keeps_its_marker(tmp_path, put_in_order, monkeypatch):
    fake_squeue(tmp_path, monkeypatch, output="RUNNING")
    marker = mark(tmp_path, STORE, external="42")
    found = put_in_order()
    assert found.running == [STORE] and marker.exists()


def test_slurm_job_that_is_gone_is_cleared(tmp_path, put_in_order, monkeypatch):
    fake_squeue(tmp_path, monkeypatch, code=1, error="slurm_load_jobs error: Invalid job id specified")
    marker = mark(tmp_path, STORE, external="42")
    assert put_in_order().cleared == [STORE] and not marker.exists()


def test_silent_slurm_stops_the_resume(tmp_path, put_in_order, monkeypatch):
    fake_squeue(tmp_path, monkeypatch, code=1, error="Unable to contact slurm controller")
    marker = mark(tmp_path, STORE, external="42")
    with pytest.raises(SluiceError, match=r"SLURM job 42.*squeue"):
        put_in_order()
    assert marker.exists()


def queue_row(folder: Path, rule: str, *outputs: str, state: str = "RUNNING") -> str:
    comment = f"sluice {outputs_digest(rule, outputs)} 0123456789abcdef {rule}"
    return f"42|{state}|None|2026-01-01T00:00:00|N/A|n1|{SlurmJobs(folder).name}|{comment}\\n"


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_job_in_the_queue_is_known_by_what_it_makes(tmp_path, put_in_order, monkeypatch, state):
    """The job itself writes the mark anew when it starts, and its SLURM id is lost."""
    fake_squeue(tmp_path, monkeypatch, output=queue_row(tmp_path, "train_generator", *MODEL, state=state))
    for output in MODEL:
        mark(tmp_path, output, external=None)
    write_text(tmp_path, MODEL[0])
    other = mark(tmp_path, STORE, external=None)
    found = put_in_order()
    assert sorted(found.running) == sorted(MODEL) and (tmp_path / MODEL[0]).exists()
    assert found.cleared == [STORE] and not other.exists()
    assert "2 being made in SLURM, left alone (round_1/train/generator.ckpt" in found.describe()


def test_job_of_another_campaign_in_the_queue_is_not_ours(tmp_path, put_in_order, monkeypatch):
    row = queue_row(tmp_path / "elsewhere", "train_generator", *MODEL)
    fake_squeue(tmp_path, monkeypatch, output=row)
    for output in MODEL:
        mark(tmp_path, output, external=None)
    assert sorted(put_in_order().cleared) == sorted(MODEL)


def finish_in_slurm(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    finish(folder)
    monkeypatch.delenv("SLURM_JOB_ID")
    for output in MODEL:
        write_text(folder, output)


def test_what_ended_in_slurm_without_a_driver_is_put_on_record(tmp_path, put_in_order, asked, monkeypatch):
    finish_in_slurm(tmp_path, monkeypatch)
    found = put_in_order()
    assert found.adopted == list(MODEL)
    [words] = asked.words
    assert words == ("--touch", "--force", *MODEL, "--allowed-rules", "train_generator")


def test_what_ended_in_slurm_without_a_driver_is_made_again_with_other_settings(tmp_path, put_in_order, monkeypatch):
    finish_in_slurm(tmp_path, monkeypatch)
    found = put_in_order(same_config=False)
    assert found.cleared == list(MODEL) and not (tmp_path / MODEL[0]).exists()


def test_what_a_driver_has_put_on_record_is_left_alone(tmp_path, put_in_order, asked, monkeypatch):
    finish_in_slurm(tmp_path, monkeypatch)
    persistence = FilePersistence(path=tmp_path / ".snakemake")
    for output in MODEL:
        path = Path(persistence._record_path(persistence._metadata_path, output))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert put_in_order(same_config=False).describe() == "" and asked.words == []


def test_orphans_of_the_dead_driver_are_ended(put_in_order):
    token = "host:1:2.0"
    child = subprocess.Popen(
        ["sh", "-c", "sleep 100 & wait"], env=os.environ | {DRIVER_VARIABLE: token}, start_new_session=True
    )
    bystander = subprocess.Popen(["sleep", "100"], env=os.environ | {DRIVER_VARIABLE: "host:9:9.0"})
    deadline = time.monotonic() + 20
    while len(started_by(token)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    found = put_in_order(dead_driver=token)
    assert found.ended_processes == 2 and started_by(token) == []
    survived = bystander.poll() is None
    bystander.kill()
    bystander.wait()
    child.wait()
    assert survived


def test_surviving_step_of_a_plain_snakemake_is_ended(tmp_path, put_in_order):
    step = subprocess.Popen(["sleep", "100"])
    event = {"event": "start", "attempt": "a", "job": "j", "step": "s", "host": os.uname().nodename}
    event |= {"pid": step.pid, "pid_started": process_start(step.pid), "slurm_job": None}
    append_event(tmp_path / "attempts.jsonl", event)
    assert put_in_order().ended_processes == 1
    assert process_start(step.pid) is None
    step.wait()


def start_snakemake(folder, **variables):
    """A process that looks like Snakemake at work in a campaign."""
    program = folder / "snakemake"
    program.symlink_to(sys.executable)
    words = [str(program), "-c", "import time; print('ready', flush=True); time.sleep(100)"]
    child = subprocess.Popen(words, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    return child


def test_living_plain_snakemake_is_left_alone(tmp_path, put_in_order):
    plain = start_snakemake(tmp_path)
    marker = mark(tmp_path, STORE)
    try:
        with pytest.raises(LeaseError, match=f"process {plain.pid}"):
            put_in_order(dead_driver="host:3:4.0")
        assert plain.poll() is None and marker.exists()
    finally:
        plain.kill()
        plain.wait()


def test_snakemake_of_the_dead_driver_is_ended_and_not_waited_for(tmp_path, put_in_order):
    token = "host:3:4.0"
    orphan = start_snakemake(tmp_path, **{DRIVER_VARIABLE: token})
    try:
        assert put_in_order(dead_driver=token).ended_processes == 1
        assert process_start(orphan.pid) is None
    finally:
        orphan.kill()
        orphan.wait()


def test_ending_is_patient_first(tmp_path):
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1]).write_text('bye'), sys.exit(0)))\n"
        "print('ready', flush=True); time.sleep(100)"
    )
    token = "host:3:4.0"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "words")],
        env=os.environ | {DRIVER_VARIABLE: token},
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    assert end_processes(started_by(token), patience=20) == 1
    child.stdout.close()
    child.wait()
    assert (tmp_path / "words").read_text() == "bye"


def test_marker_names_are_base64_of_the_path(tmp_path):
    assert mark(tmp_path, STORE).name == urlsafe_b64encode(STORE.encode()).decode()
    assert json.loads(mark(tmp_path, STORE).read_text()) == {"external_jobid": None}
