"""Figures of crystals: training against generated, and CHGNet against DFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from pymatgen.core import Element

from sluice.report.distributions import LATTICE_EDGES, Distributions
from sluice.report.theme import BLUE, GOLD, GREY, INK, TEAL, styled
from sluice.report.validated import ValidatedCrystal, space_group_symbol

_LARGEST_Z = 103
_ROWS = 9


def _cell_of(z: int) -> tuple[int, int]:
    """Row and column (from 0) of an element in the periodic table, f-block in the two rows below."""
    if 57 <= z <= 71:
        return 7, z - 57 + 2
    if 89 <= z <= 103:
        return 8, z - 89 + 2
    element = Element.from_Z(z)
    return element.row - 1, element.group - 1


def _used_rows(*shares: NDArray[np.float64]) -> int:
    """Rows of the table down to the last element that occurs; at least four."""
    z = np.flatnonzero(np.sum(shares, axis=0))
    return max(4, *(_cell_of(int(k))[0] + 1 for k in z if 1 <= k <= _LARGEST_Z), 0) if len(z) else 4


def table_height(rows: int) -> int:
    """Height of a periodic table in pixels."""
    return 14 + 38 * rows


def _table(values: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    grid = np.full((rows, 18), np.nan)
    for z in range(1, _LARGEST_Z + 1):
        row, column = _cell_of(z)
        if row < rows:
            grid[row, column] = values[z]
    return grid


def periodic_table(
    values: NDArray[np.float64],
    rows: int,
    *,
    colors: Sequence[Sequence[float | str]] | str,
    limits: tuple[float, float],
    bar_title: str,
    number_format: str,
) -> go.Figure:
    """A periodic table coloured by a value; elements with NaN stay grey.

    Args:
        values: (119,) by atomic number.
        rows: how many rows of the table to show.
        colors: plotly colour scale.
        limits: values at its ends.
        bar_title: what it says.
        number_format: of the value on hovering, d3's way.
    """
    elements = [z for z in range(1, _LARGEST_Z + 1) if _cell_of(z)[0] < rows]
    background = np.full((rows, 18), np.nan)
    for z in elements:
        background[_cell_of(z)] = 0.0
    figure = go.Figure()
    common: dict[str, Any] = {"xgap": 2, "ygap": 2}
    figure.add_heatmap(
        z=background, colorscale=[[0, "#eef2f5"], [1, "#eef2f5"]], showscale=False, hoverinfo="skip", **common
    )
    grid = _table(values, rows)
    names = np.full((rows, 18), "", dtype=object)
    for z in elements:
        names[_cell_of(z)] = Element.from_Z(z).symbol
    figure.add_heatmap(
        z=grid,
        text=names,
        colorscale=colors,
        zmin=limits[0],
        zmax=limits[1],
        hovertemplate="%{text}: %{z:" + number_format + "}<extra></extra>",
        colorbar={"title": {"text": bar_title, "side": "right"}, "thickness": 10, "len": 0.9, "outlinewidth": 0},
        **common,
    )
    neutral = 0.0 if limits[0] < 0 else limits[0]  # where the colours are light
    reach = limits[1] - neutral
    for z in elements:
        row, column = _cell_of(z)
        known = np.isfinite(values[z])
        dark = known and abs(values[z] - neutral) > 0.62 * reach
        figure.add_annotation(
            x=column,
            y=row,
            text=Element.from_Z(z).symbol,
            showarrow=False,
            font={"size": 11, "color": "white" if dark else (INK if known else GREY)},
        )
    styled(figure, height=table_height(rows), margin={"l": 4, "r": 8, "t": 6, "b": 4})
    hidden = {"visible": False, "showgrid": False, "fixedrange": True, "automargin": False}
    figure.update_xaxes(**hidden, range=[-0.5, 17.5])
    figure.update_yaxes(**hidden, range=[rows - 0.5, -0.5])
    return figure


def element_tables(
    training: Distributions, generated: Distributions, *, what: str = "crystals"
) -> dict[str, go.Figure]:
    """Share of crystals (or of ``what`` else) that contain each element: in training, generated, how they compare."""
    known, made = training.element_shares, generated.element_shares
    rows = _used_rows(known, made)
    top = float(max(known.max(), made.max(), 0.01))
    scale: list[list[float | str]] = [[0.0, "#dbe9f6"], [0.5, "#6fa6d6"], [1.0, "#123f73"]]
    figures = {
        name: periodic_table(
            np.where(shares > 0, shares, np.nan),
            rows,
            colors=scale,
            limits=(0.0, top),
            bar_title=f"share of {what}",
            number_format=".1%",
        )
        for name, shares in (("training", known), ("generated", made))
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(made / known)
    ratio[~np.isfinite(ratio)] = np.nan
    largest = float(np.nanmax(np.abs(ratio))) if np.isfinite(ratio).any() else 1.0
    figures["ratio"] = periodic_table(
        ratio,
        rows,
        colors=[[0.0, "#8a5a00"], [0.25, "#e2b659"], [0.5, "#f6f6f4"], [0.75, "#67bcb4"], [1.0, "#055f5a"]],
        limits=(-max(1.0, largest), max(1.0, largest)),
        bar_title="log₂ ratio",
        number_format="+.2f",
    )
    return figures


def lattice_figure(training: Distributions, generated: Distributions) -> go.Figure | None:
    """Distribution of the conventional lattice constants, each set normalized to its size."""
    if not training.crystals and not generated.crystals:
        return None
    figure = go.Figure()
    used = np.flatnonzero(training.lattice + generated.lattice)
    first, last = (used[0], used[-1] + 1) if len(used) else (0, 1)
    group = 2 if last - first > 40 else 1
    first -= first % group
    edges = LATTICE_EDGES[first : last + group : group]
    for name, found, color in (("training", training, BLUE), ("generated", generated, GOLD)):
        counts = found.lattice[first : first + (len(edges) - 1) * group].reshape(-1, group).sum(axis=1)
        density = counts / max(1, found.crystals) / np.diff(edges)
        figure.add_scatter(
            x=edges,
            y=np.append(density, 0.0),
            name=f"{name} ({found.crystals:,})",
            mode="lines",
            line={"color": color, "width": 2, "shape": "hv"},
            fill="tozeroy",
            fillcolor=_transparent(color),
        )
    styled(figure)
    figure.update_xaxes(title_text="lattice constant of the conventional cell (Å)")
    figure.update_yaxes(title_text="density (1/Å)", rangemode="tozero")
    return figure


def space_group_figure(training: Distributions, generated: Distributions) -> go.Figure | None:
    """Shares of the space groups, as high as the periodic table beside it."""
    groups = sorted(set(training.space_groups) | set(generated.space_groups))
    if not groups:
        return None
    labels = [f"{space_group_symbol(g)} ({g})" if g else "none" for g in groups]
    figure = go.Figure()
    for name, found, color in (("training", training, BLUE), ("generated (asked for)", generated, GOLD)):
        figure.add_bar(
            y=labels,
            x=[found.space_groups[g] / max(1, found.crystals) for g in groups],
            orientation="h",
            name=name,
            marker={"color": color},
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    rows = _used_rows(training.element_shares, generated.element_shares)
    styled(figure, height=max(table_height(rows), 90 + 46 * len(groups)), barmode="group", bargap=0.3)
    figure.update_xaxes(title_text="share of crystals", tickformat=".0%")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def energy_figure(
    labels: NDArray[np.float64],
    ranked: NDArray[np.float64],
    shortlist: NDArray[np.float64],
    *,
    names: tuple[str, str] = ("labelled crystals", "relaxed candidates"),
) -> go.Figure | None:
    """Formation energies of what was learned from and of what screening left, in eV/atom, by the names given."""
    labels, ranked, shortlist = (values[np.isfinite(values)] for values in (labels, ranked, shortlist))
    everything = np.concatenate([labels, ranked, shortlist])
    if not len(everything):
        return None
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low - 1e-6, high + 1e-6, 41 if len(ranked) >= 100 else 21)
    figure = go.Figure()
    for name, values, color in ((names[0], labels, BLUE), (names[1], ranked, TEAL)):
        if len(values):
            share = np.histogram(values, edges)[0] / len(values)
            figure.add_scatter(
                x=edges,
                y=np.append(share, 0.0),
                name=f"{name} ({len(values):,})",
                mode="lines",
                line={"color": color, "width": 2, "shape": "hv"},
                fill="tozeroy",
                fillcolor=_transparent(color),
            )
    if len(shortlist):
        figure.add_scatter(
            x=shortlist,
            y=np.zeros(len(shortlist)),
            name=f"shortlist ({len(shortlist):,})",
            mode="markers",
            marker={"color": GOLD, "size": 11, "symbol": "diamond", "line": {"color": "white", "width": 1}},
            cliponaxis=False,
            hovertemplate="%{x:.3f} eV/atom<extra></extra>",
        )
    styled(figure)
    figure.update_xaxes(title_text="formation energy (eV/atom)")
    figure.update_yaxes(title_text="share of the set", tickformat=".0%", rangemode="tozero")
    return figure


def _transparent(color: str, opacity: float = 0.18) -> str:
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


_PANELS = {
    "raw": ("formation_energy_ev_per_atom", "DFT, raw (eV/atom)", BLUE),
    "corrected": ("formation_energy_corrected_ev_per_atom", "DFT, MP2020-corrected (eV/atom)", TEAL),
}
_MLIP = "mlip_formation_energy_ev_per_atom"


def dft_parity(crystals: list[ValidatedCrystal]) -> dict[str, tuple[go.Figure, str]]:
    """CHGNet against DFT, ``raw`` and ``corrected`` apart on equal axes: a figure and the agreement in words."""
    rows = [c.row for c in crystals if c.row["converged"] and c.row[_MLIP] is not None]
    names = [name for name, _, _ in _PANELS.values()]
    known = np.array([row[k] for row in rows for k in (*names, _MLIP) if row[k] is not None])
    figures = {}
    for panel, (name, title, color) in _PANELS.items():
        shown = [row for row in rows if row[name] is not None]
        if shown:
            margin = max(0.1, 0.08 * float(np.ptp(known)))
            limits = (float(known.min()) - margin, float(known.max()) + margin)
            figures[panel] = (_parity(shown, name, title, color, limits), _agreement(shown, name))
    return figures


def _parity(rows: list[dict[str, Any]], name: str, title: str, color: str, limits: tuple[float, float]) -> go.Figure:
    points = np.array([[row[name], row[_MLIP]] for row in rows])
    formulas = [row["formula"] for row in rows]
    figure = go.Figure()
    figure.add_scatter(x=limits, y=limits, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip")
    figure.add_scatter(
        x=points[:, 0],
        y=points[:, 1],
        customdata=formulas,
        mode="markers",
        marker={
            "color": color,
            "size": 10,
            "symbol": ["circle" if row["confirmed"] else "circle-open" for row in rows],
            "line": {"width": 1.5, "color": color},
        },
        hovertemplate="%{customdata}<br>DFT %{x:.3f}<br>CHGNet %{y:.3f}<extra></extra>",
    )
    for k, side in place_labels((points - limits[0]) / (limits[1] - limits[0]), formulas):
        figure.add_annotation(
            x=points[k, 0],
            y=points[k, 1],
            text=formulas[k],
            showarrow=False,
            xanchor="right" if side < 0 else "left",
            xshift=9 * side,
            yshift=-5 * side,
            font={"size": 11.5},
        )
    styled(figure, height=440, showlegend=False, margin={"l": 64, "r": 20, "t": 10, "b": 52})
    figure.update_xaxes(title_text=title, range=limits)
    figure.update_yaxes(title_text="CHGNet (eV/atom)", range=limits)
    return figure


def _agreement(rows: list[dict[str, Any]], name: str) -> str:
    """How CHGNet compares with DFT, in words."""
    differences = np.array([row[_MLIP] - row[name] for row in rows])
    bias, error = differences.mean(), np.abs(differences).mean()
    number = f"{len(rows)} crystal{'s' if len(rows) > 1 else ''}"
    return f"CHGNet − DFT over {number}: mean {bias:+.3f}, mean absolute {error:.3f} eV/atom".replace("-", "−")


def place_labels(points: NDArray[np.float64], texts: list[str], *, width: float = 0.018) -> list[tuple[int, int]]:
    """Which points get a label and on which side of them, so that no label covers another or a point.

    Args:
        points: (n, 2) positions as fractions of the panel.
        texts: (n) labels.
        width: of a character as a fraction of the panel.

    Returns:
        Pairs of point and side, -1 left and above, +1 right and below.
    """
    taken = [(x - 0.012, y - 0.014, x + 0.012, y + 0.014) for x, y in points]
    placed = []
    for k, ((x, y), text) in enumerate(zip(points, texts, strict=True)):
        for side in (1, -1):
            start = x + 0.02 if side > 0 else x - 0.02 - width * len(text)
            middle = y - 0.015 * side
            box = (start, middle - 0.02, start + width * len(text), middle + 0.02)
            inside = min(box) >= 0 and max(box) <= 1
            if inside and not any(_overlap(box, other) for j, other in enumerate(taken) if j != k):
                taken.append(box)
                placed.append((k, side))
                break
    return placed


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
