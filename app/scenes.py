"""What the Distributions page is about: sources and a target on one text, from live models or from taught shards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from app import paths, results
from app.inputs import FIELDS as FIELDS_OF_ALL
from app.inputs import pick_text
from app.state import Field, begin_with
from fusion_core import Tokenizer, load_tokenizer
from fusion_core.errors import TransferError
from fusion_core.inspection import PositionFigures, position_figures
from fusion_core.models import SAMPLE_MODELS
from fusion_core.transfer import Predictions, Transfer
from training.shards import Shard
from training.stages.teach import Taught

_TOP_K = (10, 64, 256)
# Text that the page runs models on.
_LIMIT_BYTES = 8_000


FIELDS = {
    "example": FIELDS_OF_ALL["example"],
    "models": Field(many=True),
    "target_model": Field(),
    "top_k": Field(int, options=_TOP_K),
    "source_shards": Field(many=True),
    "target_shards": Field(),
    "document": Field(int),
}


@dataclass(frozen=True)
class Scene:
    """Sources and the target on one text. `key` identifies all of it, for results that are kept."""

    names: list[str]
    sources: list[Predictions]
    own: Predictions
    key: tuple[Any, ...]

    def carried(self, source: int, method: str) -> Transfer:
        """One source seen through a method."""
        return results.carried(self.sources[source], self.own, method, self._key(source))

    def _key(self, source: int) -> tuple[Any, ...]:
        return (*self.key, source, self.names[source])

    def figures(self, source: int, method: str) -> PositionFigures:
        """The figures of that, position by position."""
        carried = self.carried(source, method)
        key = (*self._key(source), method)
        return results.derived("position figures", key, lambda: position_figures(carried, self.own))


def pick_models() -> Scene:
    """Models that are loaded here, on the text of the page."""
    columns = st.columns([2, 1.2, 0.8])
    begin_with("models", ["gemma-3-270m"])
    begin_with("target_model", next(iter(SAMPLE_MODELS)))
    begin_with("top_k", 64)
    names = columns[0].multiselect(
        "Source models",
        list(SAMPLE_MODELS),
        key="models",
        accept_new_options=True,
        placeholder="a sample, a hub id, or a folder",
        help="One or several; add the target itself to fuse its own predictions too. 'make samples' installs the two.",
    )
    target = columns[1].selectbox(
        "Target model",
        list(SAMPLE_MODELS),
        key="target_model",
        accept_new_options=True,
        help="Its tokens are the positions; its own predictions stand beside the transferred ones.",
    )
    top_k = columns[2].selectbox(
        "Entries kept", _TOP_K, key="top_k", help="Of each distribution; the rest is its tail."
    )
    text = pick_text(_LIMIT_BYTES, "`fusescope teach MODEL --file TEXT`, then choose *Taught shards* above")
    if not names or not target:
        st.info("Choose at least one source model and a target model.")
        st.stop()
    if not text:
        st.info("The text is empty: type or upload one, or choose an example.")
        st.stop()
    sources = [results.predictions(name, text, top_k) for name in names]
    own = results.predictions(target, text, top_k)
    states = tuple(paths.state_of(name) for name in (*names, target))
    return Scene(list(names), sources, own, ("live", target, top_k, text, states))


def pick_shards() -> Scene:
    """What models were taught, on a document of theirs: no model is needed."""
    # Also those that another page has handed over, however deep they lie.
    handed = [*st.session_state.get("source_shards", []), st.session_state.get("target_shards")]
    folders = list(dict.fromkeys([*paths.shard_folders(), *filter(None, handed)]))
    if not folders:
        st.info(
            "No taught shards in the workspace or in the folder that the app was started in. Make some, for source and "
            "target on the same texts:\n\n"
            "`fusescope teach gemma-3-270m --corpus stdlib-docstrings --limit 20 -o taught/gemma`\n\n"
            "`fusescope teach smollm2-135m --corpus stdlib-docstrings --limit 20 -o taught/smollm2`"
        )
        st.stop()
    left, right = st.columns(2)
    begin_with("source_shards", folders[:1])
    begin_with("target_shards", folders[-1])
    chosen = left.multiselect("Sources", folders, key="source_shards", accept_new_options=True)
    target = right.selectbox("Target", folders, key="target_shards", accept_new_options=True)
    if not chosen or not target:
        st.info("Choose at least one source folder and a target folder.")
        st.stop()
    taught = [results.taught(folder) for folder in (*chosen, target)]

    def listing() -> list[dict[str, tuple[Any, ...]]]:
        return [{doc.text: (doc, shard, row) for doc, shard, row in one.listing()} for one in taught]

    identity = tuple(shard.sha256 for one in taught for shard in one.manifest.shards)
    places = results.derived("listing", identity, listing)
    common = [text for text in places[-1] if all(text in there for there in places)]
    if not common:
        raise TransferError("these folders have no text in common; teach all models on the same corpus")
    begin_with("document", 0)
    st.session_state.document = min(st.session_state.document, len(common) - 1)
    number = st.selectbox(
        "Document",
        range(len(common)),
        format_func=lambda n: f"{places[-1][common[n]][0].name} ({len(common[n]):,} characters)",
        key="document",
    )
    text = common[number]
    found = []
    for one, there in zip(taught, places, strict=True):
        key = ("taught", str(one.folder), *(shard.sha256 for shard in one.manifest.shards), text)
        _, shard, row = there[text]
        found.append(results.derived("taught", key, partial(_predictions, one, shard, row)))
    names = [f"{one.model}" for one in taught[:-1]]
    if len(set(names)) < len(names):
        names = [f"{one.folder.parent.name}/{one.folder.name}" for one in taught[:-1]]
    if len(set(names)) < len(names):
        names = [str(one.folder) for one in taught[:-1]]
    return Scene(names, found[:-1], found[-1], ("taught", target, *identity, text))


def _tokenizer(name: str) -> Tokenizer:
    allowed = paths.permitted(name)
    key = (allowed, paths.state_of(allowed))
    return results.derived("model tokenizer", key, lambda: load_tokenizer(allowed))


def _predictions(taught: Taught, shard: Shard, row: int) -> Predictions:
    return taught.predictions(_tokenizer(taught.model), shard, row)
