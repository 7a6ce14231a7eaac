"""Pictures of next-token distributions: bars to compare, the ledger, a transport plan, the weights of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from app.escape import drawn
from fusion_core.tokenizers import Tokenizer
from fusion_core.transfer import LEDGER, Plan

LEDGER_COLORS = dict(zip(LEDGER, ("#009e73", "#56b4e9", "#e69f00", "#cc79a7", "#d55e00"), strict=True))
# One colour per source, here and in the row of tokens.
SOURCE_COLORS = ("#66a9d9", "#f0c36b", "#66c4ac", "#e0a9c7", "#e69a66")
_GOLD, _BAR = "#e69f00", "#4c78a8"
_COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """One distribution to draw: ids and probabilities, best first, of `tokenizer`; `gold` is marked."""

    title: str
    tokenizer: Tokenizer
    ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    gold: int | None
    rest: float


def label(tokenizer: Tokenizer, token: int) -> str:
    """An entry as text that plotly reads no markup in."""
    shown = tokenizer.vocabulary.shown(token)
    shown = shown if len(shown) <= 16 else f"{shown[:15]}…"
    return drawn(shown)


def bars(panels: Sequence[Panel], entries: int = 8) -> go.Figure:
    """Every distribution's best entries as bars on one scale, the gold token in orange, what is not shown below."""
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure = make_subplots(
        rows, columns, subplot_titles=[p.title for p in panels], horizontal_spacing=0.11, vertical_spacing=0.32 / rows
    )
    for n, panel in enumerate(panels):
        row, column = n // _COLUMNS + 1, n % _COLUMNS + 1
        ids, probs = panel.ids[:entries].tolist(), panel.probs[:entries].tolist()
        if panel.gold is not None and panel.gold in panel.ids.tolist() and panel.gold not in ids:
            ids[-1:], probs[-1:] = [panel.gold], [float(panel.probs[panel.ids.tolist().index(panel.gold)])]
        other = max(0.0, float(panel.probs.sum()) - sum(probs))
        names = [label(panel.tokenizer, i) for i in ids]
        # Two entries may look alike: the position keeps their bars apart.
        ends = ["other entries", "tail and lost"] if ids else ["no transfer"]
        ticks = [*names, *ends]
        values = [*probs, *([other, panel.rest] if ids else [1.0])]
        colors = [_GOLD if i == panel.gold else _BAR for i in ids] + ["#bbbbbb", "#d55e00"][-len(ends) :]
        facts = [f"{name} · id {i}" for name, i in zip(names, ids, strict=True)] + ends
        figure.add_trace(
            go.Bar(
                x=values, y=list(range(len(ticks))), orientation="h", marker_color=colors, showlegend=False,
                customdata=facts, hovertemplate="%{customdata}<br>%{x:.4f}<extra></extra>",
                text=[f"{v:.3f}" if v >= 0.0005 else "" for v in values], textposition="outside", cliponaxis=False,
            ),
            row, column,
        )  # fmt: skip
        figure.update_yaxes(
            tickvals=list(range(len(ticks))), ticktext=ticks, range=[entries + 1.6, -0.6], row=row, col=column,
            tickfont={"family": "monospace", "size": 11},
        )  # fmt: skip
        figure.update_xaxes(range=[0, 1.15], tickvals=[0, 0.5, 1], row=row, col=column)
    figure.update_annotations(font_size=13)
    figure.update_layout(height=310 * rows, margin={"l": 10, "r": 40, "t": 40, "b": 20}, bargap=0.15)
    return figure


def ledgers(names: Sequence[str], ledger: NDArray[np.float64]) -> go.Figure:
    """One stacked bar per method: where the probability went. `ledger` is float64[methods, 5]."""
    figure = go.Figure()
    for c, kind in enumerate(LEDGER):
        figure.add_trace(
            go.Bar(
                y=list(names), x=ledger[:, c], name=kind, orientation="h", marker_color=LEDGER_COLORS[kind],
                hovertemplate="%{x:.4f}<extra>" + kind + "</extra>",
            )
        )  # fmt: skip
    figure.update_layout(
        barmode="stack",
        height=140 + 30 * len(names),
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        yaxis={"autorange": "reversed"},
        xaxis={"range": [0, 1.001], "title": "probability"},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )
    return figure


def plan_heat_map(plan: Plan, source: Tokenizer, target: Tokenizer) -> go.Figure:
    """The transport plan: rows are the source's entries, columns the target's, cells the mass moved."""
    rows = [f"{n} {label(source, i)}" for n, i in enumerate(plan.source_ids.tolist())]
    columns = [f"{n} {label(target, i)}" for n, i in enumerate(plan.target_ids.tolist())]
    figure = go.Figure(
        go.Heatmap(
            z=plan.plan, x=columns, y=rows, colorscale="Blues", colorbar={"title": "mass"}, customdata=plan.cost,
            hovertemplate="%{y} → %{x}<br>mass %{z:.4f}, edit distance %{customdata:g}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        height=420,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={"title": "target entry", "tickfont": {"family": "monospace"}},
        yaxis={"title": "source entry", "autorange": "reversed", "tickfont": {"family": "monospace"}},
    )
    return figure


def weight_lines(names: Sequence[str], weights: NDArray[np.float64], selected: int) -> go.Figure:
    """Each source's weight over the positions, stacked; `weights` is float64[s, m]."""
    figure = go.Figure()
    for n, (name, row) in enumerate(zip(names, weights, strict=True)):
        color = SOURCE_COLORS[n % len(SOURCE_COLORS)]
        figure.add_trace(
            go.Scatter(
                x=np.arange(1, len(row) + 1), y=row, name=drawn(name), stackgroup="one", fillcolor=color,
                line={"width": 0.5, "shape": "hvh", "color": color}, mode="lines",
                hovertemplate="token %{x}: %{y:.3f}<extra>" + drawn(name) + "</extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=selected, line={"color": "#888", "dash": "dot"})
    figure.update_layout(
        height=240,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        xaxis={"title": "target token"},
        yaxis={"title": "weight", "range": [0, 1.001]},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )
    return figure
