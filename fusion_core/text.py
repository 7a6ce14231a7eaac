"""Text as bytes and graphemes: the ground that every span stands on."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

from fusion_core.errors import TextError

_SCRIPTS = (
    "Latin",
    "Han",
    "Cyrillic",
    "Arabic",
    "Hangul",
    "Hiragana",
    "Katakana",
    "Thai",
    "Devanagari",
    "Hebrew",
    "Greek",
    "Bengali",
    "Tamil",
    "Armenian",
    "Georgian",
)
_SCRIPT_PATTERN = regex.compile("|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in _SCRIPTS))

_DIRECTION = regex.compile(r"[\u202a-\u202e\u2066-\u2069]")
_VISIBLE = {
    " ": "␣",
    "\n": "⏎",
    "\r": "␍",
    "\t": "⇥",
    "\u00a0": "⍽",
    "\u200b": "[ZWSP]",
    "\u200c": "[ZWNJ]",
    "\u200d": "[ZWJ]",
    "\u200e": "[LRM]",
    "\u200f": "[RLM]",
    "\ufeff": "[BOM]",
}


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`; raises `TextError` naming the first lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, "
            "which has no UTF-8 form; remove it, or read the file again with errors='replace'"
        ) from None


def byte_offsets(text: str) -> NDArray[np.int64]:
    """Byte offset of every character of `text` and of its end: int64[len(text) + 1]."""
    offsets = np.zeros(len(text) + 1, dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    np.cumsum(widths, out=offsets[1:])
    return offsets


def grapheme_boundaries(text: str) -> NDArray[np.int64]:
    """Byte offsets where a user-perceived character (UAX #29) starts, and the text's end."""
    chars = [0] + [match.end() for match in regex.finditer(r"\X", text)]
    boundaries: NDArray[np.int64] = byte_offsets(text)[np.asarray(chars, dtype=np.int64)]
    return boundaries


def show_bytes(data: bytes, *, invisible: bool = False) -> str:
    """`data` for a person: decoded where it is UTF-8, `\\xNN` where it is not.

    Control characters, those of the writing direction too, always become visible (they would break a table or a
    terminal); spaces, line ends and whatever else leaves no mark only with `invisible`.
    """
    out = []
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02X}")
        elif invisible and char in _VISIBLE:
            out.append(_VISIBLE[char])
        elif code < 0x20 and char not in "\n\r\t":
            out.append(chr(0x2400 + code))
        elif code == 0x7F:
            out.append("␡")
        elif code > 0x7F and _unseen(char, invisible):
            out.append(f"[U+{code:04X}]")
        else:
            out.append(char)
    return "".join(out)


def _unseen(char: str, blanks: bool) -> bool:
    category = unicodedata.category(char)
    return category == "Cc" or bool(_DIRECTION.match(char)) or (blanks and category in ("Cf", "Co", "Zs", "Zl", "Zp"))


@lru_cache(maxsize=65536)
def _script_of_char(char: str) -> str:
    match = _SCRIPT_PATTERN.match(char)
    if match is not None and match.lastgroup is not None:
        return str(match.lastgroup)
    if char.isdigit():
        return "Digits"
    if char.isspace():
        return "Whitespace"
    if "\udc80" <= char <= "\udcff":
        return "Partial bytes"
    return "Other script" if char.isalpha() else "Punctuation"


_WEAK = ("Whitespace", "Punctuation", "Digits", "Partial bytes")


def script_of(text: str) -> str:
    """The script of the first letter of `text`, else what its last character is (Digits, Punctuation, ...)."""
    script = "Empty"
    for char in text:
        script = _script_of_char(char)
        if script not in _WEAK:
            return script
    return script
