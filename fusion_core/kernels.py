"""Levenshtein distance inside compiled loops, shared by the alignment and the mapping kernels.

Strings are rows of codes: characters as int32, all strings of one side behind each other in `codes`, string `k` being
`codes[offsets[k]:offsets[k + 1]]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

WORD = 64


def pack(strings: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """`codes` (code points, int32) and `offsets` (int64[len + 1]) of `strings`; lone surrogates are allowed."""
    offsets = np.zeros(len(strings) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings)), out=offsets[1:])
    joined = "".join(strings).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(joined, dtype=np.int32), offsets


@njit(cache=True, nogil=True, inline="always")
def set_pattern(codes, start, end, masks):  # type: ignore[no-untyped-def]
    """Write the positions of each character of a pattern of at most 64 characters into `masks` (uint64[alphabet])."""
    for k in range(start, end):
        masks[codes[k]] |= np.uint64(1) << np.uint64(k - start)


@njit(cache=True, nogil=True, inline="always")
def clear_pattern(codes, start, end, masks):  # type: ignore[no-untyped-def]
    """Undo `set_pattern`."""
    for k in range(start, end):
        masks[codes[k]] = np.uint64(0)


@njit(cache=True, nogil=True)
def distance_to_pattern(length, masks, codes, start, end, limit):  # type: ignore[no-untyped-def]
    """Levenshtein distance of the pattern in `masks` (1 to 64 characters) to `codes[start:end]`.

    Gives up with a value above `limit` as soon as that is certain. Myers 1999 in Hyyrö's formulation (2003): the
    vertical differences of one column of the recurrence are two words.
    """
    one = np.uint64(1)
    last = one << np.uint64(length - 1)
    positive = ~np.uint64(0)
    negative = np.uint64(0)
    distance = length
    for k in range(start, end):
        match = masks[codes[k]]
        vertical = match | negative
        horizontal = (((match & positive) + positive) ^ positive) | match
        plus = negative | ~(horizontal | positive)
        minus = positive & horizontal
        if plus & last:
            distance += 1
        elif minus & last:
            distance -= 1
        # Each character still to come lowers the distance by one at best.
        if distance - (end - k - 1) > limit:
            return distance
        plus = (plus << one) | one
        minus = minus << one
        positive = minus | ~(vertical | plus)
        negative = plus & vertical
    return distance


@njit(cache=True, nogil=True)
def distance_of_long(a, a_start, a_end, b, b_start, b_end, row):  # type: ignore[no-untyped-def]
    """Levenshtein distance by the plain recurrence; `row` is scratch of at least the second string's length + 1."""
    width = b_end - b_start
    for j in range(width + 1):
        row[j] = j
    for i in range(a_start, a_end):
        diagonal = row[0]
        row[0] = i - a_start + 1
        for j in range(1, width + 1):
            above = row[j]
            best = diagonal + (a[i] != b[b_start + j - 1])
            best = min(best, above + 1, row[j - 1] + 1)
            diagonal = above
            row[j] = best
    return row[width]


@njit(cache=True, nogil=True, inline="always")
def popcount(word):  # type: ignore[no-untyped-def]
    """Bits set in a uint64."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def class_masks(codes, offsets):  # type: ignore[no-untyped-def]
    """uint64[strings]: which of 64 classes of characters occur in each string."""
    masks = np.zeros(len(offsets) - 1, np.uint64)
    for k in range(len(offsets) - 1):
        for c in range(offsets[k], offsets[k + 1]):
            # A multiplicative hash: neighbours in an alphabet go to different classes.
            masks[k] |= np.uint64(1) << ((np.uint64(codes[c]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(58))
    return masks


@njit(cache=True, nogil=True, inline="always")
def distance_at_least(a_length, b_length, a_mask, b_mask):  # type: ignore[no-untyped-def]
    """A lower bound of a Levenshtein distance: the lengths' difference, or the classes that one string lacks."""
    missing = max(popcount(a_mask & ~b_mask), popcount(b_mask & ~a_mask))
    return max(abs(a_length - b_length), missing)
