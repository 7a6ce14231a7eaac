"""How the `tokenizers` library cuts what stands in the middle of a text."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import tokenizers

from fusion_core.tokenizers._components import Json, build, walk

# Stands in front of a fragment to tell whether it goes on with a word.
_LETTER = "x"


class Fragments:
    """Cuts texts as they would be cut behind a letter of another."""

    def __init__(self, definition: Json) -> None:
        self._runner = build(_without_prefix(definition))
        self._rests = _rests_of_words(definition)
        self._added = {int(token["id"]) for token in definition.get("added_tokens") or ()}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        rows = [found.ids for found in self._runner.encode_batch_fast(list(texts), add_special_tokens=False)]
        if self._rests is None:
            return rows
        return [self._within_a_word(self._rests, text, row) for text, row in zip(texts, rows, strict=True)]

    def _within_a_word(self, rests: tokenizers.Tokenizer, text: str, row: list[int]) -> list[int]:
        """Ids of `text` where it goes on with a word; `row` are those where it begins one."""
        if not row or row[0] in self._added or text[0].isspace():
            return row
        normalizer, cutter = self._runner.normalizer, self._runner.pre_tokenizer
        read = _LETTER + text if normalizer is None else normalizer.normalize_str(_LETTER + text)
        words = [] if cutter is None else cutter.pre_tokenize_str(read)
        end = words[0][1][1] if words else len(read)
        if end == len(_LETTER):
            return row
        head, tail = (
            runner.encode(part, add_special_tokens=False).ids
            for runner, part in ((rests, read[len(_LETTER) : end]), (self._runner, read[end:]))
        )
        return [*head, *tail]


def _without_prefix(definition: Json) -> Json:
    """The same tokenizer, made neither to put a space in front of a text nor to drop one that is there."""
    changed = copy.copy(definition)
    changed["normalizer"] = copy.deepcopy(definition.get("normalizer"))
    changed["pre_tokenizer"] = copy.deepcopy(definition.get("pre_tokenizer"))
    marks_spaces = any(node.get("type") == "Metaspace" for node in walk(changed["pre_tokenizer"]))
    for part in ("normalizer", "pre_tokenizer"):
        for node in walk(changed[part]):
            if marks_spaces and node.get("type") == "Strip":
                node["strip_left"] = False
            if marks_spaces and node.get("pretokenizers"):
                node["pretokenizers"] = [n for n in node["pretokenizers"] if n.get("type") != "WhitespaceSplit"]
            if node.get("normalizers"):
                node["normalizers"] = [n for n in node["normalizers"] if n.get("type") != "Prepend"]
            if node.get("type") == "Metaspace":
                node["prepend_scheme"] = "never"
                node.pop("add_prefix_space", None)
            elif node.get("type") == "ByteLevel":
                node["add_prefix_space"] = False
    if (changed["normalizer"] or {}).get("type") == "Prepend":
        changed["normalizer"] = None
    return changed


def _rests_of_words(definition: Json) -> tokenizers.Tokenizer | None:
    """What cuts the rest of a word, where the pieces of one are marked (`##ing`); None where they are not."""
    model = definition["model"]
    prefix = model.get("continuing_subword_prefix")
    if model.get("type") != "WordPiece" or not prefix:
        return None
    vocab = model["vocab"]
    first = {piece[len(prefix) :]: i for piece, i in vocab.items() if piece.startswith(prefix) and piece != prefix}
    others = {piece: i for piece, i in vocab.items() if piece.startswith(prefix) or piece == model.get("unk_token")}
    parts: Json = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
    return build({**definition, **parts, "model": {**model, "vocab": {**first, **others}}})
