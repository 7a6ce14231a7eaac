"""Places in texts that normalisation changes: a token ends where the tokenizer has read the text so far and no more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import Normalizer

from fusion_core import Tokenizer, align, load_tokenizer

STACKS: dict[str, Normalizer | None] = {
    "none": None,
    "nfc": normalizers.NFC(),
    "nfd": normalizers.NFD(),
    "nfkc": normalizers.NFKC(),
    "nfkd": normalizers.NFKD(),
    "lower, nfkc": normalizers.Sequence([normalizers.Lowercase(), normalizers.NFKC()]),
    "nmt, nfkc": normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    ),
    "drop, nfc": normalizers.Sequence([normalizers.Replace("\u200b", ""), normalizers.NFC()]),
    "bert": normalizers.BertNormalizer(),
    "bert, accents": normalizers.BertNormalizer(strip_accents=False),
    "quotes": normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]),
}
# What is composed, taken apart, put in order, lowered to two letters, dropped, or made of several.
ATOMS = [
    "a", "e", "x", " ", "  ", "é", "e\u0301", "e\u0323\u0301", "\u0301", "\u0323", "\u0345",
    "\u0315", "ﬁ", "ﬄ", "½", "İ", "ß", "Σ", "한", "\u1112\u1161\u11ab", "\u1100", "\u11ab",
    "가", "Ａ", "ｶ", "ﾞ", "か\u3099", "\u09c7\u09be", "👩\u200d🔬", "\u200b", "\u00ad", "\u0628\u0651\u064e", "\ufefb",
    "\ufefc", "\u064e", "\ufb2c", "\u212b", "\u1e9b\u0323", "\u0344", "\U0001d15e", "\u0958", "क्षि", "\u0f71\u0f72",
    "ǆ", "ŉ", "\u03b1\u0313\u0300\u0345", "ᾼ", "中", "\n", "\0", "\u00a0", "▁", "``", "''", "…",
    "①", "ﷺ", "´", "\u0e33", "\ufe0f",
]  # fmt: skip


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """Byte-level tokenizers in which every byte is a token, by the stack of their normalisation."""

    @cache
    def made(name: str) -> Tokenizer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Backend(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        return _saved(backend, STACKS[name], tmp_path_factory.mktemp("letters"))

    return made


def _saved(backend: Backend, normalizer: Normalizer | None, folder: Path) -> Tokenizer:
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder / "tokenizer.json")


def _words(stack: str, words: list[str], folder: Path) -> Tokenizer:
    backend = Backend(models.WordPiece({word: i for i, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return _saved(backend, STACKS[stack], folder)


@pytest.mark.parametrize("stack", [name for name in STACKS if name != "none"])
@settings(max_examples=60, deadline=None)
@given(text=st.lists(st.sampled_from(ATOMS), max_size=8).map("".join))
def test_a_closed_token_ends_where_all_before_it_was_read(
    letters: Callable[[str], Tokenizer], stack: str, text: str
) -> None:
    """What stands before its end, normalised by itself, is what was read up to there."""
    encoding = letters(stack).encode(text)
    normalise = STACKS[stack].normalize_str  # type: ignore[union-attr]
    written = normalise(text)
    cuts = {len(written[:k].encode()): k for k in range(len(written) + 1)}
    edges = np.cumsum([len(token) for token in encoding.canonical])
    assert b"".join(encoding.canonical) == written.encode()
    for k in np.flatnonzero(encoding.closed).tolist():
        if (cut := cuts.get(int(edges[k]))) is not None:
            assert normalise(encoding.data[: encoding.ends[k]].decode()) == written[:cut]


@pytest.mark.parametrize(
    ("stack", "text", "ends"),
    [
        ("nfkc", "xﬁ\u0301y", [1, 6, 7]),  # f and í of a ligature with a mark
        ("nfkc", "ŉ\u0301", [4]),
        ("drop, nfc", "e\u200b\u0301x", [6, 7]),  # what shows nothing between letter and mark
        ("nfkd", "\uac00\u0300", [3, 5]),  # the mark after a syllable stands by itself
        ("nfkc", "x ﷺ y", [1, 2, 5, 6, 7]),  # its four words are one place
        ("quotes", "a ``b", [1, 2, 4, 5]),
    ],
)
def test_places_that_are_told(letters: Callable[[str], Tokenizer], stack: str, text: str, ends: list[int]) -> None:
    found = align(letters("none"), letters(stack), text=text)
    characters = {len(text[:k].encode()) for k in range(1, len(text) + 1)}
    assert sorted(characters & set(found.target.ends[found.target.closed].tolist())) == ends
    assert sorted(characters & set(found.target.ends[found.shared].tolist())) == ends


@pytest.mark.parametrize(
    ("stack", "words", "text"),
    [
        ("nfd", ["caf", "##e\u0301", "noir", "vu"], "café noir été vu"),  # été is unknown
        ("nfd", ["de\u0301ja\u0300", "vu"], "déjà vu"),
        ("bert, accents", ["i\u0307", "##stanbul", "da"], "İstanbul da"),
        ("nfc", ["\u0915\u093c", "##\u0932\u092e", "x"], "\u0958\u0932\u092e x"),  # never composed
    ],
)
def test_a_letter_taken_apart_ends_where_it_ended(
    letters: Callable[[str], Tokenizer], tmp_path: Path, stack: str, words: list[str], text: str
) -> None:
    """WordPiece reports whole characters: the halves of one are no reason to doubt its end."""
    found = align(letters("none"), _words(stack, words, tmp_path), text=text)
    assert found.target.closed.all() and found.target.exact.all() and found.quality.shared_boundaries == 1.0


def test_an_added_space_has_read_nothing_where_the_text_begins_with_what_is_dropped(
    letters: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    pieces = ["▁", '"', "a", "b"]
    backend = Backend(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], 0, False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    found = align(letters("none"), _saved(backend, STACKS["quotes"], tmp_path), text="``a''")
    assert found.target.ends.tolist() == [0, 2, 3, 5]
    assert found.target.ends[found.shared].tolist() == [2, 3, 5]
