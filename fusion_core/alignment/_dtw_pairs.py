"""What a pair of tokens costs: its code, `2 * distance + contained`, computed once for each pair of distinct tokens."""

from __future__ import annotations

from numba import njit

from fusion_core.kernels import distance_at_least, distance_of_long, distance_to_pattern

UNKNOWN = -1


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
def pair_code(codes, offsets, u, v, containment, masks, ready, scratch):  # type: ignore[no-untyped-def]
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
def known_pairs(u, pairs, owners):  # type: ignore[no-untyped-def]
    """What is known of the pairs of token u with each other one: a code, less a lower bound of one, or `UNKNOWN`."""
    slot = u % pairs.shape[0]
    if owners[slot] != u:
        owners[slot] = u
        pairs[slot, :] = UNKNOWN
        pairs[slot, u] = 0
    return pairs[slot]


@njit(cache=True, nogil=True, inline="always")
def without_distance(a_length, b_length, a_mask, b_mask, containment):  # type: ignore[no-untyped-def]
    """What lengths and classes of characters say of a pair of distinct tokens, to be kept in `known_pairs`."""
    longer = max(a_length, b_length)
    if min(a_length, b_length) == 0:
        return 2 * longer + containment
    gap = distance_at_least(a_length, b_length, a_mask, b_mask)  # distinct strings are one edit apart at least
    # Not one character in common: every one of the longer string is an edit.
    return 2 * longer if a_mask & b_mask == 0 else -2 * max(1, gap) - containment
