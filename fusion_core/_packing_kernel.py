"""Rounding of log-probabilities to float16, row by row."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Of float16: the magnitude above which none is finite, and the exponent below which all have one distance to the next.
_MOST = 65504.0
_LEAST = -13


@njit(cache=True, nogil=True)
def round_rows(magnitudes, probs, indptr):  # type: ignore[no-untyped-def]
    """float32[total], each a value of float16, for the magnitudes -log p of `probs`, which rise in each row."""
    out = np.empty(len(magnitudes), np.float32)
    for row in range(len(indptr) - 1):
        off = 0.0  # what the row's sum is short of
        at, end = indptr[row], indptr[row + 1]
        while at < end:
            exact = magnitudes[at]
            if exact > _MOST:
                out[at:end] = np.inf
                break
            step = math.ldexp(1.0, (max(math.frexp(exact)[1], _LEAST) if exact > 0.0 else _LEAST) - 11)
            below = math.floor(exact / step) * step
            above = below + step
            # All entries between the same two values: the first few go down and the others up, which keeps their order.
            stop = at
            while stop < end and magnitudes[stop] < above:
                off += probs[stop]
                stop += 1
            more, fewer = math.exp(-below), math.exp(-above) if above <= _MOST else 0.0
            count = stop - at
            down = count
            if more > fewer:
                down = min(count, max(0, math.floor((off - count * fewer) / (more - fewer) + 0.5)))
            off -= down * more + (count - down) * fewer
            out[at : at + down] = below
            out[at + down : stop] = above if above <= _MOST else np.inf
            at = stop
    return out
