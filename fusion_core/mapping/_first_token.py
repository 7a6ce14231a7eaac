"""`first-token`: a source entry's bytes encoded by the target; what the chain rule implies after a shared boundary."""

from __future__ import annotations

import numpy as np

from fusion_core.mapping._entries import Table, empty_table, made, map_roles
from fusion_core.mapping._nearest import Progress
from fusion_core.tokenizers import Tokenizer

_CHUNK = 8192


def _left_over(data: bytes, first: bytes) -> int:
    """Characters of `data` that `first` does not spell in full; bytes, where `data` is no text by itself."""
    try:
        return max(0, len(data.decode("utf-8")) - len(first.decode("utf-8", "ignore")))
    except UnicodeDecodeError:
        return max(0, len(data) - len(first))


def _begins(text: str) -> bool:
    """Whether an entry without a blank begins a word nevertheless, as far as it tells: a source writes `The` and `3`
    behind quotes and line ends, `ing` behind letters."""
    return text[:1].isupper() or text[:1].isdigit()


def first_token(source: Tokenizer, target: Tokenizer, progress: Progress | None) -> Table:
    """The first token of the target's encoding of each source entry.

    Entries that are no text by themselves (part of a character) go to the longest target entry that they start with.
    Of a WordPiece target, what begins with a small letter goes on with a word.
    `distance` is the number of characters that the first token does not spell in full.
    """
    table = empty_table(source)
    ids = np.flatnonzero(source.vocabulary.spells)
    canonical = target.vocabulary.canonical
    by_bytes: dict[bytes, int] = {canonical[j]: j for j in np.flatnonzero(made(target))[::-1].tolist()}
    longest = max(map(len, by_bytes), default=0)
    unknown = target.vocabulary.roles.get("unk", -1)
    words = target.kind == "WordPiece"

    def longest_prefix(data: bytes) -> int:
        for size in range(min(len(data), longest), 0, -1):
            j = by_bytes.get(data[:size])
            if j is not None:
                return j
        return -1

    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK].tolist()
        texts = [source.vocabulary.canonical[i].decode("utf-8", "replace") for i in part]
        rows = target.encode_fragments([" " + text if words and _begins(text) else text for text in texts])
        for i, text, row in zip(part, texts, rows, strict=True):
            data = source.vocabulary.canonical[i]
            first = next((j for j in row if canonical[j]), -1)
            if text.encode() != data:
                first = longest_prefix(data)
            elif row and row[0] == unknown:
                first = -1
            elif first >= 0 and not data.startswith(canonical[first]):
                # A tokenizer that normalises (lower case, no spaces) is taken at its word; one that does not has put
                # something in front of the text.
                spelled = b"".join(canonical[j] for j in row)
                if spelled.endswith(data):
                    first = longest_prefix(data)
            if first >= 0:
                table.best[i] = first
                table.distance[i] = _left_over(data, canonical[first])
                table.ties[i] = 1
        if progress is not None:
            progress(min(start + _CHUNK, len(ids)), len(ids))
    map_roles(table, source, target)
    return table
