"""Packed distributions come back as their float16 values, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_core import DistributionError
from fusion_core.distributions import TopK
from fusion_core.packing import pack, rounded, unpack


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 9), st.floats(0.1, 30))
def test_what_comes_back_is_float16_of_what_went_in(seed: int, rows: int, k: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, (rows, 12))
    top = TopK.from_logits(logits, k)
    back = unpack(*pack(top), k, 12)
    assert back.ids is not None and top.ids is not None
    order = np.argsort(back.ids, axis=1), np.argsort(top.ids, axis=1)
    assert (np.take_along_axis(back.ids, order[0], 1) == np.take_along_axis(top.ids, order[1], 1)).all()
    back_logs, logs = (np.take_along_axis(t.logprobs, o, 1) for t, o in zip((back, top), order, strict=True))
    assert np.allclose(back_logs, logs, rtol=1.1e-3, atol=3e-4)
    assert (back.probs.sum(axis=1, dtype=np.float64) <= 1 + 1e-6).all()


@given(st.lists(st.floats(0, 40) | st.floats(0, 1e-4), min_size=1, max_size=30))
def test_each_entry_goes_to_the_neighbour_that_keeps_the_sum(magnitudes: list[float]) -> None:
    """The same by exact search among all float16 values."""
    exact = np.sort(np.array(magnitudes, dtype=np.float32)).astype(np.float64)
    found = -rounded(-exact, np.array([0, len(exact)])).astype(np.float64)
    values = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    off, last = 0.0, 0.0
    for got, one in zip(found, exact, strict=True):
        at = int(np.searchsorted(values, one, side="right")) - 1
        below, above = values[at], values[at + 1]
        assert got in (below, above) and got >= last
        off, last = off + np.exp(-one), got
        left, other = off - np.exp(-got), off - np.exp(-(above if got == below else below))
        forced = below < last and got == above
        assert abs(left) <= abs(other) + 1e-6 or forced
        off = left


def test_rows_keep_their_tails() -> None:
    """Of 64 entries rounded each for itself, tails are off by more than 1 % in one row of ten."""
    logits = np.random.default_rng(0).normal(0, 4, (2000, 4000))
    top = TopK.from_logits(logits, 64)
    tails = 1.0 - np.exp(top.logprobs.astype(np.float64)).sum(axis=1)
    back = 1.0 - np.exp(unpack(*pack(top), 64, 4000).logprobs.astype(np.float64)).sum(axis=1)
    apart = np.abs(np.exp(top.logprobs.astype(np.float16).astype(np.float64)).sum(axis=1) + tails - 1.0)
    assert np.abs(back - tails).max() < 2e-5 < 5e-5 < apart.mean()


def test_what_float16_cannot_hold_is_zero_probability() -> None:
    top = TopK(np.array([[3, 1]], np.int32), np.array([[0.0, -np.inf]], np.float32), 4)
    back = unpack(*pack(top), 2, 4)
    assert back.logprobs.tolist() == [[0.0, -np.inf]] and back.ids is not None and back.ids.tolist() == [[3, 1]]


def test_the_full_softmax_is_refused() -> None:
    with pytest.raises(DistributionError, match="top_k"):
        pack(TopK.from_logits(np.zeros((1, 4)), 0))


@pytest.mark.parametrize(
    ("ids", "steps", "says"),
    [
        ([0, 1, 2], [0, 1, 2], "no rows of 2"),
        ([0, 9], [15000, 1], "out of range"),
        ([0, -1], [15000, 1], "out of range"),
        ([0, 1], [40000, 1], "out of range"),
        ([0, 1], [0, 1], "more than 1"),
    ],
)
def test_damage_is_noticed(ids: list[int], steps: list[int], says: str) -> None:
    with pytest.raises(DistributionError, match=says):
        unpack(np.array(ids), np.array(steps), 2, 9)
