"""Top-k distributions as few bytes: 32-bit ids, and float16 log-probabilities stored as differences.

A row's log-probabilities fall, so the bit patterns of their float16 magnitudes rise: the first one and then the
differences are small whole numbers, from which the float16 values come back exactly and which compress to about half.
Rounding to float16 moves a log-probability by at most 0.05 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.distributions import TopK
from fusion_core.errors import DistributionError


def pack(top: TopK) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Ids int32[n * k] and steps uint16[n * k], row after row, best entry first.

    Raises:
        DistributionError: `top` holds the full softmax; truncate it first.
    """
    if top.ids is None:
        raise DistributionError("the full softmax is not packed: keep a number of entries (top_k) of it")
    order = np.lexsort((top.ids, -top.logprobs), axis=1)
    logprobs = np.take_along_axis(top.logprobs, order, axis=1)
    with np.errstate(over="ignore"):  # beyond float16's range a probability is 0 anyway
        bits = np.maximum(-logprobs, 0.0).astype(np.float16).view(np.uint16)
    steps = np.diff(bits, axis=1, prepend=np.uint16(0)).astype(np.uint16)
    ids = np.take_along_axis(top.ids, order, axis=1).astype(np.int32)
    return ids.reshape(-1), steps.reshape(-1)


def unpack(ids: NDArray[Any], steps: NDArray[Any], k: int, width: int) -> TopK:
    """What `pack` packed; a row that rounding has brought above a total of 1 is scaled back to 1.

    Raises:
        DistributionError: the lengths do not fit, or an id or a probability is out of range: the data are damaged.
    """
    if k < 1 or len(ids) != len(steps) or len(ids) % k:
        raise DistributionError(f"{len(ids)} ids and {len(steps)} steps are no rows of {k} entries")
    rows = np.asarray(ids, dtype=np.int32).reshape(-1, k)
    bits = np.cumsum(np.asarray(steps, dtype=np.uint16).reshape(-1, k).astype(np.int64), axis=1)
    if len(rows) and (rows.min() < 0 or rows.max() >= width or bits.max() > 0x7C00):  # 0x7C00 is infinity
        raise DistributionError("packed distributions are damaged: an id or a probability is out of range")
    logprobs = -bits.astype(np.uint16).view(np.float16).astype(np.float32)
    total = np.exp(logprobs.astype(np.float64)).sum(axis=1)
    if (total > 1.05).any():
        raise DistributionError("packed distributions are damaged: a row's probabilities sum to more than 1")
    logprobs -= np.log(np.maximum(total, 1.0)).astype(np.float32)[:, None]
    return TopK(rows, logprobs, width)
