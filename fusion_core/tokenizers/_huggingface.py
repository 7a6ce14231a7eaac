"""Tokenizers that the `tokenizers` library runs, from the contents of a `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from fusion_core.errors import TokenizerError
from fusion_core.tokenizers._components import Json, build, walk
from fusion_core.tokenizers._definition import Definition
from fusion_core.tokenizers._fragments import Fragments
from fusion_core.tokenizers._normalised import Normalised
from fusion_core.tokenizers._pieces import Spelling, byte_of_piece, speller
from fusion_core.tokenizers._roles import guess_roles
from fusion_core.tokenizers._tokenizer import RawEncoding
from fusion_core.tokenizers._vocabulary import MOST_IDS, EntryKind, Vocabulary


class HuggingFaceBackend:
    """Runs a `tokenizers.Tokenizer` without its post-processor, truncation and padding."""

    def __init__(self, definition: Json) -> None:
        self._definition = definition
        self._tokenizer = build(definition)
        self._fragments: Fragments | None = None
        self._probe: tokenizers.Tokenizer | None = None

    def encode(self, text: str, *, parse_special: bool) -> RawEncoding:
        runner = self._tokenizer
        if parse_special:
            runner = build(self._definition)
            runner.encode_special_tokens = False
        encoding = runner.encode(text, add_special_tokens=False)
        ranges = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return RawEncoding(np.asarray(encoding.ids, dtype=np.int32), ranges)

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.json": json.dumps(self._definition, ensure_ascii=False).encode()}

    def normalise(self, text: str) -> Normalised | None:
        normalizer = self._tokenizer.normalizer
        if normalizer is None:
            return None
        if self._probe is None:
            # One token per normalised character: its offsets say which original characters it came from.
            probe = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106
            probe.normalizer = normalizer
            probe.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"(?m)."), "isolated")
            self._probe = probe
        normalised = normalizer.normalize_str(text)
        offsets = np.asarray(self._probe.encode(text).offsets, dtype=np.int64).reshape(-1, 2)
        if len(offsets) != len(normalised):
            return None
        return Normalised(normalised, offsets[:, 0], offsets[:, 1])

    def encode_fragments(self, texts: Sequence[str]) -> list[list[int]]:
        if self._fragments is None:
            self._fragments = Fragments(self._definition)
        return self._fragments.encode(texts)


def _check_merges(model: Json) -> None:
    """Raise `TokenizerError` for merges that the library would cut inside a character, which ends the process."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in (model.get("merges") or ()) if prefix else ():
        second = (merge.split(" ") if isinstance(merge, str) else merge)[-1:]
        if not (second and isinstance(second[0], str) and second[0].startswith(prefix)):
            raise TokenizerError(
                f"not a valid tokenizer.json: its merge {str(merge)[:80]!r} does not go on with {str(prefix)[:20]!r}"
            )


def _spelling(definition: Json) -> Spelling:
    """How pieces write bytes, from the decoder, or from what is there in its stead."""
    parts = ("decoder", "pre_tokenizer", "normalizer")
    kinds = {part: [node.get("type") for node in walk(definition.get(part))] for part in parts}
    if "ByteLevel" in kinds["decoder"] or (not kinds["decoder"] and "ByteLevel" in kinds["pre_tokenizer"]):
        return Spelling.BYTE_LEVEL
    model = definition["model"].get("type")
    if "WordPiece" in kinds["decoder"] or model == "WordPiece":
        return Spelling.WORDPIECE
    marks = json.dumps([definition.get(part) for part in parts], ensure_ascii=False)
    if "Metaspace" in (*kinds["decoder"], *kinds["pre_tokenizer"]) or "▁" in marks or model == "Unigram":
        return Spelling.METASPACE
    return Spelling.PLAIN


def _model_pieces(model: Json) -> dict[str, int]:
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        return {str(piece): int(i) for piece, i in vocab.items()}
    if isinstance(vocab, list):  # Unigram: [piece, score] each
        return {str(row[0]): i for i, row in enumerate(vocab)}
    raise TokenizerError("not a valid tokenizer.json: its model has no vocabulary")


_KIND_NAMES = {
    ("BPE", Spelling.BYTE_LEVEL): "byte-level BPE",
    ("BPE", Spelling.METASPACE): "BPE with space markers",
    ("Unigram", Spelling.METASPACE): "Unigram",
    ("WordPiece", Spelling.WORDPIECE): "WordPiece",
}


def _kind_name(model: Json, spelling: Spelling) -> str:
    name = str(model.get("type") or "BPE")
    if name == "BPE" and model.get("byte_fallback"):
        return "BPE with byte fallback"
    return _KIND_NAMES.get((name, spelling), name)


def _vocabulary(definition: Json, spelling: Spelling, config: Json) -> Vocabulary:
    model, added = definition["model"], definition.get("added_tokens") or []
    pieces = _model_pieces(model)
    ids = [*pieces.values(), *(int(token["id"]) for token in added)]
    if not ids or min(ids) < 0 or max(ids) >= MOST_IDS:
        raise TokenizerError("not a valid tokenizer.json: its vocabulary is empty or has ids out of range")
    if len(set(pieces.values())) != len(pieces):
        raise TokenizerError("not a valid tokenizer.json: two pieces of its vocabulary have the same id")
    size = max(ids) + 1
    names, canonical = [""] * size, [b""] * size
    kinds: NDArray[np.uint8] = np.full(size, EntryKind.UNUSED, dtype=np.uint8)
    spell = speller(
        spelling,
        prefix=model.get("continuing_subword_prefix") or "",
        suffix=model.get("end_of_word_suffix") or "",
    )
    for piece, i in pieces.items():
        byte = byte_of_piece(piece) if model.get("byte_fallback") else None
        names[i] = piece
        canonical[i] = spell(piece) if byte is None else bytes([byte])
        kinds[i] = EntryKind.NORMAL if byte is None else EntryKind.BYTE
    for token in added:
        i, content = int(token["id"]), str(token["content"])
        names[i] = content
        if token.get("special"):
            canonical[i], kinds[i] = b"", EntryKind.SPECIAL
        else:
            text = content.replace("▁", " ") if spelling is Spelling.METASPACE else content
            canonical[i], kinds[i] = text.encode("utf-8", "replace"), EntryKind.NORMAL
    unknown = model.get("unk_token")
    if unknown is None and model.get("type") == "Unigram" and model.get("unk_id") is not None:
        unknown = names[int(model["unk_id"])]
    by_piece = {names[i]: i for i in np.flatnonzero(kinds != EntryKind.UNUSED)[::-1].tolist()}
    special = {names[i]: i for i in np.flatnonzero(kinds == EntryKind.SPECIAL)[::-1].tolist()}
    roles = guess_roles(by_piece, special, config, unknown)
    for i in roles.values():
        canonical[i], kinds[i] = b"", EntryKind.SPECIAL
    return Vocabulary.build(names, canonical, kinds, roles)


def _adds_bos(source: Json, config: Mapping[str, Any], guessed: Callable[[], str | None]) -> bool:
    """What the configuration states, or else whether the post-processor puts the bos token in front: that of the
    configuration, or the `guessed` one."""
    stated = config.get("add_bos_token")
    if isinstance(stated, bool):
        return stated
    bos = config.get("bos_token")
    bos = bos.get("content") if isinstance(bos, Mapping) else bos
    for node in walk(source.get("post_processor")):
        single = node.get("single")
        if isinstance(single, list) and single and isinstance(single[0], dict):
            first = single[0].get("SpecialToken")
            return isinstance(first, dict) and first.get("id") == (bos or guessed())
    return False


def define(source: Json, config: Mapping[str, Any]) -> Definition:
    """A definition from a parsed `tokenizer.json` and, if there is one, the `tokenizer_config.json` beside it."""
    model = source.get("model")
    if not isinstance(model, dict):
        raise TokenizerError("not a valid tokenizer.json: it has no 'model'")
    _check_merges(model)
    definition = {
        **source,
        "truncation": None,
        "padding": None,
        "post_processor": None,
    }
    spelling = _spelling(definition)
    special = {role: config[role] for role in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(role)}

    def bos() -> str | None:
        vocabulary = _vocabulary(definition, spelling, special)
        return vocabulary.pieces[vocabulary.roles["bos"]] if "bos" in vocabulary.roles else None

    return Definition(
        kind=_kind_name(model, spelling),
        identity=json.dumps([definition, special], sort_keys=True).encode(),
        vocabulary=lambda: _vocabulary(definition, spelling, special),
        backend=lambda: HuggingFaceBackend(definition),
        adds_bos=_adds_bos(source, config, bos),
    )
