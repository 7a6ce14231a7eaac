"""The alignment methods by name. The CLI, the app's menu and the tests read this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.alignment._dtw import dtw
from fusion_core.errors import AlignmentError
from fusion_core.tokenizers import Encoding


@dataclass(frozen=True)
class Options:
    """What a method may be told: `cost` (`edit`, `containment`) and `compare` (`bytes`, `pieces`), for `dtw` alone."""

    cost: str = "edit"
    compare: str = "bytes"


@dataclass(frozen=True)
class Links:
    """What a method finds: `edges` int32[e, 2] (source, target), and what the whole path costs."""

    edges: NDArray[np.int32]
    cost: float


COMPARES = ("bytes", "pieces")


def warp_strings(encoding: Encoding, compare: str) -> list[str]:
    """The strings that `dtw` compares.

    `bytes`: the canonical bytes as text, without spaces at the start. `pieces`: FuseLLM's way, the raw piece without
    its space marker.
    """
    if compare == "pieces":
        marker = encoding.tokenizer.space_marker
        return [piece.replace(marker, "") for piece in encoding.pieces]
    texts = encoding.tokenizer.vocabulary.texts
    # A token that is nothing but spaces keeps them: otherwise every run of spaces would equal every other.
    return [texts[i].lstrip(" ") or texts[i] for i in encoding.ids.tolist()]


def _span(source: Encoding, target: Encoding, options: Options) -> Links:
    from fusion_core.alignment import _span_kernel

    return Links(_span_kernel.overlaps(source.starts, source.ends, target.starts, target.ends), 0.0)


def _dtw(source: Encoding, target: Encoding, options: Options) -> Links:
    if options.compare not in COMPARES:
        raise AlignmentError(f"unknown compare {options.compare!r}; choose one of {', '.join(COMPARES)}")
    strings = warp_strings(source, options.compare), warp_strings(target, options.compare)
    edges, cost = dtw(*strings, options.cost)
    return Links(edges, cost)


def _exact(source: Encoding, target: Encoding, options: Options) -> Links:
    edges = _span(source, target, options).edges
    i, j = edges[:, 0], edges[:, 1]
    same = (source.starts[i] == target.starts[j]) & (source.ends[i] == target.ends[j])
    a, b = source.canonical, target.canonical
    equal = np.fromiter((a[p] == b[q] for p, q in edges[same].tolist()), dtype=np.bool_, count=int(same.sum()))
    return Links(edges[same][equal], 0.0)


@dataclass(frozen=True)
class Method:
    """An alignment method: how to run it, and what to say about it."""

    run: Callable[[Encoding, Encoding, Options], Links]
    about: str


METHODS: dict[str, Method] = {
    "span": Method(_span, "tokens are linked where their bytes overlap; linear time"),
    "dtw": Method(_dtw, "FuseLLM's MinED: dynamic time warping under the edit distance of tokens"),
    "exact": Method(_exact, "only tokens that are the same bytes in the same place"),
}


def method_named(name: str) -> Method:
    """The method, or `AlignmentError` with the names there are."""
    if name not in METHODS:
        raise AlignmentError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
