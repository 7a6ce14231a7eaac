"""Numbers at the edge: right within a stated bound, or refused.

Bounds: probabilities from float32 logits differ from a float64 softmax by at most 1e-6, whatever the logits' size; the
loss in float32 from float64 by at most 2e-6 times the largest logit; in bfloat16 it is that of the rounded logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion_core import DistributionError, Tokenizer, TransferError
from fusion_core.distributions import TopK
from fusion_core.fusion import RULES, fuse
from fusion_core.packing import pack, unpack
from fusion_core.transfer import METHODS, Predictions, build_index, transfer
from tests.support import tiny
from tests.support.predictions import random_predictions

torch = pytest.importorskip("torch")
from fusion_core.loss import DIVERGENCES, SparseTarget, fusion_loss  # noqa: E402


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 3e38])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_large_logits_lose_nothing(size: float, kind: str) -> None:
    """Beside logits of a million the logarithm of a sum would vanish in float32's rounding."""
    logits = (np.array([[1.0, 1.0, 1.0, -1.0, 0.5]]) * size).astype(np.float32)
    given = torch.from_numpy(logits) if kind == "torch" else logits
    for k in (0, 3):
        top = TopK.from_logits(given, k)
        ids = np.arange(5)[None, :] if top.ids is None else top.ids
        assert np.allclose(top.probs, np.take_along_axis(_softmax(logits), ids.astype(int), axis=1), atol=1e-6)


@pytest.mark.parametrize("size", [5, 1000])
def test_all_equal_logits_are_an_even_distribution(size: int) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        top = TopK.from_logits(np.full((2, size), 7.0, dtype), 0)
        assert np.allclose(top.probs, 1 / size, rtol=1e-6) and top.best().tolist() == [0, 0]


def test_a_k_beyond_the_vocabulary_keeps_all_of_it() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (3, 5)).astype(np.float32)
    for given in (logits, torch.from_numpy(logits)):
        top = TopK.from_logits(given, 64)
        assert top.ids is None and top.k == 5 and np.allclose(top.tail, 0.0, atol=1e-6)
        assert np.allclose(top.probs, _softmax(logits), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_and_minus_infinity_is_probability_zero(bad: float) -> None:
    logits = np.zeros((2, 4), np.float32)
    logits[0, 1] = -np.inf
    assert TopK.from_logits(logits, 0).probs[0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    logits[1, 2] = bad
    for given in (logits, torch.from_numpy(logits)):
        with pytest.raises(DistributionError, match="position 1"):
            TopK.from_logits(given, 2)


def test_probabilities_below_float16_are_kept_as_zero_and_counted_in_the_tail() -> None:
    logits = np.array([[0.0, -9.0, -30.0, -90_000.0]], np.float32)
    top = unpack(*pack(TopK(np.arange(4, dtype=np.int32)[None, :], TopK.from_logits(logits, 0).logprobs, 4)), 4, 4)
    assert top.ids is not None and top.ids[0].tolist() == [0, 1, 2, 3]
    assert top.probs[0, 3] == 0.0 and top.probs[0, 2] == pytest.approx(np.exp(-30.0), rel=0.02)
    assert top.probs.sum() + top.tail[0] == pytest.approx(1.0, abs=1e-6)


def test_positions_with_nothing_covered_stay_uncovered_through_everything(tmp_path: Path) -> None:
    from fusion_core import load_tokenizer

    for name in ("wordpiece", "byte-bpe"):
        (tmp_path / name).mkdir()
    a, b = (load_tokenizer(tiny.train(kind, tmp_path / kind)) for kind in ("wordpiece", "byte-bpe"))
    text = "서울서울서울"  # one unknown token there, nine bytes here
    theirs, own = (random_predictions(side, text, 1) for side in (a, b))
    carried = transfer(theirs, own.encoding, build_index(a, b), method="boundary-hard", own=own)
    assert not carried.covered[:-1].any() and (carried.best()[:-1] == -1).all()
    assert np.allclose(carried.ledger.sum(axis=1), 1.0, atol=1e-5)
    for rule in RULES:
        fused = fuse([carried, carried], rule, [1.0, 2.0])
        assert (fused.covered == carried.covered).all() and np.allclose(fused.ledger.sum(axis=1), 1.0, atol=1e-5)
    target = SparseTarget.from_transfer(carried, 4)
    logits = torch.randn(len(carried), b.size, generator=torch.Generator().manual_seed(0))
    gold = torch.from_numpy(own.encoding.ids[1:].astype(np.int64))
    found = fusion_loss(logits, gold, target, lam=0.5)
    assert found.compared == int(carried.covered.sum()) and torch.isfinite(found.total)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_vocabulary_of_five(tmp_path: Path, method: str) -> None:
    import json

    from fusion_core import load_tokenizer

    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "<s>": 4}, "merges": [["a", "b"]]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}), encoding="utf-8")
    five = load_tokenizer(path)
    theirs, own = (random_predictions(five, "abcab", seed, top_k=64) for seed in (1, 2))
    carried = transfer(theirs, own.encoding, build_index(five, five), method=method, own=own)
    assert np.allclose(carried.ledger.sum(axis=1), 1.0, atol=1e-5)
    if method == "byte-exact-open":  # one tokenizer on both sides: the source's own distribution
        assert np.allclose([carried.to_dense(i).sum() for i in range(len(carried))], 1.0, atol=1e-5)
        assert carried.best().tolist() == theirs.top.rows(slice(1, -1)).best().tolist()


def _loss_inputs(scale: float) -> tuple[torch.Tensor, torch.Tensor, SparseTarget]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 50, generator=g, dtype=torch.float64) * scale
    ids = torch.stack([torch.randperm(50, generator=g)[:5] for _ in range(8)])
    probs = torch.rand(8, 6, generator=g, dtype=torch.float64)
    probs = (probs / probs.sum(1, keepdim=True))[:, :5]
    return logits, torch.randint(50, (8,), generator=g), SparseTarget(ids, probs, torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_loss_in_float32_is_that_in_float64(divergence: str, scale: float) -> None:
    logits, gold, target = _loss_inputs(scale)
    exact = fusion_loss(logits, gold, target, lam=0.5, divergence=divergence)
    single = fusion_loss(logits.float(), gold, target, lam=0.5, divergence=divergence)
    # What float32 cannot tell from 0 counts as its smallest step in logarithms: up to 16 nats instead of 36.
    bound = 2e-6 * max(1.0, float(logits.abs().max()))
    q = torch.softmax(logits, 1).gather(1, target.ids)
    if bool((torch.cat([q, 1 - q.sum(1, keepdim=True)], 1) > 1e-6).all()):
        assert float(single.total) == pytest.approx(float(exact.total), abs=bound)
    else:
        assert torch.isfinite(single.total) and float(single.total) <= float(exact.total) + bound
    rounded = fusion_loss(logits.bfloat16(), gold, target, lam=0.5, divergence=divergence)
    again = fusion_loss(logits.bfloat16().float(), gold, target, lam=0.5, divergence=divergence)
    assert float(rounded.total) == pytest.approx(float(again.total), abs=bound)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan"), float("inf")])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    logits, gold, target = _loss_inputs(1.0)
    target.probs[3, 0] = wrong
    with pytest.raises(TransferError, match="must be 0 or more"):
        fusion_loss(logits, gold, target)


def test_ids_out_of_range_are_refused() -> None:
    logits, gold, target = _loss_inputs(1.0)
    with pytest.raises(TransferError, match="ids go from 0 to 49"):
        fusion_loss(logits, gold + 50, target)
    target.ids[0, 0] = -1
    with pytest.raises(TransferError, match="ids go from 0 to 49"):
        fusion_loss(logits, gold, target)


def test_the_same_seed_gives_the_same_bits(tinies: object) -> None:
    tokenizer: Tokenizer = tinies("byte-bpe")  # type: ignore[operator]
    text = "the quick brown fox"
    found = []
    for _ in range(2):
        theirs: Predictions = random_predictions(tokenizer, text, 5, top_k=16)
        carried = transfer(theirs, theirs.encoding, build_index(tokenizer, tokenizer), own=theirs)
        found.append((carried.ids.tobytes(), carried.probs.tobytes(), carried.ledger.tobytes()))
    assert found[0] == found[1]
