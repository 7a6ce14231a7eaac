"""SentencePiece models (BPE, Unigram, word, char), run by the `sentencepiece` library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from fusion_core.errors import TokenizerError
from fusion_core.tokenizers._definition import Definition
from fusion_core.tokenizers._normalised import Normalised
from fusion_core.tokenizers._pieces import Spelling, byte_of_piece, speller
from fusion_core.tokenizers._tokenizer import RawEncoding
from fusion_core.tokenizers._vocabulary import EntryKind, Vocabulary

_Piece = model_pb2.ModelProto.SentencePiece
_KINDS = {
    _Piece.NORMAL: EntryKind.NORMAL,
    _Piece.UNKNOWN: EntryKind.SPECIAL,
    _Piece.CONTROL: EntryKind.SPECIAL,
    _Piece.USER_DEFINED: EntryKind.NORMAL,
    _Piece.UNUSED: EntryKind.UNUSED,
    _Piece.BYTE: EntryKind.BYTE,
}


class SentencePieceBackend:
    """Runs a serialised SentencePiece model."""

    def __init__(self, serialised: bytes) -> None:
        self._serialised = serialised
        self._processor = _processor(serialised)

    def encode(self, text: str, *, parse_special: bool) -> RawEncoding:
        # SentencePiece never reads control symbols from a text, so `parse_special` has nothing to switch.
        mapping = self._processor.encode(text, return_type="offset_mapping")
        ranges = np.asarray(mapping["offsets"], dtype=np.int64).reshape(-1, 2)
        return RawEncoding(np.asarray(mapping["ids"], dtype=np.int32), ranges)

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._serialised}

    def normalise(self, text: str) -> Normalised | None:
        normalised, offsets = self._processor.normalize(text, with_offsets=True)
        at = np.asarray(offsets, dtype=np.int64)
        if len(at) != len(normalised) + 1:
            return None
        return Normalised(normalised, at[:-1], at[1:])

    def encode_fragments(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._unprefixed.encode(list(texts))]

    @cached_property
    def _unprefixed(self) -> sentencepiece.SentencePieceProcessor:
        proto = model_pb2.ModelProto.FromString(self._serialised)
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False
        return _processor(proto.SerializeToString())


def _processor(serialised: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = processor.LoadFromSerializedProto(serialised)
    except Exception as error:
        raise TokenizerError(f"not a valid SentencePiece model: {error}") from error
    if loaded is False:
        raise TokenizerError("not a valid SentencePiece model")
    return processor


def _vocabulary(
    proto: model_pb2.ModelProto, processor: sentencepiece.SentencePieceProcessor, stated: Mapping[str, str]
) -> Vocabulary:
    spell = speller(Spelling.METASPACE)
    pieces, canonical, kinds = [], [], []
    for entry in proto.pieces:
        kind = _KINDS[entry.type]
        byte = byte_of_piece(entry.piece) if kind is EntryKind.BYTE else None
        data = bytes([byte]) if byte is not None else spell(entry.piece)
        pieces.append(entry.piece)
        canonical.append(data if kind in (EntryKind.NORMAL, EntryKind.BYTE) else b"")
        kinds.append(int(kind))
    roles = {
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "pad": processor.pad_id(),
        "unk": processor.unk_id(),
    }
    places = {piece: i for i, piece in enumerate(pieces)}
    for role, piece in stated.items():
        roles[role] = i = places[piece]
        canonical[i], kinds[i] = b"", int(EntryKind.SPECIAL)
    return Vocabulary.build(pieces, canonical, kinds, roles)


def pieces_of(serialised: bytes) -> set[str]:
    """The pieces of a serialised model; raises `TokenizerError`."""
    return {entry.piece for entry in _proto(serialised).pieces}


def _proto(serialised: bytes) -> model_pb2.ModelProto:
    try:
        proto = model_pb2.ModelProto.FromString(serialised)
    except Exception as error:
        raise TokenizerError(f"not a valid SentencePiece model: {error}") from error
    if not proto.pieces:
        raise TokenizerError("not a valid SentencePiece model: it has no pieces")
    return proto


def _other_roles(proto: model_pb2.ModelProto, config: Mapping[str, Any]) -> dict[str, str]:
    """By role the piece that `config` names and the model itself does not."""
    spec = proto.trainer_spec
    own = {"bos": spec.bos_piece, "eos": spec.eos_piece, "pad": spec.pad_piece, "unk": spec.unk_piece}
    known = {entry.piece for entry in proto.pieces}
    found = {}
    for role, piece in own.items():
        named = config.get(f"{role}_token")
        named = named.get("content") if isinstance(named, Mapping) else named
        if isinstance(named, str) and named != piece and named in known:
            found[role] = named
    return found


def define(serialised: bytes, config: Mapping[str, Any] | None = None) -> Definition:
    """A definition from the bytes of a SentencePiece `.model` file, and the configuration beside it if there is one: of
    that, roles that it gives to other pieces than the model does, and whether texts begin with bos."""
    proto = _proto(serialised)
    stated = _other_roles(proto, config or {})
    algorithm = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
    name = {"BPE": "SentencePiece BPE", "UNIGRAM": "SentencePiece Unigram"}.get(algorithm, f"SentencePiece {algorithm}")
    kind = f"{name} with byte fallback" if any(p.type == _Piece.BYTE for p in proto.pieces) else name
    return Definition(
        kind=kind,
        identity=b"sentencepiece:" + serialised + (json.dumps(stated, sort_keys=True).encode() if stated else b""),
        vocabulary=lambda: _vocabulary(proto, _processor(serialised), stated),
        backend=lambda: SentencePieceBackend(serialised),
        adds_bos=bool((config or {}).get("add_bos_token", True)),
    )
