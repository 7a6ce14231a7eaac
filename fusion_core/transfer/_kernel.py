"""Small compiled loops over positions and kept entries."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def occurring(ids, size):  # type: ignore[no-untyped-def]
    """bool[size]: which numbers occur in `ids` [n, k], all below `size`; negative ones are passed over."""
    found = np.zeros(size, np.bool_)
    for i in range(ids.shape[0]):
        for c in range(ids.shape[1]):
            if ids[i, c] >= 0:
                found[ids[i, c]] = True
    return found


@njit(cache=True, nogil=True)
def first_of_each(mapped, size):  # type: ignore[no-untyped-def]
    """bool[n, k]: the entry is no -1 and the first of its value in its row; values lie below `size`."""
    keep = np.zeros(mapped.shape, np.bool_)
    stamp = np.full(size, -1, np.int64)
    for i in range(mapped.shape[0]):
        for c in range(mapped.shape[1]):
            value = mapped[i, c]
            if value >= 0 and stamp[value] != i:
                stamp[value] = i
                keep[i, c] = True
    return keep


@njit(cache=True, nogil=True)
def best_first(indptr, ids, probs, k, least):  # type: ignore[no-untyped-def]
    """At most k entries above `least` of each position, the most probable first, ties to the lowest id.

    Returns counts int64[m], ids int32, probs float32.
    """
    m = len(indptr) - 1
    counts = np.zeros(m, np.int64)
    out_ids, out_probs = np.empty(len(ids), np.int32), np.empty(len(ids), np.float32)
    bits = probs.view(np.uint32)  # of floats above 0 the order is that of their bits
    used = 0
    for i in range(m):
        keys = np.empty(indptr[i + 1] - indptr[i], np.uint64)
        held = 0
        for at in range(indptr[i], indptr[i + 1]):
            if probs[at] > least:
                keys[held] = (np.uint64(0xFFFFFFFF - bits[at]) << np.uint64(32)) | np.uint64(ids[at])
                held += 1
        keys = np.sort(keys[:held])
        counts[i] = min(k, held)
        for n in range(counts[i]):
            out_ids[used + n] = np.int32(keys[n] & np.uint64(0xFFFFFFFF))
        back = np.array(
            [np.uint32(np.uint64(0xFFFFFFFF) - (keys[n] >> np.uint64(32))) for n in range(counts[i])], np.uint32
        )
        out_probs[used : used + counts[i]] = back.view(np.float32)
        used += counts[i]
    return counts, out_ids[:used].copy(), out_probs[:used].copy()


@njit(cache=True, nogil=True)
def carry(rows, ids, probs, tails, dense, indptr, target_ids, weights, exact, size, first_wins):  # type: ignore[no-untyped-def]
    """Distributions through a sparse mapping (`indptr`, `target_ids`, `weights`), for the chosen rows (-1 for none).

    With `first_wins` a target keeps what its most probable entry gives (of equal ones that with the lowest id), and the
    rest is lost; entries come best first then, or `dense`, in the order of their ids.
    Returns indptr int64[m + 1], ids int32, masses float32, ledger float64[m, 5].
    """
    m, k = len(rows), probs.shape[1]
    total = np.zeros(size)
    best = np.zeros(size, probs.dtype)  # of dense entries the greatest probability that goes to each target
    touched = np.empty(size, np.int64)
    starts = np.zeros(m + 1, np.int64)
    out_ids = np.empty(max(1024, m * min(k, 64)), np.int32)
    masses = np.empty(len(out_ids), np.float32)
    ledger = np.zeros((m, 5))
    used = 0
    for i in range(m):
        row = rows[i]
        if row < 0:
            ledger[i, 4] = 1.0
            starts[i + 1] = used
            continue
        count = 0
        if first_wins and dense:
            for c in range(min(k, len(exact))):
                for at in range(indptr[c], indptr[c + 1]):
                    best[target_ids[at]] = max(best[target_ids[at]], probs[row, c])
        for c in range(k):
            p = np.float64(probs[row, c])
            s = np.int64(c) if dense else np.int64(ids[row, c])
            if p <= 0.0:
                continue
            if s >= len(exact):
                ledger[i, 4] += p
                continue
            given = 0.0
            for at in range(indptr[s], indptr[s + 1]):
                target = target_ids[at]
                mass = p * weights[at]
                if first_wins and dense and probs[row, c] < best[target]:
                    continue
                if total[target] == 0.0:
                    touched[count] = target
                    count += 1
                elif first_wins:
                    continue
                total[target] += mass
                given += mass
            ledger[i, 0 if exact[s] else 2] += given
            ledger[i, 4] += max(0.0, p - given)
        if first_wins and dense:
            for c in range(count):
                best[touched[c]] = 0.0
        ledger[i, 3] += tails[row]
        if used + count > len(out_ids):
            grown_ids = np.empty(max(2 * len(out_ids), used + count), np.int32)
            grown_masses = np.empty(len(grown_ids), np.float32)
            grown_ids[:used], grown_masses[:used] = out_ids[:used], masses[:used]
            out_ids, masses = grown_ids, grown_masses
        for c in range(count):
            target = touched[c]
            out_ids[used] = target
            masses[used] = total[target]
            total[target] = 0.0
            used += 1
        starts[i + 1] = used
    return starts, out_ids[:used].copy(), masses[:used].copy(), ledger
