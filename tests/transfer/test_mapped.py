"""The rules that go through a mapping: what they keep does not depend on how the source's entries are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fusion_core import Tokenizer, map_vocabulary
from fusion_core.compat.fusellm import transform_step_logits
from fusion_core.distributions import TopK
from fusion_core.transfer._mapped import fusellm
from tests.support.predictions import random_predictions


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_of_all_entries_the_most_probable_wins_as_of_the_best_ones(
    tinies: Callable[[str], Tokenizer], kind: str
) -> None:
    a, b = tinies("byte-bpe"), tinies("metaspace-bpe")
    text = "the quick brown fox jumps over the lazy dog"
    dense = random_predictions(a, text, 3)
    assert dense.top.ids is None
    order = np.argsort(-dense.top.logprobs, axis=1, kind="stable")
    logprobs = np.take_along_axis(dense.top.logprobs, order, axis=1)
    best_first = replace(dense, top=TopK(order.astype(np.int32), logprobs, dense.top.width))
    mapping = map_vocabulary(a, b, kind=kind)
    found, expected = (fusellm(one, b.encode(text), mapping) for one in (dense, best_first))
    assert found.covered.any()
    assert found.ledger == pytest.approx(expected.ledger, abs=1e-6)
    for i in range(len(found)):
        ids, probs = found.at(i)
        others, values = expected.at(i)
        left, right = np.argsort(ids), np.argsort(others)
        assert ids[left].tolist() == others[right].tolist() and probs[left] == pytest.approx(values[right], abs=1e-6)


def test_a_text_without_tokens_on_one_side_is_carried_as_nothing(tinies: Callable[[str], Tokenizer]) -> None:
    a, b = tinies("byte-bpe"), tinies("metaspace-bpe")
    found = fusellm(random_predictions(a, "", 0), b.encode("fox"), map_vocabulary(a, b, kind="hard"))
    assert not found.covered.any() and len(found) == max(0, len(b.encode("fox")) - 1)


@pytest.mark.parametrize("text", ["the quick brown fox", "quick dogs, naïve café", " the lazy dog"])
def test_fusellms_positions_are_those_of_the_published_code(tinies: Callable[[str], Tokenizer], text: str) -> None:
    """The first one too, where the target's token begins with a space marker that the source's has not."""
    a, b = tinies("byte-bpe"), tinies("metaspace-bpe")
    source, target = random_predictions(a, text, 1, top_k=12), b.encode(text)
    found = fusellm(source, target, map_vocabulary(a, b, kind="hard", form="pieces"))
    _, logits = transform_step_logits(
        source.encoding.pieces, target.pieces, source.top.ids[1:], source.top.logprobs[1:],
        source_vocab=dict(enumerate(a.vocabulary.pieces)), target_vocab=b.vocabulary.by_piece,
        source_marker=a.space_marker, target_marker=b.space_marker, kind="hard",
    )  # fmt: skip
    assert found.covered.tolist() == [len(row) > 0 and row != [1.0] for row in logits[:-1]]
