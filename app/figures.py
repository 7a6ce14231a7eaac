"""Pictures: plotly figures from result objects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.escape import drawn
from fusion_core.alignment import Alignment, cost_matrix, warp_strings
from fusion_core.mapping import OUTCOMES
from fusion_core.text import show_bytes

# Groups of a breakdown that are drawn unless told otherwise.
BAR_GROUPS = 8
# Rows and columns of a cost matrix that are drawn at most.
MATRIX_TOKENS = 150

OUTCOME_COLORS = dict(zip(OUTCOMES, ("#009e73", "#56b4e9", "#e69f00", "#d55e00", "#7a3ff2", "#8c8c8c"), strict=True))


def cost_heat_map(alignment: Alignment) -> go.Figure:
    """The matrix of pair costs under `dtw` with the path on it, for the first `MATRIX_TOKENS` tokens of each side."""
    sides = [
        warp_strings(side, alignment.options.compare)[:MATRIX_TOKENS] for side in (alignment.source, alignment.target)
    ]
    matrix = cost_matrix(sides[0], sides[1], alignment.options.cost)
    # Part of a character is shown as its bytes: a browser is sent no lone surrogates.
    errors = "surrogateescape" if alignment.options.compare == "bytes" else "replace"
    source, target = (
        [f"{i} {show_bytes(text.encode('utf-8', errors))}" for i, text in enumerate(side)] for side in sides
    )
    inside = (alignment.edges < [len(source), len(target)]).all(axis=1)
    path = alignment.edges[inside]
    figure = go.Figure(
        go.Heatmap(
            z=matrix,
            customdata=np.array([[f"{drawn(a)} → {drawn(b)}" for b in target] for a in source]),
            hovertemplate="%{customdata}<br>cost %{z:g}<extra></extra>",
            colorscale="Viridis_r",
            colorbar={"title": "cost"},
        )
    )
    figure.add_trace(
        go.Scatter(
            x=path[:, 1],
            y=path[:, 0],
            mode="lines+markers",
            line={"color": "#d6006e", "width": 2},
            marker={"size": 4},
            name="path",
            hoverinfo="skip",
        )
    )
    ticks = {"tickmode": "array", "tickfont": {"size": 10}, "showgrid": False}
    step = max(1, max(map(len, sides)) // 50)
    figure.update_layout(
        xaxis={
            **ticks,
            "title": "target",
            "tickvals": list(range(0, len(target), step)),
            "ticktext": _clip(target, step),
        },
        yaxis={
            **ticks,
            "title": "source",
            "tickvals": list(range(0, len(source), step)),
            "ticktext": _clip(source, step),
            "autorange": "reversed",
        },
        height=650,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        showlegend=False,
    )
    return figure


def _clip(labels: list[str], step: int) -> list[str]:
    """Every `step`-th label, short, and such that plotly reads no markup in it."""
    return [drawn(label[:14]) for label in labels[::step]]


def outcome_bars(tables: dict[str, pd.DataFrame], limit: int = BAR_GROUPS, unit: str = "") -> go.Figure:
    """Stacked shares of how entries map: one bar for each kind of mapping and group, groups by size.

    Args:
        tables: kind -> `breakdown` of it.
        unit: what the groups are counts of, such as characters.
    """
    figure = go.Figure()
    kinds = list(tables)
    groups = [str(group) for group in tables[kinds[0]].index[:limit]]
    labels = [[group for group in groups for _ in kinds], kinds * len(groups)]
    for outcome in OUTCOMES:
        counts = [int(tables[kind][outcome].iloc[g]) for g in range(len(groups)) for kind in kinds]
        totals = [max(1, int(tables[kind]["total"].iloc[g])) for g in range(len(groups)) for kind in kinds]
        if any(counts):
            figure.add_trace(
                go.Bar(
                    y=labels,
                    x=[100 * count / total for count, total in zip(counts, totals, strict=True)],
                    name=outcome,
                    orientation="h",
                    marker_color=OUTCOME_COLORS[outcome],
                    customdata=[[count, total] for count, total in zip(counts, totals, strict=True)],
                    hovertemplate="%{customdata[0]:,} of %{customdata[1]:,} (%{x:.1f} %)<extra>" + outcome + "</extra>",
                )
            )
    figure.update_layout(
        barmode="stack",
        height=90 + 26 * len(kinds) * len(groups),
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        xaxis={"title": "share, %", "range": [0, 100]},
        yaxis={"autorange": "reversed", **({"title": unit} if unit else {})},
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )
    return figure
