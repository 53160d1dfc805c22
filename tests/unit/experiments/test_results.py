"""Rows, notes, folders and pages of experiments."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import plotly.graph_objects as go
import pytest

from sluice.errors import SluiceError
from sluice.experiments.experiment import COLUMNS, AppliedCut, Comparison, ExperimentConfig, Goal, Row
from sluice.experiments.folders import (
    MACHINE_FILE,
    read_metrics,
    replace_folder,
    temporary_folder,
    write_history,
    write_metrics,
)
from sluice.experiments.publish import write_tables
from sluice.experiments.results import (
    add_notes,
    comparison_csv,
    describe_run,
    learning_curve,
    machine,
    machines_of,
    row_of,
    summarize,
    write_figures,
    write_json,
)
from sluice.experiments.show import make_page


def runs(folder, values):
    made = []
    for k, value in enumerate(values):
        run = folder / "runs" / "a" / f"repeat_{k}"
        run.mkdir(parents=True)
        write_metrics(run, {"accuracy": value, "name": "text"})
        write_history(run, [{"epoch": 1, "loss": 2.0 + k}, {"epoch": 2, "loss": 1.0 + k}])
        made.append(run)
    return made


def config(**values):
    base = {"experiment": "demo", "title": "A <b>title</b>", "paper": "Someone 2020", "cpu_hours": 2.0}
    return ExperimentConfig(**(base | values))


def test_mean_and_standard_deviation_are_over_repeats_and_seeds(tmp_path):
    row = summarize("accuracy", runs(tmp_path, [[0.8, 0.9], 1.0]), "accuracy", paper=0.7, n_test=5, unit="share")
    assert row.repeats == 3 and row.sluice_mean == pytest.approx(0.9) and row.sluice_std == pytest.approx(0.1)
    assert row_of("x", [1.0]).sluice_std is None
    assert math.isnan(row_of("x", [1.0, math.nan]).sluice_mean)


def test_a_missing_metric_names_those_there_are(tmp_path):
    with pytest.raises(SluiceError, match="no metric 'recall'; there are accuracy"):
        summarize("recall", runs(tmp_path, [1.0]), "recall")
    with pytest.raises(SluiceError, match=r"metrics\.json: cannot be read"):
        read_metrics(tmp_path)


def test_nan_survives_as_null(tmp_path):
    write_metrics(tmp_path, {"a": math.nan, "b": [1.0, math.inf]})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": None, "b": [1.0, None]}
    assert math.isnan(read_metrics(tmp_path)["a"][0])


def test_table_has_the_agreed_columns_and_the_cuts_in_its_notes():
    applied = (AppliedCut(setting="settings.epochs", asked=100, used=10),)
    others = [Row("loss", None, 1.0), Row("accuracy of all", None, 0.5)]
    rows = [Row("accuracy", None, math.nan, note="by hand"), *others]
    goals = ({"quantity": "accuracy of all", "at_least": 0.9},)
    row, loss, goal = add_notes(rows, config(applied=applied, goals=goals))
    assert loss.note == "" and goal.note == "cut: epochs 100 → 10"
    lines = list(csv.reader(comparison_csv([row], COLUMNS).splitlines()))
    assert lines[0] == [
        "quantity",
        "paper",
        "sluice_mean",
        "sluice_std",
        "repeats",
        "n_train",
        "n_test",
        "unit",
        "note",
    ]
    assert lines[1] == ["accuracy", "", "", "", "1", "", "", "", "by hand; cut: epochs 100 → 10"]
    assert "quick: epochs" in add_notes([row], config(applied=applied, mode="quick"))[0].note


def test_learning_curve_is_the_mean_over_repeats(tmp_path):
    figure = learning_curve({"a": runs(tmp_path, [1.0, 1.0])}, ["loss"], y_title="loss")
    assert list(figure.data[0].y) == [2.5, 1.5] and list(figure.data[0].x) == [1, 2]
    assert learning_curve({"a": []}, ["loss"], y_title="loss") is None


def test_many_curves_can_be_told_apart(tmp_path):
    """By name, colour and dash; their legend takes no room from the plot."""
    folders = {f"way {k}": runs(tmp_path / str(k), [1.0]) for k in range(10)}
    figure = learning_curve(folders, ["loss"], y_title="loss")
    assert [trace.name for trace in figure.data] == list(folders)
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == 10
    assert figure.layout.legend.orientation == "v" and figure.layout.legend.y < 0
    assert figure.layout.height - figure.layout.margin.b > 250
    few = learning_curve({"a": folders["way 0"]}, ["loss"], y_title="loss")
    assert few.layout.legend.orientation == "h" and few.data[0].name == "a"


@pytest.mark.parametrize(("goal", "value", "met"), [({"at_least": 0.9}, 0.9, True), ({"at_most": 0.04}, 0.05, False)])
def test_goals_are_met_or_missed(goal, value, met):
    assert Goal(quantity="x", **goal).is_met(value) is met
    assert Goal(quantity="x", **goal).is_met(math.nan) is False


def finished(folder, monkeypatch, **values):
    """A folder of results as the last step writes it."""
    monkeypatch.chdir(folder)
    checked = config(goals=({"quantity": "accuracy", "at_least": 0.95},), **values)
    found = Comparison([Row("accuracy", 0.9, 0.93, 0.01, 3, note="a | b")], {"A curve": go.Figure()})
    found.analysis = ["It <i>fell</i> short."]
    results = folder / "results"
    results.mkdir()
    run = folder / "run"
    run.mkdir()
    write_json(run / MACHINE_FILE, machine())
    facts = describe_run(checked, found, [run])
    write_json(results / "run.json", facts)
    (results / "comparison.csv").write_text(comparison_csv(found.rows, COLUMNS))
    return checked, found, facts, results


def test_page_says_what_was_found_and_needs_no_network(tmp_path, monkeypatch):
    checked, found, facts, _ = finished(tmp_path, monkeypatch, mode="quick")
    page = make_page(checked, found, facts)
    assert "goal ≥ 0.95, missed" in page and "A quick run" in page and "&lt;i&gt;fell&lt;/i&gt;" in page
    assert "<b>title</b>" not in page
    assert '<script src="' not in page and "<link" not in page


def test_published_table_is_generated_from_the_run(tmp_path, monkeypatch):
    _, _, facts, results = finished(tmp_path, monkeypatch)
    page, table = write_tables(results, tmp_path / "docs", "demo")
    text = page.read_text()
    assert "found 0.93: **missed**" in text and facts["versions"]["commit"] in text and r"a \| b" in text
    assert facts["machines"][0]["processor"] in text and "0 CPU-hours (cap 2)" in text
    assert table.read_text() == (results / "comparison.csv").read_text()


def test_first_rows_of_a_file_are_published_beside_the_table(tmp_path, monkeypatch):
    _, _, facts, results = finished(tmp_path, monkeypatch)
    (results / "found.csv").write_text("name,size\n" + "".join(f"n{k},{k + 1 / 3}\n" for k in range(30)))
    write_json(results / "run.json", facts | {"excerpts": {"found.csv": "What was found"}})
    page, _, whole = write_tables(results, tmp_path / "docs", "demo")
    assert whole.name == "demo-found.csv" and whole.read_text() == (results / "found.csv").read_text()
    text = page.read_text()
    assert "What was found: the first 20 of 30 in [demo-found.csv](demo-found.csv)\n\n| name | size |\n" in text
    assert "| n19 | 19.33 |" in text and "n20" not in text


def test_the_machines_that_did_the_jobs_are_named(tmp_path, monkeypatch):
    gpu = {"processor": "P", "cores": 16, "memory_gib": 128.0, "gpu": "H", "torch": "2"}
    runs = [tmp_path / f"repeat_{k}" for k in range(4)]
    for run, found in zip(runs[:3], [machine(), gpu, gpu], strict=True):
        run.mkdir()
        write_json(run / MACHINE_FILE, found)
    unknown = {"processor": "not recorded", "jobs": 1}
    assert machines_of(runs) == [gpu | {"jobs": 2}, machine() | {"jobs": 1}, unknown]
    _, _, facts, results = finished(tmp_path, monkeypatch)
    write_json(results / "run.json", facts | {"machines": machines_of(runs)})
    text = write_tables(results, tmp_path / "docs", "demo")[0].read_text()
    assert "- P, 16 cores, 128 GiB, GPU H, torch 2; 2 jobs" in text and "- not recorded; 1 jobs" in text
    facts.pop("machines")
    write_json(results / "run.json", facts)
    with pytest.raises(SluiceError, match="older version"):
        write_tables(results, tmp_path / "docs", "demo")


def test_figures_are_pages_that_share_plotly(tmp_path):
    write_figures(tmp_path / "figures", {"Learning curve: loss": go.Figure()})
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    assert names == {"learning_curve__loss.html", "plotly.min.js"}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "runs" / "repeat_0"
    with pytest.raises(RuntimeError), temporary_folder(target) as folder:
        (folder / "half").write_text("1")
        raise RuntimeError
    assert not target.exists() and list((tmp_path / "runs").iterdir()) == []
    for content in ("1", "2"):
        with temporary_folder(target) as folder:
            (folder / "whole").write_text(content)
            replace_folder(folder, target)
    assert (target / "whole").read_text() == "2" and [p.name for p in Path(tmp_path / "runs").iterdir()] == ["repeat_0"]
