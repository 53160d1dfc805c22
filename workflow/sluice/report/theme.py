"""Colours and the common layout of every figure."""

from __future__ import annotations

import plotly.graph_objects as go

INK = "#17212b"
MUTED = "#667684"
GRID = "#e8edf1"
BLUE = "#2566a8"
TEAL = "#128a84"
GOLD = "#c08a1e"
RED = "#bb4430"
VIOLET = "#6a51a3"
GREY = "#a9b4be"
SERIES = (BLUE, GOLD, TEAL, RED, VIOLET, "#5b7083", "#8c6d46", "#3f9142")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def styled(figure: go.Figure, *, height: int = 360, **layout: object) -> go.Figure:
    """Give a figure the page's fonts, colours and margins."""
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 64, "r": 20, "t": 34, "b": 52},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"font": {"family": FONT}},
        colorway=list(SERIES),
    )
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GREY,
        "showline": True,
        "ticks": "outside",
        "tickcolor": GREY,
        "ticklen": 4,
        "title": {"standoff": 8},
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_layout(**layout)
    return figure
