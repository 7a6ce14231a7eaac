"""What a loader hands over: an identity, and how to make the rest from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fusion_core.tokenizers._tokenizer import Backend
from fusion_core.tokenizers._vocabulary import Vocabulary


@dataclass(frozen=True)
class Definition:
    """A tokenizer that has been found and read, but not built yet.

    Attributes:
        kind: what it is, such as `byte-level BPE`.
        identity: bytes that change whenever the tokenizer does; its fingerprint is their SHA-256.
        vocabulary: computes the vocabulary (slow, so its result is cached on disk).
        backend: starts the library that encodes.
        adds_bos: the model reads a beginning-of-text token before every text.
    """

    kind: str
    identity: bytes
    vocabulary: Callable[[], Vocabulary]
    backend: Callable[[], Backend]
    adds_bos: bool = False
