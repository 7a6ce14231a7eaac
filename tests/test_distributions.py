"""Top-k distributions keep true probabilities, and know what they do not keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_core import DistributionError
from fusion_core.distributions import TopK, load_distributions, save_distributions

LOGITS = np.random.default_rng(0).normal(0, 3, (5, 12)).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@given(k=st.integers(0, 20), size=st.integers(1, 14), seed=st.integers(0, 99))
def test_kept_and_tail_add_up_and_nothing_is_renormalised(k: int, size: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 5, (3, 12)).astype(np.float32)
    top = TopK.from_logits(logits, k, size=size)
    exact = _softmax(logits)
    ids = np.broadcast_to(np.arange(top.k), (3, top.k)) if top.ids is None else top.ids
    assert ids.max() < min(size, 12) and top.k == min(k or 99, size, 12)
    assert np.take_along_axis(exact, ids, axis=1) == pytest.approx(top.probs, abs=1e-6)
    assert top.tail == pytest.approx(1 - top.probs.sum(axis=1), abs=1e-6)
    assert np.exp(top.to_dense()).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_torch_and_numpy_agree() -> None:
    torch = pytest.importorskip("torch")
    for k in (0, 4):
        ours, theirs = TopK.from_logits(LOGITS, k), TopK.from_logits(torch.from_numpy(LOGITS), k)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
        assert k == 0 or np.array_equal(ours.ids, theirs.ids)


def test_equal_logits_keep_the_lowest_ids() -> None:
    assert TopK.from_logits(np.zeros((1, 5), np.float32), 2).ids.tolist() == [[0, 1]]


def test_truncating_moves_mass_to_the_tail() -> None:
    full = TopK.from_logits(LOGITS, 0)
    cut = full.truncate(3)
    direct = TopK.from_logits(LOGITS, 3)
    assert np.array_equal(cut.ids, direct.ids) and cut.tail == pytest.approx(direct.tail, abs=1e-6)
    assert TopK.from_dense(full.logprobs, 3).ids.tolist() == cut.ids.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_without_probabilities_is_named(bad: float) -> None:
    logits = LOGITS.copy()
    logits[2, 3] = bad
    with pytest.raises(DistributionError, match="position 2"):
        TopK.from_logits(logits, 2)
    with pytest.raises(DistributionError, match="position 0"):
        TopK.from_logits(np.full((1, 4), -np.inf, np.float32), 2)


def test_shapes_and_sums_are_checked() -> None:
    with pytest.raises(DistributionError, match="shape"):
        TopK.from_logits(np.zeros(3, np.float32), 2)
    with pytest.raises(DistributionError, match="0 \\(all\\) or more"):
        TopK.from_logits(LOGITS, -1)
    with pytest.raises(DistributionError, match="sum to 1"):
        TopK.from_dense(np.zeros((1, 3)))


@pytest.mark.parametrize("k", [0, 3])
def test_saved_and_loaded_with_identity(tmp_path: Path, k: int) -> None:
    top = TopK.from_logits(LOGITS, k)
    path = tmp_path / "d.parquet"
    save_distributions(top, path, {"model": "m", "tokenizer": "t", "text": "x"})
    found, identity = load_distributions(path, {"tokenizer": "t"})
    assert np.array_equal(found.logprobs, top.logprobs) and found.width == 12 and identity["model"] == "m"
    assert (found.ids is None) == (k == 0) and (k == 0 or np.array_equal(found.ids, top.ids))
    with pytest.raises(DistributionError, match="belongs to the tokenizer 't', not to 'other'"):
        load_distributions(path, {"tokenizer": "other"})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DistributionError, match="no readable distributions"):
        load_distributions(path)
