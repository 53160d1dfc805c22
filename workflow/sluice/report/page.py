"""The page: everything the template shows, as plain values and figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from sluice.config import Config
from sluice.report import figures_crystals, figures_models
from sluice.report.costs import Costs
from sluice.report.distributions import distributions_of
from sluice.report.draw_funnel import draw_funnel
from sluice.report.draw_structure import draw_structure
from sluice.report.funnel import CANDIDATE_STEPS, TASK_STEPS, TITLES, Funnel, Step, pipeline_of, store_paths
from sluice.report.provenance import (
    calculations,
    campaign_stores,
    configuration_yaml,
    decisions,
    describe_stores,
)
from sluice.report.validated import Row, ValidatedCrystal, read_references
from sluice.store import Store

MOST_CRYSTALS = 300  # drawn and listed on the page; validated.csv has all
MOST_FAILURES = 200
_SCORING = ("score_candidates", "score_compositions")  # failures are listed from here on


@dataclass(frozen=True)
class FailureLine:
    """A candidate that failed (was not merely rejected)."""

    round: int
    step: str
    candidate_id: str
    reason: str
    detail: str


def script_json(value: Any) -> Markup:
    """JSON that may stand inside a ``<script>`` element."""
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # nothing in it can close the element


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3.5 min``, ``2.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def energy(value: float | None) -> str:
    """Energy in eV/atom with a real minus sign; a dash where it is missing."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def formula_html(formula: str) -> Markup:
    """A formula with its numbers as subscripts."""
    parts: list[Markup] = []
    for character in formula:
        parts.append(Markup("<sub>{}</sub>" if character.isdigit() or character == "." else "{}").format(character))
    return Markup("").join(parts).replace(Markup("</sub><sub>"), Markup(""))


def symbol_html(symbol: str) -> Markup:
    """A Hermann-Mauguin symbol with bars over its inversion axes: ``Pm-3m`` with a bar over the 3."""
    parts = symbol.split("-")
    barred = [Markup('<span class="bar">{}</span>{}').format(part[:1], part[1:]) for part in parts[1:]]
    return Markup("").join([Markup("{}").format(parts[0]), *barred])


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_asset)
    )
    environment.filters |= {
        "duration": duration,
        "energy": energy,
        "formula": formula_html,
        "symbol": symbol_html,
        "thousands": lambda n: f"{n:,}",
    }
    return environment


def _asset(name: str) -> str:
    return (files("sluice.report") / name).read_text(encoding="utf-8")


def read_failures(config: Config, folder: Path) -> tuple[list[FailureLine], int]:
    """The candidates that failed once scored or later, the DFT step's first; at most ``MOST_FAILURES``, and how many.

    Failures of the checks before, which may be millions, are only counted, in the funnel.
    """
    found: list[FailureLine] = []
    total = 0
    steps = pipeline_of(config).candidates
    first = next(k for k, step in enumerate(steps) if step.name in _SCORING)
    for step in reversed(steps[first:]):
        for number in range(1, config.rounds + 1):
            for path in store_paths(step, config, folder, number):
                with Store(path, step.schema, verify=False) as store:
                    total += store.counts["failed"]
                    if store.counts["failed"] and len(found) < MOST_FAILURES:
                        found += _failures_of(store, step, number)
    return found[:MOST_FAILURES], total


def _failures_of(store: Store, step: Step, number: int) -> list[FailureLine]:
    gone = store.failures()
    rows = zip(gone.candidate_id, gone.kind, gone.reason, gone.detail, strict=True)
    return [FailureLine(number, step.name, i, reason, detail) for i, kind, reason, detail in rows if kind == "failed"]


def _energies(paths: Iterable[Path], schema: str, name: str) -> NDArray[np.float64]:
    values = []
    for path in paths:
        with Store(path, schema, verify=False) as store:
            values.append(store.column(name))
    return np.concatenate(values) if values else np.zeros(0)


def make_figures(config: Config, folder: Path, crystals: list[ValidatedCrystal]) -> dict[str, go.Figure | None]:
    """Every figure by name; None where there is nothing to draw."""
    rounds = range(1, config.rounds + 1)
    train = {n: folder / f"round_{n}/train" for n in rounds}
    curves = {
        f"{model}_curves": figures_models.learning_curves(
            {n: figures_models.read_metrics(train[n] / f"{model}_metrics.csv") for n in rounds}
        )
        for model in ("generator", "screener")
    }
    predictions = {n: figures_models.read_predictions(train[n] / "screener_test.h5") for n in rounds}
    latest = max((n for n in rounds if len(predictions[n].target)), default=1)
    dataset = [folder / "curate/dataset.h5"]
    training = distributions_of(dataset, "dataset", "space_group", split="train")
    by_name = {step.name: [p for n in rounds for p in store_paths(step, config, folder, n)] for step in CANDIDATE_STEPS}
    generated = distributions_of(by_name["generate_candidates"], "candidates", "requested_space_group")
    mlip = "mlip_formation_energy_ev_per_atom"
    return {
        **curves,
        "roc": figures_models.roc_figure(predictions),
        "scores": figures_models.score_figure(predictions[latest]),
        "score_parity": figures_models.score_against_label(predictions[latest]),
        "lattice": figures_crystals.lattice_figure(training, generated),
        "space_groups": figures_crystals.space_group_figure(training, generated),
        **{f"elements_{k}": v for k, v in figures_crystals.element_tables(training, generated).items()},
        "energies": figures_crystals.energy_figure(
            _energies(dataset, "dataset", "formation_energy_ev_per_atom"),
            _energies(by_name["rank_candidates"], "ranked", mlip),
            _energies(by_name["shortlist_candidates"], "shortlist", mlip),
        ),
        **{f"dft_parity_{panel}": figure for panel, (figure, _) in figures_crystals.dft_parity(crystals).items()},
    }


def headline(funnel: Funnel, crystals: list[ValidatedCrystal], costs: Costs) -> list[dict[str, str]]:
    """The numbers at the top of the page."""
    rows = {row.step: row.counts for row in funnel.total()}
    confirmed = sum(c.row["confirmed"] for c in crystals)
    return [
        {"value": f"{rows['generate_candidates']['made']:,}", "name": "candidates generated"},
        {"value": f"{rows['remove_duplicates']['out']:,}", "name": "passed the checks, new and distinct"},
        {"value": f"{rows['relax_candidates']['out']:,}", "name": "relaxed with CHGNet"},
        {"value": f"{rows['collect_energies']['in']:,}", "name": "sent to DFT"},
        {"value": f"{confirmed:,}", "name": "confirmed by DFT", "class": "gold"},
        {"value": duration(costs.cpu_seconds), "name": "CPU time"},
        {"value": duration(costs.wall_seconds), "name": "wall time"},
    ]


def step_cpu_seconds(config: Config, costs: Costs) -> dict[str, float]:
    """CPU seconds for each row of the funnel; all of DFT counts for the last one."""
    pipeline = pipeline_of(config)
    seconds = {name: cost.cpu_seconds for name, cost in costs.steps.items()}
    found = {step.name: seconds.get(step.name, 0.0) for step in pipeline.candidates}
    found[pipeline.candidates[-1].name] += sum(seconds.get(step.name, 0.0) for step in pipeline.tasks)
    return found


def make_page(
    config: Config,
    folder: Path,
    *,
    funnel: Funnel,
    costs: Costs,
    crystals: list[ValidatedCrystal],
    failed: list[Row],
    cifs: dict[str, str],
    summary: dict[str, Any],
) -> str:
    """Render the page.

    Args:
        config: the campaign's configuration.
        folder: the campaign's folder.
        funnel: its sums.
        costs: its attempts.
        crystals: what came through DFT, best first.
        failed: rows of the candidates whose DFT failed.
        cifs: content of the crystals' files by name.
        summary: the content of ``summary.json``.

    Raises:
        StoreError: if a store is missing or damaged.
    """
    n_confirmed = sum(c.row["confirmed"] for c in crystals)
    raw_energies = [e for c in crystals if (e := c.row["formation_energy_ev_per_atom"]) is not None]
    return render(
        "crystals.html.jinja",
        config,
        folder,
        figures=make_figures(config, folder, crystals),
        summary=summary,
        costs=costs,
        **_calculated(config, folder),
        filters_left_out=summary["filters_left_out"],
        headline=headline(funnel, crystals, costs),
        funnel_picture=draw_funnel(funnel.total(), n_confirmed),
        crystals=[c.row for c in crystals[:MOST_CRYSTALS]],
        n_crystals=len(crystals),
        raw_energies=raw_energies,
        n_below=sum(value < 0 for value in raw_energies),
        failed=failed[:MOST_FAILURES],
        n_failed=len(failed),
        n_confirmed=n_confirmed,
        agreement={panel: text for panel, (_, text) in figures_crystals.dft_parity(crystals).items()},
        links={name: _data_link(text) for name, text in cifs.items()},
        drawings=script_json([draw_structure(crystal.structure) for crystal in crystals[:MOST_CRYSTALS]]),
    )


def render(
    template: str,
    config: Config,
    folder: Path,
    *,
    figures: dict[str, go.Figure | None],
    summary: dict[str, Any],
    costs: Costs,
    **further: Any,
) -> str:
    """Render a page on ``base.html.jinja``, which all campaigns share.

    Args:
        template: name of the template.
        config: the campaign's configuration.
        folder: the campaign's folder.
        figures: by name; None where there is nothing to draw.
        summary: the content of ``summary.json``.
        costs: the campaign's attempts.
        further: what the template itself asks for.
    """
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    failures, n_failures = read_failures(config, folder)
    return (
        _environment()
        .get_template(template)
        .render(
            campaign=config.campaign,
            config=config,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            stores=describe_stores(campaign_stores(config, folder), folder),
            configuration=configuration_yaml(config),
            **{name: summary[name] for name in ("funnel", "database", "tasks", "rounds", "versions")},
            titles=TITLES,
            costs=costs,
            step_cpu_seconds=step_cpu_seconds(config, costs),
            figures=drawn,
            figure_data={name: script_json(figure.to_json()) for name, figure in drawn.items()},
            failures=failures,
            n_failures=n_failures,
            style=Markup(_asset("style.css")),
            viewer=Markup(_asset("viewer.js")),
            plotly_js=Markup(get_plotlyjs()),
            **further,
        )
    )


def _calculated(config: Config, folder: Path) -> dict[str, Any]:
    """Decisions, references and settings of the calculations."""
    rounds = range(1, config.rounds + 1)
    references, compounds = (
        [path for n in rounds for path in store_paths(step, config, folder, n)] for step in TASK_STEPS[1:]
    )
    return {
        "decisions": decisions({n: folder / f"round_{n}/decision.h5" for n in rounds}),
        "references": read_references(references),
        "calculations": calculations([*references, *compounds]),
    }


def _data_link(cif: str) -> str:
    return "data:chemical/x-cif;base64," + base64.b64encode(cif.encode()).decode()
