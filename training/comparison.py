"""Runs side by side as a picture: bits per byte with their intervals, and confidence against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fusion_core.workspace import atomic_path
from training.calibration import Reliability
from training.evaluate import Score


def figure(frame: pd.DataFrame, scores: Mapping[str, Sequence[Sequence[Score]]]) -> go.Figure:
    """A figure of what `evaluate.table` and the scores that it is from say."""
    shown = make_subplots(1, 2, column_widths=[0.6, 0.4], subplot_titles=("Bits per byte, 95 %", "Calibration"))
    colors = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5"]
    for n, (name, part) in enumerate(frame.groupby("model", sort=False)):
        color = colors[n % len(colors)]
        value = part["bits per byte"]
        shown.add_trace(
            go.Bar(
                x=part["domain"], y=value, name=str(name), marker_color=color, legendgroup=str(name),
                error_y={"array": part["high"] - value, "arrayminus": value - part["low"]},
            ), 1, 1,
        )  # fmt: skip
        kept = Reliability.total(score.reliability for run in scores[str(name)] for score in run)
        filled = kept.counts > 0
        shown.add_trace(
            go.Scatter(
                x=kept.confidence[filled] / kept.counts[filled], y=kept.hits[filled] / kept.counts[filled],
                mode="lines+markers", marker_color=color, legendgroup=str(name), showlegend=False, name=str(name),
                marker_size=4 + 12 * np.sqrt(kept.counts[filled] / kept.counts.max()),
            ), 1, 2,
        )  # fmt: skip
    ends = [0, 1]
    shown.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": "gray"}, showlegend=False), 1, 2
    )
    shown.update_xaxes(title="confidence", range=ends, row=1, col=2)
    shown.update_yaxes(title="right as often", range=ends, row=1, col=2)
    shown.update_layout(barmode="group", legend={"orientation": "h", "y": -0.2}, margin={"t": 40, "l": 40, "r": 20})
    return shown


def save(shown: go.Figure, path: Path) -> None:
    """As one HTML file that needs no network."""
    with atomic_path(path) as temporary:
        temporary.write_text(shown.to_html(include_plotlyjs=True), encoding="utf-8")
