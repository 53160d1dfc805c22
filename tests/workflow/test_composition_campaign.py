"""A tiny campaign of compositions from a table to its report, killed on the way, as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY, job_counts, sluice, wait_for, write_config

from sluice.attempts import read_attempts
from sluice.store import Store

sys.path.insert(0, str(REPOSITORY / "tests" / "unit"))
from formula_stores import ELEMENTS, salts, write_csv

pytestmark = pytest.mark.timeout(900)
BEFORE = "train_composition_generator/round_1"
TINY = {
    "campaign": "tiny",
    "candidates": "compositions",
    "seed": 7,
    "chemistry": {"elements": list(ELEMENTS)},
    "curate": {"validation_share": 0.15, "test_share": 0.15, "max_bad_fraction": 0.1},
    "train": {"device": "cpu"},
    "generate": {"candidates": 10000, "batches": 2},
    "compositions": {
        "data": {"path": "table.csv"},
        "generator": {
            "model": "wgan", "noise_size": 8, "embedding_size": 8, "critic_widths": [8], "batch_size": 16, "steps": 400,
            "generator_rate": 5e-3, "critic_rate": 2e-2, "critic_steps": 2, "gradient_penalty": 1.0,
            "checkpoint_minutes": 0.002,
        },
        "scorer": {"size": 4, "hidden": 8, "trunk": [8], "heads": 1, "messages": 1, "members": 2, "epochs": 4},
        "shortlist": {"size": 5, "max_per_system": 2, "max_formation_energy": None},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> tuple[Path, Path, str]:
    """Configuration, working directory and last words of a campaign whose driver was killed while it trained."""
    folder = tmp_path_factory.mktemp("compositions")
    write_csv(folder / "table.csv", [*salts(), "NaXx"])
    config, workdir = write_config(folder, **TINY), folder / "results" / "tiny"
    command = [sys.executable, "-m", "sluice.cli", "run", str(config), "--cores", "1"]
    with (folder / "driver.txt").open("w") as log:
        driver = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def training() -> bool:
        started = [a for a in read_attempts(workdir / "attempts.jsonl") if a.job == BEFORE and a.progress]
        return bool(started) and (started[0].progress.get("done") or 0) >= 20

    assert wait_for(lambda: training() or driver.poll() is not None, 300)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = sluice("resume", str(config), "--cores", "1")
    assert done.returncode == 0, (folder / "driver.txt").read_text() + done.stdout + done.stderr
    return config, workdir, done.stdout


def test_ends_with_a_shortlist_and_says_what_it_is_not(campaign):
    _, workdir, printed = campaign
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    with (workdir / "report" / "shortlist.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    with Store(workdir / "round_1/screen/compositions/shortlist.h5", "composition_shortlist") as store:
        formulas = store.text("formula")
    assert formulas == [row["formula"] for row in rows] == [row["formula"] for row in summary["shortlist"]]
    assert formulas and not set(formulas) & set(salts()), "known formulas are not new"
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "Structures are not predicted yet" in page and "energies of the user's own data" in page
    assert "report/index.html" in printed.replace("\n", "") and "formulas on the shortlist" in printed


def test_funnel_adds_up(campaign):
    _, workdir, _ = campaign
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    steps = [row["step"] for row in summary["funnel"]]
    assert steps == [
        "generate_compositions", "check_composition_charge", "remove_known_compositions", "score_compositions",
        "shortlist_compositions",
    ]  # fmt: skip
    before = 0
    for row in summary["funnel"]:
        assert row["in"] == before
        assert row["in"] + row["made"] - row["merged"] == row["out"] + row["rejected"] + row["failed"], row
        before = row["out"]
    assert summary["funnel"][0]["made"] == 10000
    (table,) = summary["database"]
    assert (table["in"], table["out"], table["reasons"]) == (19, 18, {"row cannot be used": 1})


def test_killed_training_went_on_where_it_was(campaign):
    _, workdir, _ = campaign
    attempts = [a for a in read_attempts(workdir / "attempts.jsonl") if a.job == BEFORE]
    assert [a.state for a in attempts] == ["killed", "done"]
    assert "train wgan: resumed after step" in (workdir / attempts[1].log).read_text()
    assert all(a.state == "done" for a in read_attempts(workdir / "attempts.jsonl") if a.job != BEFORE)


def test_everything_else_knows_such_a_campaign(campaign):
    config, workdir, _ = campaign
    assert job_counts(config) == {}, "nothing is left to do"
    status = sluice("status", str(config), "--once")
    assert "11/11 jobs done" in status.stdout.replace("\n", " "), status.stdout
    assert "best so far by the shortlist" in status.stdout
    with Store(workdir / "round_1/screen/compositions/shortlist.h5") as store:
        name, formula = store.ids()[0], store.text("formula")[0]
    life = sluice("why", name, str(config))
    assert "shortlist_compositions/round_1: went on" in life.stdout and f"formula {formula}" in life.stdout
    (workdir / "report" / "index.html").unlink()
    assert sluice("report", str(config)).returncode == 0 and (workdir / "report" / "index.html").exists()
    doctor = sluice("doctor", str(config))
    assert doctor.returncode == 0 and "pw.x" not in doctor.stdout


def test_stores_say_where_they_are_from(campaign):
    _, workdir, _ = campaign
    stores = sorted(workdir.rglob("*.h5"))
    assert len(stores) == 9
    for path in stores:
        with Store(path) as store:
            assert store.attributes["campaign"] == "tiny", path
            inside = path.relative_to(workdir).parts[0]
            assert store.attributes["round"] == (1 if inside == "round_1" else 0), path
