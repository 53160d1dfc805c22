"""What the driver of experiments refuses before any job, and where results end."""

from __future__ import annotations

import csv
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sluice.cli import app
from sluice.datasets.registry import find_in_registry
from sluice.driver.experiment import command, publish_results, publish_table, run_experiment, show_results
from sluice.driver.rules import repository
from sluice.errors import ConfigError, MissingProgramError, SluiceError

FACTS = {
    "experiment": "dvae", "title": "Demo", "paper": "Someone", "mode": "default", "made": "today",
    "cuts": ["epochs 9 → 1"],
    "machines": [{"processor": "p", "cores": 2, "memory_gib": 4.0, "gpu": "none", "torch": "2", "jobs": 3}],
    "versions": {"commit": "abc"}, "cpu_hours": 1.5, "gpu_hours": 0.0, "wall_hours": 1.0, "max_memory_mb": 500.0,
    "cap_cpu_hours": 4.0, "analysis": [],
    "goals": [{"quantity": "test accuracy", "goal": "≥ 0.9", "value": 0.91, "met": True}],
}  # fmt: skip


def results(folder, text="quantity,paper,sluice_mean,sluice_std,repeats,n_train,n_test,unit,note\na,1,2,,1,,,,\n"):
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "a.html").write_text("x")
    (folder / "comparison.csv").write_text(text)
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / ".snakemake_timestamp").write_text("")
    return folder


def test_missing_data_is_an_error_before_any_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingProgramError, match=r"sluice data fetch hea_dvae.*SLUICE_DATA"):
        run_experiment("dvae", "quick", cores=1, profile=None, console=Console(), base=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_more_cores_than_there_are_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "hea_dvae"
    folder.mkdir()
    for name in find_in_registry("hea_dvae").required:
        (folder / name).write_bytes(b"")
    monkeypatch.setenv("SLUICE_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="--cores 4096"):
        run_experiment("dvae", "quick", cores=4096, profile=None, console=Console(), base=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_jobs_that_would_outlive_the_driver_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"--profile slurm: its executor is .*inside an allocation"):
        command(repository(), tmp_path, 1, "slurm")
    monkeypatch.setattr("sluice.driver.experiment.count_gpus", lambda: 0)
    assert "--resources" not in command(repository(), tmp_path, 1, None)
    monkeypatch.setattr("sluice.driver.experiment.count_gpus", lambda: 2)
    assert "gpu=1" in command(repository(), tmp_path, 1, None)
    assert "gpu=4" in command(repository(), tmp_path, 1, None, jobs_per_gpu=4)


def test_commands():
    listed = CliRunner().invoke(app, ["experiment"], env={"COLUMNS": "300"})
    assert listed.exit_code == 0 and "dvae: Disentangled VAE" in listed.output
    unknown = CliRunner().invoke(app, ["experiment", "nothing"])
    assert unknown.exit_code == 2 and "no such experiment" in unknown.output
    both = CliRunner().invoke(app, ["experiment", "dvae", "--quick", "--full"])
    assert both.exit_code == 2 and "exclude each other" in both.output
    capped = CliRunner().invoke(app, ["experiment", "dvae", "--quick", "--cap", "1"])
    assert capped.exit_code == 2 and "nothing is cut by estimate" in capped.output
    published = CliRunner().invoke(app, ["experiment", "dvae", "--publish", "--cap", "1"])
    assert published.exit_code == 2 and "--publish runs nothing" in published.output


def test_another_cap_decides_what_is_cut(tmp_path, monkeypatch):
    (tmp_path / "hea_dvae").mkdir()
    for name in find_in_registry("hea_dvae").required:
        (tmp_path / "hea_dvae" / name).write_bytes(b"")
    monkeypatch.setenv("SLUICE_DATA", str(tmp_path))
    planned = []
    monkeypatch.setattr("sluice.driver.experiment._drive", lambda config, *_: planned.append(config) or 1)
    for cap in (None, 0.3):
        run_experiment("dvae", "default", cap=cap, cores=1, profile=None, console=Console(), base=tmp_path / "results")
    own, asked = planned
    assert asked.cpu_hours == 0.3 < own.cpu_hours
    assert asked.settings.paper.epochs < own.settings.paper.epochs
    with pytest.raises(ConfigError, match="estimated with all cuts made"):
        run_experiment("dvae", "default", cap=0.01, cores=1, profile=None, console=Console(), base=tmp_path)


def test_results_replace_those_before_as_a_whole(tmp_path):
    publish_results(results(tmp_path / "quick" / "results", "old\n"), tmp_path)
    (tmp_path / "figures" / "stale.html").write_text("old")
    publish_results(results(tmp_path / "default" / "results"), tmp_path)
    assert (tmp_path / "comparison.csv").read_text().startswith("quantity,paper")
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.html"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_results_are_shown_with_their_goals(tmp_path):
    publish_results(results(tmp_path / "default" / "results"), tmp_path)
    console = Console(record=True, width=200)
    show_results(tmp_path, console)
    text = console.export_text()
    assert "Demo (default)" in text and "goal test accuracy ≥ 0.9: 0.91, met" in text


def test_only_finished_runs_that_were_not_quick_are_published(tmp_path):
    results(tmp_path / "dvae" / "quick" / "results")
    with pytest.raises(SluiceError, match="no finished run to publish"):
        publish_table("dvae", tmp_path, tmp_path / "docs")
    results(tmp_path / "dvae" / "default" / "results")
    page, table = publish_table("dvae", tmp_path, tmp_path / "docs")
    assert "cuts: epochs 9 → 1" in page.read_text() and "found 0.91: met" in page.read_text()
    with table.open() as handle:
        assert next(csv.DictReader(handle))["sluice_mean"] == "2"
