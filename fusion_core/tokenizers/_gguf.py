"""The tokenizer inside a `.gguf` file, read with the `gguf` library and rebuilt for the library that runs its kind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from fusion_core.errors import TokenizerError
from fusion_core.sealed import SealError, read_json, write_json
from fusion_core.tokenizers import _huggingface, _sentencepiece
from fusion_core.tokenizers._definition import Definition
from fusion_core.tokenizers._patterns import PATTERNS
from fusion_core.tokenizers._pieces import SPACE_MARK
from fusion_core.workspace import cache_path, digest

# Of the cache of what was read from a file.
FORMAT = "fusescope-gguf"
VERSION = 1

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

# `tokenizer.ggml.pre` -> how the text is cut before merging: a pattern, and whether digits stand alone.
_PRE_TOKENIZERS = {
    "default": ("gpt-2", False),
    "gpt-2": ("gpt-2", False),
    "smollm": ("gpt-2", True),
    "codeshell": ("gpt-2", True),
    "starcoder": ("gpt-2", True),
    "refact": ("gpt-2", True),
    "qwen2": ("qwen2", False),
    "qwen35": ("qwen3.5", False),
    "llama-bpe": ("cl100k", False),
    "llama3": ("cl100k", False),
    "dbrx": ("cl100k", False),
    "gpt-4o": ("gpt-4o", False),
    "tekken": ("tekken", False),
}

# Byte-level tokenizers that put bos in front where the file does not say, as in llama.cpp.
_BEGIN_WITH_BOS = ("llama3", "llama-v3", "llama-bpe", "tekken")

_ROLE_KEYS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}


def define_file(path: Path) -> Definition:
    """A definition from a `.gguf` file. What was read is cached: the library takes seconds for large vocabularies."""
    fields = _fields(path)
    model = fields.get("model")
    if model == "gpt2":
        usual = fields.get("pre") in _BEGIN_WITH_BOS
        return replace(_byte_level(fields), adds_bos=bool(fields.get("add_bos_token", usual)))
    if model in ("llama", "t5"):
        definition = _sentencepiece.define(_as_sentencepiece(fields, unigram=model == "t5"))
        return replace(definition, adds_bos=bool(fields.get("add_bos_token", model == "llama")))
    raise TokenizerError(
        f"{path} holds a tokenizer of the kind {model!r}, which is not supported "
        "(gpt2, llama and t5 are); load the model's original tokenizer.json instead"
    )


def _fields(path: Path) -> dict[str, Any]:
    """The `tokenizer.ggml.*` fields of the file, by their last names."""
    stat = path.stat()
    with path.open("rb") as file:
        head = file.read(1 << 20)
    cached = cache_path("gguf", digest(str(stat.st_size), str(stat.st_mtime_ns), head), ".json")
    with suppress(OSError, SealError):  # not there yet, or damaged: read the file again
        held: dict[str, Any] = read_json(cached, FORMAT, VERSION)["fields"]
        return held
    fields = _read(path)
    with suppress(OSError):  # without the cache it takes longer
        write_json(cached, FORMAT, VERSION, {"fields": fields})
    return fields


def _read(path: Path) -> dict[str, Any]:
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """Beyond the end of a file the library reads nothing, and of an array of 2^60 numbers it does so for ever."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **kwargs: Any) -> Any:
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it ends too soon")
            return super()._get(offset, dtype, count, *args, **kwargs)

    try:
        reader = Reader(path)
        prefix = "tokenizer.ggml."
        fields = {
            name.removeprefix(prefix): f.contents() for name, f in reader.fields.items() if name.startswith(prefix)
        }
    except Exception as error:  # the reader raises whatever the broken bytes lead to
        raise TokenizerError(f"{path} is not a readable GGUF file: {error}") from error
    if not isinstance(fields.get("tokens"), list) or not fields["tokens"]:
        raise TokenizerError(f"{path} is a GGUF file without a tokenizer")
    return fields


def _types(fields: dict[str, Any]) -> list[int]:
    types = fields.get("token_type") or [_NORMAL] * len(fields["tokens"])
    if len(types) != len(fields["tokens"]):
        raise TokenizerError("the GGUF file is broken: it has not one type per token")
    return [int(kind) for kind in types]


def _byte_level(fields: dict[str, Any]) -> Definition:
    pre = str(fields.get("pre", "default"))
    if pre not in _PRE_TOKENIZERS:
        raise TokenizerError(
            f"the GGUF file cuts text the way {pre!r} does, which is not known here "
            f"({', '.join(_PRE_TOKENIZERS)} are); load the model's original tokenizer.json instead"
        )
    pattern, lone_digits = _PRE_TOKENIZERS[pre]
    cutters: list[dict[str, Any]] = [{"type": "Digits", "individual_digits": True}] if lone_digits else []
    cutters.append({"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False})
    cutters.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False})
    tokens, types = fields["tokens"], _types(fields)
    special = [(i, t) for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind in (_CONTROL, _UNKNOWN)]
    users = [(i, t) for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _USER_DEFINED]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    source = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": t, "special": is_special, **flags}
            for rows, is_special in ((special, True), (users, False))
            for i, t in rows
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cutters},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            # Rows that only pad the model are no entries: as text they would be matched and mapped.
            "vocab": {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED},
            "merges": fields.get("merges") or [],
            "ignore_merges": pre in ("llama-bpe", "llama3", "tekken"),
        },
    }
    config = {
        f"{role}_token": tokens[fields[key]]
        for role, key in _ROLE_KEYS.items()
        if 0 <= fields.get(key, -1) < len(tokens)
    }
    return _huggingface.define(source, config)


def _as_sentencepiece(fields: dict[str, Any], *, unigram: bool) -> bytes:
    """The same tokenizer as a SentencePiece model: this family of GGUF files was converted from one."""
    tokens, types = fields["tokens"], _types(fields)
    scores = fields.get("scores") or [0.0] * len(tokens)
    if len(scores) != len(tokens):
        raise TokenizerError("the GGUF file is broken: it has not one score per token")
    proto = model_pb2.ModelProto()
    trainer = proto.trainer_spec
    trainer.model_type = trainer.UNIGRAM if unigram else trainer.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = _BYTE in types
    for role, key in _ROLE_KEYS.items():
        i = int(fields.get(key, -1))
        if 0 <= i < len(tokens):
            setattr(trainer, f"{role}_id", i)
            setattr(trainer, f"{role}_piece", tokens[i])
    unknown = int(fields.get("unknown_token_id", 0))
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(fields.get("add_space_prefix", True))
    proto.normalizer_spec.remove_extra_whitespaces = bool(fields.get("remove_extra_whitespaces", False))
    charsmap = fields.get("precompiled_charsmap")
    if charsmap:
        proto.normalizer_spec.precompiled_charsmap = bytes(b & 0xFF for b in charsmap)
    seen: set[str] = set()
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        # SentencePiece wants each piece once and one unknown piece; GGUF files repeat padding rows.
        # User-defined tokens (runs of spaces) are stored as text, and are looked for where spaces are markers already.
        token = token.replace(" ", SPACE_MARK) if kind == _USER_DEFINED else token
        name = token if token not in seen and token else f"<gguf_{i}>"
        seen.add(name)
        entry_type = _UNKNOWN if i == unknown else (_CONTROL if kind == _UNKNOWN else kind)
        proto.pieces.add(piece=name, score=float(score), type=_UNUSED if name != token else entry_type)
    return bytes(proto.SerializeToString())
