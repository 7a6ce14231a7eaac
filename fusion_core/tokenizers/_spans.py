"""Byte spans of tokens in the original text.

Three ways, from the strictest to the most lenient, and the first that explains every token is taken:

1. the canonical bytes spell the text (up to leading spaces that the tokenizer adds or drops);
2. the canonical bytes spell the text as the tokenizer normalises it, and the normalisation says
   which original characters each of its own came from;
3. the tokenizer reports a range of original characters per token (WordPiece, unknown tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.text import byte_offsets
from fusion_core.tokenizers._normalised import Normalised, Reading, read
from fusion_core.tokenizers._pieces import SPACE_MARK

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Spans:
    """`starts`, `ends` (int64[n] bytes), `exact` and `closed` (bool[n]); see `Encoding`."""

    starts: Ints
    ends: Ints
    exact: Bools
    closed: Bools


def find_spans(
    text: str,
    data: bytes,
    tokens: list[bytes],
    normalise: Callable[[], Normalised | None],
    ranges: Callable[[], NDArray[np.int64] | None],
) -> Spans | None:
    """Spans of `tokens` (canonical bytes) in `text` (whose UTF-8 form is `data`), or None if nothing explains them.

    Args:
        normalise: gives the text as the tokenizer reads it.
        ranges: gives int64[n, 2], the range of characters that the tokenizer reports for each token.
    """
    edges = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens)), out=edges[1:])
    spelled = b"".join(tokens)
    shift = _space_shift(spelled, data)
    if shift is not None:
        positions = np.clip(edges + shift, 0, len(data))
        whole = np.ones(len(tokens), dtype=np.bool_)
        return Spans(positions[:-1], positions[1:], whole, whole.copy())
    normalised = normalise()
    reading = None if normalised is None else read(text, normalised)
    if reading is not None:
        written = reading.normalised.text.replace(SPACE_MARK, " ").encode("utf-8", "surrogatepass")
        shift = _space_shift(spelled, written)
        if shift is not None:
            return _through_normalisation(text, np.clip(edges + shift, 0, len(written)), reading)
    reported = ranges()
    return None if reported is None else _from_ranges(text, data, tokens, reported, reading)


def _space_shift(spelled: bytes, text: bytes) -> int | None:
    """What to add to an offset in `spelled` to get one in `text`, if they differ in leading spaces alone."""
    if spelled == text:
        return 0
    a, b = spelled.lstrip(b" "), text.lstrip(b" ")
    return (len(text) - len(b)) - (len(spelled) - len(a)) if a == b else None


def _through_normalisation(text: str, edges: Ints, reading: Reading) -> Spans:
    """Spans from `edges` (int64[n + 1], byte offsets in the normalised text)."""
    normalised, kept = reading.normalised, reading.kept
    if not normalised.text:  # nothing was read: what tokens there are (an added space) stand before the text
        nowhere, whole = np.zeros(len(edges) - 1, dtype=np.int64), np.ones(len(edges) - 1, dtype=np.bool_)
        return Spans(nowhere, nowhere.copy(), whole, whole.copy())
    offsets = byte_offsets(text)
    ours = byte_offsets(normalised.text.replace(SPACE_MARK, " "))
    starts, ends = offsets[normalised.starts], offsets[reading.ends]
    starts, ends = np.maximum.accumulate(starts), np.maximum.accumulate(ends)
    marker = np.fromiter((c in (SPACE_MARK, " ") for c in normalised.text), dtype=np.bool_, count=len(normalised.text))
    # The position of an edge seen from the left (where a token ends) and from the right (where the next one starts)
    # differs where the normalisation dropped characters in between.
    total = len(normalised.text)
    at = np.searchsorted(ours, edges, side="right") - 1
    before, after = np.clip(at - 1, 0, None), np.clip(at, None, total - 1)
    between = ours[at] == edges
    left = np.where(at > 0, ends[before], 0)
    right = np.where(at < total, starts[after], offsets[-1])
    # An empty range before an edge is a character that shares its origin with the next one, or else an added space;
    # after another such character it is a space within what one character became.
    empty = (starts == ends) & ~marker
    latest = np.maximum.accumulate(np.where(empty, np.arange(total), -1))
    added = marker & ((latest < 0) | (starts[latest] != starts))
    partial = (at > 0) & (starts[before] == ends[before]) & ~added[before]
    clean = np.where(between, (left <= right) & ~partial & ~reading.tangled[at], kept[after])
    inside = starts[after] + np.where(kept[after], edges - ours[after], 0)
    dirty = np.where(between, np.minimum(left, right), inside)
    left = np.where(between & clean, left, dirty)
    right = np.where(between & clean, right, dirty)
    right[:-1][edges[1:] == 0] = 0  # a space added in front has read nothing, also where what follows it was dropped
    token_starts = np.maximum.accumulate(right[:-1])
    token_ends = np.maximum(np.maximum.accumulate(left[1:]), token_starts)
    return Spans(token_starts, token_ends, clean[:-1] & clean[1:], clean[1:])


def _from_ranges(text: str, data: bytes, tokens: list[bytes], ranges: Ints, reading: Reading | None) -> Spans:
    """Spans from the ranges of characters that the tokenizer reports, refined where tokens split a character."""
    offsets = byte_offsets(text)
    limit = len(offsets) - 1
    ranges = np.clip(ranges, 0, limit)
    stops, torn = np.arange(limit + 1), np.zeros(limit + 1, dtype=np.bool_)
    if reading is not None:
        stops[reading.normalised.ends] = reading.ends
        # A place within what one character became lies at no end of a character of the original.
        stop = reading.normalised.ends
        tangled = reading.tangled[1:-1] & (stop[:-1] != stop[1:])
        torn[stop[:-1][tangled]] = True
    first = np.maximum.accumulate(offsets[ranges[:, 0]])
    last = np.maximum(np.maximum.accumulate(offsets[stops[ranges[:, 1]]]), first)
    count = len(tokens)
    starts, ends = first.copy(), last.copy()
    exact = ~(torn[ranges[:, 0]] | torn[ranges[:, 1]])
    closed = ~torn[ranges[:, 1]]
    # A run is a stretch of tokens whose reported ranges overlap: they share characters.
    overlap = first[1:] < last[:-1]
    run_starts = np.flatnonzero(np.concatenate(([True], ~overlap)))[:count]
    run_ends = np.append(run_starts[1:], count)[:count]
    for a, b in zip(run_starts.tolist(), run_ends.tolist(), strict=True):
        if b - a == 1:
            continue
        low, high = int(first[a]), int(last[b - 1])
        shift = _space_shift(b"".join(tokens[a:b]), data[low:high])
        if shift is not None:
            edges = np.cumsum([0, *map(len, tokens[a:b])]) + shift + low
            edges = np.clip(edges, low, high)
            starts[a:b], ends[a:b] = edges[:-1], edges[1:]
            continue
        exact[a:b] = False
        closed[a : b - 1] = False
        ends[a : b - 1] = first[a + 1 : b]
        starts[a + 1 : b] = ends[a : b - 1]
    return Spans(starts, ends, exact, closed)
