"""The page of a campaign of compositions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from sluice.config import Config
from sluice.report import figures_compositions, figures_crystals, figures_models
from sluice.report.costs import Costs
from sluice.report.draw_funnel import draw_funnel
from sluice.report.formulas import Row, elements_of, read_held_out, read_label_sources, read_labels, read_scored
from sluice.report.funnel import Funnel, pipeline_of, store_paths
from sluice.report.page import duration, render, script_json

MOST_FORMULAS = 300  # listed on the page; shortlist.csv has all


def make_composition_figures(config: Config, folder: Path) -> dict[str, go.Figure | None]:
    """Every figure by name; None where there is nothing to draw."""
    rounds = range(1, config.rounds + 1)
    train = {n: folder / f"round_{n}/train" for n in rounds}
    steps = {step.name: step for step in pipeline_of(config).candidates}

    def stores(name: str) -> list[Path]:
        return [path for n in rounds for path in store_paths(steps[name], config, folder, n)]

    def curves(model: str, scores: str) -> go.Figure | None:
        metrics = {n: figures_models.read_metrics(train[n] / f"composition_{model}_metrics.csv") for n in rounds}
        return figures_models.learning_curves(metrics, scores=scores)

    scored = read_scored(stores("score_compositions"))
    shortlist = read_scored(stores("shortlist_compositions"))
    held_out = read_held_out(train[config.rounds] / "composition_scorer_held_out.h5")
    table = folder / "curate/compositions.h5"
    tables = figures_crystals.element_tables(
        elements_of([table], "compositions", split="train"),
        elements_of(stores("generate_compositions"), "composition_candidates"),
        what="formulas",
    )
    return {
        "generator_curves": curves("generator", "share of the draws"),
        "scorer_curves": curves("scorer", "mean absolute error (eV/atom)"),
        "parity": figures_compositions.held_out_parity(held_out),
        "scores": figures_compositions.energy_against_deviation(
            scored, shortlist, exploration=config.compositions.shortlist.exploration
        ),
        "energies": figures_crystals.energy_figure(
            read_labels(table),
            scored.predicted,
            shortlist.predicted,
            names=("labels of the training formulas", "predicted, new formulas"),
        ),
        **{f"elements_{name}": figure for name, figure in tables.items()},
    }


def composition_headline(funnel: Funnel, costs: Costs) -> list[dict[str, str]]:
    """The numbers at the top of the page."""
    rows = {row.step: row.counts for row in funnel.total()}
    learned = funnel.database[-1].counts["out"]
    return [
        {"value": f"{learned:,}", "name": "formulas learned from"},
        {"value": f"{rows['generate_compositions']['made']:,}", "name": "compositions drawn"},
        {"value": f"{rows['check_composition_charge']['out']:,}", "name": "charge-neutral"},
        {"value": f"{rows['remove_known_compositions']['out']:,}", "name": "new and distinct"},
        {"value": f"{rows['shortlist_compositions']['out']:,}", "name": "on the shortlist", "class": "gold"},
        {"value": duration(costs.cpu_seconds), "name": "CPU time"},
        {"value": duration(costs.wall_seconds), "name": "wall time"},
    ]


def make_composition_page(
    config: Config, folder: Path, *, funnel: Funnel, costs: Costs, rows: list[Row], summary: dict[str, Any]
) -> str:
    """Render the page.

    Args:
        config: the campaign's configuration.
        folder: the campaign's folder.
        funnel: its sums.
        costs: its attempts.
        rows: the shortlist.
        summary: the content of ``summary.json``.

    Raises:
        StoreError: if a store is missing or damaged.
    """
    sources = read_label_sources(folder / "curate/compositions.h5")
    return render(
        "compositions.html.jinja",
        config,
        folder,
        figures=make_composition_figures(config, folder),
        summary=summary,
        costs=costs,
        headline=composition_headline(funnel, costs),
        funnel_picture=draw_funnel(funnel.total()),
        rows=rows[:MOST_FORMULAS],
        n_rows=len(rows),
        held_out=summary["held_out"],
        not_encoded=summary["not_encoded"],
        by_potential=sources.total() - sources["user"],
        by_user=sources["user"],
        drawings=script_json([]),
    )
