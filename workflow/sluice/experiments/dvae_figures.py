"""Figures of the disentangled VAE's experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray

from sluice.experiments.dvae_data import SPLITS, Alloys
from sluice.experiments.dvae_design import WANTED, Proposals, probability_of
from sluice.experiments.folders import read_metrics
from sluice.models.dvae_decoding import decode_alloys, formula_of, network_of
from sluice.models.modelfile import Model
from sluice.report.theme import BLUE, GOLD, GREY, styled

GRID = 41  # points of a side of the decoded plane
MOST_FEATURES = 15


def data_efficiency(runs: Sequence[Path]) -> go.Figure:
    """Test accuracy against the number of labels, mean and standard deviation over seeds."""
    metrics = [read_metrics(run) for run in runs]
    labels = [m["labels"][0] for m in metrics]
    figure = go.Figure()
    for name, key, colour in (("dVAE", "test_accuracy", BLUE), ("supervised MLP", "mlp_test_accuracy", GOLD)):
        values = [np.array(m[key]) for m in metrics]
        figure.add_scatter(
            x=labels,
            y=[v.mean() for v in values],
            error_y={"array": [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]},
            name=name,
            mode="lines+markers",
            line={"color": colour},
        )
    styled(figure)
    figure.update_xaxes(title_text="labelled alloys", type="log")
    figure.update_yaxes(title_text="test accuracy")
    return figure


def importance_figure(importance: pd.DataFrame) -> go.Figure:
    """Accuracy lost when a feature is shuffled."""
    shown = importance.head(MOST_FEATURES).iloc[::-1]
    figure = go.Figure(
        go.Bar(
            x=shown["accuracy_lost"],
            y=[name.replace("_", " ") for name in shown["feature"]],
            error_x={"array": shown["spread"]},
            orientation="h",
            marker={"color": BLUE},
        )
    )
    styled(figure, height=120 + 24 * len(shown))
    figure.update_xaxes(title_text="accuracy lost")
    return figure


def latent_means(model: Model, alloys: Alloys, member: int = 0) -> NDArray[np.float64]:
    """(n, Z) mean of q(z | x, y) with the true labels by one member."""
    network = network_of(model)
    x = torch.tensor(alloys.fractions, dtype=torch.float32)[None].expand(network.members, -1, -1)
    y = torch.tensor(alloys.target, dtype=torch.float32)[None, :, None].expand(network.members, -1, -1)
    with torch.inference_mode():
        return network.encode(x, y)[0][member].double().numpy()


def latent_plane(model: Model, alloys: Alloys) -> go.Figure | None:
    """Where alloys lie in the first member's latent plane, by class."""
    z = latent_means(model, alloys)
    if z.shape[1] < 2:
        return None
    figure = go.Figure()
    for value, name, colour in ((0, "several phases", GREY), (1, "single phase", GOLD)):
        rows = np.flatnonzero(alloys.target == value)
        figure.add_scatter(
            x=z[rows, 0],
            y=z[rows, 1],
            mode="markers",
            name=name,
            marker={"size": 5, "color": colour, "opacity": 0.75},
            text=[f"{alloys.formulas[k]} ({SPLITS[alloys.split[k]]})" for k in rows],
            hovertemplate="%{text}<extra></extra>",
        )
    return _plane(figure)


def _plane(figure: go.Figure) -> go.Figure:
    styled(figure, height=460)
    figure.update_xaxes(title_text="z1")
    figure.update_yaxes(title_text="z2")
    return figure


def decoded_plane(model: Model, alloys: Alloys) -> go.Figure | None:
    """Single-phase probability of what the first member decodes with y = 1 over its latent plane."""
    network = network_of(model)
    if network.latent_size != 2:
        return None
    side = np.linspace(-3, 3, GRID) * network.prior_scale
    z = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    percent = decode_alloys(network, WANTED, z)
    probability = probability_of(network, alloys, percent).mean(0).reshape(GRID, GRID)
    names = np.array([formula_of(row, alloys.components) for row in percent]).reshape(GRID, GRID)
    figure = go.Figure(
        go.Heatmap(
            x=side,
            y=side,
            z=probability,
            text=names,
            zmin=0,
            zmax=1,
            colorscale=[[0, "#f3f5f7"], [0.5, "#e5c47c"], [1, "#9a6a0b"]],
            hovertemplate="%{text}<br>probability %{z:.2f}<extra></extra>",
        )
    )
    return _plane(figure)


def proposals_figure(proposals: Proposals, alloys: Alloys, model: Model) -> go.Figure | None:
    """The proposals over the known alloys, as far as they are of the first member."""
    table = proposals.table
    if not len(table) or "z2" not in table or "member" not in table:
        return None
    own = table[table["member"] == 0]
    z = latent_means(model, alloys)
    figure = go.Figure()
    figure.add_scatter(
        x=z[:, 0], y=z[:, 1], mode="markers", name="known alloys", marker={"size": 4, "color": GREY, "opacity": 0.5}
    )
    figure.add_scatter(
        x=own["z1"],
        y=own["z2"],
        mode="markers",
        name="proposals of the first member",
        marker={"size": 9, "color": own["single_phase_probability"], "colorscale": [[0, "#e5c47c"], [1, "#9a6a0b"]]},
        text=[f"{f}: {p:.2f}" for f, p in zip(own["formula"], own["single_phase_probability"], strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )
    return _plane(figure)
