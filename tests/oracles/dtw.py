"""Dynamic time warping, cell by cell, as FuseLLM writes it: any function of two tokens is the cost of a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import editdistance
import numpy as np


def containment(a: str, b: str) -> float:
    """FuseChat's cost of a pair."""
    distance: int = editdistance.eval(a, b)
    return distance * 0.1 if a in b or b in a else distance


COSTS: dict[str, Callable[[str, str], float]] = {"edit": editdistance.eval, "containment": containment}


def dtw(
    source: Sequence[str], target: Sequence[str], cost: Callable[[str, str], float] = editdistance.eval
) -> tuple[list[tuple[int, int]], float]:
    n, m = len(source), len(target)
    # One row and one column more than the table, so that the first cell has something before it.
    table = np.full((n + 1, m + 1), np.inf)
    table[0, 0] = 0
    for i in range(n):
        for j in range(m):
            table[i + 1, j + 1] = cost(source[i], target[j]) + min(table[i, j], table[i, j + 1], table[i + 1, j])
    i, j = n, m
    path = [(i - 1, j - 1)]
    while i > 1 or j > 1:
        move = int(np.argmin([table[i - 1, j - 1], table[i - 1, j], table[i, j - 1]]))
        i, j = i - (move != 2), j - (move != 1)
        path.append((i - 1, j - 1))
    return path[::-1], float(table[n, m])
