"""Figures and words about single positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_core import TransferError, load_tokenizer
from fusion_core.fidelity import Tally, bits_per_byte
from fusion_core.inspection import OUTCOMES, divergence_from_own, position_figures, reason
from fusion_core.transfer import METHODS, build_index, find_places, transfer
from tests.support import tiny
from tests.support.predictions import random_predictions

TEXT = "the quick brown fox jumps over 123 lazy dogs, naïve café"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    kinds = ("byte-bpe", "metaspace-bpe")
    return [load_tokenizer(tiny.train(kind, tmp_path_factory.mktemp(kind))) for kind in kinds]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 4, 40]))
def test_the_divergence_is_that_of_the_kept_entries_and_one_for_the_rest(pair, seed: int, top_k: int) -> None:
    theirs, own = (random_predictions(side, TEXT, seed + n, top_k=top_k) for n, side in enumerate(pair))
    carried = transfer(theirs, own.encoding, build_index(*pair), own=own)
    found = divergence_from_own(carried, own)
    dense = np.exp(own.top.to_dense().astype(np.float64))
    for i in range(len(carried)):
        ids, probs = carried.at(i)
        if not carried.covered[i]:
            assert np.isnan(found[i])
            continue
        p, q = probs.astype(np.float64), np.maximum(dense[i + 1][ids], 1e-300)
        kept = p > 0
        value = float((p[kept] * np.log(p[kept] / q[kept])).sum())
        rest = carried.rest[i]
        if rest > 0:
            value += rest * np.log(rest / max(1e-9, 1 - q.sum()))
        # Where an entry has next to nothing, the floors differ: the figure is then only large.
        if q.min() > 1e-9:
            assert found[i] == pytest.approx(max(0.0, value), rel=1e-3, abs=1e-4)


def test_figures_add_up_to_what_the_transfer_says(pair) -> None:
    theirs, own = (random_predictions(side, TEXT, n, top_k=8) for n, side in enumerate(pair))
    index, places = build_index(*pair), find_places(theirs, own.encoding)
    for method in METHODS:
        carried = transfer(theirs, own.encoding, index, method=method, own=own)
        figures = position_figures(carried, own)
        assert ((figures.outcome == OUTCOMES.index("no transfer")) == ~carried.covered).all()
        assert figures.nll == pytest.approx(-np.log(carried.prob_of(own.encoding.ids[1:])))
        for i in range(len(carried)):
            assert reason(carried, places, i).startswith("no transfer") == (not carried.covered[i])
    with pytest.raises(TransferError, match="do not fit"):
        position_figures(carried, random_predictions(pair[1], "other", 0, top_k=8))


def test_a_source_without_a_doubt_has_no_ratio(pair) -> None:
    """A source that gives every token all probability needs no bits: nothing can be divided by that."""
    theirs, own = (random_predictions(side, TEXT, n, top_k=8) for n, side in enumerate(pair))
    carried = transfer(theirs, own.encoding, build_index(*pair), own=own)
    tally = Tally()
    tally.add(carried, own)
    assert np.isnan(tally.figures("byte-exact", 0.0).ratio)
    assert tally.figures("byte-exact", 2.0).ratio == pytest.approx(bits_per_byte(carried, own) / 2)


def test_a_shared_boundary_where_nothing_has_a_counterpart_is_not_told_as_fusellms_rule(pair) -> None:
    theirs, own = (random_predictions(side, TEXT, n, top_k=1) for n, side in enumerate(pair))
    carried = transfer(theirs, own.encoding, build_index(*pair), method="boundary-hard")
    places = find_places(theirs, own.encoding)
    lost = np.flatnonzero(~carried.covered & places.shared & (places.row >= 0)).tolist()
    assert lost and all("nothing has a counterpart" in reason(carried, places, i) for i in lost)
