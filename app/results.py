"""Results of `fusion_core`, kept per server: a page asks for one and draws it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from app.paths import permitted, permitted_folder
from fusion_core import Alignment, Tokenizer, VocabularyMapping, align, load_tokenizer, map_vocabulary
from fusion_core.models import Model, load_model
from fusion_core.transfer import Predictions, Transfer, TransferIndex, build_index, transfer
from training.stages.teach import Taught, open_taught

T = TypeVar("T")

# Models and results of long computations that a server keeps; the least recently used go first.
MODELS = 3
RESULTS = 96


@st.cache_resource(max_entries=12, show_spinner=False)
def _load(name: str) -> Tokenizer:
    return load_tokenizer(name)


def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name; raises `TokenizerError` also for paths that the app may not read."""
    return _load(permitted(name))


@st.cache_resource(max_entries=48, show_spinner=False)
def alignment(source: str, target: str, text: str, method: str, cost: str, compare: str) -> Alignment:
    """The alignment of two tokenizers, by name, on a text."""
    return align(tokenizer(source), tokenizer(target), text=text, method=method, cost=cost, compare=compare)


class _Shelf:
    """The most recent results of long computations. One session computes, others that ask for the same wait."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._locks: dict[tuple[Any, ...], threading.Lock] = {}
        self._guard = threading.Lock()

    def has(self, key: tuple[Any, ...]) -> bool:
        with self._guard:
            return key in self._values

    def get(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                if key in self._values:
                    self._values.move_to_end(key)
                    found: T = self._values[key]
                    return found
            value = compute()
            with self._guard:
                self._values[key] = value
                while len(self._values) > self._size:
                    dropped, _ = self._values.popitem(last=False)
                    self._locks.pop(dropped, None)
            return value


@st.cache_resource(show_spinner=False)
def _shelf() -> _Shelf:
    return _Shelf(RESULTS)


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
def _models() -> _Shelf:
    return _Shelf(MODELS)


def model(name: str) -> Model:
    """The model of that name: loaded once per server, whoever asks; raises also for paths that the app may not read."""
    allowed = permitted(name)
    shelf, key = _models(), (allowed,)
    if shelf.has(key):
        return shelf.get(key, lambda: load_model(allowed))
    with st.spinner(f"Loading the model {name}: once per server, up to a minute the first time …", show_time=True):
        return shelf.get(key, lambda: load_model(allowed))


def predictions(name: str, text: str, top_k: int) -> Predictions:
    """What a model predicts on a text, behind a progress bar the first time."""
    key = ("predictions", name, text, top_k)
    if _shelf().has(key):
        return _shelf().get(key, lambda: model(name).predict(text, top_k=top_k))
    asked = model(name)
    place = st.empty()
    bar = place.progress(0.0, text=f"{name} reads the text …")

    def progress(done: int, total: int) -> None:
        bar.progress(done / max(total, 1), text=f"{name} reads the text: {done:,} of {total:,} tokens")

    try:
        return _shelf().get(key, lambda: asked.predict(text, top_k=top_k, progress=progress))
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
