"""Figures of the models: learning curves, and the screener on crystals it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from sklearn.metrics import roc_auc_score, roc_curve

from sluice.report.theme import BLUE, GOLD, GREY, SERIES, styled
from sluice.store import Store

_STEP_COLUMNS = ("epoch", "step", "generator_step", "iteration")
_SCORES = ("auc", "accuracy", "f1", "recovered", "distinct", "decodable")
_ERRORS = {"val_mae"}  # of a regression


def read_metrics(path: Path) -> pd.DataFrame | None:
    """A training's metrics; None where the file is missing, empty or no table of numbers."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError):
        return None
    table = table.apply(pd.to_numeric, errors="coerce").dropna(axis="columns", how="all")
    return table if len(table) and any(name in table for name in _STEP_COLUMNS) else None


def _step_column(table: pd.DataFrame) -> str:
    return next(name for name in _STEP_COLUMNS if name in table)


def _is_score(name: str) -> bool:
    return any(word in name.lower() for word in _SCORES) or name in _ERRORS


def _is_loss(name: str) -> bool:
    return "loss" in name.lower() or name == "val_critic_gap"


def _words(name: str) -> str:
    full = {"val": "validation", "train": "training", "auc": "AUC", "roc": "ROC", "mae": "error"}
    return " ".join(full.get(word, word) for word in name.split("_"))


def learning_curves(tables: dict[int, pd.DataFrame | None], *, scores: str = "score") -> go.Figure | None:
    """Losses, and scores (or a regression's error) in a panel of their own where there are any.

    Args:
        tables: metrics by round.
        scores: what the panel of scores shows.
    """
    present = {n: t for n, t in tables.items() if t is not None}
    names = list(dict.fromkeys(c for t in present.values() for c in t.columns if _is_loss(c) or _is_score(c)))
    if not names:
        return None
    scored = any(_is_score(name) for name in names)
    figure = make_subplots(cols=1 + scored, horizontal_spacing=0.14)
    for k, name in enumerate(names):
        for j, (number, table) in enumerate(present.items()):
            if name not in table:
                continue
            shown = table[[_step_column(table), name]].dropna()
            figure.add_scatter(
                x=shown.iloc[:, 0].to_numpy(),
                y=shown.iloc[:, 1].to_numpy(),
                name=_words(name),
                legendgroup=name,
                showlegend=number == next(n for n in present if name in present[n]),
                hovertemplate=f"round {number}, %{{x}}: %{{y:.4g}}<extra>{_words(name)}</extra>",
                mode="lines+markers" if len(shown) < 40 else "lines",
                marker={"size": 4},
                line={"color": SERIES[k % len(SERIES)], "width": 2, "dash": ("solid", "dot", "dash", "dashdot")[j % 4]},
                row=1,
                col=2 if _is_score(name) else 1,
            )
    styled(figure)
    figure.update_xaxes(title_text=_step_column(next(iter(present.values()))).replace("_", " "))
    figure.update_yaxes(title_text="loss", col=1)
    if scored:
        figure.update_yaxes(title_text=scores, col=2)
    return figure


@dataclass(frozen=True)
class Predictions:
    """The screener on the test split.

    Attributes:
        target: (n,) class 0 or 1; ``predicted`` (n,) its probability of class 1; ``energy`` (n,) labels in eV/atom.
    """

    target: NDArray[np.float64]
    predicted: NDArray[np.float64]
    energy: NDArray[np.float64]

    @property
    def auc(self) -> float | None:
        """Area under the receiver operating characteristic; None where only one class occurs."""
        return float(roc_auc_score(self.target, self.predicted)) if self.has_both_classes else None

    @property
    def has_both_classes(self) -> bool:
        """Whether a curve can be drawn."""
        return len(np.unique(self.target)) == 2


def read_predictions(path: Path) -> Predictions:
    """Rows of the test split with finite predictions.

    Raises:
        StoreError: if the store is missing or damaged.
    """
    with Store(path, "predictions") as store:
        target, predicted = store.column("target"), store.column("predicted")
        use = (store.column("split") == b"test") & np.isfinite(target) & np.isfinite(predicted)
        return Predictions(target[use], predicted[use], store.column("formation_energy_ev_per_atom")[use])


def roc_figure(predictions: dict[int, Predictions]) -> go.Figure | None:
    """Receiver operating characteristic on the test split, a curve for each round."""
    drawn = {n: p for n, p in predictions.items() if p.has_both_classes}
    if not drawn:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip", showlegend=False
    )
    for k, (number, found) in enumerate(drawn.items()):
        false_positive, true_positive, _ = roc_curve(found.target, found.predicted)
        figure.add_scatter(
            x=false_positive,
            y=true_positive,
            mode="lines",
            name=f"round {number}: AUC {found.auc:.3f}",
            line={"color": SERIES[k % len(SERIES)], "width": 2.5},
        )
    styled(figure)
    figure.update_xaxes(title_text="false positive rate", range=[-0.01, 1.01])
    figure.update_yaxes(title_text="true positive rate", range=[-0.01, 1.02])
    return figure


def score_figure(predictions: Predictions) -> go.Figure | None:
    """Distribution of the screener's score for both classes of the test split."""
    if not len(predictions.target):
        return None
    figure = go.Figure()
    for label, value, color in (("above the threshold", 0, GREY), ("below the threshold (wanted)", 1, GOLD)):
        figure.add_histogram(
            x=predictions.predicted[predictions.target == value],
            name=label,
            xbins={"start": 0.0, "end": 1.0001, "size": 0.05},
            marker={"color": color, "line": {"color": "white", "width": 1}},
            opacity=0.8,
        )
    styled(figure, barmode="overlay")
    figure.update_xaxes(title_text="screener score", range=[0, 1])
    figure.update_yaxes(title_text="test crystals")
    return figure


def score_against_label(predictions: Predictions) -> go.Figure | None:
    """Score of each test crystal against the formation energy it was labelled with."""
    if not len(predictions.target):
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=predictions.energy,
        y=predictions.predicted,
        mode="markers",
        marker={"color": BLUE, "size": 6, "opacity": 0.55},
        hovertemplate="%{x:.3f} eV/atom<br>score %{y:.3f}<extra></extra>",
    )
    switch = predictions.energy[predictions.target == 1]
    if predictions.has_both_classes and np.isfinite(switch).any():
        figure.add_vline(x=float(np.nanmax(switch)), line={"color": GOLD, "dash": "dash", "width": 1.5})
    styled(figure, showlegend=False)
    figure.update_xaxes(title_text="labelled formation energy (eV/atom)")
    figure.update_yaxes(title_text="screener score", range=[-0.03, 1.03])
    return figure
