"""Byte-level BPE given as ranks: tiktoken encodings, `.tiktoken` files, Mistral's `tekken.json`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tiktoken

from fusion_core.errors import TokenizerError
from fusion_core.tokenizers._definition import Definition
from fusion_core.tokenizers._normalised import Normalised
from fusion_core.tokenizers._patterns import PATTERNS, QWEN3_5_SPECIAL, QWEN_SPECIAL
from fusion_core.tokenizers._pieces import byte_level_piece
from fusion_core.tokenizers._roles import guess_roles
from fusion_core.tokenizers._tokenizer import RawEncoding
from fusion_core.tokenizers._vocabulary import MOST_IDS, EntryKind, Vocabulary

KIND = "byte-level BPE"


class TiktokenBackend:
    """Runs a `tiktoken.Encoding`; `offset` is what its ids lack to the vocabulary's."""

    def __init__(self, encoding: tiktoken.Encoding, offset: int = 0) -> None:
        self._encoding = encoding
        self._offset = offset

    def encode(self, text: str, *, parse_special: bool) -> RawEncoding:
        ids = self._encoding.encode(text, allowed_special="all") if parse_special else self._plain(text)
        return RawEncoding(np.asarray(ids, dtype=np.int32) + np.int32(self._offset))

    def files(self) -> dict[str, bytes]:
        return {}

    def normalise(self, text: str) -> Normalised | None:
        return None

    def encode_fragments(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self._encoding.encode_ordinary_batch(list(texts), num_threads=2)
        return [[i + self._offset for i in row] for row in rows]

    def _plain(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)


def define_ranks(
    ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int], roles: Mapping[str, str], offset: int = 0
) -> Definition:
    """A definition from merge ranks.

    Args:
        ranks: canonical bytes -> rank.
        pattern: the regular expression that cuts a text before merging.
        special: special token -> id.
        roles: `bos`, ... -> special token, as far as known.
        offset: id of rank 0.

    Raises:
        TokenizerError: ranks are missing or repeated, or an id is out of range or given twice.
    """
    _check(ranks, special, offset)
    parts = [pattern.encode(), str(offset).encode(), json.dumps([dict(special), dict(roles)], sort_keys=True).encode()]
    parts += [token + rank.to_bytes(4, "little") for token, rank in ranks.items()]
    return Definition(
        kind=KIND,
        identity=b"tiktoken:" + b"\0".join(parts),
        vocabulary=lambda: _vocabulary(ranks, special, roles, offset),
        backend=lambda: TiktokenBackend(_encoding(ranks, pattern, special, offset), offset),
    )


def _encoding(ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int], offset: int) -> tiktoken.Encoding:
    try:
        return tiktoken.Encoding(
            "ranks",
            pat_str=pattern,
            mergeable_ranks=dict(ranks),
            # With an offset, ids below it are special tokens, which this library could not number.
            special_tokens=dict(special) if offset == 0 else {},
        )
    except (ValueError, AssertionError, KeyError) as error:
        raise TokenizerError(f"not a usable set of merge ranks: {error}") from error


def _vocabulary(
    ranks: Mapping[bytes, int], special: Mapping[str, int], roles: Mapping[str, str], offset: int
) -> Vocabulary:
    size = 1 + max([*(rank + offset for rank in ranks.values()), *special.values()])
    pieces, canonical = [""] * size, [b""] * size
    kinds = np.full(size, EntryKind.UNUSED, dtype=np.uint8)
    for token, rank in ranks.items():
        i = rank + offset
        pieces[i], canonical[i], kinds[i] = byte_level_piece(token), token, EntryKind.NORMAL
    for name, i in special.items():
        pieces[i], canonical[i], kinds[i] = name, b"", EntryKind.SPECIAL
    config = {f"{role}_token": name for role, name in roles.items()}
    return Vocabulary.build(pieces, canonical, kinds, guess_roles(special, special, config))


def read_ranks(data: bytes) -> dict[bytes, int]:
    """The contents of a `.tiktoken` file: a base64 token and its rank on each line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise TokenizerError(f"not a .tiktoken file: line {number} is not 'base64 rank'") from None
    return ranks


def _check(ranks: Mapping[bytes, int], special: Mapping[str, int], offset: int) -> None:
    """Raise `TokenizerError` for ranks that the library would take and then fail on."""
    ids = list(ranks.values())
    if not ids or len(set(ids)) != len(ids) or min(ids) < 0 or max(ids) >= MOST_IDS or b"" in ranks:
        raise TokenizerError("its merge ranks are missing, repeated or out of range")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(f"its merge ranks are incomplete: {len(missing)} of the 256 single bytes have none")
    taken = {rank + offset for rank in ids}
    if offset < 0 or any(i < 0 or i >= MOST_IDS or i in taken for i in special.values()):
        raise TokenizerError("its special tokens have ids that are out of range or taken")


def define_file(data: bytes, name: str) -> Definition:
    """A definition from a `.tiktoken` file, which holds no pattern: it is chosen by the file's name.

    `qwen*` gets Qwen's pattern and special tokens, `o200k*` and `cl100k*` get OpenAI's, anything else `cl100k`'s.
    """
    ranks = read_ranks(data)
    stem = name.lower()
    if stem.startswith("qwen"):
        newer = stem.startswith("qwen3_")
        names = QWEN3_5_SPECIAL if newer else QWEN_SPECIAL
        special = {piece: max(ranks.values()) + 1 + n for n, piece in enumerate(names)}
        return define_ranks(ranks, PATTERNS["qwen3.5" if newer else "qwen2"], special, {"eos": "<|endoftext|>"})
    pattern = PATTERNS["gpt-4o" if stem.startswith("o200k") else "cl100k"]
    return define_ranks(ranks, pattern, {}, {})


def define_named(name: str) -> Definition:
    """A definition from the name of an encoding that `tiktoken` knows (it downloads the ranks once)."""
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise TokenizerError(f"tiktoken knows no encoding {name!r}; it knows {', '.join(sorted(known))}")
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:
        raise TokenizerError(
            f"tiktoken could not download the ranks of {name!r} ({type(error).__name__}); "
            "go online once, or set TIKTOKEN_CACHE_DIR to a folder that has them"
        ) from error
    special = {piece: encoding.encode_single_token(piece) for piece in encoding.special_tokens_set}
    taken = set(special.values())
    ranks = {}
    for i in range(encoding.max_token_value + 1):
        if i not in taken:
            try:
                ranks[encoding.decode_single_token_bytes(i)] = i
            except KeyError:  # a gap in the ids
                continue
    definition = define_ranks(ranks, name, special, {})
    return Definition(definition.kind, definition.identity, definition.vocabulary, lambda: TiktokenBackend(encoding))


# The special tokens of tekken files that name none, in the order of Mistral's own code.
TEKKEN_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def define_tekken(source: dict[str, Any]) -> Definition:
    """A definition from a parsed `tekken.json`: its first entries as ranks, behind the special tokens."""
    try:
        config = source["config"]
        offset = int(config["default_num_special_tokens"])
        count = int(config["default_vocab_size"]) - offset
        ranks = {base64.b64decode(row["token_bytes"]): int(row["rank"]) for row in source["vocab"][:count]}
        names = [row["token_str"] for row in source.get("special_tokens") or []]
        pattern = str(config["pattern"])
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise TokenizerError(f"not a valid tekken.json: {type(error).__name__} at {error}") from error
    if not names:  # files of version 3 leave these to Mistral's own code
        names = list(TEKKEN_SPECIAL)
    names += [f"<SPECIAL_{n}>" for n in range(len(names), offset)]
    special = {name: n for n, name in enumerate(names[:offset])}
    return replace(define_ranks(ranks, pattern, special, {}, offset), adds_bos=True)
