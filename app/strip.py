"""The token strip: two rows of tokens over a text with links between them, a component of this app's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from app.assets import asset
from fusion_core.alignment import KINDS, Alignment, Difference
from fusion_core.text import show_bytes
from fusion_core.tokenizers import Encoding

# Tokens of one side that a view holds at most; more are paged.
WINDOW = 2000
# Tokens of one side that are drawn even of a group that is longer than that.
LONGEST = 2 * WINDOW


def _component() -> Any:
    return st.components.v2.component(
        "token_strip", html='<div class="strip"></div>', css=asset("strip.css"), js=asset("strip.js")
    )


def pages(alignment: Alignment) -> list[int]:
    """Group indices at which each view starts, the number of groups last; a view has about `WINDOW` tokens a side."""
    starts = [0]
    for g, row in enumerate(alignment.groups.tolist()):
        first = alignment.groups[starts[-1]]
        if g > starts[-1] and (row[1] - first[0] > WINDOW or row[3] - first[2] > WINDOW):
            starts.append(g)
    return [*starts, len(alignment.groups)]


def _tokens(encoding: Encoding, low: int, high: int, kinds: dict[int, int], invisible: bool) -> list[dict[str, Any]]:
    split = encoding.splits_character
    rows = []
    for k in range(low, high):
        data = encoding.canonical[k]
        own = encoding.data[encoding.starts[k] : encoding.ends[k]]
        # What spells nothing (an unknown word) is drawn as the entry that it is.
        unknown = not data and bool(own)
        text = encoding.pieces[k] if unknown else show_bytes(data, invisible=invisible)
        rows.append(
            {
                "index": k,
                "text": text if len(text) <= 120 else f"{text[:117]}…",
                "piece": encoding.pieces[k][:200],
                "id": int(encoding.ids[k]),
                "bytes": data.hex(" ").upper() if len(data) <= 64 else f"{data[:64].hex(' ').upper()} …",
                "start": int(encoding.starts[k]),
                "end": int(encoding.ends[k]),
                "exact": bool(encoding.exact[k]),
                "split": bool(split[k]),
                "covers": show_bytes(own, invisible=invisible)[:120] if unknown else "",
                "kind": kinds.get(k, 4),
            }
        )
    return rows


def payload(
    alignment: Alignment, first: int, last: int, invisible: bool, difference: Difference | None
) -> dict[str, Any]:
    """What the component draws: groups `first` to `last`, their tokens, and all links that touch both."""
    groups = alignment.groups[first:last]
    kinds = alignment.kinds[first:last].tolist()
    empty = len(groups) == 0
    spans = [(0, 0), (0, 0)] if empty else [(int(groups[0, c]), int(groups[-1, c + 1])) for c in (0, 2)]
    # A single group can be longer than any view: an unknown word is one token here and thousands there.
    spans = [(low, min(high, low + LONGEST)) for low, high in spans]
    drawn = []
    of_token: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for row, kind in zip(groups.tolist(), kinds, strict=True):
        members = [list(range(row[0], min(row[1], spans[0][1]))), list(range(row[2], min(row[3], spans[1][1])))]
        drawn.append({"kind": kind, "tokens": members})
        for side in (0, 1):
            of_token[side].update(dict.fromkeys(members[side], kind))
    disputed = set() if difference is None else set(map(tuple, difference.only_first.tolist()))
    links = _links(alignment, spans, "", disputed)
    if difference is not None:
        second = difference.second
        wanted = set(map(tuple, difference.only_second.tolist()))
        links += [link for link in _links(second, spans, "second", set()) if (link[0], link[1]) in wanted]
    return {
        "names": [alignment.source.tokenizer.name, alignment.target.tokenizer.name],
        "kinds": list(KINDS),
        "tokens": [
            _tokens(side, *span, of_token[n], invisible)
            for n, (side, span) in enumerate(zip((alignment.source, alignment.target), spans, strict=True))
        ],
        "groups": drawn,
        "links": links,
        "first": alignment.method,
        "second": None if difference is None else difference.second.method,
    }


def _links(
    alignment: Alignment, spans: list[tuple[int, int]], style: str, disputed: set[tuple[int, ...]]
) -> list[list[Any]]:
    (a0, a1), (b0, b1) = spans
    i, j = alignment.edges[:, 0], alignment.edges[:, 1]
    inside = np.flatnonzero((i >= a0) & (i < a1) & (j >= b0) & (j < b1))
    links = []
    for edge in inside.tolist():
        pair = (int(i[edge]), int(j[edge]))
        reason = f"{alignment.method}: {alignment.reason(edge)}"
        links.append([*pair, "first" if pair in disputed else style, reason])
    return links


def show(data: dict[str, Any], selected: str | None, key: str) -> str | None:
    """Draw the strip; returns the token that was clicked (`s12`, `t7`), None for none."""
    result = _component()(
        data={**data, "selected": selected or None},
        key=key,
        default={"selected": selected or ""},
        on_selected_change=lambda: None,
    )
    return result.selected or None
