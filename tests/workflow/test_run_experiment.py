"""`sluice experiment` through real Snakemake: killed and started again, and a third time with nothing left to do."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.experiments.experiment import COLUMNS

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "experiments"))

from hea_data import write_hea_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COMMAND = [sys.executable, "-m", "sluice.cli", "experiment", "dvae", "--quick", "--cores", "1"]


def attempts(folder):
    return read_attempts(folder / ATTEMPTS_FILE)


@pytest.mark.long
def test_killed_experiment_goes_on_and_repeats_nothing(tmp_path):
    write_hea_data(tmp_path / "data" / "hea_dvae")
    environment = os.environ | {"SLUICE_DATA": str(tmp_path / "data")}
    work = tmp_path / "results" / "experiments" / "dvae" / "quick"
    first = subprocess.Popen(
        COMMAND, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not any(a.step == "run_part" for a in attempts(work)):
        assert first.poll() is None
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    finished = {a.job for a in attempts(work) if a.state == "done"}
    assert "prepare_data" in finished

    second = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    again = attempts(work)
    assert sum(a.job == "prepare_data" for a in again) == 1
    for job in finished:
        assert sum(a.job == job and a.state == "done" for a in again) == 1

    results = tmp_path / "results" / "experiments" / "dvae"
    with (results / "comparison.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS
    assert any(row["quantity"] == "test accuracy" and "quick: " in row["note"] for row in rows)
    assert json.loads((results / "run.json").read_text())["mode"] == "quick"
    for name in ("report.html", "model.ckpt", "figures", "proposals.csv"):
        assert (results / name).exists(), name

    third = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert third.returncode == 0 and len(attempts(work)) == len(again)
