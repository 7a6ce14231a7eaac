"""WordPiece targets, whose tokenizer drops blanks: a token there begins a word or goes on with one, and its bytes do
not say which.

So entries are written as a text has them: ` ing` begins a word, `ing` goes on with one, and what is a token of its own
wherever it stands (`,`) is written both ways. Blanks are one space, and what the source says is read as the target's
tokenizer reads it, in lower case where it makes everything lower case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.tokenizers import EntryKind, Tokenizer


@dataclass(frozen=True, eq=False)
class Words:
    """What byte-exact needs to know of such a target.

    Attributes:
        read: uint8, the source's entries as the target reads them, one after the other.
        reads: int64[source bytes + 1], where in `read` each byte of the source's entries stands.
        closes: bool[target size], what follows this entry begins a word even without a blank.
        strings: by target id how the entry can be written.
    """

    read: NDArray[np.uint8]
    reads: NDArray[np.int64]
    closes: NDArray[np.bool_]
    strings: dict[int, list[bytes]]

    def entry(self, source: Tokenizer, i: int) -> bytes:
        """Source entry `i` as the target reads it, blanks in front as one space."""
        begin, end = self.reads[source.vocabulary.offsets[i : i + 2]].tolist()
        data = self.read[begin:end].tobytes()
        rest = data.lstrip()
        return b" " + rest if len(rest) < len(data) else rest


def drops_blanks(tokenizer: Tokenizer) -> bool:
    """Whether no token spells the blanks between words."""
    blank, word = tokenizer.encode_fragments([" ", " x"])
    canonical = tokenizer.vocabulary.canonical
    return not blank and bool(word) and not any(canonical[i].startswith(b" ") for i in word)


def read_words(source: Tokenizer, target: Tokenizer) -> Words:
    """Work it out for a target that drops blanks."""
    strings = _strings(target)
    closes = target.vocabulary.kinds == EntryKind.SPECIAL  # a word that cannot be spelled is one token, too
    for i, written in strings.items():
        closes[i] = len(written) > 1
    return Words(*_read(source, target), closes, strings)


def _strings(target: Tokenizer) -> dict[int, list[bytes]]:
    """By id how an entry can be written so that the tokenizer makes it; entries that are no text by themselves as they
    are."""
    found: dict[int, list[bytes]] = {}
    texts, ids = [], []
    for i in np.flatnonzero(target.vocabulary.spells).tolist():
        data = target.vocabulary.canonical[i]
        try:
            texts.append(data.decode("utf-8"))
            ids.append(i)
        except UnicodeDecodeError:
            found[i] = [data]
    for prefix in ("", " "):
        written = [prefix + text for text in texts]
        for i, text, row in zip(ids, written, target.encode_fragments(written), strict=True):
            if row == [i]:
                found.setdefault(i, []).append(text.encode())
    return found


def _read(source: Tokenizer, target: Tokenizer) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The source's entries as the target normalises them, character by character; what is no text is left as it is."""

    def becomes(char: str) -> tuple[int, bytes]:
        found = target.backend.normalise(char)
        return len(char.encode()), (char if found is None else found.text).encode()

    vocabulary = source.vocabulary
    # A source that drops blanks too says by its piece that a word begins.
    begins = (
        {i for i, strings in _strings(source).items() if strings[0].startswith(b" ")} if drops_blanks(source) else set()
    )
    texts: list[str | None] = []
    for data in vocabulary.canonical:
        try:
            texts.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append(None)
    alphabet = {char: becomes(char) for char in sorted({char for text in texts for char in text or ""})}
    parts: list[bytes] = []
    reads = np.zeros(len(vocabulary.buffer) + 1, dtype=np.int64)
    at = done = 0
    for i, (data, text) in enumerate(zip(vocabulary.canonical, texts, strict=True)):
        if i in begins:
            parts.append(b" ")
            done += 1
        steps = [(1, data[k : k + 1]) for k in range(len(data))] if text is None else [alphabet[char] for char in text]
        for width, made in steps:
            parts.append(made)
            at, done = at + width, done + len(made)
            reads[at - width + 1 : at + 1] = done  # within a character there is no place
    return np.frombuffer(b"".join(parts), dtype=np.uint8), reads
