"""A source that is sure of the text, token by token, leaves no doubt about the target's next token either."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_core import Tokenizer
from fusion_core.distributions import TopK
from fusion_core.transfer import Predictions, build_index, transfer
from tests.support.requires import sample


def sure(tokenizer: Tokenizer, text: str) -> Predictions:
    """All but a millionth of each distribution is on the token that the text has next."""
    encoding = tokenizer.encode(text)
    ids = np.append(encoding.ids, tokenizer.vocabulary.roles.get("eos", 0)).astype(np.int32)[:, None]
    logprobs = np.full(ids.shape, np.log1p(-1e-6), dtype=np.float32)
    return Predictions(encoding, TopK(ids, logprobs, tokenizer.size), has_start=True)


def gold_probs(source: Tokenizer, target: Tokenizer, text: str, method: str = "byte-exact") -> np.ndarray:
    theirs, own = sure(source, text), target.encode(text)
    carried = transfer(theirs, own, build_index(source, target), method=method)
    return np.asarray(carried.prob_of(own.ids[1:]))


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        # An entry that is a space and a part of a character: the target has `▁`, and `<0x20>` at a lower id.
        ("qwen", "mistral", "x दिल्ली x"),
        ("qwen", "mistral", "naïve café à Москва"),
        # The target cuts the text otherwise than the source's entry taken by itself.
        ("tekken", "qwen", "the antechamber of the"),
        ("qwen", "mistral", "x" * 40 + " " + "é" * 30),
        ("qwen", "deepseek", "Dr. Okonkwo re-scheduled the hearing: nobody had expected it."),
        ("mistral", "tekken", "def f(x):\n    return x  # twice\n"),
    ],
)
def test_byte_exact_gives_every_token_of_the_text_what_the_source_gives_it(source: str, target: str, text: str) -> None:
    found = gold_probs(sample(source), sample(target), text)
    assert found[:-1].min() > 0.99  # what comes after the text's last byte, nobody can say


def test_through_the_first_tokens_no_space_goes_to_a_byte_piece_that_is_never_made() -> None:
    found = gold_probs(sample("qwen"), sample("mistral"), "x दिल्ली x", "boundary-first-token")
    assert found[0] > 0.99
