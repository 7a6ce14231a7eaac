"""Small compiled loops over positions and kept entries."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def first_of_each(mapped, size):  # type: ignore[no-untyped-def]
    """bool[n, k]: the entry is no -1 and the first of its value in its row; values lie below `size`."""
    keep = np.zeros(mapped.shape, np.bool_)
    stamp = np.full(size, -1, np.int64)
    for i in range(mapped.shape[0]):
        for c in range(mapped.shape[1]):
            value = mapped[i, c]
            if value >= 0 and stamp[value] != i:
                stamp[value] = i
                keep[i, c] = True
    return keep

