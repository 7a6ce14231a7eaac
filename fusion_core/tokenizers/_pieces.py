"""How a piece spells bytes: byte-level BPE's alphabet, space markers, byte fallback, `##`."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from functools import cache

SPACE_MARK = "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Spelling(StrEnum):
    """The ways in which tokenizers write bytes as pieces."""

    BYTE_LEVEL = "byte-level"
    METASPACE = "metaspace"
    WORDPIECE = "wordpiece"
    PLAIN = "plain"


@cache
def byte_to_char() -> dict[int, str]:
    """GPT-2's alphabet: each byte as one printable character (`0x20` is `Ġ`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    hidden = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + n) for n, byte in enumerate(hidden)})
    return table


@cache
def char_to_byte() -> dict[str, int]:
    """The inverse of `byte_to_char`."""
    return {char: byte for byte, char in byte_to_char().items()}


def byte_level_piece(data: bytes) -> str:
    """`data` in GPT-2's alphabet: how byte strings without a spelling of their own are shown."""
    return "".join(map(byte_to_char().__getitem__, data))


def byte_of_piece(piece: str) -> int | None:
    """The byte that a byte-fallback piece such as `<0xE4>` stands for, else None."""
    match = _BYTE_PIECE.match(piece)
    return int(match.group(1), 16) if match else None


def _spell_byte_level(piece: str) -> bytes:
    table = char_to_byte()
    try:
        return bytes([table[char] for char in piece])
    except KeyError:  # an added entry that was stored as plain text
        return piece.encode("utf-8", "replace")


def _spell_metaspace(piece: str) -> bytes:
    return piece.replace(SPACE_MARK, " ").encode("utf-8", "replace")


def speller(spelling: Spelling, *, prefix: str = "##", suffix: str = "") -> Callable[[str], bytes]:
    """The function from a piece to its canonical bytes.

    `prefix` marks a WordPiece continuation, `suffix` a word end (`</w>`); neither contributes to the text.
    """

    def whole(piece: str) -> str:
        return piece[: -len(suffix)] if suffix and piece.endswith(suffix) and piece != suffix else piece

    def plain(piece: str) -> bytes:
        piece = whole(piece)
        if spelling is Spelling.WORDPIECE and prefix and piece.startswith(prefix) and piece != prefix:
            piece = piece[len(prefix) :]
        return piece.encode("utf-8", "replace")

    if spelling is Spelling.BYTE_LEVEL:
        return lambda piece: _spell_byte_level(whole(piece))
    if spelling is Spelling.METASPACE:
        return lambda piece: _spell_metaspace(whole(piece))
    return plain
