"""`byte-exact`: what follows from the chain rule is exact, and the ledger says what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from fusion_core import Tokenizer, TransferError, load_tokenizer
from fusion_core.distributions import TopK
from fusion_core.transfer import METHODS, Predictions, build_index, find_places, transfer
from fusion_core.transfer._index import looks_ahead
from tests.oracles.byte_marginal import first_target_token, next_probs
from tests.support.predictions import random_predictions
from tests.support.requires import sample
from tests.support.tiny import SENTENCES
from tests.support.wordpiece import wordpiece

Tinies = Callable[[str], Tokenizer]
TEXTS = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=2).map("".join)


def _wordlist(path: Path, words: list[str], *, adds_space: bool = False) -> Tokenizer:
    """A tokenizer that takes the longest merges among `words`, whose prefixes must all be words."""
    vocab = {word: i for i, word in enumerate(sorted({c for w in words for c in w}) + [w for w in words if len(w) > 1])}
    merges = [(word[:-1], word[-1]) for word in words if len(word) > 1]
    built = HfTokenizer(models.BPE(vocab=vocab, merges=merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.save(str(path))
    return load_tokenizer(path)


@pytest.mark.parametrize("kind", ["byte-bpe", "metaspace-bpe"])
@given(text=TEXTS, seed=st.integers(0, 99))
@settings(max_examples=8)
def test_the_same_tokenizer_on_both_sides_gives_the_sources_own(
    tinies: Tinies, kind: str, text: str, seed: int
) -> None:
    """What follows from the bytes alone; a transfer that knows that the tokens are the same asks no bytes."""
    tokenizer = tinies(kind)
    source = random_predictions(tokenizer, text, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fusion_core.transfer._byte_exact.find_places", lambda *sides: replace(find_places(*sides), same=False)
        )
        found = transfer(source, source.encoding, build_index(tokenizer, tokenizer), own=None)
    lowest = tokenizer.vocabulary.by_bytes
    for i in range(len(found)):
        expected = np.zeros(tokenizer.size)
        for s, p in enumerate(source.top.probs[i + 1].tolist()):
            if p > 0:  # entries that spell the same bytes are one
                expected[lowest[tokenizer.canonical_bytes(s)]] += p
        dense = np.zeros(tokenizer.size)
        for t, p in zip(*found.at(i), strict=True):
            dense[lowest[tokenizer.canonical_bytes(int(t))]] += p
        assert dense == pytest.approx(expected, abs=2e-5)
    assert found.ledger[:, 0] == pytest.approx(np.ones(len(found)), abs=2e-5)


@pytest.mark.parametrize("method", ["byte-exact", "byte-exact-open"])
@pytest.mark.parametrize("kind", ["byte-bpe", "metaspace-bpe"])
@given(text=TEXTS, seed=st.integers(0, 99), top_k=st.sampled_from([0, 1, 5, 40]))
@settings(max_examples=8)
def test_a_model_carried_to_itself_is_what_it_was(
    tinies: Tinies, kind: str, method: str, text: str, seed: int, top_k: int
) -> None:
    tokenizer = tinies(kind)
    source = random_predictions(tokenizer, text, seed, top_k=top_k)
    index = build_index(tokenizer, tokenizer)
    found = transfer(source, source.encoding, index, method=method, own=source)
    assert found.covered.all() and found.best().tolist() == source.top.rows(slice(1, -1)).best().tolist()
    dense = np.exp(source.top.to_dense())[1:-1]
    assert [found.to_dense(i) for i in range(len(found))] == pytest.approx(dense, abs=1e-6)
    # A gold token that is kept costs what it costs the source, one that is not its share of the tail.
    assert -np.log(found.prob_of(source.encoding.ids[1:])) == pytest.approx(source.nll, rel=1e-4)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("adds_space", [False, True])
def test_a_character_level_target_is_exact_in_closed_form(tmp_path: Path, adds_space: bool, seed: int) -> None:
    words = [*(["Ġa", "Ġab", "Ġabc", "Ġb"] if adds_space else []), "ab", "abc", "ca", "b", "c", "a"]
    source = _wordlist(tmp_path / "w.json", words, adds_space=adds_space)
    target = _wordlist(tmp_path / "c.json", ["a", "b", "c", "Ġ"])
    text = "abcabcab"
    predictions = random_predictions(source, text, seed)
    found = transfer(predictions, target.encode(text), build_index(source, target))
    read = " " * adds_space + text
    assert predictions.encoding.canonical[0] == read[: 3 + adds_space].encode()
    ends = np.cumsum([len(token) for token in predictions.encoding.canonical]).tolist()
    for i in range(len(text) - 1):
        done = i + 1 + adds_space
        row = sum(end <= done for end in ends)
        pending = read[([0, *ends])[row] : done]
        mass: dict[str, float] = {}
        for s, p in enumerate(predictions.top.probs[row].tolist()):
            word = source.canonical_bytes(s).decode()
            if word.startswith(pending) and len(word) > len(pending):
                mass[word[len(pending)]] = mass.get(word[len(pending)], 0.0) + p
        whole = pending.encode()
        ended = sum(p for s, p in enumerate(predictions.top.probs[row].tolist()) if source.canonical_bytes(s) == whole)
        total = sum(mass.values()) + ended
        ids, probs = found.at(i)
        given_ = {target.canonical_bytes(int(t)).decode(): float(p) for t, p in zip(ids, probs, strict=True)}
        for char, p in mass.items():
            unsure = float(found.ledger[i, 1:3].sum())  # of entries that end here, which whatever follows may go on
            assert p / total - 1e-5 <= given_.get(char, 0.0) <= p / total + unsure + 1e-5
        if ended == 0.0:
            assert given_ == pytest.approx({c: p / total for c, p in mass.items()}, abs=1e-5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_nothing_is_further_from_the_enumerated_marginal_than_what_is_booked_approximate(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("v")

    def vocabulary() -> list[str]:
        words = ["a", "b"]
        for _ in range(int(rng.integers(1, 5))):
            words.append(str(rng.choice(words)) + str(rng.choice(["a", "b", "ab", "ba"])))
        return list(dict.fromkeys(words))

    def weights(said: tuple[str, ...]) -> dict[str, float]:
        drawn = np.random.default_rng([seed, *"".join(said).encode(), len(said)]).dirichlet(np.ones(len(ours)))
        return dict(zip(ours, drawn.tolist(), strict=True))

    ours, theirs = vocabulary(), vocabulary()
    source, target = wordpiece(folder / "s.json", ["x", *ours]), wordpiece(folder / "t.json", ["x", *theirs])
    text = "x" + "".join(rng.choice(["a", "b"], 6))
    encoding = source.encode(text)
    probs = np.zeros((len(encoding) + 1, source.size))
    for row in range(1, len(probs)):
        said = tuple(encoding.pieces[1:row])
        for word, p in next_probs(said, ours, weights).items():
            probs[row, source.vocabulary.by_piece[word]] = p
    with np.errstate(divide="ignore"):
        top = TopK(None, np.log(probs).astype(np.float32), source.size)
    predictions = Predictions(encoding, top, False)
    truth = first_target_token(ours, theirs, weights)
    own = random_predictions(target, text, seed + 1)
    for method in ("byte-exact", "byte-exact-open"):
        for given_own in (own, None):
            found = transfer(predictions, own.encoding, build_index(source, target), method=method, own=given_own)
            assert found.ledger.sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)
            ids, masses = found.at(0)  # after "x", where both have read the same
            mine = {target.piece(int(t)): float(p) for t, p in zip(ids, masses, strict=True)}
            off = sum(abs(mine.get(word, 0.0) - truth.get(word, 0.0)) for word in theirs) / 2
            assert off <= found.ledger[0, 2] + 1e-5


@pytest.mark.parametrize(
    "pair", [("byte-bpe", "metaspace-bpe"), ("sentencepiece-unigram", "byte-bpe"), ("wordpiece", "byte-bpe")]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_ledger_adds_up(tinies: Tinies, pair: tuple[str, str], method: str) -> None:
    a, b = map(tinies, pair)
    text = "the quick naïve café\n    return 123 🙂 東京 jumps"
    index = build_index(a, b)
    for top_k in (0, 16):
        source, own = random_predictions(a, text, 3, top_k=top_k), random_predictions(b, text, 4, top_k=top_k)
        found = transfer(source, own.encoding, index, method=method, own=own)
        assert len(found) == len(own.encoding) - 1
        assert found.ledger.sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)
        assert (found.ledger >= -1e-9).all() and (found.probs >= 0).all()
        owner = np.repeat(np.arange(len(found)), np.diff(found.indptr))
        kept = np.bincount(owner, weights=found.probs, minlength=len(found))
        assert kept + found.rest == pytest.approx(np.ones(len(found)), abs=2e-5)
        assert len(set(zip(owner.tolist(), found.ids.tolist(), strict=True))) == len(owner)


def test_a_run_of_blanks_loses_its_last_space_only_where_the_targets_tokenizer_says_so() -> None:
    smollm2, gemma = sample("smollm2-135m"), sample("gemma-3-270m")
    assert looks_ahead(smollm2) and not looks_ahead(gemma)
    forth, back = build_index(gemma, smollm2), build_index(smollm2, gemma)
    assert forth.open_runs and not back.open_runs and not build_index(smollm2, smollm2).open_runs
    run = gemma.vocabulary.by_bytes[b"    "]
    assert forth.opens[run]  # four spaces, or three and a word that takes the fourth


def test_a_source_without_a_start_leaves_what_comes_before_its_first_token_uncovered(tmp_path: Path) -> None:
    source, target = _wordlist(tmp_path / "w.json", ["a", "b", "ab", "aba"]), _wordlist(tmp_path / "c.json", ["a", "b"])
    text = "abaab"
    for has_start, first in ((False, False), (True, True)):
        predictions = random_predictions(source, text, 1, has_start=has_start)
        found = transfer(predictions, target.encode(text), build_index(source, target))
        assert bool(found.covered[0]) is first and found.covered[2:].all()
    assert found.to_frame()["exact"].between(0, 1 + 1e-6).all()


def test_wrong_inputs_are_named(tinies: Tinies) -> None:
    a, b = tinies("byte-bpe"), tinies("metaspace-bpe")
    index = build_index(a, b)
    source = random_predictions(a, "the fox", 1)
    with pytest.raises(TransferError, match="unknown transfer method 'magic'"):
        transfer(source, b.encode("the fox"), index, method="magic")
    with pytest.raises(TransferError, match="different texts"):
        transfer(source, b.encode("the dog"), index)
    with pytest.raises(TransferError, match="built for the source"):
        transfer(random_predictions(b, "the fox", 1), b.encode("the fox"), index)
    with pytest.raises(TransferError, match="own predictions"):
        transfer(source, b.encode("the fox"), index, method="ot")
    with pytest.raises(TransferError, match="rows"):
        Predictions(a.encode("the fox"), TopK.from_logits(np.zeros((1, 4), np.float32), 0), True)


@pytest.mark.parametrize("text", ["", "a"])
def test_texts_with_nothing_to_predict_give_nothing(tinies: Tinies, text: str) -> None:
    a, b = tinies("byte-bpe"), tinies("metaspace-bpe")
    found = transfer(random_predictions(a, text, 1), b.encode(text), build_index(a, b))
    assert len(found) == max(0, len(b.encode(text)) - 1) and found.coverage in (0.0, 1.0)
