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

from fusion_core.kernels import (
    WORD,
    class_masks,
    clear_pattern,
    distance_at_least,
    distance_of_long,
    distance_to_pattern,
    set_pattern,
)

DIAGONAL, UP, LEFT = 0, 1, 2
UNKNOWN = -1

# Pair codes kept at a time, and moves (one byte each) before the kernel falls back to computing blocks again.
COST_CELLS = 12_000_000
MOVE_CELLS = 32_000_000
# Lower bounds kept at a time; rows for which they do not suffice fall back to bounds of rows and columns alone.
REST_CELLS = 8_000_000
# About how many bounds of a distance can be computed in the time of one distance, and in that of one cell; that decides
# whether the run backwards pays.
DISTANCE_TIME, _CELL_TIME = 24, 2
_BLOCK = 128


@njit(cache=True, nogil=True, inline="always")
def _contains(codes, a0, a1, b0, b1):  # type: ignore[no-untyped-def]
    """Whether string a holds string b."""
    width = b1 - b0
    for at in range(a0, a1 - width + 1):
        k = 0
        while k < width and codes[at + k] == codes[b0 + k]:
            k += 1
        if k == width:
            return True
    return False


@njit(cache=True, nogil=True)
def _pair_code(codes, offsets, u, v, containment, masks, ready, scratch):  # type: ignore[no-untyped-def]
    """`2 * distance + contained` of two distinct tokens, neither empty. `ready`: `masks` holds token u."""
    a0, a1, b0, b1 = offsets[u], offsets[u + 1], offsets[v], offsets[v + 1]
    if ready:
        distance = distance_to_pattern(a1 - a0, masks, codes, b0, b1, 1 << 40)
    else:
        distance = distance_of_long(codes, a0, a1, codes, b0, b1, scratch)
    contained = 0
    if containment and (_contains(codes, a0, a1, b0, b1) or _contains(codes, b0, b1, a0, a1)):
        contained = 1
    return 2 * distance + contained


@njit(cache=True, nogil=True, inline="always")
def _known(u, pairs, owners):  # type: ignore[no-untyped-def]
    """What is known of the pairs of token u with each other one: a code, less a lower bound of one, or `UNKNOWN`."""
    slot = u % pairs.shape[0]
    if owners[slot] != u:
        owners[slot] = u
        pairs[slot, :] = UNKNOWN
        pairs[slot, u] = 0
    return pairs[slot]


@njit(cache=True, nogil=True, inline="always")
def _without_distance(a_length, b_length, a_mask, b_mask, containment):  # type: ignore[no-untyped-def]
    """What lengths and classes of characters say of a pair of distinct tokens, to be kept in `_known`."""
    longer = max(a_length, b_length)
    if min(a_length, b_length) == 0:
        return 2 * longer + containment
    gap = distance_at_least(a_length, b_length, a_mask, b_mask)  # distinct strings are one edit apart at least
    # Not one character in common: every one of the longer string is an edit.
    return 2 * longer if a_mask & b_mask == 0 else -2 * max(1, gap) - containment


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
    costs = _known(u, pairs, owners)
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
                code = _without_distance(a1 - a0, lengths[v], classes[u], classes[v], containment)
                costs[v] = code
            if code < 0:
                code = -code
                best = min(min(diagonal, row[k + one] if inside else infinity), left)
                if best + price[code] + rest[k + shift] <= bound:
                    if not ready and a1 - a0 <= WORD:
                        set_pattern(codes, a0, a1, masks)
                        ready = True
                    code = _pair_code(codes, offsets, u, v, containment, masks, ready, scratch)
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
def _row_behind(  # type: ignore[no-untyped-def]
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
    known = _known(u, pairs, owners)
    if not filled[u]:
        filled[u] = len(pairs) == len(lengths)
        length, mask = lengths[u], classes[u]
        for v in range(len(known)):
            code = _without_distance(length, lengths[v], mask, classes[v], containment)
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


@njit(cache=True, nogil=True)
def _cheapest(  # type: ignore[no-untyped-def]
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
def _rests(least_source, least_target, shares):  # type: ignore[no-untyped-def]
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
    rest_source, rest_target = _rests(
        _cheapest(source, in_source, in_target, offsets, codes, classes, masks, scratch, price),
        _cheapest(target, in_target, in_source, offsets, codes, classes, masks, scratch, price),
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
        firsts[i], lasts[i], begun = _row_behind(
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
