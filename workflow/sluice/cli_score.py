"""``sluice score``: apply a trained model to crystals or formulas, and hold it against known values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice.errors import SluiceError

if TYPE_CHECKING:
    from sluice.models.evaluation import Evaluation
    from sluice.models.modelfile import Model


def score(
    model: Annotated[Path, typer.Argument(help="Trained model, e.g. results/halides/round_1/train/screener.ckpt.")],
    crystals: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Folder of CIFs, an extxyz, a store, or a CSV of formulas.")
    ],
    output: Annotated[Path, typer.Argument(help="CSV to write.")],
    *,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV of known values: prints metrics, writes a calibration plot.")
    ] = None,
    id_column: Annotated[str, typer.Option("--id-column", help="Column of that CSV with the ids.")] = "id",
    label_column: Annotated[
        str, typer.Option("--label-column", help="Column with the values.")
    ] = "formation_energy_ev_per_atom",
    below: Annotated[
        float | None,
        typer.Option(
            "--below", help="Values up to it are positive; else the model's threshold, or 0 for hull distances."
        ),
    ] = None,
    score_below: Annotated[
        float | None,
        typer.Option(
            "--score-below", help="Predictions up to it count as called, if they are not of the labels' quantity."
        ),
    ] = None,
    classes: Annotated[bool, typer.Option("--classes", help="The labels are classes, 1 the positive one.")] = False,
) -> None:
    """Apply a trained model to crystals or formulas of your own, and see how good it is where values are known."""
    from sluice.models.scoring import score_input

    missing = [str(path) for path in (model, crystals, labels) if path is not None and not path.exists()]
    if missing:
        raise SluiceError(f"no such file or directory: {', '.join(missing)}")
    if classes and below is not None:
        raise SluiceError("--classes says that labels are classes, --below that they are values: give one of them")
    if labels is None:
        score_input(model, crystals, output)
        typer.echo(f"{output} written")
        return
    from sluice.models.evaluation import read_labels
    from sluice.models.modelfile import load_model

    known = read_labels(labels, id_column, label_column)  # before the work: a wrong column is told at once
    trained = load_model(model)
    values = {str(k): float(v) for k, v in known.items()}
    _check_meaning(trained, values, below, score_below, classes=classes, quantity=label_column)
    score_input(model, crystals, output)
    typer.echo(f"{output} written")
    _evaluate(trained, output, values, below, score_below, classes=classes, quantity=label_column)


def _check_meaning(
    model: Model,
    known: dict[str, float],
    below: float | None,
    score_below: float | None,
    *,
    classes: bool,
    quantity: str,
) -> None:
    """Refuse what would be read the wrong way round, or held against another quantity.

    Raises:
        SluiceError: if a limit is given that nothing is held against, classes might be taken for values, or hull
            distances for formation energies.
    """
    if score_below is not None and model.task != "regression":
        raise SluiceError(f"--score-below is for models that predict values; {model.path} gives probabilities")
    if classes or score_below is not None:
        return
    values = {value for value in known.values() if not math.isnan(value)}
    if below is None and values and values <= {0.0, 1.0}:
        raise SluiceError(
            "all labels are 0 or 1: say --classes if 1 is the class that the model calls positive, or --below LIMIT if"
            " they are values of which the low ones are"
        )
    output = str(model.facts.get("output", "a quantity that its file does not name"))
    if model.task == "regression" and _is_hull_distance(quantity) != _is_hull_distance(output):
        raise SluiceError(
            f"labels of {quantity}, but {model.path} predicts {output}: say with --score-below up to which prediction a"
            " crystal counts as called (and with --below up to which label it is positive)"
        )


def _is_hull_distance(quantity: str) -> bool:
    """Whether a column or an output is a distance to the hull, as far as its name tells."""
    return "hull" in quantity.lower()


def _evaluate(
    model: Model,
    output: Path,
    known: dict[str, float],
    below: float | None,
    score_below: float | None,
    *,
    classes: bool,
    quantity: str,
) -> None:
    import numpy as np
    import pandas as pd

    from sluice.models.evaluation import SHOWN, evaluate

    regression = model.task == "regression"
    threshold = float(model.facts.get("threshold_ev_per_atom", 0.0))
    if below is None:  # the model's threshold is of a formation energy; crystals on the hull lie at 0
        below = 0.0 if _is_hull_distance(quantity) else threshold
    if classes and score_below is None:
        score_below = threshold  # what a regression's classes are is the model's own affair
    table = pd.read_csv(output, dtype={"id": str}, keep_default_na=False)
    scores = pd.to_numeric(table[_score_column(list(table.columns), quantity)], errors="coerce").to_numpy(float)
    values = np.array([known.get(name, np.nan) for name in table["id"]], dtype=float)
    found = evaluate(scores, values, regression=regression, below=None if classes else below, score_below=score_below)
    typer.echo(f"positive: {'class 1' if classes else f'{quantity} ≤ {below:g}'}")
    for name, value in found.describe():
        typer.echo(f"{name:>10}  {value}")
    if found.positives in {0, found.n} and not classes:
        typer.echo(f"{'no' if found.positives == 0 else 'every'} label is positive: is the limit the right one?")
    scored = set(table["id"])
    apart = [name for name in known if name not in scored]
    if apart:
        typer.echo(f"labels of nothing that was scored: {len(apart)}, e.g. {', '.join(apart[:SHOWN])}")
    left_out = len(table) - found.n
    if left_out:
        typer.echo(f"{left_out} of {len(table)} have no score or no label and are left out")
    plot = output.with_name(f"{output.stem}_calibration.html")
    _plot(found, plot, regression=regression, quantity=quantity)
    typer.echo(f"{plot} written")


def _score_column(columns: list[str], quantity: str) -> str:
    """``score``, or of a model with several targets that of the one that the labels are of."""
    column = "score" if "score" in columns else f"score_{quantity}"
    if column not in columns:
        targets = ", ".join(name.removeprefix("score_") for name in columns if name.startswith("score_"))
        raise SluiceError(
            f"labels of {quantity}, but the model's targets are {targets}: name the labels' column after one of them"
            " and give it with --label-column"
        )
    return column


def _plot(found: Evaluation, path: Path, *, regression: bool, quantity: str) -> None:
    import plotly.graph_objects as go

    from sluice.report.theme import BLUE, GREY, styled

    bins = found.bins
    figure = go.Figure()
    if found.one_quantity or not regression:
        ends = [min(bins["score"].min(), bins["label"].min()), max(bins["score"].max(), bins["label"].max())]
        ends = ends if regression else [0.0, 1.0]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="perfect", line={"color": GREY, "dash": "dash"})
    figure.add_scatter(
        x=bins["score"],
        y=bins["label"],
        mode="lines+markers",
        name="found",
        line={"color": BLUE},
        text=[f"{count} rows" for count in bins["count"]],
    )
    styled(figure, height=460)
    predicted = f"predicted {quantity}" if found.one_quantity else "mean prediction"
    figure.update_xaxes(title_text=predicted if regression else "mean score")
    figure.update_yaxes(title_text=f"mean {quantity}" if found.one_quantity else "share of positives")
    figure.write_html(path, include_plotlyjs=True, full_html=True)
