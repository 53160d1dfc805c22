"""Figures of crystals: training against generated, and CHGNet against DFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
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
        colors: plotly colour scale; ``limits`` its ends; ``bar_title`` what it says.
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
    middle = (limits[0] + limits[1]) / 2
    half = (limits[1] - limits[0]) / 2
    for z in elements:
        row, column = _cell_of(z)
        known = np.isfinite(values[z])
        dark = known and (values[z] > middle + 0.15 * half or (limits[0] < 0 and values[z] < -0.6 * limits[1]))
        figure.add_annotation(
            x=column,
            y=row,
            text=Element.from_Z(z).symbol,
            showarrow=False,
            font={"size": 11, "color": "white" if dark else (INK if known else GREY)},
        )
    styled(figure, height=46 + 34 * rows, margin={"l": 4, "r": 8, "t": 6, "b": 4})
    hidden = {"visible": False, "showgrid": False, "fixedrange": True, "automargin": False}
    figure.update_xaxes(**hidden, range=[-0.5, 17.5])
    figure.update_yaxes(**hidden, range=[rows - 0.5, -0.5])
    return figure


def element_tables(training: Distributions, generated: Distributions) -> dict[str, go.Figure]:
    """Share of crystals that contain each element: in training, as generated, and how the two compare."""
    known, made = training.element_shares, generated.element_shares
    rows = _used_rows(known, made)
    top = float(max(known.max(), made.max(), 0.01))
    scale = [[0.0, "#dbe9f6"], [0.5, "#6fa6d6"], [1.0, "#123f73"]]
    figures = {
        name: periodic_table(
            np.where(shares > 0, shares, np.nan),
            rows,
            colors=scale,
            limits=(0.0, top),
            bar_title="share of crystals",
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
        bar_title="log2(generated / training)",
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
            fillcolor=f"rgba({int(color[1:3], 16)},{int(color[3:5], 16)},{int(color[5:7], 16)},0.18)",
        )
    styled(figure)
    figure.update_xaxes(title_text="lattice constant of the conventional cell (Å)")
    figure.update_yaxes(title_text="density (1/Å)", rangemode="tozero")
    return figure


def space_group_figure(training: Distributions, generated: Distributions) -> go.Figure | None:
    """Shares of the space groups."""
    groups = sorted(set(training.space_groups) | set(generated.space_groups))
    if not groups:
        return None
    labels = [f"{space_group_symbol(g)} ({g})" if g else "none" for g in groups]
    figure = go.Figure()
    for name, found, color in (("training", training, BLUE), ("generated (asked for)", generated, GOLD)):
        figure.add_bar(
            x=labels,
            y=[found.space_groups[g] / max(1, found.crystals) for g in groups],
            name=name,
            marker={"color": color},
            hovertemplate="%{x}: %{y:.1%}<extra></extra>",
        )
    styled(figure, barmode="group", bargap=0.35)
    figure.update_yaxes(title_text="share of crystals", tickformat=".0%")
    return figure


def energy_figure(labels: NDArray[np.float64], ranked: NDArray[np.float64], shortlist: NDArray[np.float64]) -> go.Figure | None:
    """CHGNet formation energies of the training crystals and of what screening left, in eV/atom."""
    sets = [("training", labels, BLUE), ("relaxed candidates", ranked, TEAL), ("shortlist", shortlist, GOLD)]
    sets = [(name, values[np.isfinite(values)], color) for name, values, color in sets]
    everything = np.concatenate([values for _, values, _ in sets])
    if not len(everything):
        return None
    low, high = float(everything.min()), float(everything.max())
    size = max(0.02, round((high - low) / 50, 2))
    figure = go.Figure()
    for name, values, color in sets:
        if len(values):
            figure.add_histogram(
                x=values,
                name=f"{name} ({len(values):,})",
                histnorm="percent",
                xbins={"start": np.floor(low / size) * size, "end": high + size, "size": size},
                marker={"color": color},
                opacity=0.6,
            )
    styled(figure, barmode="overlay")
    figure.update_xaxes(title_text="formation energy by CHGNet (eV/atom)")
    figure.update_yaxes(title_text="% of the set")
    return figure


def dft_parity(crystals: list[ValidatedCrystal]) -> go.Figure | None:
    """CHGNet against DFT, raw and MP2020-corrected in panels of their own."""
    panels = (
        ("formation_energy_ev_per_atom", "DFT raw (eV/atom)", BLUE),
        ("formation_energy_corrected_ev_per_atom", "DFT with MP2020 corrections (eV/atom)", TEAL),
    )
    rows = [c.row for c in crystals if c.row["converged"] and c.row["mlip_formation_energy_ev_per_atom"] is not None]
    if not any(row[name] is not None for row in rows for name, _, _ in panels):
        return None
    values = [row[k] for row in rows for k in (*(p[0] for p in panels), "mlip_formation_energy_ev_per_atom")]
    known = np.array([v for v in values if v is not None])
    margin = max(0.1, 0.06 * float(np.ptp(known)))
    limits = [float(known.min()) - margin, float(known.max()) + margin]
    figure = make_subplots(cols=2, horizontal_spacing=0.13, subplot_titles=[_agreement(rows, p[0]) for p in panels])
    for column, (name, title, color) in enumerate(panels, start=1):
        shown = [row for row in rows if row[name] is not None]
        figure.add_scatter(
            x=limits, y=limits, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip", row=1, col=column
        )
        figure.add_scatter(
            x=[row[name] for row in shown],
            y=[row["mlip_formation_energy_ev_per_atom"] for row in shown],
            text=[row["formula"] for row in shown],
            mode="markers+text" if len(shown) <= 12 else "markers",
            textposition="top center",
            textfont={"size": 11},
            marker={
                "color": color,
                "size": 10,
                "symbol": ["circle" if row["confirmed"] else "circle-open" for row in shown],
                "line": {"width": 1.5, "color": color},
            },
            hovertemplate="%{text}<br>DFT %{x:.3f}<br>CHGNet %{y:.3f}<extra></extra>",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=title, range=limits, row=1, col=column)
        figure.update_yaxes(title_text="CHGNet (eV/atom)", range=limits, row=1, col=column)
    return styled(figure, height=440, showlegend=False)


def _agreement(rows: list[dict[str, Any]], name: str) -> str:
    differences = np.array([row["mlip_formation_energy_ev_per_atom"] - row[name] for row in rows if row[name] is not None])
    if not len(differences):
        return "not defined for these crystals"
    return (
        f"{len(differences)} crystals: mean difference {differences.mean():+.3f}, "
        f"mean absolute {np.abs(differences).mean():.3f} eV/atom"
    )
