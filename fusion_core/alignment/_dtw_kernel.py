"""Dynamic time warping of two token sequences, exact, in a fraction of the cells.

The recurrence is `D[i, j] = cost(i, j) + min(D[i-1, j-1], D[i-1, j], D[i, j-1])`. Three things make it fast and none
changes the result:

* A pair's cost is computed once per pair of *distinct* tokens, and only when a cell asks for it.
* A cell is kept only if it can lie on a best path: its value plus a lower bound of what is still to come must not
  exceed the cost of a path that is already known (from a narrow band). Dropping the others leaves every best path, and
  so every tie between best paths, as it was. The bound comes from the same recurrence run backwards over lower bounds
  of the pairs' costs (lengths and characters in common), which need no distance and come within a few percent of it.
* Moves are kept while they fit; beyond that, rows are saved at intervals and the blocks between them computed again on
  the way back, so that memory stays small for tens of thousands of tokens.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fusion_core.alignment._dtw_bounds import cheapest, rests_of_sides, row_behind
from fusion_core.alignment._dtw_pairs import UNKNOWN, known_pairs, pair_code, without_distance
from fusion_core.kernels import WORD, class_masks, clear_pattern, set_pattern

DIAGONAL, UP, LEFT = 0, 1, 2

# Pair codes kept at a time, and moves (one byte each) before the kernel falls back to computing blocks again.
COST_CELLS = 12_000_000
MOVE_CELLS = 32_000_000
# Lower bounds kept at a time; rows for which they do not suffice fall back to bounds of rows and columns alone.
REST_CELLS = 8_000_000
# About how many bounds of a distance can be computed in the time of one distance, and in that of one cell; that decides
# whether the run backwards pays.
DISTANCE_TIME, _CELL_TIME = 24, 2
_BLOCK = 128


@njit(cache=True, nogil=True)
def _row(  # type: ignore[no-untyped-def]
    u, target, row, low, high, first, last, infinity, codes, offsets, lengths, classes, containment, masks, scratch,
    pairs, owners, price, rest, shift, bound, moves, at,
):  # fmt: skip
    """One row of the recurrence, in place in `row[0 : m + 2]`, where `row[j + 1]` is column j.

    `low`, `high`: the columns kept in the row above; `first`, `last`: the columns to compute at most.
    A cell is kept if its value + `rest[j + shift]` is at most `bound`. Moves go to `moves[at + j - low]` if `at >= 0`.
    Returns the first and the last column kept, and how many cells were computed.
    """
    a0, a1 = offsets[u], offsets[u + 1]
    costs = known_pairs(u, pairs, owners)
    ready = False
    begin = max(low, first)
    diagonal = row[begin]
    left = infinity
    row[begin] = infinity
    # Unsigned, so that an index needs no look at its sign: twice as fast.
    k, one = np.uint64(begin), np.uint64(1)
    edge = np.uint64(min(high + 1, last))
    stop = np.uint64(last)
    shift = np.uint64(shift)
    storing = at >= 0
    base = np.uint64(at - low) if storing else np.uint64(0)
    while k <= stop:
        inside = k <= edge  # beyond the row above only steps to the right remain
        if not inside and left >= infinity:
            break
        code = costs[target[k]]
        if code < 0:
            v = target[k]
            if code == UNKNOWN:
                code = without_distance(a1 - a0, lengths[v], classes[u], classes[v], containment)
                costs[v] = code
            if code < 0:
                code = -code
                best = min(min(diagonal, row[k + one] if inside else infinity), left)
                if best + price[code] + rest[k + shift] <= bound:
                    if not ready and a1 - a0 <= WORD:
                        set_pattern(codes, a0, a1, masks)
                        ready = True
                    code = pair_code(codes, offsets, u, v, containment, masks, ready, scratch)
                    costs[v] = code
        limit = edge if inside else k
        while True:
            up = row[k + one] if inside else infinity
            best = diagonal if diagonal < up else up
            best = best if best < left else left
            if storing:
                moves[base + k] = DIAGONAL if diagonal == best else (UP if up == best else LEFT)
            value = best + price[np.uint32(code)]
            value = value if value + rest[k + shift] <= bound else infinity
            diagonal = up
            left = value
            k += one
            row[k] = value
            if k > limit:
                break
            code = costs[target[k]]
            if code < 0:
                break
    j = np.int64(k)
    if ready:
        clear_pattern(codes, a0, a1, masks)
    kept_low, kept_high = begin, j - 1
    while kept_low <= kept_high and row[kept_low + 1] >= infinity:
        kept_low += 1
    while kept_high >= kept_low and row[kept_high + 1] >= infinity:
        kept_high -= 1
    if kept_high >= kept_low:
        row[kept_high + 2] = infinity
        row[kept_low] = infinity
    return kept_low, kept_high, j - begin


@njit(cache=True, nogil=True)
def _written(sequence, offsets):  # type: ignore[no-untyped-def]
    """int64[n + 1]: characters of a sequence before each of its tokens."""
    written = np.zeros(len(sequence) + 1, np.int64)
    for k in range(len(sequence)):
        written[k + 1] = written[k] + offsets[sequence[k] + 1] - offsets[sequence[k]]
    return written


@njit(cache=True, nogil=True)
def warp(  # type: ignore[no-untyped-def]
    source,
    target,
    codes,
    offsets,
    alphabet,
    longest,
    containment,
    price,
    shares,
    infinity,
    slack,
    code_type,
    cost_cells,
    move_cells,
    rest_cells,
    distance_time,
):
    """Edges (int32[e, 2], in path order) and cost of the best path.

    Args:
        source, target: uint32[n], uint32[m], which distinct token stands at each position; n and m at least 1.
        codes, offsets: the distinct tokens, packed.
        alphabet: highest code + 1.
        longest: length of the longest token.
        containment: price a pair of which one contains the other by the odd codes.
        price: what each pair code costs; its dtype is that of the recurrence.
        shares: ways to split a cost between rows and columns that are tried for the lower bound; ascending from 0.
        infinity: a value above every path.
        slack: how far rounding can lift a bound above the truth.
        code_type: an array of the dtype that pair codes are kept in.
        cost_cells, move_cells, rest_cells: how much memory to spend, `COST_CELLS`, `MOVE_CELLS` and `REST_CELLS`
            outside of tests.
        distance_time: `DISTANCE_TIME` outside of tests.
    """
    n, m = len(source), len(target)
    distinct = len(offsets) - 1
    containment = 1 if containment else 0
    in_source = np.zeros(distinct, np.bool_)
    in_target = np.zeros(distinct, np.bool_)
    in_source[source] = True
    in_target[target] = True
    lengths = offsets[1:] - offsets[:-1]
    classes = class_masks(codes, offsets)
    masks = np.zeros(alphabet, np.uint64)
    scratch = np.empty(longest + 1, np.int64)
    rest_source, rest_target = rests_of_sides(
        cheapest(source, in_source, in_target, offsets, codes, classes, masks, scratch, price),
        cheapest(target, in_target, in_source, offsets, codes, classes, masks, scratch, price),
        shares,
    )
    slots = max(1, min(distinct, cost_cells // distinct))
    pairs = np.empty((slots, distinct), code_type.dtype)
    owners = np.full(slots, -1, np.int64)
    row = np.empty(m + 2, price.dtype)
    moves = np.empty(0, np.uint8)

    # The cost of some path, from a narrow band: around the most promising cell of each row, or around the diagonal in
    # characters. Each finds its way where the other gets lost.
    written_source, written_target = _written(source, offsets), _written(target, offsets)
    scale = written_target[m] / max(1, written_source[n])
    bound = infinity
    for attempt in range(4):
        if attempt == 2 and max(n, m) <= 4096 and bound < infinity:
            break
        width = 8 if attempt < 2 else 48
        limit = bound if bound < infinity else infinity // 2
        row[:] = infinity
        row[0] = 0
        low, high, centre = 0, -1, 0
        # Cells that are this much worse than the best of their row are not worth a look.
        spare = price[-2] * 2 if attempt < 2 else infinity // 4
        promise = rest_target[0]
        for i in range(n):
            if attempt % 2 == 1:
                while centre < m - 1 and written_target[centre + 1] < written_source[i + 1] * scale:
                    centre += 1
            first = max(0, min(centre - width, high + 1))
            last = m - 1 if i == n - 1 else min(m - 1, centre + 1 + width)
            low, high, _ = _row(
                source[i], target, row, low, high, first, last, infinity, codes, offsets, lengths, classes, containment,
                masks, scratch, pairs, owners, price, rest_target, 1,
                min(limit - rest_source[i + 1], promise + spare), moves, -1,
            )  # fmt: skip
            if high < low:
                break
            promise, best_column = infinity, low
            for j in range(low, high + 1):
                if row[j + 1] + rest_target[j + 1] <= promise:
                    promise, best_column = row[j + 1] + rest_target[j + 1], j
            if attempt % 2 == 0:
                centre = best_column
        if high == m - 1 and row[m] < bound:
            bound = row[m]
    bound = bound + slack

    # Which columns of each row can lie on a best path, and where in `rests` stands what is left behind them: behind the
    # columns' own bounds, filled from the end, last row first. It pays where it saves many distances: in real texts
    # 3 columns of a row are kept for each 8 edits that the bounds of rows and columns fall short of the best path, and
    # a fourth of the cells needs a distance of its own.
    corridor, table = min(3 / 8 * (bound - rest_source[0] - rest_target[0]), m) * n, distinct * distinct
    if distance_time * min(corridor / 4, table) < _CELL_TIME * corridor + table:
        rest_cells = 0
    rests = np.empty(m + 1 + min(rest_cells, n * m), price.dtype)
    rests[: m + 1] = rest_target
    before = rest_target[0] - rest_target
    firsts, lasts = np.zeros(n, np.int64), np.full(n, m - 1, np.int64)
    shifts = np.ones(n, np.int64)
    limits = bound - rest_source[1:]
    least, filled = np.empty(m, price.dtype), np.zeros(distinct, np.bool_)
    row[:] = infinity
    row[m] = 0
    low = high = m
    top = len(rests) - 1
    for i in range(n - 1, -1, -1):
        if top - min(high, m - 1) <= m:
            break
        shifts[i] = top - min(high, m - 1)
        limits[i] = bound
        firsts[i], lasts[i], begun = row_behind(
            source[i], target, row, low, high, infinity, lengths, classes, containment, pairs, owners, filled, price,
            least, before, bound - (rest_source[0] - rest_source[i]), rests, shifts[i],
        )  # fmt: skip
        top -= min(high, m - 1) + 1 - begun
        low, high = firsts[i], lasts[i]

    lows = np.zeros(n + 1, np.int64)
    highs = np.full(n + 1, -1, np.int64)
    starts = np.zeros(n, np.int64)
    moves = np.empty(min(move_cells, max(n, m) * 16), np.uint8)
    used, storing = 0, True
    saved = [row[:1].copy()]
    saved_low = [0]
    row[:] = infinity
    row[0] = 0
    for i in range(n):
        if i % _BLOCK == 0 and i > 0:
            saved.append(row[lows[i] : highs[i] + 3].copy())
            saved_low.append(lows[i])
        if storing and used + lasts[i] + 2 - lows[i] > len(moves):
            # Rows are rarely as wide as this room allows for; what is not used is never touched.
            if used + lasts[i] + 2 - lows[i] > move_cells:
                storing = False
            else:
                grown = np.empty(min(move_cells, 2 * len(moves) + m), np.uint8)
                grown[:used] = moves[:used]
                moves = grown
        starts[i] = used
        lows[i + 1], highs[i + 1], _ = _row(
            source[i], target, row, lows[i], highs[i], firsts[i], lasts[i], infinity, codes, offsets, lengths, classes,
            containment, masks, scratch, pairs, owners, price, rests, shifts[i], limits[i], moves,
            used if storing else -1,
        )  # fmt: skip
        used += highs[i + 1] + 2 - lows[i]
    cost = row[m]

    edges = np.empty((n + m, 2), np.int32)
    count, i, j = 0, n - 1, m - 1
    block = n
    while i >= 0:
        if not storing and i < block:
            block = i // _BLOCK * _BLOCK
            row[:] = infinity
            if block == 0:
                row[0] = 0
            else:
                part = saved[block // _BLOCK]
                start = saved_low[block // _BLOCK]
                row[start : start + len(part)] = part
            room = 0
            for k in range(block, i + 1):
                room += highs[k + 1] + 2 - lows[k]
            moves = np.empty(room + m + 2, np.uint8)
            used = 0
            for k in range(block, i + 1):
                starts[k] = used
                _row(
                    source[k], target, row, lows[k], highs[k], firsts[k], lasts[k], infinity, codes, offsets, lengths,
                    classes, containment, masks, scratch, pairs, owners, price, rests, shifts[k], limits[k], moves,
                    used,
                )  # fmt: skip
                used += highs[k + 1] + 2 - lows[k]
        edges[count, 0] = i
        edges[count, 1] = j
        count += 1
        if i == 0 and j == 0:
            break
        move = moves[starts[i] + j - lows[i]]
        if i == 0:
            move = LEFT
        elif j == 0:
            move = UP
        if move != LEFT:
            i -= 1
        if move != UP:
            j -= 1
    return edges[:count][::-1].copy(), cost
