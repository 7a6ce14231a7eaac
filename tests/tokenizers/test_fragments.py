"""What stands behind a letter in a text is cut as it is there."""

from __future__ import annotations

import pytest

from tests.support.requires import sample


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ing", ["##ing"]),
        (" ing", ["ing"]),
        ("Ization of", ["##ization", "of"]),
        (",a", [",", "a"]),
        ("中国", ["中", "国"]),
        ("\n\nfoo bar", ["foo", "bar"]),
        (" ", []),
        ("", []),
    ],
)
def test_a_wordpiece_tokenizer_goes_on_with_the_word(text: str, pieces: list[str]) -> None:
    tokenizer = sample("minilm")
    assert [tokenizer.piece(i) for i in tokenizer.encode_fragments([text])[0]] == pieces
