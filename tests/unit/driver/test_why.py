"""``sluice why``: the life of one candidate, task or job, from real stores, attempts and a real task library."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sluice.attempts import ATTEMPTS_FILE, Recorder, append_event
from sluice.cli import app
from sluice.config import Config
from sluice.config_file import check_config
from sluice.crystals import Crystals
from sluice.driver.launch import store_config
from sluice.driver.rules import read_rules, repository
from sluice.driver.why import appearances, why
from sluice.errors import SluiceError
from sluice.schemas import SCHEMAS
from sluice.store import StoreWriter
from sluice.task_library import TaskLibrary
from sluice.validate.run_batch import failure_record

RULES = read_rules(repository() / "workflow" / "rules")
TASK = "NaCl-0123456789abcdef0123"


def write(path: Path, schema: str, ids, *, parents=None, drop=(), **values) -> None:
    n = len(ids)
    lattice = np.tile(np.eye(3) * 4, (n, 1, 1))
    salt = Crystals(lattice, np.arange(n + 1) * 2, np.tile([11, 17], n).astype(np.uint8), np.zeros((2 * n, 3)))
    columns = {
        name: values.get(name, [b""] * n if column.dtype.startswith("S") else np.zeros(n, column.dtype))
        for name, column in SCHEMAS[schema][1].items()
    }
    with StoreWriter(path, schema) as writer:
        writer.append(list(ids), columns, crystals=salt, parent_id=parents)
        for name, reason, detail in drop:
            writer.drop([name], reason, detail=detail)


def record(config: Config, job: str, outcome: str = "done", reason: str = "") -> None:
    path = config.workdir / ATTEMPTS_FILE
    recorder = Recorder(path, job=job, step=job.split("/", maxsplit=1)[0], log=f"logs/{job}.log")
    recorder.end(outcome, reason, cpu_seconds=2.0, gpu_seconds=0.0, max_rss_mb=1.0)


@pytest.fixture
def campaign(tmp_path) -> Config:
    config = check_config({"results": str(tmp_path), "campaign": "c", "rounds": 2})
    store_config(config)
    one = config.workdir / "round_1"
    write(one / "generate/batch_0.h5", "candidates", ["a", "b", "c"], requested_space_group=[225, 225, 221])
    write(
        one / "screen/geometry/batch_0.h5",
        "geometry",
        ["a", "b"],
        drop=[("c", "atoms too close", "ratio 0.31")],
        requested_space_group=[225, 225],
        min_distance_ratio=[0.9, 0.8],
    )
    write(one / "screen/unique.h5", "unique", ["a"], drop=[("b", "duplicate", "of a")], requested_space_group=[225])
    write(
        one / "screen/relaxed/batch_0.h5",
        "relaxed",
        ["a-relaxed"],
        parents=["a"],
        mlip_formation_energy_ev_per_atom=[-1.5],
    )
    write(one / "validate/tasks.h5", "tasks", ["a-relaxed"], parents=["a"], task_id=[TASK], kind=["compound"])
    record(config, "generate_candidates/round_1_batch_0", "failed", "no memory")
    record(config, "generate_candidates/round_1_batch_0")
    record(config, "check_geometry/round_1_batch_0")
    return config


def told(config: Config, name: str) -> str:
    console = Console(file=io.StringIO(), width=300)
    console.print(why(config, RULES, name))
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["a", "a-relaxed"])
def test_life_goes_from_generation_to_dft_under_both_names(campaign, name):
    rows = appearances(campaign.workdir, RULES, name)
    assert [(row.job.rule, row.candidate_id) for row in rows] == [
        ("generate_candidates", "a"), ("check_geometry", "a"), ("remove_duplicates", "a"),
        ("relax_candidates", "a-relaxed"), ("plan_tasks", "a-relaxed"),
    ]  # fmt: skip
    assert rows[3].values["mlip_formation_energy_ev_per_atom"] == "-1.5 eV/atom"
    text = told(campaign, name)
    assert "a → a-relaxed" in text and "min_distance_ratio 0.9" in text and "formula NaCl" in text
    assert text.count("requested_space_group 225") == 1, "what has not changed is not repeated"
    assert f"task {TASK}: not started yet" in text


def test_attempts_tell_reason_and_log(campaign):
    lines = told(campaign, "a").splitlines()
    first, second = (line for line in lines if "CPU-s" in line and lines.index(line) < 4)
    assert "attempt 1" in first and "failed" in first and "no memory" in first
    assert "attempt 2" in second
    assert second.endswith(f"log: {campaign.workdir}/logs/generate_candidates/round_1_batch_0.log")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("b", "remove_duplicates/round_1: rejected: duplicate: of a"),
     ("c", "check_geometry/round_1_batch_0: rejected: atoms too close: ratio 0.31")],
)  # fmt: skip
def test_rejection_has_its_reason_and_ends_the_life(campaign, name, reason):
    lines = told(campaign, name).splitlines()
    assert reason in lines
    assert not [line for line in lines[lines.index(reason) + 1 :] if not line.startswith("    ")]


@pytest.mark.parametrize("name", [TASK, "NaCl-0123"])
def test_task_by_id_or_its_beginning(campaign, name):
    shelf = TaskLibrary(campaign.library)
    outcome = failure_record("scf not converged", "static: scf not converged")
    outcome["history"] = {"static": [{"event": "correction", "kind": "failure", "handler": "ScfHandler", "time": 1.0,
                                      "problem": "scf not converged", "changes": {}}]}  # fmt: skip
    with shelf.try_claim(TASK) as claim:
        shelf.publish(claim, outcome)
    text = told(campaign, name)
    assert f"task {TASK}: failed: scf not converged" in text and "ScfHandler changed {}" in text
    assert "relax_candidates/round_1_batch_0: went on as a-relaxed" in text
    assert f"result: {campaign.library / TASK / 'result.json'}" in text


def test_job_by_name(campaign):
    text = told(campaign, "generate_candidates/round_1_batch_0")
    assert "attempt 1" in text and "attempt 2" in text and "no memory" in text


def test_unknown_name_comes_with_the_nearest(campaign):
    with pytest.raises(SluiceError, match=r"a-relaxt: no candidate, task or job of campaign c; nearest: a-relaxed"):
        why(campaign, RULES, "a-relaxt")
    with pytest.raises(SluiceError, match=r"nearest: NaCl-0123456789abcdef0123"):
        why(campaign, RULES, "NaCl-0123456789abcdef0124")


def test_damaged_store_is_passed_over(campaign):
    (campaign.workdir / "round_1/screen/unique.h5").write_bytes(b"not a store")
    assert "a-relaxed" in told(campaign, "a")


def test_command(campaign):
    runner = CliRunner()
    good = runner.invoke(app, ["why", "a-relaxed", str(campaign.workdir)])
    assert good.exit_code == 0 and "relax_candidates/round_1_batch_0: went on" in good.output
    bad = runner.invoke(app, ["why", "nobody", str(campaign.workdir)])
    assert bad.exit_code == 2 and "no candidate, task or job" in bad.output


def test_a_job_is_explained_by_what_slurm_said(campaign):
    path, job = campaign.workdir / ATTEMPTS_FILE, "train_generator/round_2"
    said = {"event": "slurm", "job": job, "step": "train_generator"}
    start = {"event": "start", "attempt": "x", "job": job, "step": "train_generator", "host": "another-node", "pid": 1}
    append_event(path, start | {"pid_started": 0.0, "slurm_job": "7", "log": None})
    append_event(path, said | {"kind": "failed", "words": "ended with TIMEOUT", "slurm_job": "7", "log": "7.log"})
    append_event(path, said | {"kind": "stuck", "words": "does not start: it is held", "slurm_job": "8", "log": None})
    (campaign.workdir / "7.log").touch()
    text = told(campaign, job)
    assert f"SLURM job 7: killed: SLURM job 7 ended with TIMEOUT; SLURM's log: {campaign.workdir / '7.log'}" in text
    assert "stuck, " in text and "SLURM job 8 does not start: it is held" in text
    append_event(path, {**said, "job": "train_screener/round_2", "kind": "refused", "words": "no such account"})
    assert "refused" in told(campaign, "train_screener/round_2"), "a job that never started is known, too"
