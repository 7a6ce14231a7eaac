"""Launch training from what the other pages show, and watch, stop, resume and compare runs."""

from __future__ import annotations

import re
from typing import Any

import streamlit as st
import yaml
from rich.filesize import decimal

from app import comparing, paths, state, watching
from app.escape import plain
from app.inputs import stop_with
from fusion_core.errors import ConfigError, FusionError
from fusion_core.fusion import LEVELS, RULES
from fusion_core.models import SAMPLE_MODELS, require_torch
from fusion_core.transfer import METHODS
from training import runs, yaml_text
from training.config import PUBLISHED, Config, parse
from training.corpus import CORPORA
from training.estimate import Estimate, estimate
from training.splits import split_corpus

# Arguments of the Trainer that name files, or send something elsewhere.
_REFUSED = {
    "accelerator_config", "deepspeed", "fsdp_config", "hub_model_id", "hub_token", "logging_dir", "output_dir",
    "project", "push_to_hub", "resume_from_checkpoint", "sortish_sampler", "torch_compile_backend",
    "trackio_bucket_id", "trackio_space_id",
}  # fmt: skip
# Where curves may go: trackers of other names send them to a service.
_REPORTS = ("none", "tensorboard")
_DIVERGENCES = ("ce", "forward_kl", "reverse_kl", "js")
_WAYS = [*METHODS, *PUBLISHED]
# What of the Distributions page the form begins with, and with what if that was not shown yet.
_FROM_DISTRIBUTIONS: dict[str, Any] = {
    "models": ["gemma-3-270m"], "target_model": SAMPLE_MODELS[0], "strip_method": _WAYS[0],
}  # fmt: skip
_BEGINS: dict[str, Any] = {
    "train_corpus": next(iter(CORPORA)), "train_limit": 8, "train_lam": 0.9, "train_divergence": "ce",
    "train_rate": 2e-5, "train_epochs": 1, "train_batch": 4, "train_top_k": 64, "train_rule": "min_ce",
    "train_level": LEVELS[0], "train_own": False, "train_name": "my-run",
}  # fmt: skip
# The form, kept while other pages are shown, and in the address.
FIELDS = {
    "train_sources": state.Field(many=True),
    "train_target": state.Field(),
    "train_method": state.Field(options=tuple(_WAYS)),
    "train_corpus": state.Field(options=tuple(CORPORA)),
    "train_limit": state.Field(int, least=1, most=100_000),
    "train_lam": state.Field(float, most=1.0),
    "train_divergence": state.Field(options=_DIVERGENCES),
    "train_rate": state.Field(float, least=1e-7, most=1.0),
    "train_epochs": state.Field(int, least=1, most=1000),
    "train_batch": state.Field(int, least=1, most=1024),
    "train_top_k": state.Field(int, least=1, most=1024),
    "train_rule": state.Field(options=tuple(RULES)),
    "train_level": state.Field(options=LEVELS),
    "train_own": state.Field(bool),
    "train_yaml": state.Field(),
    "train_name": state.Field(),
    **watching.FIELDS,
}


def _begin() -> None:
    """What the form holds at first: models and method as on the Distributions page, also when they change there."""
    before = {name: state.remembered(name, value) for name, value in _FROM_DISTRIBUTIONS.items()}
    fresh = st.session_state.get("train_from", before) != before
    st.session_state.train_from = before
    if fresh:
        st.session_state.pop("train_yaml", None)
    for key, name in (("train_sources", "models"), ("train_target", "target_model"), ("train_method", "strip_method")):
        if fresh:
            st.session_state.pop(key, None)
        state.begin_with(key, before[name])
    for key, value in _BEGINS.items():
        state.begin_with(key, value)


def _form(off: bool) -> dict[str, Any]:
    """The fields that most runs differ in, as a config's values; `off` where they do not count."""
    _begin()
    chosen = [*st.session_state.train_sources, st.session_state.train_target]
    known = list(dict.fromkeys([*SAMPLE_MODELS, *filter(None, chosen)]))
    sources = st.multiselect(
        "Sources", known, key="train_sources", accept_new_options=True, disabled=off,
        help="None trains on the text alone.",
    )  # fmt: skip
    left, right = st.columns(2)
    target = left.selectbox("Target", known, key="train_target", accept_new_options=True, disabled=off)
    method = right.selectbox("Method", _WAYS, key="train_method", disabled=off, help="How sources are carried over.")
    corpus = left.selectbox("Corpus", list(CORPORA), key="train_corpus", disabled=off)
    limit = right.number_input("Documents at most", 1, 100_000, key="train_limit", disabled=off)
    lam = left.slider("lam, the weight of the text itself", 0.0, 1.0, step=0.05, key="train_lam", disabled=off)
    divergence = right.selectbox("Divergence", _DIVERGENCES, key="train_divergence", disabled=off)
    rate = left.number_input("Learning rate", 1e-7, 1.0, step=1e-5, format="%.1e", key="train_rate", disabled=off)
    epochs = right.number_input("Epochs", 1, 1000, key="train_epochs", disabled=off)
    batch = left.number_input("Batch size", 1, 1024, key="train_batch", disabled=off)
    top_k = right.number_input("Entries kept of each distribution", 1, 1024, key="train_top_k", disabled=off)
    value: dict[str, Any] = {
        "target": target,
        "sources": [{"model": name, "method": method} for name in sources],
        "corpus": {"name": corpus, "limit": int(limit), "split": "order", "validation": 0.1, "held_out": 0.2},
        "teach": {"top_k": int(top_k)},
        "loss": {"lam": float(lam), "divergence": divergence},
        "training": {
            "num_train_epochs": int(epochs),
            "per_device_train_batch_size": int(batch),
            "learning_rate": float(rate),
            "logging_steps": 1,
        },
    }
    if len(sources) > 1:
        rule = left.selectbox("Fusion", list(RULES), key="train_rule", disabled=off)
        level = right.selectbox("Weights by the", LEVELS, key="train_level", disabled=off)
        value["fusion"] = {"rule": rule, "level": level}
    return value


def _checked(text: str) -> Config:
    """The config in `text`, every path and model in it one that this app may read."""
    try:
        value = yaml_text.read(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"this is no readable YAML: {' '.join(str(error).split())[:300]}") from error
    if isinstance(value, dict):
        value = {**value, "output": "."}  # the run's own folder, whatever was typed
    config = parse(value, "the config")
    paths.permitted_config(config)
    if refused := sorted(_REFUSED & set(config.training)):
        raise ConfigError(f"training.{refused[0]} reads or writes outside the run's folder; use it on the command line")
    reports = config.training.get("report_to") or "none"
    for name in [reports] if isinstance(reports, str) else reports:
        if name not in _REPORTS:
            raise ConfigError(f"training.report_to: {name} sends curves elsewhere; use it on the command line")
    return config


def _look_over(config: Config) -> Estimate:
    """What the run would take; an error of ours where it could not be."""
    with st.spinner("Reading the corpus and the models …", show_time=True):
        return estimate(config, split_corpus(config))


def _show_notices(found: Estimate) -> None:
    for line in filter(None, (found.notice, found.shortage)):
        st.warning(line)


def _show_check(config: Config, taken: bool) -> None:
    if taken:
        st.warning("There is a run of that name already; launch it under another one.")
    found = _look_over(config)
    train, validation, held_out = found.documents
    columns = st.columns(4)
    columns[0].metric("Documents", f"{train:,}", help=f"To train on; about {found.tokens:,} tokens of the target.")
    columns[1].metric("Validation, held out", f"{validation:,}, {held_out:,}")
    columns[2].metric("Steps, about", f"{found.steps:,}", help="Of the optimizer.")
    columns[3].metric(
        "Disk, about", decimal(found.distributions + found.checkpoints),
        help=f"Distributions {decimal(found.distributions)}, checkpoints and model {decimal(found.checkpoints)}.",
    )  # fmt: skip
    rows = [f"| {plain(stage)} | {state} | {memory} |" for stage, state, memory in found.table]
    st.markdown("\n".join(["| stage | | memory, about |", "| --- | --- | ---: |", *rows]))
    _show_notices(found)
    st.success("The config is valid.")


def _as_file(text: str) -> str:
    """The config as the command line needs it: with a folder for the run, which the app itself names."""
    if re.search(r"^output\s*:", text, re.MULTILINE):
        return text
    folder = yaml_text.write({"output": f"runs/{st.session_state.get('train_name') or 'my-run'}"})
    return f"{text.rstrip()}\n{folder}"


def _new_run() -> None:
    if (chosen := st.session_state.pop(watching.BEGUN_FROM, None)) is not None:
        st.session_state.train_own = True
        st.session_state.train_yaml, st.session_state.train_name = chosen
    left, right = st.columns([1, 1], gap="large")
    with left:
        st.subheader("A new run")
        value = _form(bool(st.session_state.get("train_own")))
    with right:
        own = st.toggle("Edit as YAML", key="train_own", help="The form's values are the start; then the text counts.")
        generated = yaml_text.write(value)
        if own:
            # What was edited comes back, unless the form has been changed since.
            begun, edited = st.session_state.get("train_edited", (None, ""))
            if "train_yaml" not in st.session_state:
                st.session_state.train_yaml = edited if begun == generated else generated
            text = st.text_area("Config", key="train_yaml", height=420)
            st.session_state.train_edited = (generated, text)
        else:
            st.session_state.pop("train_yaml", None)  # it would come back in place of a form that was changed since
            text = generated
            st.code(text, language="yaml", height=420)
        st.download_button("Config as YAML", _as_file(text), "config.yaml", on_click="ignore")
    columns = st.columns([2, 1, 1, 3], vertical_alignment="bottom")
    name = columns[0].text_input("Name of the run", key="train_name")
    check = columns[1].button("Check", key="train_check", width="stretch")
    start = columns[2].button("Launch", key="train_launch", type="primary", width="stretch")
    if check or start:
        try:
            require_torch()
            folder = runs.run_folder(name.strip())
            config = _checked(text).model_copy(update={"output": folder})
            if check:
                _show_check(config, (folder / "launch.yaml").exists())
            if start:
                if not folder.exists():  # else the launch says so at once
                    _show_notices(_look_over(config))
                runs.launch(name.strip(), config)
                st.session_state.train_picked, st.session_state.texts_of = [name.strip()], name.strip()
                st.toast(f"{plain(name)} is running; closing this page does not stop it.")
        except FusionError as error:
            st.error(plain(str(error)), icon=":material/error:")


def render() -> None:
    """The Training page."""
    st.caption("Train the target on a corpus and on what its sources say about it, in a process of its own.")
    try:
        _new_run()
        watching.show_runs()
        comparing.show()
        watching.show_texts()
    except FusionError as error:
        stop_with(error)
