"""Optimal transport in batches gives what POT gives position by position."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from numpy.typing import NDArray

from fusion_core import Tokenizer, load_tokenizer
from fusion_core.distributions import TopK
from fusion_core.transfer import Predictions, Transfer, build_index, find_places, transfer, transport_plan
from fusion_core.transfer._transport import REGULARISATION
from tests.support import tiny
from tests.support.predictions import random_predictions
from tests.support.requires import sample

TEXT = "the quick brown fox jumps over the lazy dog and the dog naps while the fox runs over the hill"


@pytest.mark.parametrize("top_k", [0, 6, 40])
def test_batches_give_each_positions_own_plan(tmp_path_factory: pytest.TempPathFactory, top_k: int) -> None:
    a, b = (
        load_tokenizer(tiny.train(kind, tmp_path_factory.mktemp("t"))) for kind in ("byte-bpe", "sentencepiece-bpe")
    )
    theirs, own = (random_predictions(side, TEXT, n, top_k=top_k) for n, side in enumerate((a, b)))
    places, index = find_places(theirs, own.encoding), build_index(a, b)
    whole, heaviest = (transfer(theirs, own.encoding, index, method=m, own=own) for m in ("ot", "ot-argmax"))
    assert whole.covered.tolist() == places.shared.tolist() and whole.covered.sum() > 5
    for i in np.flatnonzero(whole.covered).tolist():
        row = int(places.row[i])
        found = transport_plan(theirs, own, row, i + 1)
        mass = [s.top.rows([r]).truncate(10).probs[0].astype(float) for s, r in ((theirs, row), (own, i + 1))]
        kept = mass[0].sum()
        mass = [m / m.sum() for m in mass]
        slow = ot.sinkhorn(*mass, found.cost, REGULARISATION, method="sinkhorn_log", numItermax=200, warn=False)
        assert found.plan == pytest.approx(slow / slow.sum(), abs=2e-2)
        # The row masses are the source's, whatever the iteration has reached.
        assert found.plan.sum() == pytest.approx(1) and found.plan.sum(axis=1) == pytest.approx(mass[0], abs=2e-2)
        dense = np.zeros(b.size)
        np.add.at(dense, found.target_ids, found.plan.sum(axis=0) * kept)
        assert _kept(whole, i) == pytest.approx(dense, abs=1e-4)
        dense[:] = 0
        np.add.at(dense, found.target_ids[found.plan.argmax(axis=1)], mass[0] * kept)
        assert _kept(heaviest, i) == pytest.approx(dense, abs=1e-4)
    assert np.abs(whole.ledger.sum(axis=1) - 1).max() < 1e-9


def _kept(carried: Transfer, position: int) -> NDArray[np.float64]:
    dense = np.zeros(carried.size)
    ids, probs = carried.at(position)
    dense[ids] = probs
    return dense


def test_rounding_makes_no_mass_out_of_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    a, b = (load_tokenizer(tiny.train(kind, tmp_path_factory.mktemp("t"))) for kind in ("byte-bpe", "byte-bpe-nfc"))
    index = build_index(a, b)
    for seed in range(30):  # one entry with nearly all of the mass: float32 sums to a little more than 1
        theirs, own = (random_predictions(side, TEXT, seed, top_k=16, sharp=60.0) for side in (a, b))
        for method in ("ot", "ot-argmax"):
            assert (transfer(theirs, own.encoding, index, method=method, own=own).ledger >= 0).all()


def test_what_a_models_padding_rows_say_is_lost(tmp_path_factory: pytest.TempPathFactory) -> None:
    a, b = (load_tokenizer(tiny.train(kind, tmp_path_factory.mktemp("t"))) for kind in ("byte-bpe", "byte-bpe-nfc"))

    def widened(tokenizer: Tokenizer, seed: int, padding: float) -> Predictions:
        """With three rows more than the tokenizer has entries."""
        encoding = tokenizer.encode(TEXT)
        logits = np.random.default_rng(seed).normal(0, 3, (len(encoding) + 1, tokenizer.size + 3)).astype(np.float32)
        logits[:, tokenizer.size :] = padding
        return Predictions(encoding, TopK.from_logits(logits, 8), True)

    theirs, own, index = widened(a, 1, 8.0), widened(b, 2, 8.0), build_index(a, b)
    alone = theirs.top.probs[:, :8] * (theirs.top.ids < a.size)  # type: ignore[operator]
    for method in ("ot", "ot-argmax"):
        found = transfer(theirs, own.encoding, index, method=method, own=own)
        assert (found.ids < b.size).all() and found.ledger.sum(axis=1) == pytest.approx(np.ones(len(found)))
        rows = find_places(theirs, own.encoding).row
        for i in np.flatnonzero(found.covered).tolist():
            assert found.at(i)[1].sum() == pytest.approx(alone[rows[i]].sum(), abs=1e-5)
            assert found.ledger[i, 4] == pytest.approx(theirs.top.probs[rows[i]].sum() - alone[rows[i]].sum(), abs=1e-5)
    plan = transport_plan(theirs, own, 1, 1)
    assert plan.plan.shape == (len(plan.source_ids), len(plan.target_ids)) == plan.cost.shape
    assert plan.plan.sum() == pytest.approx(1, abs=1e-6)
    assert plan.source_ids.max() < a.size and plan.target_ids.max() < b.size


def test_blanks_go_to_as_many_blanks_and_the_end_to_the_end() -> None:
    """Without their spaces at the start, blanks and special tokens would all be the same: nothing."""
    mistral, qwen = sample("mistral"), sample("qwen")
    entries = [mistral.vocabulary.by_piece[piece] for piece in ("▁" * 4, "▁" * 8)] + [mistral.vocabulary.roles["eos"]]
    targets = [qwen.vocabulary.by_piece[piece] for piece in ("Ġ" * 2, "Ġ" * 4, "Ġ" * 8)] + [
        qwen.vocabulary.roles["eos"]
    ]

    def even(tokenizer: Tokenizer, ids: list[int]) -> Predictions:
        encoding = tokenizer.encode("x")
        rows = np.tile(np.array(ids, dtype=np.int32), (len(encoding) + 1, 1))
        return Predictions(
            encoding, TopK(rows, np.full(rows.shape, -np.log(len(ids)), np.float32), tokenizer.size), True
        )

    found = transport_plan(even(mistral, entries), even(qwen, targets), 0, 0)
    assert found.source_ids.tolist() == entries and found.target_ids.tolist() == targets
    assert found.cost.tolist() == [[2, 0, 4, 8], [6, 4, 0, 8], [8, 8, 8, 0]]
    assert found.plan[2, 3] == pytest.approx(0.25, abs=0.01) and found.plan[1, 2] == pytest.approx(0.25, abs=0.01)
    assert found.plan.sum(axis=0) == pytest.approx(np.full(4, 1 / 4), abs=1e-3)
