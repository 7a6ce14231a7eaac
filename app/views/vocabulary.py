"""Which entries of one vocabulary have no counterpart in the other, and what would a mapping do with them?"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app import figures, inputs, results
from app.inputs import pick_text, pick_tokenizers, stop_with
from app.state import Field, begin_with, gone_back
from fusion_core.errors import FusionError
from fusion_core.mapping import (
    BREAKDOWNS,
    FORMS,
    KINDS,
    VocabularyMapping,
    breakdown,
    disagreements,
    nearest_targets,
    occurrences,
)
from fusion_core.text import show_bytes
from fusion_core.tokenizers import Tokenizer

_ROWS = 500
_SORTS = {
    "id": (["id"], [True]),
    "distance, farthest first": (["distance", "id"], [False, True]),
    "ties, most first": (["ties", "id"], [False, True]),
    "collisions, most first": (["collisions", "id"], [False, True]),
    "occurrences, most first": (["occurrences", "id"], [False, True]),
}
# What the columns of the table of entries say.
_COLUMNS = {
    "distance": "Edits from the entry to its soft target; -1 where it maps to none.",
    "ties": "How many target entries are as near as the soft target, which is the lowest id of them.",
    "collisions": "How many source entries soft mapping sends to the same target entry.",
    "occurrences": "In the text.",
    "piece": "The entry as the tokenizer stores it.",
}
_SHOW = ("all", "not in the target", "exact")
FIELDS = {
    **inputs.FIELDS,
    "form": Field(options=tuple(FORMS)),
    "weighted": Field(bool),
    "by": Field(options=tuple(BREAKDOWNS)),
    "search": Field(),
    "show": Field(options=_SHOW),
    "sort": Field(options=tuple(_SORTS)),
    "entry": Field(int),
}


@dataclass(frozen=True)
class _View:
    """What the page is about: two tokenizers, their mappings, and occurrences in the text if they are to count.

    `key` identifies all of it, for results that are kept.
    """

    source: Tokenizer
    target: Tokenizer
    maps: dict[str, VocabularyMapping]
    counts: NDArray[np.int64] | None
    key: tuple[str, ...]


def _table(source: Tokenizer, target: Tokenizer, maps: dict[str, VocabularyMapping]) -> pd.DataFrame:
    """One row per source entry with what hard, soft and first-token mapping do with it."""
    soft = maps["soft"].to_frame(source, target)
    ids = soft["id"].to_numpy()
    labels = [*map(target.vocabulary.shown, range(target.size)), ""]  # the last one for -1, which is nowhere

    def named(kind: str) -> list[str]:
        return [labels[j] for j in maps[kind].best[ids].tolist()]

    return pd.DataFrame(
        {
            "id": ids,
            "text": [*map(source.vocabulary.shown, ids.tolist())],
            "hard target": named("hard"),
            "soft target": named("soft"),
            "distance": soft["distance"],
            "ties": soft["ties"],
            "first-token target": named("first-token"),
            "collisions": soft["collisions"],
            "piece": soft["piece"],
        }
    )


def _show_picture(view: _View) -> None:
    begin_with("by", "script")
    by = st.segmented_control("Break down by", list(BREAKDOWNS), key="by", required=True)

    def tabulate(by: str) -> dict[str, pd.DataFrame]:
        return {kind: breakdown(mapping, view.source, by, view.counts) for kind, mapping in view.maps.items()}

    tables = results.derived("breakdown", (*view.key, by), lambda: tabulate(by or "script"))
    overall = results.derived("breakdown", (*view.key, "all"), lambda: tabulate("all"))["soft"].iloc[0]
    total = int(overall["total"])
    unit = "tokens of the text" if view.counts is not None else "entries"
    columns = st.columns(4 if view.counts is None else 3)
    columns[0].metric(f"Source {unit}", f"{total:,}")
    columns[1].metric("Exact counterpart", f"{overall['exact'] / max(total, 1):.1%}")
    columns[2].metric("Soft only", f"{(total - overall['exact'] - overall['not mapped']) / max(total, 1):.1%}")
    if view.counts is None:  # of a text there is nothing to say about entries that it does not hold
        hit = view.maps["soft"].collisions
        columns[3].metric(
            "Most crowded target",
            f"{int(hit.max()) if len(hit) else 0:,}",
            help="How many source entries soft mapping sends to one and the same target entry.",
        )
    st.plotly_chart(figures.outcome_bars(tables, unit="characters" if by == "length" else ""), key="bars")
    groups = len(tables["soft"])
    if groups > figures.BAR_GROUPS:
        rest = int(tables["soft"]["total"].iloc[figures.BAR_GROUPS :].sum())
        st.caption(
            f"The {figures.BAR_GROUPS} largest of {groups} groups; the others hold {rest:,} {unit}, "
            f"{rest / max(total, 1):.1%} of all. `fusescope map` prints all groups."
        )


def _show_table(table: pd.DataFrame, counts: NDArray[np.int64] | None) -> None:
    st.subheader("Entries")
    columns = st.columns([2, 1, 1.4])
    begin_with("search", "")
    wanted = columns[0].text_input("Search", key="search", placeholder="part of an entry or of a target, or an id")
    begin_with("show", _SHOW[0])
    show = columns[1].selectbox("Show", _SHOW, key="show")
    sorts = [name for name in _SORTS if counts is not None or "occurrences" not in name]
    if st.session_state.get("sort") not in sorts:  # occurrences are no longer counted
        st.session_state.pop("sort", None)
    begin_with("sort", sorts[0])
    order = columns[2].selectbox("Sort by", sorts, key="sort")
    rows = table
    if counts is not None:
        rows = rows.assign(occurrences=counts[rows["id"].to_numpy()])
        rows = rows[rows["occurrences"] > 0]
    if show != "all":
        rows = rows[(rows["hard target"] == "") == (show == "not in the target")]
    if wanted:
        hit = rows["id"].astype(str) == wanted
        hit |= rows["piece"].str.contains(wanted, regex=False)
        for column in ("text", "soft target"):
            hit |= rows[column].str.contains(wanted.replace(" ", "␣"), regex=False)
        rows = rows[hit]
    keys, ascending = _SORTS[order]
    rows = rows.sort_values(keys, ascending=ascending, kind="stable")
    if rows.empty:
        st.info("No entry matches.")
        return
    st.caption(
        f"{len(rows):,} {'entry' if len(rows) == 1 else 'entries'}"
        + (f", the first {_ROWS} shown" if len(rows) > _ROWS else "")
    )
    shown = rows.head(_ROWS)
    # A table keeps its selected row when other rows come: it is a table of its own for every set of them.
    key = f"entries_{crc32(shown['id'].to_numpy().tobytes()):x}"
    event = st.dataframe(
        shown, hide_index=True, height=360, on_select="rerun", selection_mode="single-row", key=key,
        column_config={name: st.column_config.Column(help=about) for name, about in _COLUMNS.items()},
    )  # fmt: skip
    picked = [int(shown["id"].iloc[row]) for row in event.selection.rows]
    if picked and st.session_state.get("picked") != picked:
        st.session_state.entry = picked[0]
    st.session_state.picked = picked
    st.download_button(
        "These entries as CSV",
        lambda: rows.to_csv(index=False).encode("utf-8", "replace"),
        "vocabulary.csv",
        "text/csv",
        on_click="ignore",
        key="vocabulary_csv",
    )


def _show_entry(source: Tokenizer, target: Tokenizer, text: str, form: str, worst: int) -> None:
    st.subheader("One entry")
    if st.session_state.setdefault("entry_of", source.fingerprint) != source.fingerprint:
        st.session_state.entry_of = source.fingerprint
        if not (gone_back() and "entry" in st.query_params):
            st.session_state.pop("entry", None)  # an id of another vocabulary
    begin_with("entry", worst)
    st.session_state.entry = min(st.session_state.entry, source.size - 1)
    entry = st.number_input("Source id (or click a row above)", 0, source.size - 1, key="entry", step=1)
    data = source.canonical_bytes(entry)
    facts = pd.DataFrame(
        {
            "text": [source.vocabulary.shown(entry)],
            "piece": [source.piece(entry)],
            "bytes": [data.hex(" ").upper()],
            "special": ["yes" if source.is_special(entry) else "no"],
            "role": [source.role(entry) or ""],
        }
    )
    st.dataframe(facts, hide_index=True)
    left, right = st.columns(2)
    with left:
        st.markdown(f"**Ten nearest targets, compared as {form}**")
        near = nearest_targets(source, target, entry, form=form)
        if len(near):
            st.dataframe(near, hide_index=True)
        else:
            st.caption("Nothing of it is compared: it maps by its role or name, never by edit distance.")
    with right:
        st.markdown("**What each kind does with it**")
        rows = []
        for kind in KINDS:
            if kind in ("cooccurrence", "statistical") and not text:
                continue
            own = text if kind in ("cooccurrence", "statistical") else ""
            mapping = results.mapping(source, target, kind, form if kind in ("hard", "soft") else "bytes", own)
            ids, weights = mapping.targets(entry)
            named = [
                f"{target.vocabulary.shown(j)} ({w:.0%})" for j, w in zip(ids[:5].tolist(), weights[:5], strict=True)
            ]
            rows.append(
                {
                    "kind": kind,
                    "targets": ", ".join(named) or "none",
                    "distance": int(mapping.distance[entry]) if mapping.distance[entry] >= 0 else None,
                    "lost mass": f"{mapping.lost_mass([entry])[0]:.0%}",
                }
            )
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, placeholder="",
            column_config={
                "distance": st.column_config.NumberColumn(help=_COLUMNS["distance"]),
                "lost mass": st.column_config.Column(help="Share of the entry's probability that goes nowhere."),
            },
        )  # fmt: skip
    st.markdown("**Where it occurs in the text**")
    places = _occurrences(source, text, entry)
    if places.empty:
        st.caption("It does not occur in the current text.")
    else:
        st.dataframe(places, hide_index=True)


def _occurrences(source: Tokenizer, text: str, entry: int, limit: int = 50) -> pd.DataFrame:
    encoding = source.encode(text)
    rows = []
    for k in (encoding.ids == entry).nonzero()[0][:limit].tolist():
        low, high = int(encoding.starts[k]), int(encoding.ends[k])
        before, after = encoding.data[max(0, low - 40) : low], encoding.data[high : high + 40]
        rows.append(
            {
                "token": k,
                "byte": low,
                "before": show_bytes(before),
                "entry": show_bytes(encoding.data[low:high], invisible=True),
                "after": show_bytes(after),
            }
        )
    return pd.DataFrame(rows, columns=["token", "byte", "before", "entry", "after"])


def _disagreements(view: _View) -> pd.DataFrame:
    hard, soft = view.maps["hard"], view.maps["soft"]
    return results.derived(
        "disagreements", view.key, lambda: disagreements(hard, soft, view.source, view.target, view.counts)
    )


def _show_disagreements(view: _View) -> None:
    st.subheader("Hard against soft")
    frame = _disagreements(view)
    weighted = view.counts is not None
    if frame.empty:
        st.success("Hard and soft mapping treat all of these entries alike.")
        return
    st.caption(
        f"{len(frame):,} entries that hard mapping loses and soft mapping sends somewhere, the worst first: damage is "
        "the edit distance per character" + (" times the occurrences in the text." if weighted else ".")
    )
    shown = frame.drop(columns=["hard"] if weighted else ["hard", "occurrences"])  # hard mapping has none of these
    st.dataframe(shown.head(_ROWS), hide_index=True)


def render() -> None:
    """The Vocabulary page."""
    st.caption(
        "Which entries of the source's vocabulary have a counterpart in the target's, "
        "and where a mapping sends the rest."
    )
    source, target = pick_tokenizers()
    text = pick_text()
    columns = st.columns([1, 1, 2], vertical_alignment="bottom")
    begin_with("form", FORMS[0])
    begin_with("weighted", False)
    form = columns[0].selectbox(
        "Compare",
        FORMS,
        key="form",
        help="bytes: what entries spell. pieces: how they are stored, as FuseLLM compares them.",
    )
    weighted = columns[1].toggle(
        "Weigh by the text",
        key="weighted",
        help="Count entries as often as they occur in the text.",
    )
    if form == "pieces":
        st.caption("Hard and soft compare pieces; all other kinds go by what entries spell, whatever is chosen here.")
    try:
        maps = {
            kind: results.mapping(source, target, kind, form if kind != "first-token" else "bytes")
            for kind in ("hard", "soft", "first-token")
        }
        counts = occurrences(source, text) if weighted and text else None
        key = (source.fingerprint, target.fingerprint, form)
        view = _View(source, target, maps, counts, (*key, text if counts is not None else ""))
        table = results.derived("vocabulary", key, lambda: _table(source, target, maps))
        _show_picture(view)
        _show_table(table, counts)
        differing = _disagreements(view)
        _show_entry(source, target, text, form, int(differing["id"].iloc[0]) if len(differing) else 0)
        _show_disagreements(view)
    except FusionError as error:
        stop_with(error)
