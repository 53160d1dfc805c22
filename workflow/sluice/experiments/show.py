"""The page of an experiment: the table beside the paper's, goals, figures, how it was made."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sluice.experiments.experiment import Comparison, ExperimentConfig, Row
from sluice.report.page import script_json


def number(value: float | None, digits: int = 4) -> str:
    """A number with few digits and a real minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}g}".replace("-", "−")


def make_page(config: ExperimentConfig, comparison: Comparison, facts: dict[str, Any]) -> str:
    """Render the self-contained page.

    Args:
        config: the experiment's, as it was run.
        comparison: what was found.
        facts: of ``describe_run``.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string((files("sluice.experiments") / "report.html.jinja").read_text(encoding="utf-8"))
    figures = list(comparison.figures.items())
    return template.render(
        config=config,
        facts=facts,
        rows=comparison.rows,
        differences=[_difference(row) for row in comparison.rows],
        figures=[(title, figure.layout.height or 360) for title, figure in figures],
        figure_data=[script_json(figure.to_json()) for _, figure in figures],
        configuration=yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True),
        style=Markup((files("sluice.report") / "style.css").read_text(encoding="utf-8")),
        plotly_js=Markup(get_plotlyjs()),
    )


def _difference(row: Row) -> float | None:
    return None if row.paper is None or math.isnan(row.sluice_mean) else row.sluice_mean - row.paper
