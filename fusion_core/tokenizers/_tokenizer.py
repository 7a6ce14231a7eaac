"""One tokenizer, whatever library runs it: pieces, canonical bytes, and spans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TokenizerError
from fusion_core.text import utf8
from fusion_core.tokenizers._encoding import Encoding
from fusion_core.tokenizers._normalised import Normalised
from fusion_core.tokenizers._panics import panics_told
from fusion_core.tokenizers._spans import find_spans
from fusion_core.tokenizers._vocabulary import EntryKind, Vocabulary
from fusion_core.workspace import atomic_path


@dataclass(frozen=True)
class RawEncoding:
    """What a library returns for a text: `ids`, and int64[n, 2] `ranges` of characters if it reports any."""

    ids: NDArray[np.int32]
    ranges: NDArray[np.int64] | None = None


class Backend(Protocol):
    """A tokenizer library, seen from here."""

    def encode(self, text: str, *, parse_special: bool) -> RawEncoding:
        """Ids of `text`; special tokens spelled out in it are text unless `parse_special`."""
        ...

    def normalise(self, text: str) -> Normalised | None:
        """`text` as the tokenizer reads it, None where it reads the text as it is or cannot tell."""
        ...

    def encode_fragments(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that stand behind a letter in another one: no space is put in front."""
        ...

    def files(self) -> dict[str, bytes]:
        """The tokenizer as files by their usual names; none where its library has no such form."""
        ...


def _with_bos(file: bytes, piece: str, number: int) -> bytes:
    """A `tokenizer.json` that puts bos in front of a text; transformers looks there and not at `add_bos_token`."""
    bos = {"SpecialToken": {"id": piece, "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    template = {
        "type": "TemplateProcessing",
        "single": [bos, texts[0]],
        "pair": [bos, *texts],
        "special_tokens": {piece: {"id": piece, "ids": [number], "tokens": [piece]}},
    }
    return json.dumps({**json.loads(file), "post_processor": template}, ensure_ascii=False).encode()


@dataclass(frozen=True, repr=False)
class Tokenizer:
    """A loaded tokenizer; `load_tokenizer` makes one.

    Attributes:
        name: as the caller named it.
        kind: what it is, such as `byte-level BPE`.
        fingerprint: SHA-256 of its definition; mappings and caches belong to it.
        vocabulary: every id's piece, canonical bytes and kind.
        backend: the library that encodes.
        adds_bos: whether its model expects the `bos` token before every text; `encode` never adds it.
    """

    name: str
    kind: str
    fingerprint: str
    vocabulary: Vocabulary
    backend: Backend
    adds_bos: bool = False

    @property
    def size(self) -> int:
        """Highest id + 1, gaps included."""
        return self.vocabulary.size

    def __len__(self) -> int:
        return self.vocabulary.size

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, {self.kind}, {self.size:,} ids)"

    @property
    def roles(self) -> dict[str, int]:
        """`bos`, `eos`, `pad`, `unk` -> id, for those that the tokenizer has."""
        return dict(self.vocabulary.roles)

    @cached_property
    def space_marker(self) -> str:
        """How pieces write a space: `Ġ`, `▁`, or a plain space."""
        counts = {mark: sum(piece.startswith(mark) for piece in self.vocabulary.pieces) for mark in ("Ġ", "▁")}
        marker = max(counts, key=counts.__getitem__)
        return marker if counts[marker] else " "

    def piece(self, token_id: int) -> str:
        """The entry as the tokenizer stores it; raises `TokenizerError` for an id out of range."""
        return self.vocabulary.pieces[self.vocabulary.check(token_id)]

    def canonical_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that the entry contributes to a text; none for special tokens."""
        return self.vocabulary.bytes_of(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether the entry is a special token."""
        return bool(self.vocabulary.kinds[self.vocabulary.check(token_id)] == EntryKind.SPECIAL)

    def role(self, token_id: int) -> str | None:
        """`bos`, `eos`, `pad` or `unk` if the entry has such a role."""
        self.vocabulary.check(token_id)
        return next((role for role, i in self.vocabulary.roles.items() if i == token_id), None)

    def encode(self, text: str, *, parse_special: bool = False) -> Encoding:
        """Tokens of `text` with their byte spans; no bos or eos is added.

        Special tokens spelled out in the text are encoded as text unless `parse_special`; in SentencePiece's own and
        Tekken's form they always are.

        Raises:
            TextError: the text holds a lone surrogate.
            TokenizerError: the tokenizer fails, or its tokens cannot be found in the text again.
        """
        data = utf8(text)
        with self._failures_told():
            raw = self.backend.encode(text, parse_special=parse_special)
        if len(raw.ids) and not (raw.ids.min() >= 0 and raw.ids.max() < self.size):
            raise TokenizerError(
                f"tokenizer {self.name!r} returned an id outside its own vocabulary; its file is broken"
            )
        canonical = self.vocabulary.canonical
        tokens = [canonical[i] for i in raw.ids.tolist()]
        if parse_special:  # a special token spells nothing, but here its name stands in the text
            special = self.vocabulary.special[raw.ids]
            tokens = [utf8(self.piece(i)) if s else t for t, i, s in zip(tokens, raw.ids, special, strict=True)]
        with self._failures_told():
            spans = find_spans(text, data, tokens, lambda: self.backend.normalise(text), lambda: raw.ranges)
        if spans is None:
            raise TokenizerError(
                f"the tokens of {self.name!r} spell something else than this text, and the tokenizer does not say "
                "where they come from; load it from its tokenizer.json, which does"
            )
        return Encoding(self, text, raw.ids, spans.starts, spans.ends, spans.exact, spans.closed)

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        what = f"tokenizer {self.name!r} failed on this text"
        try:
            with panics_told(what):
                yield
        except TokenizerError:
            raise
        except Exception as error:  # whatever the library raises
            raise TokenizerError(f"{what}: {error}") from error

    def save(self, folder: Path) -> list[str]:
        """Write the tokenizer's usual files (`tokenizer.json` or `tokenizer.model`, and `tokenizer_config.json`), from
        which `load_tokenizer` and transformers read it again; returns their names, none for a tiktoken vocabulary.

        Raises:
            TokenizerError: the folder cannot be written to.
        """
        files = self.backend.files()
        if files:
            roles = {f"{role}_token": self.piece(i) for role, i in self.vocabulary.roles.items()}
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, "add_bos_token": self.adds_bos}
            if "tokenizer.json" in files and self.adds_bos and "bos" in self.vocabulary.roles:
                bos = self.vocabulary.roles["bos"]
                files = {**files, "tokenizer.json": _with_bos(files["tokenizer.json"], self.piece(bos), bos)}
            files = {**files, "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=1).encode()}
        try:
            for name, data in files.items():
                with atomic_path(folder / name) as temporary:
                    temporary.write_bytes(data)
        except OSError as error:
            raise TokenizerError(f"cannot write a tokenizer to {folder}: {error.strerror or error}") from error
        return list(files)

    def encode_fragments(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as it would be cut behind a letter of another: without an added space or bos, and as the
        rest of a word (`##ing`) where the tokenizer tells that from a word."""
        return self.backend.encode_fragments(texts)
