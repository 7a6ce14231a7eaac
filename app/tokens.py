"""The coloured row of target tokens, a component of this app's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from app.assets import asset
from fusion_core.inspection import OUTCOMES
from fusion_core.text import show_bytes
from fusion_core.tokenizers import Encoding

# Okabe and Ito's colours, which people with any colour vision tell apart.
_RGB = ((0, 158, 115), (86, 180, 233), (230, 159, 0), (204, 121, 167), (213, 94, 0), (110, 110, 110))
OUTCOME_COLORS = dict(zip(OUTCOMES, (f"rgba({r}, {g}, {b}, 0.38)" for r, g, b in _RGB), strict=True))
NOTHING = "rgba(128, 128, 128, 0.15)"


def by_value(values: NDArray[np.float64], unit: str) -> tuple[list[str], list[dict[str, str]]]:
    """Colours from pale to red for values from 0 up, NaN in grey, and their legend."""
    finite = values[np.isfinite(values)]
    top = max(float(np.quantile(finite, 0.97)) if len(finite) else 1.0, 1e-6)

    def color(value: float) -> str:
        return NOTHING if not np.isfinite(value) else f"rgba(213, 30, 30, {0.05 + 0.75 * min(1.0, value / top):.2f})"

    steps = [{"color": color(top * part), "label": f"{top * part:.2g} {unit}"} for part in (0.0, 0.25, 0.5, 1.0)]
    steps[-1]["label"] += " or more"
    return [color(float(v)) for v in values], [*steps, {"color": NOTHING, "label": "nothing there"}]


def by_class(classes: NDArray[np.int64], colors: dict[str, str]) -> tuple[list[str], list[dict[str, str]]]:
    """One colour per class, and a legend of the classes that occur; -1 is grey."""
    names = list(colors)
    present = [name for c, name in enumerate(names) if (classes == c).any()]
    legend = [{"color": colors[n], "label": f"{n} ({int((classes == names.index(n)).sum())})"} for n in present]
    return [colors[names[c]] if c >= 0 else NOTHING for c in classes.tolist()], legend


def payload(
    encoding: Encoding, colors: list[str], titles: list[str], legend: list[dict[str, str]], low: int, high: int
) -> dict[str, Any]:
    """What the component draws: tokens `low` to `high`; token i is coloured by its prediction, position i - 1."""
    split = encoding.splits_character
    rows = []
    for k in range(low, high):
        own = encoding.canonical[k]
        shown = show_bytes(own, invisible=True) if own else encoding.pieces[k]  # an unknown word
        rows.append(
            {
                "index": k,
                "text": shown[:80],
                "color": colors[k - 1] if k else "transparent",
                "title": titles[k - 1] if k else "the first token: nothing stands before it",
                "split": bool(split[k]),
                "breaks": own.endswith(b"\n"),
            }
        )
    return {"tokens": rows, "legend": legend}


class Click(NamedTuple):
    """A token, and what tells this click on it from another one."""

    token: int
    turn: str
    moment: str


def show(data: dict[str, Any], selected: int, turn: str, key: str) -> Click | None:
    """Draw the row; returns the last click on it.

    Args:
        turn: identifies what is drawn, so that a click on an earlier picture is not taken for one on this.
    """
    component = st.components.v2.component(
        "token_row", html='<div class="tokens"></div>', css=asset("tokens.css"), js=asset("tokens.js")
    )
    result: Any = component(
        data={**data, "selected": selected, "turn": turn},
        key=key,
        default={"clicked": ""},
        on_clicked_change=lambda: None,
    )
    index, _, rest = (result.clicked or "").partition("@")
    seen, _, moment = rest.partition("@")
    return Click(int(index), turn, moment) if index.isdigit() and seen == turn else None
