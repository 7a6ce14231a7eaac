"""The loops of `byte-exact`: from a source distribution at a byte to masses on target tokens.

A *state* is what the source's tokens spell since the target position: the target entries that start so (a range of the
sorted ones), how many bytes that are, and the target token of them if the text ended there. An entry is *open* while
some target token goes on from its state: then what the source would say next decides which token it becomes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

EXACT, CHAINED, APPROXIMATE, TAIL, LOST = range(5)

# Mass below which an open entry is not followed along the text, nor shared out.
_NEGLIGIBLE = 1e-7
# Entries of a result below this go to its tail.
_DUST = 1e-10


class Pair(NamedTuple):
    """Two vocabularies. `s_*` are source entries by id, `o_*` the same in the order of their bytes, `t_*` target entries
    in the order of their bytes with their ids, and by target id their rank and first source token."""

    s_buffer: NDArray[np.uint8]
    s_offsets: NDArray[np.int64]
    s_spells: NDArray[np.bool_]
    first: NDArray[np.int32]
    opens: NDArray[np.bool_]
    o_buffer: NDArray[np.uint8]
    o_offsets: NDArray[np.int64]
    t_buffer: NDArray[np.uint8]
    t_offsets: NDArray[np.int64]
    t_ids: NDArray[np.int32]
    t_rank: NDArray[np.int32]
    source_first: NDArray[np.int32]


class Rows(NamedTuple):
    """Distributions: `ids[r, c]` has `probs[r, c]`; with `dense`, column c is id c and `ids` is not looked at."""

    ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    tails: NDArray[np.float64]
    dense: bool


class Scratch(NamedTuple):
    """Of one position: mass by target id and which ids have any; the open entries and their states."""

    total: NDArray[np.float64]
    touched: NDArray[np.int64]
    count: NDArray[np.int64]  # [0]: touched ids, [1]: open entries
    entry: NDArray[np.int64]
    mass: NDArray[np.float64]
    state: NDArray[np.int64]  # [open entry, (low, high, depth, token)]


@njit(cache=True, nogil=True)
def _narrow(buffer, offsets, low, high, depth, byte):  # type: ignore[no-untyped-def]
    """Of the sorted strings `low` to `high`, which agree in their first `depth` bytes: those that go on with `byte`."""
    if low < high and offsets[low + 1] - offsets[low] == depth:  # the string that ends here stands first
        low += 1
    a, b = low, high
    while a < b:
        middle = (a + b) // 2
        if buffer[offsets[middle] + depth] < byte:
            a = middle + 1
        else:
            b = middle
    begin = a
    b = high
    while a < b:
        middle = (a + b) // 2
        if buffer[offsets[middle] + depth] <= byte:
            a = middle + 1
        else:
            b = middle
    return begin, a


@njit(cache=True, nogil=True)
def _walk(buffer, offsets, low, high, depth, data, start, end):  # type: ignore[no-untyped-def]
    """Follow `data[start:end]` from the strings `low` to `high`, which agree in their first `depth` bytes.

    Returns the strings that agree with what could be followed, up to where that was (an index into `data`), and the
    rank of the longest string that ended on the way, -1 for none.
    """
    last = np.int64(-1)
    at = start
    while at < end:
        a, b = _narrow(buffer, offsets, low, high, depth, data[at])
        if a >= b:
            break
        low, high = a, b
        depth += 1
        at += 1
        if offsets[low + 1] - offsets[low] == depth:
            last = np.int64(low)
    return low, high, at, last


@njit(cache=True, nogil=True)
def _book(scratch, ledger, target, mass, kind):  # type: ignore[no-untyped-def]
    """Give mass to a target id, or to nothing (-1), and enter it in the ledger."""
    if target < 0:
        ledger[LOST] += mass
        return
    if scratch.total[target] == 0.0:
        scratch.touched[scratch.count[0]] = target
        scratch.count[0] += 1
    scratch.total[target] += mass
    ledger[kind] += mass


@njit(cache=True, nogil=True)
def _resolve(pair, s, skip, low, high, depth, token):  # type: ignore[no-untyped-def]
    """The state after source entry `s`, less its first `skip` bytes: low, high, depth, token, and whether it is open."""
    a, b = pair.s_offsets[s] + skip, pair.s_offsets[s + 1]
    low2, high2, at, last = _walk(pair.t_buffer, pair.t_offsets, low, high, depth, pair.s_buffer, a, b)
    if last >= 0:
        token = np.int64(pair.t_ids[last])
    depth2 = depth + b - a
    if at < b:
        return low2, high2, depth2, token, False
    return low2, high2, depth2, token, high2 - low2 > 1 or pair.t_offsets[low2 + 1] - pair.t_offsets[low2] > depth2


@njit(cache=True, nogil=True)
def _wait(scratch, s, mass, low, high, depth, token):  # type: ignore[no-untyped-def]
    """Put an open entry aside."""
    k = scratch.count[1]
    scratch.entry[k] = s
    scratch.mass[k] = mass
    scratch.state[k, 0], scratch.state[k, 1], scratch.state[k, 2], scratch.state[k, 3] = low, high, depth, token
    scratch.count[1] += 1


@njit(cache=True, nogil=True)
def _begin(pair, rows, row, text, start, end, scratch, ledger):  # type: ignore[no-untyped-def]
    """The first distribution: whole entries if nothing is pending, else those that start with `text[start:end]`.

    Returns whether anything is known there.
    """
    skip = end - start
    everything = len(pair.t_ids)
    size = len(pair.first)
    kept = 0.0
    for c in range(rows.probs.shape[1]):
        p = np.float64(rows.probs[row, c])
        if p <= 0.0:
            continue
        s = np.int64(c) if rows.dense else np.int64(rows.ids[row, c])
        if skip == 0:
            if s >= size:  # a padding row of the model
                ledger[LOST] += p
            elif not pair.opens[s]:
                _book(scratch, ledger, np.int64(pair.first[s]), p, EXACT)
            else:
                low, high, depth, token, _ = _resolve(pair, s, 0, 0, everything, 0, np.int64(-1))
                _wait(scratch, s, p, low, high, depth, np.int64(pair.first[s]))
            continue
        if s >= size or not pair.s_spells[s]:
            continue
        a, b = pair.s_offsets[s], pair.s_offsets[s + 1]
        if b - a < skip or pair.s_buffer[a] != text[start]:
            continue
        k = 1
        while k < skip and pair.s_buffer[a + k] == text[start + k]:
            k += 1
        if k < skip:
            continue
        kept += p
        low, high, depth, token, is_open = _resolve(pair, s, skip, 0, everything, 0, np.int64(-1))
        if is_open:
            _wait(scratch, s, p, low, high, depth, token)
        else:
            _book(scratch, ledger, token, p, EXACT)
    tail = rows.tails[row]
    if skip == 0:
        ledger[TAIL] += tail
        return True
    # Told that the text goes on with these bytes, the model keeps what starts so; of its tail, as large a share as of
    # its vocabulary.
    low, high, at, _ = _walk(pair.o_buffer, pair.o_offsets, 0, len(pair.o_offsets) - 1, 0, text, start, end)
    tail *= (high - low) / size if at == end else 0.0
    if kept <= 0.0:
        return False
    scale = 1.0 / (kept + tail)
    for k in range(scratch.count[0]):
        scratch.total[scratch.touched[k]] *= scale
    for k in range(scratch.count[1]):
        scratch.mass[k] *= scale
    for k in range(5):
        ledger[k] *= scale
    ledger[TAIL] += tail * scale
    return True


@njit(cache=True, nogil=True)
def _follow(pair, rows, row, mass, low, high, depth, token, scratch, ledger):  # type: ignore[no-untyped-def]
    """The next distribution along the text's own path: `mass` is shared out by it, from the state that was reached."""
    seen = 0.0
    for c in range(rows.probs.shape[1]):
        p = np.float64(rows.probs[row, c]) * mass
        if p <= 0.0:
            continue
        seen += p
        s = np.int64(c) if rows.dense else np.int64(rows.ids[row, c])
        if s >= len(pair.first) or not pair.s_spells[s]:  # the text ends here
            _book(scratch, ledger, token, p, CHAINED)
            continue
        low2, high2, depth2, token2, is_open = _resolve(pair, s, 0, low, high, depth, token)
        if is_open:
            _wait(scratch, s, p, low2, high2, depth2, token2)
        else:
            _book(scratch, ledger, token2, p, CHAINED)
    ledger[TAIL] += max(0.0, mass - seen)


@njit(cache=True, nogil=True)
def _continues(pair, s, low, high, t, depth):  # type: ignore[no-untyped-def]
    """Whether the source, spelling target entry `t` (a rank) from the state after `s`, would have taken `s`: no longer
    source entry (they are `low` to `high` of the sorted) fits."""
    length = pair.s_offsets[s + 1] - pair.s_offsets[s]
    begin, end = pair.t_offsets[t] + depth, pair.t_offsets[t + 1]
    _, _, _, last = _walk(pair.o_buffer, pair.o_offsets, low, high, length, pair.t_buffer, begin, end)
    return last < 0


@njit(cache=True, nogil=True)
def _share(pair, k, at_root, own, own_row, scratch, ledger, found, weights):  # type: ignore[no-untyped-def]
    """An open entry's mass: shared among the target tokens that it may become, by the target's own distribution; or,
    where that says nothing, to the token that it is now."""
    s, mass = scratch.entry[k], scratch.mass[k]
    low, high, depth, token = scratch.state[k, 0], scratch.state[k, 1], scratch.state[k, 2], scratch.state[k, 3]
    count, weight = 0, 0.0
    if own_row >= 0 and mass > _NEGLIGIBLE:
        o_low, o_high = np.int64(0), np.int64(0)
        if not at_root:
            o_low, o_high, _, _ = _walk(
                pair.o_buffer, pair.o_offsets, 0, len(pair.o_offsets) - 1, 0,
                pair.s_buffer, pair.s_offsets[s], pair.s_offsets[s + 1],
            )  # fmt: skip
        steps = high - low if own.dense else own.probs.shape[1]
        own_token = False
        for c in range(steps):
            rank = low + c if own.dense else np.int64(-1)
            target = np.int64(pair.t_ids[rank]) if own.dense else np.int64(own.ids[own_row, c])
            if own.dense:
                if target >= own.probs.shape[1]:
                    continue
            elif target >= len(pair.t_rank):
                continue
            else:
                rank = np.int64(pair.t_rank[target])
                if target != token and (rank < low or rank >= high):
                    continue
            w = np.float64(own.probs[own_row, target if own.dense else c])
            if target != token:
                if pair.t_offsets[rank + 1] - pair.t_offsets[rank] <= depth:
                    continue
                if at_root:
                    if pair.source_first[target] != s:
                        continue
                elif not _continues(pair, s, o_low, o_high, rank, depth):
                    continue
            else:
                own_token = True
            found[count] = target
            weights[count] = w
            weight += w
            count += 1
        if own.dense and not own_token and 0 <= token < own.probs.shape[1]:
            found[count] = token
            weights[count] = np.float64(own.probs[own_row, token])
            weight += weights[count]
            count += 1
    if weight <= 0.0:
        _book(scratch, ledger, token, mass, APPROXIMATE)
        return
    for c in range(count):
        if weights[c] > 0.0:
            _book(scratch, ledger, found[c], mass * weights[c] / weight, APPROXIMATE)


@njit(cache=True, nogil=True)
def transfer(text, row_of, pending, ends, next_token, path, pair, rows, own, own_of, chaining):  # type: ignore[no-untyped-def]
    """Carry source distributions to target positions.

    Args:
        text: uint8, the bytes of the text.
        row_of: int64[m], the source distribution of each target position, -1 for none.
        pending, ends: int64[m], the bytes up to which that distribution, and the position, have read.
        next_token: int64[m], where in `path` the text's own source token after that distribution stands.
        path: int32[n], the text's source tokens; the distribution after the one of row r is row r + 1.
        pair: the vocabularies.
        rows: the source's distributions.
        own, own_of: the target's own, and int64[m] their rows, -1 for none.
        chaining: whether the text's own path may be followed.

    Returns:
        indptr int64[m + 1], ids int32, masses float32, ledger float64[m, 5].
    """
    m, width = len(row_of), len(pair.t_rank)
    room = max(len(pair.first), rows.probs.shape[1]) + 1
    scratch = Scratch(
        np.zeros(width), np.empty(width + 1, np.int64), np.zeros(2, np.int64),
        np.empty(room, np.int64), np.empty(room), np.empty((room, 4), np.int64),
    )  # fmt: skip
    found = np.empty(max(width, own.probs.shape[1]) + 1, np.int64)
    weights = np.empty(len(found))
    indptr = np.zeros(m + 1, np.int64)
    ids = np.empty(max(1024, m * 64), np.int32)
    masses = np.empty(len(ids), np.float32)
    ledger = np.zeros((m, 5))
    used = 0
    for i in range(m):
        book = ledger[i]
        scratch.count[:] = 0
        known = row_of[i] >= 0 and _begin(pair, rows, row_of[i], text, pending[i], ends[i], scratch, book)
        if known:
            at_root = pending[i] == ends[i]
            row, step = row_of[i], next_token[i]
            while True:
                gold = np.int64(path[step]) if chaining and step < len(path) and row + 1 < len(rows.probs) else -1
                chosen = -1
                for k in range(scratch.count[1]):
                    if scratch.entry[k] == gold and scratch.mass[k] > _NEGLIGIBLE:
                        chosen = k
                    else:
                        _share(pair, k, at_root, own, own_of[i], scratch, book, found, weights)
                if chosen < 0:
                    break
                mass = scratch.mass[chosen]
                low, high, depth, token = scratch.state[chosen]
                scratch.count[1] = 0
                row, step, at_root = row + 1, step + 1, False
                _follow(pair, rows, row, mass, low, high, depth, token, scratch, book)
        else:
            book[:] = 0.0
            book[LOST] = 1.0
        if used + scratch.count[0] > len(ids):
            size = max(2 * len(ids), used + scratch.count[0])
            grown_ids, grown_masses = np.empty(size, np.int32), np.empty(size, np.float32)
            grown_ids[:used], grown_masses[:used] = ids[:used], masses[:used]
            ids, masses = grown_ids, grown_masses
        dust = 0.0
        for k in range(scratch.count[0]):
            target = scratch.touched[k]
            mass = scratch.total[target]
            scratch.total[target] = 0.0
            if not known:
                continue
            if mass < _DUST:
                dust += mass
                continue
            ids[used] = target
            masses[used] = mass
            used += 1
        if dust > 0.0:  # so many hardly possible tokens only come from sharing out
            kind = APPROXIMATE if book[APPROXIMATE] >= dust else EXACT
            book[kind] -= dust
            book[TAIL] += dust
        indptr[i + 1] = used
    return indptr, ids[:used].copy(), masses[:used].copy(), ledger
