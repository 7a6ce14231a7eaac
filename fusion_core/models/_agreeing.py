"""The entries that agree with a text's next bytes, and how likely each is among all that agree as far.

One loop for the CPU, which touches each entry once, and tensor operations for an accelerator; both give the same.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Row, id, log-probability and score of each entry.
Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


@njit(cache=True, nogil=True)
def _scan(values, total, ids, ranges, least):  # type: ignore[no-untyped-def]
    owner, found = np.empty(1024, np.int64), np.empty(1024, np.int64)
    logprobs, scores = np.empty(1024, np.float32), np.empty(1024, np.float32)
    used = 0
    for r in range(len(ranges)):
        low, high = ranges[r, 0]
        held = np.full(high - low, np.float32(-np.inf))
        score = held.copy()
        for n in range(high - low):
            s = ids[low + n]
            if s < values.shape[1]:
                held[n] = values[r, s] - total[r]
        for d in range(ranges.shape[1]):
            a, b = ranges[r, d, 0] - low, ranges[r, d, 1] - low
            if ranges[r, d, 0] >= ranges[r, d, 1]:
                break
            mass = 0.0
            for n in range(a, b):
                mass += np.exp(held[n])
            if mass <= 0.0:
                break
            norm = np.float32(np.log(mass))
            for n in range(a, b):
                score[n] = held[n] - norm
        for n in range(high - low):
            if score[n] <= least[r]:
                continue
            if used == len(owner):
                owner = np.concatenate((owner, np.empty_like(owner)))
                found = np.concatenate((found, np.empty_like(found)))
                logprobs = np.concatenate((logprobs, np.empty_like(logprobs)))
                scores = np.concatenate((scores, np.empty_like(scores)))
            owner[used], found[used], logprobs[used], scores[used] = r, ids[low + n], held[n], score[n]
            used += 1
    return owner[:used], found[:used], logprobs[:used], scores[:used]


def agreeing(
    values: NDArray[np.float32],
    total: NDArray[np.float32],
    ids: NDArray[np.int32],
    ranges: NDArray[np.int64],
    least: NDArray[np.float32],
) -> Found:
    """Entries of a score above `least`.

    Args:
        values: float32[n, V], logits; `total`: float32[n], the logarithm of their sum of exponentials.
        ids: int32[m], the entries in the order of their bytes.
        ranges: int64[rows, depth, 2], which of them agree with the next 1, 2, ... bytes; rows may be fewer than n.
        least: float32[n].
    """
    return _scan(values, total, ids, ranges, least)  # type: ignore[no-any-return]


def agreeing_on_device(
    values: Any, total: Any, ids: NDArray[np.int32], ranges: NDArray[np.int64], least: NDArray[np.float32]
) -> Found:
    """The same of tensors, `total` being [n, 1], where they are."""
    import torch

    def tensor(array: NDArray[Any]) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(values.device)

    low, counts = ranges[:, 0, 0], ranges[:, 0, 1] - ranges[:, 0, 0]
    # Made where they are used: by the first byte alone a row has tens of thousands of entries.
    rows = torch.arange(len(ranges), device=values.device)
    owner = torch.repeat_interleave(rows, tensor(counts), output_size=int(counts.sum()))
    begins = low - np.concatenate(([0], np.cumsum(counts)))[: len(low)]
    rank = torch.arange(len(owner), device=values.device) + tensor(begins)[owner]
    found, limits = tensor(ids.astype(np.int64))[rank], tensor(ranges)
    inside = found < values.shape[1]
    owner, rank, found = owner[inside], rank[inside], found[inside]
    logprobs = values[owner, found].float() - total[owner, 0]
    score = torch.full_like(logprobs, -torch.inf)
    place = torch.arange(len(found), device=values.device)
    for depth in range(ranges.shape[1]):
        reach = limits[owner[place], depth]
        place = place[(rank[place] >= reach[:, 0]) & (rank[place] < reach[:, 1])]
        if not len(place):
            break
        mass = torch.zeros(len(values), dtype=torch.float64, device=values.device)
        mass.index_add_(0, owner[place], logprobs[place].double().exp())
        score[place] = logprobs[place] - mass[owner[place]].log().float()
    chance = (score > tensor(least)[owner]) & ~score.isnan()
    return tuple(x[chance].cpu().numpy() for x in (owner, found, logprobs, score))
