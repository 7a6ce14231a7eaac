"""Picked runs judged on the documents that were held out, as `fusescope evaluate` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from app import paths, results, watching
from app.escape import drawn, plain
from training.comparison import figure
from training.evaluate import FEWEST
from training.judging import Judged, judge
from training.runs import Run

# Where the last comparison of a session is kept.
_KEPT = "runs_compared"
_NUMBERS = ("bits per byte", "low", "high", "difference", "difference low", "difference high")


@dataclass(frozen=True)
class _Compared:
    judged: Judged
    names: dict[str, str]
    notes: list[str]


@contextmanager
def _bar(label: str) -> Iterator[Callable[[float, int], None]]:
    place = st.empty()
    bar = place.progress(0.0, text=f"{plain(label)} …")

    def update(done: float, total: int) -> None:
        bar.progress(done / max(total, 1), text=f"{plain(label)}: {int(done):,} of {total:,}")

    try:
        yield update
    finally:
        place.empty()


def _measure(chosen: Sequence[Run], before: bool, over_seeds: bool) -> _Compared:
    notes: list[str] = []
    for run in chosen:
        paths.permitted_config(run.config())
    with results.turn():
        judged = judge([run.folder for run in chosen], notes.append, _bar, before=before, over_seeds=over_seeds)
    return _Compared(judged, {str(run.folder): run.name for run in chosen}, notes)


@st.fragment
def show() -> None:
    """A button that compares the finished ones of the runs that are picked, and what it found last."""
    watching.told(_compare)


def _compare() -> None:
    there = watching.list_shown()
    if not there:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = st.button(
            "Compare on held-out documents", key="compare",
            help="The models of the finished runs picked above, on documents that they were not trained on. "
            "Differences are paired to the first; below 0 is better. What is measured is kept in the runs' folders.",
        )  # fmt: skip
        before = st.checkbox("With the target before training", key="compare_before")
        over_seeds = st.checkbox(
            "Seeds together", key="compare_seeds",
            help="Runs that differ only by their seed are one, with intervals over seeds too.",
        )  # fmt: skip
    if asked:
        picked = st.session_state.get("train_picked", [])
        runs = {run.name: run for run in there if run.state == "finished"}
        chosen = [runs[name] for name in picked if name in runs]
        st.session_state.pop(_KEPT, None)
        if not chosen:
            st.info("None of the runs that are picked above has finished.")
            return
        st.session_state[_KEPT] = _measure(chosen, before, over_seeds)
    if (found := st.session_state.get(_KEPT)) is not None:
        _show(found)


def _show(found: _Compared) -> None:
    for note in found.notes:
        st.warning(plain(note))
    judged = found.judged
    labels = {name: found.names.get(name, f"{name}, before") for name in judged.scores}
    frame = judged.frame.assign(model=[labels[name] for name in judged.frame["model"]])
    shown = frame.assign(model=[drawn(name) for name in frame["model"]])
    picture = figure(shown, {drawn(labels[name]): scores for name, scores in judged.scores.items()})
    st.plotly_chart(picture.update_layout(height=360), key="compared")
    st.dataframe(_table(frame.copy()), hide_index=True, column_config=_columns(), placeholder="")
    few = f" Of fewer than {FEWEST} documents no interval is given: they say nothing of others."
    st.caption(
        f"{judged.documents:,} documents of the first run's corpus, intervals of 95 % over them."
        + (few if frame["documents"].min() < FEWEST else "")
    )
    st.download_button("Comparison as CSV", frame.to_csv(index=False), "comparison.csv", on_click="ignore")


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that say one thing of all rows, and without a difference of the first to itself."""
    differences = ["difference", "difference low", "difference high"]
    frame.loc[frame["model"] == frame["model"].iloc[0], differences] = float("nan")
    idle = [name for name in ("seeds", "domain") if frame[name].nunique() == 1]
    return frame.drop(columns=idle).rename(columns={"model": "run", "calibration error": "ECE"})


def _columns() -> dict[str, Any]:
    number = st.column_config.NumberColumn(format="%.4f")
    shares: dict[str, Any] = dict.fromkeys(("top-1", "ECE"), st.column_config.NumberColumn(format="%.3f"))
    shares["ECE"] = st.column_config.NumberColumn(format="%.3f", help="The expected calibration error.")
    return {**dict.fromkeys(_NUMBERS, number), **shares}
