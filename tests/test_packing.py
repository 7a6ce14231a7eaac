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


@given(
    st.lists(st.floats(0, 40) | st.floats(0, 1e-4) | st.sampled_from([0.0, 4.16, 4.16, 7e4]), min_size=1, max_size=30)
)
def test_of_entries_between_two_values_as_many_go_to_either_as_keep_the_sum(magnitudes: list[float]) -> None:
    """The same by search among all float16 values, and among all ways to share such entries out."""
    exact = np.sort(np.array(magnitudes, dtype=np.float32)).astype(np.float64)
    found = -rounded(-exact, np.array([0, len(exact)])).astype(np.float64)
    values = np.append(np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64), np.inf)
    cells = np.searchsorted(values, exact, side="right") - 1
    off = 0.0
    for cell in np.unique(cells).tolist():
        inside = np.flatnonzero(cells == cell)
        if not np.isfinite(values[cell + 1]):
            assert np.isinf(found[inside[exact[inside] > values[cell]]]).all()
            break
        off += np.exp(-exact[inside]).sum()
        ways = [
            d * np.exp(-values[cell]) + (len(inside) - d) * np.exp(-values[cell + 1]) for d in range(len(inside) + 1)
        ]
        down = int((found[inside] == values[cell]).sum())
        assert found[inside].tolist() == [values[cell]] * down + [values[cell + 1]] * (len(inside) - down)
        assert abs(off - ways[down]) <= min(abs(off - way) for way in ways) + 1e-12
        off -= ways[down]


@pytest.mark.parametrize(("spread", "most"), [(4.0, 2e-5), (0.01, 4e-5), (0.0, 4e-5)], ids=["sharp", "flat", "equal"])
def test_rows_keep_their_tails(spread: float, most: float) -> None:
    """Of 64 entries rounded each for itself, rows are off by some 5e-5 in all."""
    logits = np.random.default_rng(0).normal(0, 1, (2000, 4000)) * spread
    top = TopK.from_logits(logits + np.linspace(0, 0.5, 2000)[:, None] * (np.arange(4000) < 64), 64)
    tails = 1.0 - np.exp(top.logprobs.astype(np.float64)).sum(axis=1)
    back = 1.0 - np.exp(unpack(*pack(top), 64, 4000).logprobs.astype(np.float64)).sum(axis=1)
    apart = np.abs(np.exp(top.logprobs.astype(np.float16).astype(np.float64)).sum(axis=1) + tails - 1.0)
    assert np.abs(back - tails).max() < most
    assert spread < 1 or apart.mean() > 5e-5


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
