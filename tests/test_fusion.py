"""Fusing sources: weights as the rules say, and one distribution per position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_core import Tokenizer, TransferError
from fusion_core.fusion import RULES, cross_entropies, cross_entropy, fuse, fusion_weights, token_cross_entropies
from fusion_core.transfer import Transfer
from tests.support.predictions import random_predictions

SIZE = 9


def _made_up(seed: int, positions: int = 4, uncovered: tuple[int, ...] = ()) -> Transfer:
    rng = np.random.default_rng(seed)
    ids, probs, counts, ledger = [], [], [], np.zeros((positions, 5))
    for i in range(positions):
        count = 0 if i in uncovered else int(rng.integers(1, 5))
        mass = rng.dirichlet(np.ones(count + 1)) if count else np.array([1.0])
        ids += rng.choice(SIZE, count, replace=False).tolist()
        probs += mass[:count].tolist()
        counts.append(count)
        ledger[i, 0], ledger[i, 3 if count else 4] = mass[:count].sum(), mass[-1]
    indptr = np.concatenate(([0], np.cumsum(counts)))
    covered = np.array([i not in uncovered for i in range(positions)])
    return Transfer("made up", indptr, np.array(ids, np.int32), np.array(probs, np.float32), ledger, covered, SIZE)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 200))
def test_every_rule_gives_distributions(rule: str, seed: int) -> None:
    sources = [_made_up(seed), _made_up(seed + 1, uncovered=(1,)), _made_up(seed + 2, uncovered=(1, 2))]
    fused = fuse(sources, rule, [1.0, 2.0, 0.5])
    for i in range(4):
        assert fused.to_dense(i).sum() == pytest.approx(1.0, abs=1e-5)
        assert fused.ledger[i].sum() == pytest.approx(1.0, abs=1e-5)
    assert fused.covered.all()


@given(seed=st.integers(0, 200))
def test_mean_and_product_are_the_dense_ones(seed: int) -> None:
    sources = [_made_up(seed), _made_up(seed + 1)]
    dense = np.stack([[s.to_dense(i) for i in range(4)] for s in sources])
    product = np.exp(np.log(np.maximum(dense, 1e-12)).mean(axis=0))
    product /= product.sum(axis=1, keepdims=True)
    for rule, expected in (("mean", dense.mean(axis=0)), ("product", product)):
        fused = fuse(sources, rule)
        assert np.stack([fused.to_dense(i) for i in range(4)]) == pytest.approx(expected, abs=1e-5)


def test_min_ce_takes_the_best_that_covers_a_position() -> None:
    sources = [_made_up(1), _made_up(2, uncovered=(0,))]
    weights = fusion_weights(sources, "min_ce", [1.0, 0.5])
    assert weights.tolist() == [[1, 0, 0, 0], [0, 1, 1, 1]]
    by_token = fusion_weights(sources, "min_ce", [np.array([1, 1, 1, 3.0]), np.array([0, 0, 2, 2.0])])
    assert by_token.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]


def test_avg_ce_weighs_as_fusellm_does_and_a_temperature_sharpens() -> None:
    ce = [0.7, 1.9]
    scores = np.exp(-np.array(ce))
    expected = np.exp(scores) / np.exp(scores).sum()
    assert fusion_weights([_made_up(1), _made_up(2)], "avg_ce", ce)[:, 0] == pytest.approx(expected)
    sharp = fusion_weights([_made_up(1), _made_up(2)], "avg_ce", ce, temperature=0.05)
    assert sharp[0, 0] > 0.99


def test_a_position_that_nobody_covers_stays_uncovered() -> None:
    for rule in RULES:
        fused = fuse([_made_up(1, uncovered=(2,)), _made_up(2, uncovered=(2,))], rule, [1.0, 1.0])
        assert fused.covered.tolist() == [True, True, False, True] and fused.ledger[2, 4] == 1.0


def test_cross_entropy_per_byte_does_not_depend_on_the_tokens(tinies: Callable[[str], Tokenizer]) -> None:
    made = random_predictions(tinies("byte-bpe"), "the quick brown fox", 1)
    size = len(made.encoding.data) - made.encoding.ends[0]
    assert cross_entropy(made) == pytest.approx(made.nll.sum() / size)
    assert cross_entropy(made, normalize="token") == pytest.approx(made.nll.mean())
    with pytest.raises(TransferError, match="byte or token"):
        cross_entropy(made, normalize="word")


def test_wrong_inputs_are_named() -> None:
    one = _made_up(1)
    for arguments, says in (
        (([one], "magic"), "min_ce, avg_ce"),
        (([], "mean"), "nothing to fuse"),
        (([one, _made_up(1, 3)], "mean"), "same positions"),
        (([one], "min_ce"), "needs the sources' cross-entropies"),
        (([one], "min_ce", [1.0, 2.0]), "as many cross-entropies"),
    ):
        with pytest.raises(TransferError, match=says):
            fuse(*arguments)
    with pytest.raises(TransferError, match="above 0"):
        fuse([one], "mean", temperature=0)
    assert token_cross_entropies(one, np.zeros(4, int)).shape == (4,)


def test_weights_go_by_what_the_level_says() -> None:
    assert cross_entropies("sequence", [1.0, 2.0], [], np.zeros(0, np.int64)) == [1.0, 2.0]
    with pytest.raises(TransferError, match="unknown level 'word'"):
        cross_entropies("word", [1.0], [], np.zeros(0, np.int64))


@pytest.mark.parametrize("rule", ["min_ce", "avg_ce"])
@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_a_source_without_a_cross_entropy_is_only_worse(rule: str, unknown: float) -> None:
    both, second = [_made_up(0), _made_up(1)], [_made_up(0, uncovered=(0, 1, 2, 3)), _made_up(1)]
    weights = fusion_weights(both, rule, [1.0, unknown])
    assert (weights[0] > weights[1]).all() and weights.sum(axis=0) == pytest.approx(1.0)
    assert fusion_weights(both, rule, [unknown, unknown]).sum(axis=0) == pytest.approx(1.0)
    assert fusion_weights(second, rule, [unknown, unknown])[1] == pytest.approx(1.0)
