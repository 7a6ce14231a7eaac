"""How do the tokens of two tokenizers line up on a text?"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import streamlit as st

from app import figures, inputs, results, strip
from app.inputs import pick_text, pick_tokenizers, stop_with
from app.state import Field, begin_with, gone_back
from fusion_core.alignment import COMPARES, COSTS, METHODS, Alignment, Difference, difference
from fusion_core.errors import FusionError
from fusion_core.tokenizers import Tokenizer

_NONE = "nothing"
FIELDS = {
    **inputs.FIELDS,
    "method": Field(options=tuple(METHODS)),
    "against": Field(options=(_NONE, *METHODS)),
    "cost": Field(options=tuple(COSTS)),
    "compare": Field(options=tuple(COMPARES)),
    "invisible": Field(bool),
    "part": Field(int, least=1),
}


@dataclass(frozen=True)
class _Choice:
    method: str
    against: str
    cost: str
    compare: str
    invisible: bool


def _pick_method() -> _Choice:
    columns = st.columns([1.2, 1.2, 1, 1, 1.2], vertical_alignment="bottom")
    for key, value in (
        ("method", "span"),
        ("against", _NONE),
        ("cost", "edit"),
        ("compare", "bytes"),
        ("invisible", True),
    ):
        begin_with(key, value)
    method = columns[0].selectbox(
        "Method",
        list(METHODS),
        key="method",
        help="\n\n".join(f"**{name}**: {method.about}" for name, method in METHODS.items()),
    )
    against = columns[1].selectbox(
        "Compare with", [_NONE, *(name for name in METHODS if name != method)], key="against"
    )
    warps = "dtw" in (method, against)
    cost = columns[2].selectbox(
        "DTW cost",
        COSTS,
        key="cost",
        disabled=not warps,
        help="edit: FuseLLM. containment: FuseChat, a tenth where one token contains the other.",
    )
    compare = columns[3].selectbox(
        "DTW compares",
        COMPARES,
        key="compare",
        disabled=not warps,
        help="bytes: what the tokens spell. pieces: how the tokenizers store them, as FuseLLM does.",
    )
    invisible = columns[4].toggle("Show invisible", key="invisible", help="Spaces, line ends and the like as signs.")
    return _Choice(method, against, cost, compare, invisible)


def _align(source: Tokenizer, target: Tokenizer, text: str, method: str, choice: _Choice) -> Alignment:
    return results.alignment(source.name, target.name, text, method, choice.cost, choice.compare)


def _identity(alignment: Alignment) -> tuple[str, ...]:
    """What an alignment follows from."""
    sides = (alignment.source.tokenizer, alignment.target.tokenizer)
    names = [part for side in sides for part in (side.name, side.fingerprint)]
    return (*names, alignment.source.text, alignment.method, alignment.options.cost, alignment.options.compare)


def _show_figures(alignment: Alignment, compared: Difference | None) -> None:
    quality = alignment.quality
    entries = [
        ("Shared boundaries", f"{quality.shared_boundaries:.1%}", "Target positions where the source has read exactly "
         "the same text: only there are the two models' predictions about the same thing."),
        ("Equal one to one", f"{quality.equal_one_to_one:.1%}", "Target tokens linked to one source token that spells "
         "the same bytes: where FuseLLM's published rule transfers."),
        ("Bytes beyond 1:1", f"{quality.bytes_beyond_one_to_one:.1%}", "Share of the text in groups larger than 1:1."),
        ("Source tokens / byte", f"{quality.source_tokens_per_byte:.3f}", f"{len(alignment.source):,} tokens"),
        ("Target tokens / byte", f"{quality.target_tokens_per_byte:.3f}", f"{len(alignment.target):,} tokens"),
    ]  # fmt: skip
    if alignment.method == "dtw":
        entries.append(("Path cost", f"{alignment.cost:g}", "What the cheapest path costs."))
    if compared is not None:
        entries.append(("Agreement", f"{compared.agreement:.1%}", "Links of both methods as a share of all links."))
    with st.container(horizontal=True):  # which goes on below where the window is narrow
        for label, value, about in entries:
            st.metric(label, value, help=about, width=170)


def _show_strip(alignment: Alignment, compared: Difference | None, invisible: bool) -> None:
    starts = strip.pages(alignment)
    page = 0
    if len(starts) > 2:
        count = len(starts) - 1
        begin_with("part", 1)
        st.session_state.part = min(st.session_state.part, count)
        page = st.number_input(f"Part of the text (1 to {count})", 1, count, key="part") - 1
    low, high = starts[page], starts[page + 1]
    key = (_identity(alignment), compared and _identity(compared.second), page, invisible)
    data = results.derived("strip", key, lambda: strip.payload(alignment, low, high, invisible, compared))
    for n, side in enumerate(("source", "target")):
        tokens = int((alignment.groups[low:high, 2 * n + 1] - alignment.groups[low:high, 2 * n]).sum())
        if tokens > strip.LONGEST:
            st.caption(f"These {tokens:,} {side} tokens belong together; the first {strip.LONGEST:,} are drawn.")
    # Of another text or other tokenizers no token is selected yet: what was has another meaning there.
    of = crc32("\0".join(_identity(alignment)[:5]).encode("utf-8", "replace"))
    if st.session_state.setdefault("strip_of", of) != of:
        st.session_state.strip_of = of
        st.query_params.pop("token", None)
    # What a component holds outlives the address: after going back it is another one.
    turn = st.session_state.setdefault("strip_turn", 0) + gone_back()
    st.session_state.strip_turn = turn
    selected = strip.show(data, st.query_params.get("token"), key=f"strip_{of:x}_{turn}")
    if selected:
        st.query_params["token"] = selected
    elif "token" in st.query_params:
        del st.query_params["token"]


def _show_tables(alignment: Alignment, compared: Difference | None) -> None:
    both = [alignment, *([compared.second] if compared else [])]
    warped = next((one for one in both if one.method == "dtw" and len(one.edges)), None)
    names = ["Groups", "Links", *(["Disagreements"] if compared else []), *(["Cost matrix"] if warped else [])]
    tabs = dict(zip(names, st.tabs(names), strict=True))
    with tabs["Groups"]:
        st.dataframe(alignment.group_frame(), hide_index=True)
    with tabs["Links"]:
        st.dataframe(alignment.to_frame(), hide_index=True)
    if compared is not None:
        with tabs["Disagreements"]:
            frame = compared.to_frame()
            if frame.empty:
                st.success("Both methods link exactly the same tokens.")
            else:
                st.caption(f"{len(frame):,} links that only one of the two methods has.")
                st.dataframe(frame, hide_index=True)
    if warped is not None:
        with tabs["Cost matrix"]:
            if max(len(alignment.source), len(alignment.target)) > figures.MATRIX_TOKENS:
                st.caption(
                    f"The first {figures.MATRIX_TOKENS} tokens of each side. Drag to zoom, double-click to reset."
                )
            st.plotly_chart(figures.cost_heat_map(warped), key="matrix")
    left, right, _ = st.columns([1, 1, 4])
    left.download_button(
        "Links as CSV",
        lambda: alignment.to_frame().to_csv(index=False).encode(),
        "alignment.csv",
        "text/csv",
        on_click="ignore",
        key="csv",
    )
    right.download_button(
        "All as JSON",
        lambda: alignment.to_json().encode("utf-8", "replace"),
        "alignment.json",
        "application/json",
        on_click="ignore",
        key="json",
    )


def render() -> None:
    """The Alignment page."""
    st.caption("How two tokenizers cut the same text, and which of their tokens belong together.")
    source, target = pick_tokenizers()
    text = pick_text()
    choice = _pick_method()
    if not text:
        st.info("The text is empty: type or upload one, or choose an example.")
        st.stop()
    try:
        with st.spinner("Aligning …"):
            alignment = _align(source, target, text, choice.method, choice)
            compared = None
            if choice.against != _NONE:
                compared = difference(alignment, _align(source, target, text, choice.against, choice))
    except FusionError as error:
        stop_with(error)
    if source.fingerprint == target.fingerprint:
        st.info("Both sides are the same tokenizer, so everything links one to one.")
    _show_figures(alignment, compared)
    _show_strip(alignment, compared, choice.invisible)
    _show_tables(alignment, compared)
