"""`dtw`: FuseLLM's MinED (arXiv 2401.10491), with FuseChat's containment cost (arXiv 2408.07990) as a variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from fusion_core.errors import AlignmentError
from fusion_core.kernels import pack

COSTS = ("edit", "containment")

# FuseChat's factor for a pair of which one string contains the other.
CONTAINED = 0.1

# Pairs of tokens at most: where nothing can be pruned they take ten seconds.
MOST_PAIRS = 1 << 31

# Prices tried as the columns' share of a pair's cost in the search's lower bound: the smallest ones.
_SHARES = 6


def dtw(source: Sequence[str], target: Sequence[str], cost: str = "edit") -> tuple[NDArray[np.int32], float]:
    """Dynamic time warping of two sequences of strings under their Levenshtein distance.

    `D[i, j] = c(i, j) + min(D[i-1, j-1], D[i-1, j], D[i, j-1])`; on the way back ties go to the diagonal, then up (the
    source's previous token), then left. The result is that of the textbook recurrence on every input.

    Args:
        source, target: n and m strings; space markers are the caller's to remove.
        cost: `edit` for the distance, `containment` for the distance times 0.1 where one string contains the other.

    Returns:
        Edges int32[e, 2] of (source index, target index) in path order, and the path's cost.

    Raises:
        AlignmentError: one side is empty and the other is not, `cost` is unknown, or there are too many pairs.
    """
    if cost not in COSTS:
        raise AlignmentError(f"unknown cost {cost!r}; choose one of {', '.join(COSTS)}")
    if not source and not target:
        return np.zeros((0, 2), dtype=np.int32), 0.0
    if not source or not target:
        side = "source" if not source else "target"
        raise AlignmentError(f"the {side} has no tokens, so there is no path to warp along")
    if len(source) * len(target) > MOST_PAIRS:
        raise AlignmentError(
            f"time warping compares all pairs of tokens, and {len(source):,} times {len(target):,} are too many; give "
            "a shorter text, or use the method span, whose time grows with the text"
        )
    from fusion_core.alignment import _dtw_kernel  # compiled on first use

    index: dict[str, int] = {}
    number = [index.setdefault(token, len(index)) for token in (*source, *target)]
    ids = np.array(number, dtype=np.uint32)
    codes, offsets = pack(list(index))
    alphabet = int(codes.max()) + 1 if len(codes) else 1
    longest = int(np.diff(offsets).max())
    distances = np.arange(longest + 1)
    price: NDArray[Any]
    if cost == "edit":
        narrow = (longest + 1) * len(ids) < 1 << 28
        price = np.repeat(distances, 2).astype(np.int32 if narrow else np.int64)
        infinity, slack = price.dtype.type(1 << (29 if narrow else 60)), price.dtype.type(0)
    else:
        # The product that the recurrence in Python computes, so that roundings, and with them ties, are the same.
        price = np.stack([distances.astype(np.float64), distances * CONTAINED], axis=1).reshape(-1)
        total = float((longest + 1) * len(ids))
        infinity, slack = np.float64(1e300), np.float64(total * len(ids) * 1e-15)
    edges, value = _dtw_kernel.warp(
        ids[: len(source)],
        ids[len(source) :],
        codes,
        offsets,
        alphabet,
        longest,
        cost == "containment",
        price,
        np.append(price[: 2 * _SHARES : 2 if cost == "edit" else 1], price.max()),
        infinity,
        slack,
        np.empty(0, dtype=np.int16 if longest < 1 << 14 else np.int32),
        _dtw_kernel.COST_CELLS,
        _dtw_kernel.MOVE_CELLS,
        _dtw_kernel.REST_CELLS,
        _dtw_kernel.DISTANCE_TIME,
    )
    return edges, float(value)


def pair_cost(a: str, b: str, cost: str = "edit") -> float:
    """What `dtw` makes of one pair of strings."""
    distance: float = Levenshtein.distance(a, b)
    return distance * CONTAINED if cost == "containment" and (a in b or b in a) else distance


def cost_matrix(source: Sequence[str], target: Sequence[str], cost: str = "edit") -> NDArray[np.float64]:
    """float64[n, m]: what each pair costs under `dtw`. Meant to be looked at: memory grows with n * m."""
    return np.array([[pair_cost(a, b, cost) for b in target] for a in source], dtype=np.float64).reshape(
        len(source), len(target)
    )
