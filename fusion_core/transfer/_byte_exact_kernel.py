"""The loops of `byte-exact`: from a source distribution at a byte to masses on target tokens.

A *state* is what the source's tokens spell since the target position: the target entries that start so (a range of the
sorted ones), how many bytes that are, the target token of them if the text ended there, and the one of a byte less.
An entry is *open* while some target token goes on from its state: then what the source would say next decides which
token it becomes. So it is where a run of blanks may yet lose its last space to a word behind it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fusion_core.transfer._sorted_kernel import narrow, walk

EXACT, CHAINED, APPROXIMATE, TAIL, LOST = range(5)

# Mass below which an open entry is not followed along the text, nor shared out.
_NEGLIGIBLE = 1e-6
# Mass below which an entry is not looked at, and goes to the tail.
_SPECK = 1e-9
# Entries of a result below this go to its tail.
DUST = 1e-10


class Pair(NamedTuple):
    """Two vocabularies, from a `TransferIndex`.

    `s_*` are source entries by id, `o_*` the same in the order of their bytes, `t_*` target entries in the order of
    their bytes with their ids, and by target id their rank. `spelled[spelled_from[s]:spelled_from[s + 1]]` is source
    entry s in target tokens. With `words` the target drops blanks: `read`, `reads` and `closes` of its `Words`. The
    rest as in the index.
    """

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
    source_cut: NDArray[np.int32]
    spelled: NDArray[np.int32]
    spelled_from: NDArray[np.int64]
    lookahead: bool
    open_runs: bool
    words: bool
    read: NDArray[np.uint8]
    reads: NDArray[np.int64]
    closes: NDArray[np.bool_]
    also: NDArray[np.int32]


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
    counts: NDArray[np.int64]  # [0]: touched ids, [1]: open entries
    entry: NDArray[np.int64]
    mass: NDArray[np.float64]
    state: NDArray[np.int64]  # [open entry, (low, high, depth, token, token before)]


@njit(cache=True, nogil=True)
def new_scratch(target_size, source_size):  # type: ignore[no-untyped-def]
    """An empty scratch for vocabularies of these sizes."""
    room = source_size + 1
    return Scratch(
        np.zeros(target_size), np.empty(target_size + 1, np.int64), np.zeros(2, np.int64),
        np.empty(room, np.int64), np.empty(room), np.empty((room, 5), np.int64),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _book(scratch, ledger, target, mass, kind):  # type: ignore[no-untyped-def]
    """Give mass to a target id, or to nothing (-1), and enter it in the ledger."""
    if target < 0:
        ledger[LOST] += mass
        return
    if scratch.total[target] == 0.0:
        scratch.touched[scratch.counts[0]] = target
        scratch.counts[0] += 1
    scratch.total[target] += mass
    ledger[kind] += mass


@njit(cache=True, nogil=True)
def _book_own(scratch, ledger, target, truth, mass):  # type: ignore[no-untyped-def]
    """Book a closed entry; one that the text itself has (`truth` is no -1) on the token that it is cut into there."""
    if truth < 0 or truth == target:
        _book(scratch, ledger, target, mass, EXACT)
    else:
        _book(scratch, ledger, truth, mass, CHAINED)


@njit(cache=True, nogil=True, inline="always")
def _is_blank(byte):  # type: ignore[no-untyped-def]
    return byte == 32 or 9 <= byte <= 13


@njit(cache=True, nogil=True)
def _is_run(pair, low, depth):  # type: ignore[no-untyped-def]
    """Whether the first `depth` bytes (at least two) of target string `low` are blanks, a space last."""
    begin = pair.t_offsets[low]
    if depth < 2 or pair.t_buffer[begin + depth - 1] != 32:
        return False
    k = 0
    while k < depth and _is_blank(pair.t_buffer[begin + k]):
        k += 1
    return k == depth


@njit(cache=True, nogil=True)
def _resolve(pair, s, skip, low, high, depth, token, before):  # type: ignore[no-untyped-def]
    """The state after source entry `s`, less its first `skip` bytes: low, high, depth, token, the token of a byte less,
    and whether it is open."""
    data, start, end = pair.s_buffer, pair.s_offsets[s] + skip, pair.s_offsets[s + 1]
    if pair.words:
        data, start, end = pair.read, pair.reads[start], pair.reads[end]
    for k in range(start, end):
        byte = data[k]
        if pair.words and _is_blank(byte):  # however many and whichever, they are one space
            if depth == 1 and pair.t_buffer[pair.t_offsets[low]] == 32:
                continue
            byte = np.uint8(32)
        if pair.lookahead and not _is_blank(byte) and depth > 1 and _is_run(pair, low, depth):
            return low, high, depth, before, before, False
        a, b = narrow(pair.t_buffer, pair.t_offsets, low, high, depth, byte)
        if a >= b:
            return low, high, depth, token, before, False
        low, high = a, b
        depth += 1
        before = token
        if pair.t_offsets[low + 1] - pair.t_offsets[low] == depth:
            token = np.int64(pair.t_ids[low])
    goes_on = high - low > 1 or pair.t_offsets[low + 1] - pair.t_offsets[low] > depth
    return low, high, depth, token, before, goes_on or (pair.open_runs and _is_run(pair, low, depth))


@njit(cache=True, nogil=True)
def wait(scratch, s, mass, low, high, depth, token, before):  # type: ignore[no-untyped-def]
    """Put an open entry aside."""
    k = scratch.counts[1]
    scratch.entry[k] = s
    scratch.mass[k] = mass
    state = scratch.state[k]
    state[0], state[1], state[2], state[3], state[4] = low, high, depth, token, before
    scratch.counts[1] += 1


@njit(cache=True, nogil=True)
def _cut_at(pair, s, skip):  # type: ignore[no-untyped-def]
    """How the target's tokenizer cuts source entry `s`, taken whole, after its first `skip` bytes: the token that
    follows (merges do not always take the longest), -1 if its last token spans that place or nothing is known, or -2
    if an earlier one does. The last token may yet change with what follows the entry, an earlier one hardly."""
    done = 0
    last = pair.spelled_from[s + 1] - 1
    for k in range(pair.spelled_from[s], last + 1):
        t = np.int64(pair.spelled[k])
        if done == skip:
            return t
        rank = pair.t_rank[t]
        if rank < 0:
            return np.int64(-1)
        done += pair.t_offsets[rank + 1] - pair.t_offsets[rank]
        if done > skip:
            return np.int64(-1 if k == last else -2)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def begin(pair, rows, row, text, start, end, cut_there, read, gold, truth, scratch, ledger):  # type: ignore[no-untyped-def]
    """The first distribution: whole entries if nothing is pending, else those that start with `text[start:end]`.

    With `cut_there` the target's tokens begin anew at `start`, so that an entry which they would cut otherwise than the
    text has been cut is none of those. The text's own entry `gold` always is, and goes to the text's own token `truth`.
    `read` is the target token that ends at `end`.
    Returns whether anything is known.
    """
    skip = end - start
    nothing = np.int64(-1)
    size = len(pair.first)
    fresh = pair.words and pair.closes[read]  # the next token begins a word, with a blank or without
    r_low, r_high, r_depth = np.int64(0), np.int64(len(pair.t_ids)), np.int64(0)
    if fresh:
        r_low, r_high = narrow(pair.t_buffer, pair.t_offsets, r_low, r_high, r_depth, np.uint8(32))
        r_depth = np.int64(1)
    kept = 0.0
    for c in range(rows.probs.shape[1]):
        p = np.float64(rows.probs[row, c])
        if p <= 0.0:
            continue
        if skip == 0 and p < _SPECK:
            ledger[TAIL] += p
            continue
        s = np.int64(c) if rows.dense else np.int64(rows.ids[row, c])
        if skip == 0:
            if s >= size:  # a padding row of the model
                ledger[LOST] += p
            else:
                token, is_open = np.int64(pair.first[s]), pair.opens[s]
                if is_open or (pair.words and pair.s_spells[s]):
                    low, high, depth, walked, before, goes_on = _resolve(
                        pair, s, 0, r_low, r_high, r_depth, nothing, nothing
                    )
                    if pair.words:
                        token, is_open = walked, goes_on and (fresh or is_open)
                if is_open:
                    wait(scratch, s, p, low, high, depth, token, before)
                else:
                    _book_own(scratch, ledger, token, truth if s == gold else nothing, p)
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
        following = _cut_at(pair, s, skip) if cut_there else np.int64(-1)
        if following == -2 and s != gold:
            continue
        kept += p
        low, high, depth, token, before, is_open = _resolve(pair, s, skip, r_low, r_high, r_depth, nothing, nothing)
        token = following if following >= 0 else token
        if is_open:
            wait(scratch, s, p, low, high, depth, token, before)
        else:
            _book_own(scratch, ledger, token, truth if s == gold else np.int64(-1), p)
    tail = rows.tails[row]
    if skip == 0:
        ledger[TAIL] += tail
        return True
    # Told that the text goes on with these bytes, the model keeps what starts so; of its tail, as large a share as of
    # its vocabulary.
    low, high, at, _ = walk(pair.o_buffer, pair.o_offsets, 0, len(pair.o_offsets) - 1, 0, text, start, end)
    tail *= (high - low) / size if at == end else 0.0
    if kept <= 0.0:
        return False
    scale = 1.0 / (kept + tail)
    for k in range(scratch.counts[0]):
        scratch.total[scratch.touched[k]] *= scale
    for k in range(scratch.counts[1]):
        scratch.mass[k] *= scale
    for k in range(5):
        ledger[k] *= scale
    ledger[TAIL] += tail * scale
    return True


@njit(cache=True, nogil=True)
def follow(pair, rows, row, mass, low, high, depth, token, before, gold, truth, scratch, ledger):  # type: ignore[no-untyped-def]
    """The next distribution along the text's own path: `mass` is shared out by it, from the state that was reached.

    `gold` is the source token that comes next there (-1 if unknown), `truth` the target token that the text has.
    """
    seen = 0.0
    for c in range(rows.probs.shape[1]):
        if rows.probs[row, c] < _SPECK:
            continue
        p = np.float64(rows.probs[row, c]) * mass
        seen += p
        s = np.int64(c) if rows.dense else np.int64(rows.ids[row, c])
        if s >= len(pair.first) or not pair.s_spells[s]:  # the text ends here
            _book(scratch, ledger, token, p, CHAINED)
            continue
        low2, high2, depth2, token2, before2, is_open = _resolve(pair, s, 0, low, high, depth, token, before)
        if is_open:
            wait(scratch, s, p, low2, high2, depth2, token2, before2)
        else:
            _book(scratch, ledger, truth if s == gold else token2, p, CHAINED)
    # What is not among the kept entries there still began with this token.
    if mass > seen:
        _book(scratch, ledger, token, mass - seen, APPROXIMATE)


@njit(cache=True, nogil=True)
def _continues(pair, s, low, high, t, depth):  # type: ignore[no-untyped-def]
    """Whether the source, spelling target entry `t` (a rank) from the state after `s`, would have taken `s`: no longer
    source entry (they are `low` to `high` of the sorted) fits."""
    length = pair.s_offsets[s + 1] - pair.s_offsets[s]
    begin, end = pair.t_offsets[t] + depth, pair.t_offsets[t + 1]
    if end - begin == 1 and pair.source_cut[pair.t_ids[t]] >= 0:  # the space that the source leaves to a word behind
        return True
    _, _, _, last = walk(pair.o_buffer, pair.o_offsets, low, high, length, pair.t_buffer, begin, end)
    return last < 0


@njit(cache=True, nogil=True)
def share(pair, k, at_root, own, own_row, scratch, ledger, found, weights):  # type: ignore[no-untyped-def]
    """An open entry's mass: shared among the target tokens that it may become, by the target's own distribution; or,
    where that says nothing, to the token that it is now."""
    s, mass = scratch.entry[k], scratch.mass[k]
    low, high, depth, token, before = scratch.state[k]
    cut = before if pair.open_runs and before >= 0 and _is_run(pair, low, depth) else np.int64(-1)
    at_root = at_root and not pair.words
    count, weight = 0, 0.0
    if own_row >= 0 and mass > _NEGLIGIBLE:
        o_low, o_high = np.int64(0), np.int64(0)
        if not at_root:
            o_low, o_high, _, _ = walk(
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
                if rank != pair.t_rank[target] and low <= pair.t_rank[target] < high:  # written both ways, and counted
                    continue
            elif target >= len(pair.t_rank):
                continue
            else:
                rank = np.int64(pair.t_rank[target])
                if pair.words and (rank < low or rank >= high):
                    rank = np.int64(pair.also[target])
                if target != token and target != cut and (rank < low or rank >= high):
                    continue
            w = np.float64(own.probs[own_row, target if own.dense else c])
            if target != token and target != cut:
                if pair.t_offsets[rank + 1] - pair.t_offsets[rank] <= depth:
                    continue
                if at_root:
                    if pair.source_first[target] != s and pair.source_cut[target] != s:
                        continue
                elif not _continues(pair, s, o_low, o_high, rank, depth):
                    continue
            elif target == token:
                own_token = True
            found[count] = target
            weights[count] = w
            weight += w
            count += 1
        for other in (token, cut):  # of a dense row only what lies in the range has been seen
            if own.dense and 0 <= other < own.probs.shape[1] and not (other == token and own_token):
                found[count] = other
                weights[count] = np.float64(own.probs[own_row, other])
                weight += weights[count]
                count += 1
    if weight <= 0.0:
        _book(scratch, ledger, token, mass, APPROXIMATE)
        return
    for c in range(count):
        if weights[c] > 0.0:
            _book(scratch, ledger, found[c], mass * weights[c] / weight, APPROXIMATE)


@njit(cache=True, nogil=True)
def transfer(text, row_of, pending, ends, cuts, read, next_token, path, truths, pair, rows, own, own_of, chaining):  # type: ignore[no-untyped-def]
    """Carry source distributions to target positions.

    Args:
        text: uint8, the bytes of the text.
        row_of: int64[m], the source distribution of each target position, -1 for none.
        pending, ends: int64[m], the bytes up to which that distribution, and the position, have read.
        cuts: bool[m], a target token begins at `pending`.
        read: int32[m], the target token that ends there.
        next_token: int64[m], where in `path` the text's own source token after that distribution stands.
        path: int32[n], the text's source tokens; the distribution after the one of row r is row r + 1.
        truths: int32[m], the target token that the text has next.
        pair: the vocabularies.
        rows: the source's distributions.
        own, own_of: the target's own, and int64[m] their rows, -1 for none.
        chaining: whether the text's own path may be followed.

    Returns:
        indptr int64[m + 1], ids int32, masses float32, ledger float64[m, 5].
    """
    m, width = len(row_of), len(pair.t_rank)
    scratch = new_scratch(width, max(len(pair.first), rows.probs.shape[1]))
    found = np.empty(max(len(pair.t_ids), own.probs.shape[1]) + 3, np.int64)
    weights = np.empty(len(found))
    indptr = np.zeros(m + 1, np.int64)
    ids = np.empty(max(1024, m * 64), np.int32)
    masses = np.empty(len(ids), np.float32)
    ledger = np.zeros((m, 5))
    used = 0
    for i in range(m):
        book = ledger[i]
        scratch.counts[:] = 0
        gold = np.int64(path[next_token[i]]) if chaining and next_token[i] < len(path) else np.int64(-1)
        truth = np.int64(truths[i])
        known = row_of[i] >= 0 and begin(
            pair, rows, row_of[i], text, pending[i], ends[i], cuts[i], read[i], gold, truth, scratch, book
        )
        if known:
            at_root = pending[i] == ends[i]
            row, step = row_of[i], next_token[i]
            while True:
                gold = np.int64(-1)
                if chaining and step < len(path) and row + 1 < len(rows.probs):
                    gold = np.int64(path[step])
                chosen = -1
                for k in range(scratch.counts[1]):
                    if scratch.entry[k] == gold:
                        chosen = k
                    else:
                        share(pair, k, at_root, own, own_of[i], scratch, book, found, weights)
                if chosen < 0:
                    break
                mass = scratch.mass[chosen]
                low, high, depth, token, before = scratch.state[chosen]
                scratch.counts[1] = 0
                row, step, at_root = row + 1, step + 1, False
                gold = np.int64(path[step]) if step < len(path) else np.int64(-1)
                follow(pair, rows, row, mass, low, high, depth, token, before, gold, truth, scratch, book)
        else:
            book[:] = 0.0
            book[LOST] = 1.0
        if used + scratch.counts[0] > len(ids):
            size = max(2 * len(ids), used + scratch.counts[0])
            grown_ids, grown_masses = np.empty(size, np.int32), np.empty(size, np.float32)
            grown_ids[:used], grown_masses[:used] = ids[:used], masses[:used]
            ids, masses = grown_ids, grown_masses
        dust = 0.0
        for k in range(scratch.counts[0]):
            target = scratch.touched[k]
            mass = scratch.total[target]
            scratch.total[target] = 0.0
            if not known:
                continue
            if mass < DUST:
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
