"""Lower bounds of what a path still costs, by which the kernel leaves out cells that no best path goes through."""

from __future__ import annotations

import numpy as np
from numba import njit

from fusion_core.alignment._dtw_pairs import UNKNOWN, known_pairs, without_distance
from fusion_core.kernels import (
    WORD,
    clear_pattern,
    distance_at_least,
    distance_of_long,
    distance_to_pattern,
    set_pattern,
)


@njit(cache=True, nogil=True)
def cheapest(  # type: ignore[no-untyped-def]
    sequence, here, there, offsets, codes, classes, masks, scratch, price
):
    """The least that each token of a sequence can cost: nothing if the other side has it too, else the price of the
    least distance to any token of the other side.

    `here`, `there`: bool[distinct], the tokens of this side and of the other.
    """
    distinct = len(offsets) - 1
    others = np.flatnonzero(there)
    nearest = np.zeros(distinct, np.int64)
    for u in range(distinct):
        if not here[u] or there[u]:
            continue
        a0, a1 = offsets[u], offsets[u + 1]
        short = 0 < a1 - a0 <= WORD
        if short:
            set_pattern(codes, a0, a1, masks)
        best = np.int64(1) << 40
        for v in others:
            b0, b1 = offsets[v], offsets[v + 1]
            if distance_at_least(a1 - a0, b1 - b0, classes[u], classes[v]) < best:
                if short:
                    distance = distance_to_pattern(a1 - a0, masks, codes, b0, b1, best - 1)
                elif a0 == a1:
                    distance = b1 - b0
                else:
                    distance = distance_of_long(codes, a0, a1, codes, b0, b1, scratch)
                if distance < best:
                    best = distance
                    if best <= 1:
                        break
        nearest[u] = best
        if short:
            clear_pattern(codes, a0, a1, masks)
    least = np.zeros(len(sequence), price.dtype)
    for k in range(len(sequence)):
        # An odd code is a pair of which one contains the other: the cheapest such a distance can be.
        code = 2 * nearest[sequence[k]]
        least[k] = min(price[code], price[code + 1])
    return least


@njit(cache=True, nogil=True)
def rests_of_sides(least_source, least_target, shares):  # type: ignore[no-untyped-def]
    """Lower bounds of what is left behind cell (i, j), as `rest_source[i + 1] + rest_target[j + 1]`.

    Every row and every column is entered once. A diagonal step enters both and costs at least
    `max(least_source[i], least_target[j])`, which is at least `max(least_source[i] - t, 0) + min(least_target[j], t)`
    for any t; a straight step enters one and costs at least that one's part. So these parts may be added up over rows
    and columns. The t of `shares`, and the side it is taken from, that give the highest bound at the start are used.
    """
    n, m = len(least_source), len(least_target)
    rest_source = np.zeros(n + 1, shares.dtype)
    rest_target = np.zeros(m + 1, shares.dtype)
    part_source = np.zeros(n + 1, shares.dtype)
    part_target = np.zeros(m + 1, shares.dtype)
    for t in shares:
        for swapped in (False, True):
            for k in range(n - 1, -1, -1):
                x = least_source[k]
                part_source[k] = part_source[k + 1] + (min(x, t) if swapped else x - min(x, t))
            for k in range(m - 1, -1, -1):
                x = least_target[k]
                part_target[k] = part_target[k + 1] + (x - min(x, t) if swapped else min(x, t))
            if part_source[0] + part_target[0] > rest_source[0] + rest_target[0]:
                rest_source[:] = part_source
                rest_target[:] = part_target
    return rest_source, rest_target


@njit(cache=True, nogil=True)
def row_behind(  # type: ignore[no-untyped-def]
    u, target, row, low, high, infinity, lengths, classes, containment, pairs, owners, filled, price, least, before,
    bound, rests, shift,
):  # fmt: skip
    """One row of the recurrence from the end over lower bounds, in place in `row[0 : m + 1]`, where `row[j]` is column
    j, this row's own cost included.

    `low`, `high`: the columns kept in the row below. A cell is kept if its value + `before[j]` is at most `bound`.
    The lower bound of what is left behind column j goes to `rests[j + shift]`. `least`: scratch of m values; `filled`:
    which tokens' pairs are all known, a bound at least.
    Returns the first and the last column kept, and the first one computed.
    """
    known = known_pairs(u, pairs, owners)
    if not filled[u]:
        filled[u] = len(pairs) == len(lengths)
        length, mask = lengths[u], classes[u]
        for v in range(len(known)):
            code = without_distance(length, lengths[v], mask, classes[v], containment)
            known[v] = code if known[v] == UNKNOWN else known[v]
    m = len(target)
    begin, end = np.uint64(max(low - 1, 0)), np.uint64(min(high, m - 1) + 1)
    shift, one = np.uint64(shift), np.uint64(1)
    # Three loops, since only the middle one must go step by step.
    for j in range(begin, end):
        least[j] = price[np.uint32(abs(known[target[j]]))]
        rests[j + shift] = min(row[j], row[j + one])
    right = infinity
    for k in range(end - begin):
        at = end - one - np.uint64(k)
        best = min(rests[at + shift], right)
        rests[at + shift] = best
        right = best + least[at]
        row[at] = right
    row[end] = infinity
    for j in range(begin, end):
        if row[j] + before[j] > bound:
            row[j] = infinity
    # Beyond the row below only steps to the right remain.
    leftmost = np.int64(begin)
    while leftmost > 0 and row[leftmost] < infinity:
        right = row[leftmost]
        leftmost -= 1
        rests[np.uint64(leftmost) + shift] = right
        value = right + price[abs(known[target[leftmost]])]
        row[leftmost] = value if value + before[leftmost] <= bound else infinity
    kept_low, kept_high = leftmost, np.int64(end) - 1
    while kept_low <= kept_high and row[kept_low] >= infinity:
        kept_low += 1
    while kept_high >= kept_low and row[kept_high] >= infinity:
        kept_high -= 1
    return kept_low, kept_high, leftmost
