"""The nearest strings of a vocabulary under Levenshtein distance, exact, without looking at most of them.

For each query the distance k is raised from the least that is possible until something is found. A string within k
edits of a query must hold one of any k + 1 of its characters, so only the strings with one of its k + 1 rarest
characters are looked at: they stand in an index by character, sorted by length, and only lengths within k count. Of
these, most are refused by the 64 classes of characters that they hold, and the rest is measured (Myers' bit vectors).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fusion_core.kernels import (
    WORD,
    clear_pattern,
    distance_at_least,
    distance_of_long,
    distance_to_pattern,
    set_pattern,
)


@njit(cache=True, nogil=True)
def build_index(codes, offsets, alphabet, classes):  # type: ignore[no-untyped-def]
    """Postings by character: `starts` int64[alphabet + 1] into `targets`, `lengths` (int32) and `masks` (uint64).

    The postings of a character hold each string with it once, by length and then by index.
    """
    count = len(offsets) - 1
    longest = (offsets[1:] - offsets[:-1]).max()
    # Strings by length, stable: a counting sort.
    by_length = np.zeros(longest + 2, np.int64)
    for t in range(count):
        by_length[offsets[t + 1] - offsets[t] + 1] += 1
    for length in range(longest + 1):
        by_length[length + 1] += by_length[length]
    order = np.empty(count, np.int64)
    for t in range(count):
        width = offsets[t + 1] - offsets[t]
        order[by_length[width]] = t
        by_length[width] += 1
    starts = np.zeros(alphabet + 1, np.int64)
    seen = np.full(alphabet, -1, np.int64)
    for t in range(count):
        for c in range(offsets[t], offsets[t + 1]):
            if seen[codes[c]] != t:
                seen[codes[c]] = t
                starts[codes[c] + 1] += 1
    for c in range(alphabet):
        starts[c + 1] += starts[c]
    at = starts[:-1].copy()
    targets = np.empty(starts[alphabet], np.int32)
    lengths = np.empty(starts[alphabet], np.int32)
    masks = np.empty(starts[alphabet], np.uint64)
    seen[:] = -1
    for entry in order:
        for c in range(offsets[entry], offsets[entry + 1]):
            code = codes[c]
            if seen[code] != entry:
                seen[code] = entry
                targets[at[code]] = entry
                lengths[at[code]] = offsets[entry + 1] - offsets[entry]
                masks[at[code]] = classes[entry]
                at[code] += 1
    return starts, targets, lengths, masks


@njit(cache=True, nogil=True)
def _first_at_least(lengths, low, high, value):  # type: ignore[no-untyped-def]
    """The first place in ascending `lengths[low:high]` whose value is at least `value`."""
    while low < high:
        middle = (low + high) // 2
        if lengths[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def search(  # type: ignore[no-untyped-def]
    first, last, q_codes, q_offsets, q_classes, codes, offsets, starts, targets, lengths, masks,
    at_most_count, at_most_first, least, index, distance, ties, listed, collected,
):  # fmt: skip
    """Fill `index`, `distance` and `ties` for queries `first` to `last`.

    Args:
        q_codes, q_offsets, q_classes: the queries; a character that the vocabulary lacks has the code `alphabet`.
        codes, offsets: the vocabulary.
        starts, targets, lengths, masks: its index.
        at_most_count, at_most_first: int64[longest + 2], how many strings have at most that length, and the first.
        least: no query is nearer than this to anything.
        index, distance, ties: int32[queries], the lowest nearest string, its distance, and how many are as near.
        listed: int64[queries + 1], where each query's nearest strings go in `collected`; `collected` may be empty.
    """
    alphabet = len(starts) - 1
    pattern = np.zeros(alphabet + 1, np.uint64)
    counts = np.zeros(alphabet + 1, np.int64)
    stamps = np.full(len(offsets) - 1, -1, np.int64)
    longest = len(at_most_count) - 1
    widest = 0
    for q in range(first, last):
        widest = max(widest, q_offsets[q + 1] - q_offsets[q])
    distinct = np.empty(widest + 1, np.int64)
    scratch = np.empty(longest + 2, np.int64)
    for q in range(first, last):
        q0, q1 = q_offsets[q], q_offsets[q + 1]
        size = q1 - q0
        # Distinct characters, the rarest first; those that no string holds come before all others.
        kinds = 0
        for c in range(q0, q1):
            code = q_codes[c]
            if counts[code] == 0:
                place = kinds
                rarity = starts[code + 1] - starts[code] if code < alphabet else -1
                while place > 0:
                    other = distinct[place - 1]
                    if (starts[other + 1] - starts[other] if other < alphabet else -1) <= rarity:
                        break
                    distinct[place] = other
                    place -= 1
                distinct[place] = code
                kinds += 1
            counts[code] += 1
        foreign = counts[alphabet]
        short = 0 < size <= WORD
        if short:
            set_pattern(q_codes, q0, q1, pattern)
        out = listed[q]
        k = max(least, foreign)
        while True:
            best, found = -1, 0
            everything = k >= size
            if everything and at_most_count[min(k, longest)] > 0:
                # Nothing nearer was found, and no string of at most k characters is farther than k.
                best, found = at_most_first[min(k, longest)], at_most_count[min(k, longest)]
                if len(collected) > 0:
                    for t in range(len(offsets) - 1):
                        if offsets[t + 1] - offsets[t] <= k:
                            collected[out] = t
                            out += 1
            covered = 0
            for place in range(kinds):
                if not everything and covered > k:
                    break
                code = distinct[place]
                covered += counts[code]
                if code == alphabet:
                    continue
                shortest = k + 1 if everything else size - k
                begin = _first_at_least(lengths, starts[code], starts[code + 1], shortest)
                for p in range(begin, starts[code + 1]):
                    length = lengths[p]
                    if length > size + k:
                        break
                    if distance_at_least(size, length, q_classes[q], masks[p]) > k:
                        continue
                    t = targets[p]
                    if stamps[t] == q:
                        continue
                    stamps[t] = q
                    if short:
                        d = distance_to_pattern(size, pattern, codes, offsets[t], offsets[t + 1], k)
                    else:
                        d = distance_of_long(q_codes, q0, q1, codes, offsets[t], offsets[t + 1], scratch)
                    if d > k:
                        stamps[t] = -1  # it may be near enough for the next k
                        continue
                    found += 1
                    if best < 0 or t < best:
                        best = t
                    if len(collected) > 0:
                        collected[out] = t
                        out += 1
            if found > 0:
                break
            k += 1
        index[q], distance[q], ties[q] = best, k, found
        if short:
            clear_pattern(q_codes, q0, q1, pattern)
        for c in range(q0, q1):
            counts[q_codes[c]] = 0
