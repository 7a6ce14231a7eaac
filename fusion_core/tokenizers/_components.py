"""A `tokenizer.json` and its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import tokenizers

from fusion_core.errors import TokenizerError

Json = dict[str, Any]


def build(definition: Json) -> tokenizers.Tokenizer:
    """The tokenizer, reading special tokens in a text as text; raises `TokenizerError`."""
    try:
        runner = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(f"not a valid tokenizer.json: {error}") from error
    runner.encode_special_tokens = True
    return runner


def walk(node: Any) -> Iterator[Json]:
    """Every component of a normalizer, pre-tokenizer or decoder, sequences opened."""
    if isinstance(node, dict):
        yield node
        for key in ("normalizers", "pretokenizers", "decoders", "processors"):
            for child in node.get(key) or ():
                yield from walk(child)
