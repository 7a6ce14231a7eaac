"""Loops over byte strings that are sorted, so that those that begin alike are neighbours."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def narrow(buffer, offsets, low, high, depth, byte):  # type: ignore[no-untyped-def]
    """Of the sorted strings `low` to `high`, which agree in their first `depth` bytes: those that go on with `byte`."""
    if low < high and offsets[low + 1] - offsets[low] == depth:  # the string that ends here stands first
        low += 1
    a, b = low, high
    while a < b:
        middle = (a + b) // 2
        if buffer[offsets[middle] + depth] < byte:
            a = middle + 1
        else:
            b = middle
    begin = a
    b = high
    while a < b:
        middle = (a + b) // 2
        if buffer[offsets[middle] + depth] <= byte:
            a = middle + 1
        else:
            b = middle
    return begin, a


@njit(cache=True, nogil=True)
def walk(buffer, offsets, low, high, depth, data, start, end):  # type: ignore[no-untyped-def]
    """Follow `data[start:end]` from the strings `low` to `high`, which agree in their first `depth` bytes.

    Returns the strings that agree with what could be followed, up to where that was (an index into `data`), and the
    rank of the longest string that ended on the way, -1 for none.
    """
    last = np.int64(-1)
    at = start
    while at < end:
        a, b = narrow(buffer, offsets, low, high, depth, data[at])
        if a >= b:
            break
        low, high = a, b
        depth += 1
        at += 1
        if offsets[low + 1] - offsets[low] == depth:
            last = np.int64(low)
    return low, high, at, last


@njit(cache=True, nogil=True)
def prefix_ranges(buffer, offsets, text, starts, depth):  # type: ignore[no-untyped-def]
    """int64[n, depth, 2]: which of the sorted strings begin with the first 1, 2, ... bytes of the text from each start;
    empty ranges from where none does."""
    ranges = np.zeros((len(starts), depth, 2), np.int64)
    for i in range(len(starts)):
        low, high = np.int64(0), np.int64(len(offsets) - 1)
        for d in range(min(depth, len(text) - starts[i])):
            low, high = narrow(buffer, offsets, low, high, d, text[starts[i] + d])
            if low >= high:
                break
            ranges[i, d, 0], ranges[i, d, 1] = low, high
    return ranges
