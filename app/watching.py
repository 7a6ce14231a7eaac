"""The runs that there are: a table, their curves, and what can be done with each of them."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app import paths, run_texts, state
from app.escape import drawn, plain
from fusion_core.errors import FusionError
from training import runs, yaml_text
from training.finding import find_runs
from training.progress import Standing

# Runs of the command line that are listed at most.
_ELSEWHERE = 100
# Of a run's log, the last ones are shown.
_LOG_LINES = 12
# Where the config and the name of a run that another one is to begin from wait for the form.
BEGUN_FROM = "train_begun_from"
# What is picked, kept while other pages are shown, and in the address.
FIELDS = {
    "train_picked": state.Field(many=True),
    "texts_of": state.Field(),
}


def _curves(chosen: list[runs.Run]) -> None:
    # The loss of a single run with the two parts that it is made of; of several runs the part that can be compared
    # whatever their lam and divergence are.
    alone = len(chosen) == 1
    first = ("loss", "training loss, nats") if alone else ("clm", "CLM in training, nats a token")
    figures = (first, ("eval_bits_per_byte", "validation, bits per byte"))
    parts = {"clm": "CLM", "divergence": "divergence"} if alone else {}
    for column, (field, title) in zip(st.columns(2), figures, strict=True):
        if not any(field in row for run in chosen for row in run.metrics):
            ended = all(run.state == "finished" for run in chosen)
            column.caption(
                f"{title[0].upper()}{title[1:]}: {'nothing was measured' if ended else 'nothing to draw yet'}."
            )
            continue
        figure = go.Figure()
        for run in chosen:
            for name, label in ((field, drawn(run.name)), *(parts.items() if field == "loss" else ())):
                rows = [row for row in run.metrics if name in row]
                part = name != field
                figure.add_trace(
                    go.Scatter(
                        x=[r["step"] for r in rows], y=[r[name] for r in rows], name=label,
                        mode="lines" if part else "lines+markers", line={"dash": "dot"} if part else {},
                    )
                )  # fmt: skip
        figure.update_layout(
            height=300, margin={"l": 10, "r": 10, "t": 30, "b": 10}, title=title, showlegend=True,
            xaxis={"title": "step"}, legend={"orientation": "h", "y": -0.25},
        )  # fmt: skip
        column.plotly_chart(figure, key=f"curve_{field}")


def _last(run: runs.Run, field: str) -> float | None:
    return next((row[field] for row in reversed(run.metrics) if field in row), None)


def _standing(at: Standing) -> tuple[float, str]:
    """How much of a stage is done, and in words."""
    share = min(1.0, at.done / at.total) if at.total else 0.0
    counted = f"{int(at.done):,}" + (f" of {int(at.total):,}" if at.total else "")
    return share, f"{plain(at.stage)}, {at.number} of {at.of}: {counted} {at.unit}"


@st.cache_data(ttl=15.0, show_spinner=False)
def _begun_elsewhere() -> dict[str, Path]:
    return find_runs(paths.roots())


def list_shown() -> list[runs.Run]:
    """Those that the app launched, then those of the command line, the newest first."""
    elsewhere = list(_begun_elsewhere().items())[:_ELSEWHERE]
    return [*runs.list_runs(), *(runs.read_run(path, name) for name, path in elsewhere)]


def told(section: Callable[[], None]) -> None:
    """Run a part of the page that is drawn anew by itself, where no one else would tell its errors."""
    try:
        section()
    except FusionError as error:
        st.error(plain(str(error)), icon=":material/error:")
    state.settle(FIELDS)


@st.fragment(run_every=2.0)
def show_runs() -> None:
    """The table of runs, and what is picked of it."""
    told(_runs)


def _runs() -> None:
    st.subheader("Runs")
    found = list_shown()
    if not found:
        st.info(
            "No runs yet: launch one above. What `fusescope train` and `sweep` make below the folder that the app was "
            "started in, or below the workspace, is listed here too."
        )
        return
    frame = pd.DataFrame(
        {
            "run": [run.name for run in found],
            "state": [run.state for run in found],
            "stage": [run.standing.stage if run.state == "running" and run.standing else "" for run in found],
            "step": [max((row["step"] for row in run.metrics), default=0) for run in found],
            "loss": [_last(run, "loss") for run in found],
            "CLM": [_last(run, "clm") for run in found],
            "validation, bits per byte": [_last(run, "eval_bits_per_byte") for run in found],
            "before": [run.metrics[0].get("eval_bits_per_byte") if run.metrics else None for run in found],
            "tokens a second": [_last(run, "tokens_per_second") for run in found],
            "seconds": [_last(run, "seconds") for run in found],
        }
    )
    number = st.column_config.NumberColumn(format="%.4f")
    whole = st.column_config.NumberColumn(format="%.0f")
    config: dict[str, Any] = {
        **dict.fromkeys(("CLM", "validation, bits per byte", "before"), number),
        "loss": st.column_config.NumberColumn(
            format="%.4f",
            help="lam * CLM + (1 - lam) * D, in nats: of another lam or divergence it is another measure.",
        ),
        **dict.fromkeys(("tokens a second", "seconds"), whole),
    }
    st.dataframe(frame, hide_index=True, column_config=config, placeholder="")
    if (count := len(_begun_elsewhere())) > _ELSEWHERE:
        st.caption(f"Of {count:,} runs of the command line the newest {_ELSEWHERE} are listed.")
    names = [run.name for run in found]
    state.begin_with("train_picked", names[:1])
    there = [name for name in st.session_state.train_picked if name in names]
    st.session_state.train_picked = there or (names[:1] if st.session_state.train_picked else [])
    picked = st.multiselect("Look at", names, key="train_picked")
    chosen = [run for run in found if run.name in picked]
    if not chosen:
        return
    _curves(chosen)
    for run in chosen:
        with st.expander(f"{plain(run.name)}: {run.state}", expanded=run is chosen[0]):
            if run.launched:
                _show_controls(run)
            if run.state == "running" and run.standing is not None:
                st.progress(*_standing(run.standing))
            if run.result:
                _show_result(run)
            if st.button("Begin another with its config", key=f"again_{run.name}"):
                _begin_from(run)
            st.caption(f"Folder: {plain(str(run.folder))}")
            log = run.log()
            if not run.launched:
                where = (
                    "" if run.state == "finished" else ": there it prints its log, and there it is stopped and resumed"
                )
                st.caption(f"It was started on the command line{where}.")
            elif not run.result:
                last = "\n".join(log.splitlines()[-_LOG_LINES:])
                st.code(last or "nothing printed yet", language=None, wrap_lines=True)
            if log:
                st.download_button("Log", log, f"{run.name}.log", on_click="ignore", key=f"log_{run.name}")


def _begin_from(run: runs.Run) -> None:
    """Hand its config to the form above, as YAML, under a name that is free."""
    value = json.loads(run.config().model_dump_json(exclude_defaults=True))
    del value["output"]  # the new run has its own
    base = re.sub(r"-[0-9]+$", "", re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-._"))[:56] or "run"
    name = next(f"{base}-{n}" for n in itertools.count(2) if not (runs.runs_folder() / f"{base}-{n}").exists())
    st.session_state[BEGUN_FROM] = (yaml_text.write(value), name)
    st.rerun(scope="app")


def _show_controls(run: runs.Run) -> None:
    """Stop, resume and remove it."""
    columns = st.columns([1, 1, 1, 3])
    if columns[0].button("Stop", key=f"stop_{run.name}", disabled=run.state != "running"):
        if runs.stop(run):
            st.session_state.setdefault("train_stopping", set()).add(run.name)
        else:
            st.warning("Its process is on another machine, or has just ended: it can only be stopped there.")
    if columns[1].button("Resume", key=f"resume_{run.name}", disabled=not run.resumable):
        try:
            runs.launch(run.name, run.config(), resume=True)
        except FusionError as error:
            st.error(plain(str(error)))
    stopping = st.session_state.setdefault("train_stopping", set())
    if run.state != "running":
        stopping.discard(run.name)
    if run.resumable:
        with columns[2].popover("Remove"):
            st.caption("Its folder goes with all that is in it: data, checkpoints, metrics and log.")
            if st.button("Remove the run", key=f"remove_{run.name}"):
                runs.remove(run)
                st.rerun(scope="app")
    if run.name in stopping:
        st.info("It was told to stop: training saves a checkpoint first, and no finished shard is lost.")


def _show_result(run: runs.Run) -> None:
    """What a finished run came to, and what to do with it."""
    result, model = run.result, run.folder / "model"
    before, after = result.get("validation_before"), result.get("validation_after")
    change = None if before is None or after is None else f"{after - before:+.4f} by training"
    with st.container(horizontal=True):
        st.metric("Validation, bits per byte", "—" if after is None else f"{after:.4f}", change, delta_color="inverse")
        st.metric("Steps", f"{result.get('steps', 0):,}")
        if result.get("seconds") is not None:
            st.metric("Seconds", f"{result['seconds']:,.0f}")
    if not model.is_dir():
        return
    st.markdown("The model, and how it does on the documents that were held out:")
    st.code(f"{model}\nfusescope evaluate {shlex.quote(str(run.folder))}", language=None, wrap_lines=True)
    if st.button("Open the model in Distributions", key=f"model_{run.name}"):
        state.hand_over({"origin": "Models", "target_model": str(model)})
        st.switch_page(st.session_state["_pages"]["distributions"])


@st.fragment(run_every=5.0)
def show_texts() -> None:
    """What a run was trained on."""
    told(_texts)


def _texts() -> None:
    found = list_shown()
    if not found:
        return
    st.subheader("What it was trained on")
    names = [run.name for run in found]
    if st.session_state.get("texts_of") not in names:
        st.session_state.pop("texts_of", None)
    state.begin_with("texts_of", names[0])
    run = found[names.index(st.selectbox("Run", names, key="texts_of"))]
    run_texts.show(run, st.session_state["_pages"])
