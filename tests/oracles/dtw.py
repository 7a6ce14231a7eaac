"""Dynamic time warping over `editdistance.eval`, cell by cell, as FuseLLM writes it."""

from __future__ import annotations

from collections.abc import Sequence

import editdistance
import numpy as np


def pair_cost(a: str, b: str, cost: str) -> float:
    distance = editdistance.eval(a, b)
    return distance * 0.1 if cost == "containment" and (a in b or b in a) else distance


def dtw(source: Sequence[str], target: Sequence[str], cost: str = "edit") -> tuple[list[tuple[int, int]], float]:
    n, m = len(source), len(target)
    table = np.full((n, m), np.inf)
    for i in range(n):
        for j in range(m):
            here = pair_cost(source[i], target[j], cost)
            if i == 0 and j == 0:
                table[i, j] = here
                continue
            up = table[i - 1, j] if i else np.inf
            left = table[i, j - 1] if j else np.inf
            diagonal = table[i - 1, j - 1] if i and j else np.inf
            table[i, j] = here + min(diagonal, up, left)
    i, j = n - 1, m - 1
    path = [(i, j)]
    while i or j:
        up = table[i - 1, j] if i else np.inf
        left = table[i, j - 1] if j else np.inf
        diagonal = table[i - 1, j - 1] if i and j else np.inf
        best = min(diagonal, up, left)
        if diagonal == best:
            i, j = i - 1, j - 1
        elif up == best:
            i -= 1
        else:
            j -= 1
        path.append((i, j))
    return path[::-1], float(table[-1, -1])
