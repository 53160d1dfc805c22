"""From runs to rows, figures and facts of an experiment."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sluice.attempts import ATTEMPTS_FILE
from sluice.errors import SluiceError
from sluice.experiments.experiment import Comparison, ExperimentConfig, Goal, Row
from sluice.experiments.folders import HISTORY_FILE, MACHINE_FILE, read_metrics
from sluice.models.modelfile import write_atomically
from sluice.provenance import created_with
from sluice.report.costs import read_costs
from sluice.report.theme import SERIES, styled

DASHES = ("solid", "dash", "dot")
ABOVE = 6  # more curves than these have their legend below the plot, one line each


def summarize(quantity: str, runs: Sequence[Path], metric: str, *, paper: float | None = None, **columns: Any) -> Row:
    """A row with mean and standard deviation (n − 1; None for a single run) of a metric over runs.

    Args:
        quantity: the row's name.
        runs: folders of the repeats.
        metric: key of their ``metrics.json``.
        paper: the paper's value.
        columns: further columns of ``Row``.
    """
    values = [value for run in runs for value in metric_of(run, metric)]
    return row_of(quantity, values, paper=paper, **columns)


def metric_of(run: Path, metric: str) -> list[float]:
    """The values of a metric of one run, one for each of its seeds.

    Raises:
        SluiceError: if the run has no such metric.
    """
    found = read_metrics(run)
    if metric not in found:
        raise SluiceError(
            f"{run}: no metric {metric!r}; there are {', '.join(found)}. A run of an older version may lack it: delete"
            " its folder and run the experiment again"
        )
    return found[metric]


def row_of(quantity: str, values: Sequence[float] | np.ndarray, *, paper: float | None = None, **columns: Any) -> Row:
    """A row with mean and standard deviation of the values; those that are NaN make it NaN."""
    array = np.asarray(values, dtype=float)
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return Row(quantity, paper, float(array.mean()) if len(array) else math.nan, std, len(array), **columns)


def learning_curve(
    runs: Mapping[str, Sequence[Path]], columns: Sequence[str], *, y_title: str, log_x: bool = False
) -> go.Figure | None:
    """Mean over repeats of columns of ``history.csv`` against its first column; None without any history.

    Args:
        runs: folders by the name in the legend.
        columns: what to draw.
        y_title: title of the ordinate, with its unit.
        log_x: logarithmic abscissa.
    """
    figure, x_title, k = go.Figure(), "", 0
    for name, folders in runs.items():
        tables = [pd.read_csv(p) for folder in folders if (p := folder / HISTORY_FILE).exists()]
        for column in columns:
            shown = [t.set_index(t.columns[0])[column] for t in tables if column in t]
            if not shown:
                continue
            x_title = tables[0].columns[0]
            mean = pd.concat(shown, axis=1).mean(axis=1)
            words = [name] if len(runs) > 1 or len(columns) == 1 else []
            words += [column.replace("_", " ")] if len(columns) > 1 else []
            dash = DASHES[k // len(SERIES) % len(DASHES)]  # the colours begin anew
            line = {"color": SERIES[k % len(SERIES)], "dash": dash}
            figure.add_scatter(x=mean.index, y=mean.to_numpy(), name=": ".join(words), mode="lines", line=line)
            k += 1
    if k == 0:
        return None
    styled(figure)
    if k > ABOVE:
        room = 64 + 20 * k  # px of the title and one line each
        legend = {"orientation": "v", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"}
        figure.update_layout(legend=legend, margin={"b": room}, height=310 + room)
    figure.update_xaxes(title_text=x_title.replace("_", " "), type="log" if log_x else "linear")
    figure.update_yaxes(title_text=y_title)
    return figure


def missed_goals(config: ExperimentConfig, rows: Sequence[Row]) -> list[Goal]:
    """The goals that the rows miss, or have no value for."""
    found = {row.quantity: row.sluice_mean for row in rows}
    return [goal for goal in config.goals if not goal.is_met(found.get(goal.quantity, math.nan))]


def named(goals: Sequence[Goal]) -> str:
    """Goals in one line."""
    return ", ".join(f"{goal.quantity} ({goal.describe()})" for goal in goals)


def describe_fit(run: Path) -> str:
    """Whether a network fits its training rows much better than others, by the last row of its learning curve."""
    history = pd.read_csv(run / HISTORY_FILE)
    last = history.iloc[-1]
    if last["val_loss"] <= 0 or last["train_loss"] <= 0:  # a likelihood, whose ratio says nothing
        return ""
    share = last["train_loss"] / last["val_loss"]
    cause = (
        "it knows its rows by heart, more rows would help" if share < 0.5 else "more passes or a larger one may help"
    )
    return (
        f"After {len(history)} epochs the training loss of the network is {share:.0%} of the validation loss: {cause}."
    )


def add_notes(rows: Sequence[Row], config: ExperimentConfig) -> list[Row]:
    """The rows, with what was cut in the notes of the first and of those that a goal is set for."""
    names = {goal.quantity for goal in config.goals}
    return [_noted(row, config) if k == 0 or row.quantity in names else row for k, row in enumerate(rows)]


def _noted(row: Row, config: ExperimentConfig) -> Row:
    cut = "; ".join(applied.describe() for applied in config.applied)
    said = [row.note] if row.note else []
    if cut:
        said.append(f"{'quick' if config.mode == 'quick' else 'cut'}: {cut}")
    return replace(row, note="; ".join(said))


def comparison_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The text of comparison.csv; missing numbers are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = asdict(row)
        writer.writerow([_plain(values[name]) for name in columns])
    return text.getvalue()


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def write_json(path: Path, values: Any) -> None:
    """Write JSON as a whole."""
    write_atomically(path, (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_figures(folder: Path, figures: Mapping[str, go.Figure]) -> None:
    """Write each figure as a page of its own; plotly's code lies once beside them."""
    folder.mkdir()
    for title, figure in figures.items():
        name = "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")
        figure.write_html(folder / f"{name}.html", include_plotlyjs="directory", full_html=True)


def machine() -> dict[str, Any]:
    """This machine: processor, cores, memory, GPU, torch."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": gpu,
        "torch": torch.__version__,
    }


def machines_of(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The different machines that did the jobs, the busiest first; in the end how many jobs wrote down none."""
    found = Counter(path.read_text(encoding="utf-8") for run in runs if (path := run / MACHINE_FILE).is_file())
    unknown = len(runs) - found.total()
    known = [json.loads(text) | {"jobs": count} for text, count in found.most_common()]
    return known + ([{"processor": "not recorded", "jobs": unknown}] if unknown else [])


def describe_run(config: ExperimentConfig, comparison: Comparison, runs: Sequence[Path]) -> dict[str, Any]:
    """What the report and the published page say about the run: machines, versions, hours, cuts, goals."""
    costs = read_costs(Path(ATTEMPTS_FILE), own_step="compare_results")
    found = {row.quantity: row.sluice_mean for row in comparison.rows}
    goals = []
    for goal in config.goals:
        value = found.get(goal.quantity, math.nan)
        goals.append(
            {
                "quantity": goal.quantity,
                "goal": goal.describe(),
                "value": None if math.isnan(value) else value,
                "met": goal.is_met(value),
            }
        )
    return {
        "experiment": config.experiment,
        "title": config.title,
        "paper": config.paper,
        "mode": config.mode,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machines": machines_of(runs),
        "versions": json.loads(created_with()),
        "cpu_hours": round(costs.cpu_seconds / 3600, 4),
        "gpu_hours": round(costs.gpu_seconds / 3600, 4),
        "wall_hours": round(costs.wall_seconds / 3600, 4),
        "max_memory_mb": max((cost.max_rss_mb for cost in costs.steps.values()), default=0.0),
        "cap_cpu_hours": config.cpu_hours,
        "cuts": [applied.describe() for applied in config.applied],
        "goals": goals,
        "analysis": comparison.analysis,
        "excerpts": comparison.excerpts,
    }
