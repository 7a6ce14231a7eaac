"""Top-k distributions as few bytes: 32-bit ids, and float16 log-probabilities stored as differences.

A row's log-probabilities fall, so the bit patterns of their float16 magnitudes rise: the first one and then the
differences are small whole numbers, from which the float16 values come back exactly and which compress to about half.
Rounding to float16 moves a log-probability by at most 0.1 %, and leaves a row's total, and with it the tail, in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core._packing_kernel import round_rows
from fusion_core.distributions import TopK
from fusion_core.errors import DistributionError


def rounded(logprobs: NDArray[np.floating[Any]], indptr: NDArray[np.integer[Any]]) -> NDArray[np.float16]:
    """Rows of log-probabilities as float16, so that the probabilities of each row keep their sum.

    Of the entries between two values of float16, as many go to either as brings the sum so far nearest to what it was.
    Rounded each for itself, a row of 64 is off by 7e-5 in all, which is more than many a tail: what is left of 1.

    Args:
        logprobs: [total], row after row, best first.
        indptr: [rows + 1], where each row begins, and the end.
    """
    magnitudes = np.maximum(-np.asarray(logprobs, dtype=np.float64), 0.0)
    found: NDArray[np.float32] = round_rows(magnitudes, np.exp(-magnitudes), np.asarray(indptr, dtype=np.int64))
    return (-found).astype(np.float16)


def pack(top: TopK) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Ids int32[n * k] and steps uint16[n * k], row after row, best entry first.

    Raises:
        DistributionError: `top` holds the full softmax; truncate it first.
    """
    if top.ids is None:
        raise DistributionError("the full softmax is not packed: keep a number of entries (top_k) of it")
    order = np.lexsort((top.ids, -top.logprobs), axis=1)
    logprobs = np.take_along_axis(top.logprobs, order, axis=1)
    begins = np.arange(len(order) + 1) * order.shape[1]
    bits = (-rounded(logprobs.reshape(-1), begins)).view(np.uint16).reshape(order.shape)
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
