"""Linear-time walks over two lists of spans."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def overlaps(a_starts, a_ends, b_starts, b_ends):  # type: ignore[no-untyped-def]
    """int32[e, 2]: pairs of spans that share at least one byte; both lists ascend without overlap in themselves."""
    n, m = len(a_starts), len(b_starts)
    edges = np.empty((n + m, 2), np.int32)
    count = i = j = 0
    while i < n and j < m:
        if a_ends[i] <= a_starts[i]:
            i += 1
            continue
        if b_ends[j] <= b_starts[j]:
            j += 1
            continue
        if max(a_starts[i], b_starts[j]) < min(a_ends[i], b_ends[j]):
            edges[count, 0] = i
            edges[count, 1] = j
            count += 1
        if a_ends[i] < b_ends[j]:
            i += 1
        elif a_ends[i] > b_ends[j]:
            j += 1
        else:
            i += 1
            j += 1
    return edges[:count].copy()


@njit(cache=True, nogil=True)
def cut_groups(a_ends, a_closed, b_ends, b_closed, total):  # type: ignore[no-untyped-def]
    """int64[g, 6]: source from, source to, target from, target to, byte from, byte to of each group.

    A group ends where both sides have a closed position at the same byte; of several such positions on one side (empty
    spans) the last one counts.
    """
    n, m = len(a_ends), len(b_ends)
    groups = np.empty((n + m + 1, 6), np.int64)
    count = i = j = 0
    from_i = from_j = from_byte = 0
    while i < n and j < m:
        if a_ends[i] < b_ends[j]:
            i += 1
        elif a_ends[i] > b_ends[j]:
            j += 1
        else:
            byte = a_ends[i]
            a_last, b_last = -1, -1
            while i < n and a_ends[i] == byte:
                if a_closed[i]:
                    a_last = i
                i += 1
            while j < m and b_ends[j] == byte:
                if b_closed[j]:
                    b_last = j
                j += 1
            # An empty boundary before the first byte would cut a group without text.
            if a_last >= 0 and b_last >= 0 and byte > from_byte:
                groups[count] = (from_i, a_last + 1, from_j, b_last + 1, from_byte, byte)
                count += 1
                from_i, from_j, from_byte = a_last + 1, b_last + 1, byte
    if from_i < n or from_j < m:
        groups[count] = (from_i, n, from_j, m, from_byte, total)
        count += 1
    return groups[:count].copy()
