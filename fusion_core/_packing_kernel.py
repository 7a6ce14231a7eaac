"""Rounding of log-probabilities to float16, row by row."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Of float16: the magnitudes above which none is finite, and below which all have one distance to the next.
_MOST = 65504.0
_LEAST = 2.0**-14


@njit(cache=True, nogil=True)
def round_rows(magnitudes, probs, indptr):  # type: ignore[no-untyped-def]
    """float32[total], each a value of float16, for the magnitudes -log p of `probs`, which rise in each row."""
    out = np.empty(len(magnitudes), np.float32)
    for row in range(len(indptr) - 1):
        off = last = 0.0  # what the row's sum is short of, and the value before
        for at in range(indptr[row], indptr[row + 1]):
            exact = magnitudes[at]
            if exact > _MOST:
                out[at] = last = np.inf
                continue
            step = math.ldexp(1.0, max(math.frexp(exact)[1], -13) - 11)
            below = math.floor(exact / step) * step
            above = below + step
            # e to the power of what is added or taken away, which is less than a hundredth where it matters.
            less, plus = exact - below, above - exact
            more = probs[at] * (1.0 + less + less * less / 2)
            fewer = probs[at] * (1.0 - plus + plus * plus / 2)
            off += probs[at]
            if abs(off - fewer) < abs(off - more) or below < last:  # entries stay in order
                off -= fewer
                last = above if above <= _MOST else np.inf
            else:
                off -= more
                last = below
            out[at] = last
    return out
