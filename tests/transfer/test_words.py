"""Targets that drop blanks: what the source says goes on with a word there or begins one, as it stands in the text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from fusion_core import Tokenizer, load_tokenizer
from fusion_core.distributions import TopK
from fusion_core.transfer import Predictions, build_index, transfer
from tests.oracles.byte_marginal import first_target_token, next_probs
from tests.support.predictions import random_predictions
from tests.support.requires import sample
from tests.support.wordpiece import wordpiece


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_nothing_is_further_from_the_enumerated_marginal_than_what_is_booked_approximate(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("v")
    start = str(rng.choice(["x", ","]))  # what follows goes on with a word, or begins one

    def grown(letters: list[str], parts: list[str]) -> list[str]:
        words = list(letters)
        for _ in range(int(rng.integers(1, 5))):
            words.append(str(rng.choice(words)) + str(rng.choice(parts)))
        return list(dict.fromkeys(words))

    def weights(said: tuple[str, ...]) -> dict[str, float]:
        drawn = np.random.default_rng([seed, *"".join(said).encode(), len(said)]).dirichlet(np.ones(len(ours)))
        return dict(zip(ours, drawn.tolist(), strict=True))

    def read(text: str) -> str:
        return re.sub(" +", " ", " " + text if start == "," else text)

    ours = grown(["a", "b", " ", ","], ["a", "b", " a", "b "])
    begin, rest = (grown(["a", "b"], ["a", "b", "ab"]) for _ in range(2))
    written = {
        **{" " + word: word for word in [*begin, "x"]},
        **{word: "##" + word for word in rest},
        ",": ",",
        " ,": ",",
    }
    source = wordpiece(folder / "s.json", ["x", *ours])
    target = wordpiece(folder / "t.json", list(written.values()), "##", pre_tokenizers.BertPreTokenizer())
    text = start + "".join(rng.choice(["a", "b", " "], 6)) + "a"
    encoding = source.encode(text)
    probs = np.zeros((len(encoding) + 1, source.size))
    for row in range(1, len(probs)):
        for word, p in next_probs(tuple(encoding.pieces[1:row]), ours, weights).items():
            probs[row, source.vocabulary.by_piece[word]] = p
    with np.errstate(divide="ignore"):
        top = TopK(None, np.log(probs).astype(np.float32), source.size)
    predictions = Predictions(encoding, top, False)
    truth: dict[str, float] = {}
    for string, p in first_target_token(ours, list(written), weights, read).items():
        truth[written[string]] = truth.get(written[string], 0.0) + p
    own = random_predictions(target, text, seed + 1)
    for method in ("byte-exact", "byte-exact-open"):
        for given_own in (own, None):
            found = transfer(predictions, own.encoding, build_index(source, target), method=method, own=given_own)
            assert found.ledger.sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)
            ids, masses = found.at(0)
            mine = {target.piece(int(t)): float(p) for t, p in zip(ids, masses, strict=True)}
            off = sum(abs(mine.get(piece, 0.0) - truth.get(piece, 0.0)) for piece in set(written.values())) / 2
            # A blank that may become any word goes nowhere, unless the target says where.
            assert off <= found.ledger[0, [2, 4]].sum() + 1e-5


def _said(tokenizer: Tokenizer, text: str, row: int, probs: dict[str, float]) -> Predictions:
    """Predictions that are sure of the text everywhere, and say `probs` (by bytes) at one row."""
    encoding = tokenizer.encode(text)
    ids = np.tile(np.append(encoding.ids, 0)[:, None], len(probs)).astype(np.int32)
    ids[:, 1:] = np.arange(1, len(probs))  # whatever, with nothing on it
    logprobs = np.full(ids.shape, -np.inf, dtype=np.float32)
    logprobs[:, 0] = 0.0
    ids[row] = [tokenizer.vocabulary.by_bytes[string.encode()] for string in probs]
    logprobs[row] = np.log(list(probs.values()))
    return Predictions(encoding, TopK(ids, logprobs, tokenizer.size), has_start=True)


@pytest.mark.parametrize(
    ("text", "before", "said", "expected"),
    [
        (
            "the tokenizations",
            " token",
            {"izations": 0.4, "ing": 0.3, "Ing": 0.1, " ring": 0.15, ",": 0.05},
            {"##izations": 0.4, "##ing": 0.4, "ring": 0.15, ",": 0.05},
        ),
        (
            "call it (often) so",
            " (",
            {"often": 0.5, "ing": 0.2, "The": 0.1, "\n": 0.05, " A": 0.15},
            {"often": 0.5, "ing": 0.2, "the": 0.1, "a": 0.15},
        ),
    ],
)
def test_pieces_within_a_word_and_words_behind_a_bracket(
    text: str, before: str, said: dict[str, float], expected: dict[str, float]
) -> None:
    source, target = sample("smollm2-135m"), sample("minilm")
    row = source.encode(text).pieces.index(before.replace(" ", "Ġ")) + 1
    predictions, own = _said(source, text, row, said), target.encode(text)
    place = int(np.flatnonzero(own.ends == predictions.encoding.ends[row - 1])[0])
    ids, masses = transfer(predictions, own, build_index(source, target)).at(place)
    found = {target.piece(int(t)): float(p) for t, p in zip(ids, masses, strict=True)}
    assert {piece: found.get(piece, 0.0) for piece in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("source", ["smollm2-135m", "mistral", "gemma-3-270m"])
def test_a_source_that_is_sure_of_the_text_leaves_no_doubt(source: str) -> None:
    text = "Unbelievable!  It's (hopefully) naïve:\n\n\tCAFÉ-goers re-tokenised “東京” at 12,345.60 \n twice"
    ours, target = sample(source), sample("minilm")
    encoding, own = ours.encode(text), target.encode(text)
    ids = np.append(encoding.ids, 0).astype(np.int32)[:, None]
    predictions = Predictions(encoding, TopK(ids, np.zeros(ids.shape, np.float32), ours.size), has_start=True)
    found = transfer(predictions, own, build_index(ours, target)).prob_of(own.ids[1:])
    assert found[:-1].min() > 0.99  # what comes after the text's last byte, nobody can say


def test_an_entry_that_is_open_to_all_is_shared_by_the_targets_own_each_token_once(tmp_path: Path) -> None:
    """Chinese characters are tokens of their own, written with a blank and without: more strings than tokens."""
    chars = [chr(0x4E00 + n) for n in range(300)]
    source = wordpiece(tmp_path / "s.json", ["x", "x" + chars[0], *chars])
    cutter = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split("", "isolated")])
    target = wordpiece(tmp_path / "t.json", ["x", *chars], "##", cutter)
    text = "x" + chars[0] + chars[1]
    encoding = source.encode(text)
    ids = np.full((len(encoding) + 1, 1), source.vocabulary.by_piece["x"], np.int32)
    predictions = Predictions(encoding, TopK(ids, np.zeros(ids.shape, np.float32), source.size), has_start=True)
    own = random_predictions(target, text, 3)
    assert own.encoding.pieces == list(text)
    dense = transfer(predictions, own.encoding, build_index(source, target), own=own)
    sparse = replace(own, top=own.top.with_ids())
    kept = transfer(predictions, own.encoding, build_index(source, target), own=sparse)
    weights = own.top.probs[1].astype(np.float64) ** 0.7
    weights[[target.vocabulary.by_piece[chars[0]], target.vocabulary.by_piece["[UNK]"]]] = 0.0  # `x一` would be it
    for found in (dense, kept):
        assert found.to_dense(0) == pytest.approx(weights / weights.sum(), abs=1e-4)


def test_a_source_that_drops_blanks_too_says_by_its_piece_what_begins_a_word(tmp_path: Path) -> None:
    cutter = pre_tokenizers.BertPreTokenizer()
    source = wordpiece(tmp_path / "s.json", ["the", "quick", "dog", "##s", ","], "##", cutter)
    target = wordpiece(tmp_path / "t.json", ["the", "qu", "##ick", "dog", "##s", ","], "##", cutter)
    encoding = source.encode("the quick dog")
    ids = np.tile(np.arange(1, 6, dtype=np.int32), (4, 1))
    logprobs = np.log(np.tile([0.0625, 0.4375, 0.25, 0.125, 0.125], (4, 1))).astype(np.float32)
    predictions = Predictions(encoding, TopK(ids, logprobs, source.size), has_start=True)
    found = transfer(predictions, target.encode(encoding.text), build_index(source, target))
    masses = {target.piece(int(i)): float(p) for i, p in zip(*found.at(0), strict=True)}
    assert masses == pytest.approx({"the": 0.0625, "qu": 0.4375, "dog": 0.25, "##s": 0.125, ",": 0.125}, abs=1e-5)


def test_word_ends_are_another_matter(tmp_path: Path) -> None:
    """Pieces that end a word (`s</w>`) say nothing of how one begins."""
    vocab = {"[UNK]": 0, "a": 1, "b": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5}
    built = HfTokenizer(models.BPE(vocab, [("a", "b</w>")], unk_token="[UNK]", end_of_word_suffix="</w>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.decoder = decoders.BPEDecoder()
    built.save(str(tmp_path / "t.json"))
    index = build_index(sample("minilm"), load_tokenizer(tmp_path / "t.json"))
    assert index.words is None
