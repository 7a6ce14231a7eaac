"""Results of `fusion_core`, kept per server: a page asks for one and draws it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from app.escape import plain
from app.paths import permitted, permitted_folder, state_of
from app.shelf import Shelf
from fusion_core import Alignment, Tokenizer, VocabularyMapping, align, load_tokenizer, map_vocabulary
from fusion_core.models import Model, load_model
from fusion_core.transfer import Predictions, Transfer, TransferIndex, build_index, transfer
from training.stages.teach import Taught, open_taught

T = TypeVar("T")

# What a server keeps at most, whoever asked for it; the least recently used go first.
TOKENIZERS = 12
MODELS = 3
RESULTS = 200
RESULT_BYTES = 1 << 30
# After which a thread hands the interpreter to the next; Python's own choice is ten times as long.
SWITCH_SECONDS = 5e-4


@st.cache_resource(max_entries=TOKENIZERS, show_spinner=False)
def _load(name: str, state: str) -> Tokenizer:
    return load_tokenizer(name)


def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name; raises `TokenizerError` also for paths that the app may not read."""
    allowed = permitted(name)
    return _load(allowed, state_of(allowed))


@st.cache_resource(show_spinner=False)
def _shelf() -> Shelf:
    return Shelf(RESULTS, RESULT_BYTES)


def alignment(source: str, target: str, text: str, method: str, cost: str, compare: str) -> Alignment:
    """The alignment of two tokenizers, by name, on a text."""
    a, b = tokenizer(source), tokenizer(target)
    key = ("alignment", source, target, a.fingerprint, b.fingerprint, text, method, cost, compare)
    return _shelf().get(key, lambda: align(a, b, text=text, method=method, cost=cost, compare=compare))


def mapping(source: Tokenizer, target: Tokenizer, kind: str, form: str, text: str = "") -> VocabularyMapping:
    """A vocabulary mapping; while it is computed for the first time a progress bar shows how far it is."""
    texts = [text] if text else []
    key = ("mapping", source.fingerprint, target.fingerprint, kind, form, text)
    if _shelf().has(key):
        return _shelf().get(key, lambda: map_vocabulary(source, target, kind=kind, form=form, texts=texts))
    place = st.empty()
    bar = place.progress(0.0, text=f"Mapping vocabularies ({kind}) …")

    def progress(done: int, total: int) -> None:
        bar.progress(done / max(total, 1), text=f"Mapping vocabularies ({kind}): {done:,} of {total:,} entries")

    try:
        return _shelf().get(
            key, lambda: map_vocabulary(source, target, kind=kind, form=form, texts=texts, progress=progress)
        )
    finally:
        place.empty()


def derived(name: str, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
    """Something worth keeping that follows from other results, such as a vocabulary's table."""
    return _shelf().get((name, *key), compute)


@st.cache_resource(show_spinner=False)
def _models() -> Shelf:
    # A model's thread asks for the interpreter before each of thousands of small steps, and waits for it as long as
    # this says whenever another session computes.
    sys.setswitchinterval(SWITCH_SECONDS)
    return Shelf(MODELS, sys.maxsize)


def model(name: str) -> Model:
    """The model of that name: loaded once per server, whoever asks; raises also for paths that the app may not read."""
    allowed = permitted(name)
    shelf, key = _models(), (allowed, state_of(allowed))
    if shelf.has(key):
        return shelf.get(key, lambda: load_model(allowed))
    told = f"Loading the model {plain(name)}: once per server, up to a minute the first time …"
    with st.spinner(told, show_time=True):
        return shelf.get(key, lambda: load_model(allowed))


@st.cache_resource(show_spinner=False)
def turn() -> threading.Lock:
    """Held by whoever runs a model: one uses all cores, and several at once take longer than one after the other."""
    return threading.Lock()


def predictions(name: str, text: str, top_k: int) -> Predictions:
    """What a model predicts on a text, behind a progress bar the first time."""
    key = ("predictions", name, state_of(name), text, top_k)
    if _shelf().has(key):
        return _shelf().get(key, lambda: model(name).predict(text, top_k=top_k))
    asked = model(name)
    place = st.empty()
    bar = place.progress(0.0, text=f"{plain(name)} reads the text …")

    def progress(done: int, total: int) -> None:
        bar.progress(done / max(total, 1), text=f"{plain(name)} reads the text: {done:,} of {total:,} tokens")

    def read() -> Predictions:
        with turn():
            return asked.predict(text, top_k=top_k, progress=progress)

    try:
        return _shelf().get(key, read)
    finally:
        place.empty()


def taught(folder: str) -> Taught:
    """The taught shards in a folder that the app may read."""
    return open_taught(permitted_folder(folder))


def index(source: Tokenizer, target: Tokenizer) -> TransferIndex:
    """The two tokenizers' index for transfers."""
    return _shelf().get(("index", source.fingerprint, target.fingerprint), lambda: build_index(source, target))


def carried(theirs: Predictions, own: Predictions, method: str, key: tuple[Any, ...]) -> Transfer:
    """A source's predictions carried over by `method`; `key` says which predictions these are."""

    def run() -> Transfer:
        pair = index(theirs.encoding.tokenizer, own.encoding.tokenizer)
        return transfer(theirs, own.encoding, pair, method=method, own=own)

    return _shelf().get(("transfer", method, *key), run)
