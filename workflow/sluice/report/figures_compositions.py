"""Figures of campaigns of compositions: what the scorer says, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sluice.report.theme import BLUE, GOLD, GREY, styled

MOST_POINTS = 4000  # drawn, evenly through the store


@dataclass(frozen=True)
class Scored:
    """Formulas with predictions, eV/atom.

    Attributes:
        formulas: n of them.
        predicted: (n,) formation energies; ``deviation`` (n,) their predicted standard deviations.
        labelled: (n,) labels; None where there are none.
        total: of how many these are an even sample.
    """

    formulas: list[str]
    predicted: NDArray[np.float64]
    deviation: NDArray[np.float64]
    labelled: NDArray[np.float64] | None = None
    total: int = 0

    def __len__(self) -> int:
        return len(self.formulas)

    def errors(self) -> NDArray[np.float64]:
        """(n,) predicted minus labelled."""
        assert self.labelled is not None
        return self.predicted - self.labelled


def calibration(test: Scored) -> dict[str, float | int | None]:
    """How far predictions of held-out formulas can be trusted.

    Returns:
        ``formulas`` how many; ``mean_absolute_error_ev_per_atom``; ``baseline_ev_per_atom``, the mean absolute
        deviation from the median, what guessing would achieve; ``within_1`` and ``within_2``, shares of errors within
        one and two predicted standard deviations (of a normal distribution 68 % and 95 %; None without deviations).
    """
    found: dict[str, float | int | None] = {"formulas": len(test)}
    if not len(test) or test.labelled is None:
        return found
    error = np.abs(test.errors())
    found["mean_absolute_error_ev_per_atom"] = round(float(error.mean()), 6)
    found["baseline_ev_per_atom"] = round(float(np.abs(test.labelled - np.median(test.labelled)).mean()), 6)
    known = bool((test.deviation > 0).any())
    for k in (1, 2):
        found[f"within_{k}"] = round(float((error <= k * test.deviation).mean()), 6) if known else None
    return found


def held_out_parity(test: Scored) -> go.Figure | None:
    """Predicted against labelled formation energies of the test formulas, with predicted standard deviations."""
    if not len(test) or test.labelled is None:
        return None
    figure = go.Figure()
    both = np.concatenate([test.labelled, test.predicted])
    ends = [float(both.min()), float(both.max())]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip")
    figure.add_scatter(
        x=test.labelled,
        y=test.predicted,
        error_y={"type": "data", "array": test.deviation, "color": GREY, "thickness": 1, "width": 0},
        text=test.formulas,
        mode="markers",
        marker={"color": BLUE, "size": 6, "opacity": 0.65},
        hovertemplate="%{text}<br>label %{x:.3f}, predicted %{y:.3f} eV/atom<extra></extra>",
    )
    styled(figure, showlegend=False)
    figure.update_xaxes(title_text="labelled formation energy (eV/atom)")
    figure.update_yaxes(title_text="predicted (eV/atom)")
    return figure


def energy_against_deviation(scored: Scored, shortlist: Scored, *, exploration: float) -> go.Figure | None:
    """Predicted energy against its standard deviation, the shortlist apart, and the line of equal acquisition.

    Args:
        scored: new formulas that were scored; of many only some are drawn.
        shortlist: those of them that are shortlisted.
        exploration: standard deviations that the acquisition takes off the mean.
    """
    if not len(scored):
        return None
    figure = go.Figure()
    step = -(-len(scored) // MOST_POINTS)
    for name, found, marker in (
        (f"scored ({scored.total:,})", scored, {"color": BLUE, "size": 5, "opacity": 0.4}),
        (
            f"shortlist ({len(shortlist):,})",
            shortlist,
            {"color": GOLD, "size": 9, "symbol": "diamond", "line": {"color": "white", "width": 1}},
        ),
    ):
        every = step if found is scored else 1
        figure.add_scatter(
            x=found.predicted[::every],
            y=found.deviation[::every],
            text=found.formulas[::every],
            name=name,
            mode="markers",
            marker=marker,
            hovertemplate="%{text}<br>%{x:.3f} ± %{y:.3f} eV/atom<extra></extra>",
        )
    if len(shortlist) and exploration != 0:
        cut = float((shortlist.predicted - exploration * shortlist.deviation).max())
        y = np.array([0.0, float(scored.deviation.max()) * 1.05])
        figure.add_scatter(
            x=cut + exploration * y,
            y=y,
            name="as good as the last one shortlisted",
            mode="lines",
            line={"color": GREY, "dash": "dash", "width": 1.5},
            hoverinfo="skip",
        )
    styled(figure, height=420)
    figure.update_xaxes(title_text="predicted formation energy (eV/atom)")
    figure.update_yaxes(title_text="its standard deviation (eV/atom)", rangemode="tozero")
    return figure
