"""The transfer methods by name; `--help`, the app's menu and the tests read this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fusion_core.errors import TransferError
from fusion_core.mapping import map_vocabulary
from fusion_core.tokenizers import Encoding
from fusion_core.transfer import _mapped, _transport
from fusion_core.transfer._byte_exact import byte_exact
from fusion_core.transfer._index import TransferIndex
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import Transfer

Run = Callable[[Predictions, Encoding, TransferIndex, Predictions | None], Transfer]


@dataclass(frozen=True)
class Method:
    """How to run a method, and what to say about it."""

    run: Run
    about: str


def _through(rule: Callable[..., Transfer], kind: str, form: str = "bytes") -> Run:
    def run(source: Predictions, target: Encoding, index: TransferIndex, own: Predictions | None) -> Transfer:
        return rule(source, target, map_vocabulary(index.source, index.target, kind=kind, form=form))

    return run


METHODS: dict[str, Method] = {
    "byte-exact": Method(
        lambda source, target, index, own: byte_exact(source, target, index, own=own),
        "the source's distribution over the next bytes, read off in target tokens; open entries follow the text",
    ),
    "byte-exact-open": Method(
        lambda source, target, index, own: byte_exact(source, target, index, own=own, chaining=False),
        "the same without knowing how the text goes on",
    ),
    "boundary-first-token": Method(
        _through(_mapped.boundary, "first-token"), "at every shared boundary, through the first-token mapping"
    ),
    "boundary-hard": Method(_through(_mapped.boundary, "hard"), "at every shared boundary, identical entries only"),
    "boundary-soft": Method(_through(_mapped.boundary, "soft"), "at every shared boundary, through MinED"),
    "ot": Method(
        lambda source, target, index, own: _transport.optimal_transport(source, target, own),
        "at every shared boundary, along the whole optimal transport plan (PTA-LLM)",
    ),
    "ot-argmax": Method(
        lambda source, target, index, own: _transport.optimal_transport(source, target, own, barycentric=False),
        "the same, each entry to its heaviest partner as PTA-LLM's code does",
    ),
    "fusellm-hard": Method(
        _through(_mapped.fusellm, "hard", "pieces"), "FuseLLM's published rule, identical pieces only"
    ),
    "fusellm-soft": Method(_through(_mapped.fusellm, "soft", "pieces"), "FuseLLM's published rule with MinED"),
}


def transfer(
    source: Predictions,
    target: Encoding,
    index: TransferIndex,
    *,
    method: str = "byte-exact",
    own: Predictions | None = None,
) -> Transfer:
    """Carry a source model's predictions to the target's positions and ids.

    Args:
        source: its predictions on the text.
        target: the same text in the target's tokens.
        index: of the two tokenizers, from `build_index`.
        method: a name in `METHODS`.
        own: the target model's predictions on the text: needed for `ot`, and used by `byte-exact` to share out what
            is open.

    Raises:
        TransferError: an unknown method, another text, or the index of other tokenizers.
    """
    if method not in METHODS:
        raise TransferError(f"unknown transfer method {method!r}; choose one of {', '.join(METHODS)}")
    for side, made_for, given in (
        ("source", index.source, source.encoding.tokenizer),
        ("target", index.target, target.tokenizer),
    ):
        if made_for.fingerprint != given.fingerprint:
            raise TransferError(f"the index was built for the {side} tokenizer {made_for.name!r}, not {given.name!r}")
    if own is not None and (own.encoding.text != target.text or len(own.encoding) != len(target)):
        raise TransferError("the target's own predictions are of another text")
    return METHODS[method].run(source, target, index, own)
