"""Byte spans: what every tokenizer must keep to on every text, and exact values on the texts that are hard."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_core import Encoding, TextError, Tokenizer, align
from tests.support import tiny
from tests.support.requires import sample

_HARD = st.sampled_from(
    ["🙂", "👩‍🔬", "é", "e\u0301", "ﬁ", "½", "İ", "ß", "한", "\r\n", "\t", "  ", " ", "\u200b", "\u00a0", "\0", "中",
     "<s>", "[CLS]", "</s>", "▁", "Ġ", "##a", "<0x41>", "the", "fox", "Ａ", "ﷺ", "क्षि"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(_HARD, st.characters(exclude_categories=["Cs"])), max_size=24).map("".join)

# Marks, controls and spaces of all kinds, which some normalisation drops or makes one of.
_DROPPED = ("Mn", "Cc", "Cf", "Co", "Cn", "Zs", "Zl", "Zp")
Tinies = Callable[[str], Tokenizer]
SAMPLES = ("qwen", "deepseek", "qwen3.6", "tekken", "mistral", "mistral-v3", "minilm")


def check_order(encoding: Encoding) -> None:
    size = len(encoding.data)
    assert encoding.data == encoding.text.encode()
    starts, ends = encoding.starts, encoding.ends
    assert len(starts) == len(ends) == len(encoding.exact) == len(encoding.closed) == len(encoding.ids)
    assert (starts >= 0).all() and (ends <= size).all() and (starts <= ends).all()
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()
    assert (starts[1:] >= ends[:-1]).all()


def folded(data: bytes) -> str | None:
    """What is left of `data` under every normalisation that these tokenizers know, None for part of a character."""
    try:
        text = unicodedata.normalize("NFKD", data.decode()).lower()
    except UnicodeDecodeError:
        return None
    kept = (c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) not in _DROPPED)
    return "".join(kept).replace("▁", "")


def check_exact(encoding: Encoding) -> None:
    """A span that claims to be exact holds what the token spells, up to normalisation."""
    for k in np.flatnonzero(encoding.exact).tolist():
        spelled, own = encoding.canonical[k], encoding.data[encoding.starts[k] : encoding.ends[k]]
        # Characters that this Python's tables do not know yet may well be known to the tokenizer's.
        newer = any(unicodedata.category(c) == "Cn" for c in own.decode("utf-8", "ignore"))
        if spelled != own and spelled and not newer:
            assert folded(spelled) == folded(own), (encoding.pieces[k], own)


@pytest.mark.parametrize("kind", tiny.KINDS)
@given(text=TEXTS)
@settings(max_examples=150)
def test_spans_are_ordered_and_inside_the_text(tinies: Tinies, kind: str, text: str) -> None:
    encoding = tinies(kind).encode(text)
    check_order(encoding)
    check_exact(encoding)


@pytest.mark.parametrize("kind", tiny.LOSSLESS)
@given(text=TEXTS)
def test_lossless_tokens_spell_the_text(tinies: Tinies, kind: str, text: str) -> None:
    encoding = tinies(kind).encode(text)
    assert b"".join(encoding.canonical) == text.encode()
    assert encoding.exact.all()
    assert [encoding.data[a:b] for a, b in zip(encoding.starts, encoding.ends, strict=True)] == encoding.canonical


@pytest.mark.parametrize("name", SAMPLES)
@given(text=TEXTS)
@settings(max_examples=40)
def test_samples_keep_to_it_too(name: str, text: str) -> None:
    encoding = sample(name).encode(text)
    check_order(encoding)
    check_exact(encoding)
    if name in ("deepseek", "tekken"):
        assert b"".join(encoding.canonical) == text.encode()


def spelled(encoding: Encoding) -> list[tuple[str, bytes]]:
    return [
        (piece, encoding.data[a:b])
        for piece, a, b in zip(encoding.pieces, encoding.starts.tolist(), encoding.ends.tolist(), strict=True)
    ]


def test_an_emoji_split_over_tokens() -> None:
    encoding = sample("deepseek").encode("a👩‍🔬b")
    assert b"".join(encoding.canonical) == "a👩‍🔬b".encode()
    inside = encoding.splits_character
    assert not inside[0] and not inside[-1]
    assert inside[1:-1].any()


def test_sentencepiece_adds_a_space_in_front_that_covers_nothing() -> None:
    encoding = sample("mistral").encode("the world")
    assert spelled(encoding) == [("▁the", b"the"), ("▁world", b" world")]
    assert encoding.exact.all()


def test_sentencepiece_byte_fallback_covers_single_bytes() -> None:
    encoding = sample("mistral").encode("🧿")
    fallback = [(piece, data) for piece, data in spelled(encoding) if piece.startswith("<0x")]
    assert fallback == [(f"<0x{byte:02X}>", bytes([byte])) for byte in "🧿".encode()]


def test_wordpiece_lowers_and_strips_accents_but_spans_stay_on_the_original() -> None:
    encoding = sample("minilm").encode("Café  ÜBER\r\nNaïve")
    assert [data.decode() for _, data in spelled(encoding)] == ["Café", "ÜBER", "Naïve"]
    assert encoding.exact.all()


def test_wordpiece_unknown_covers_the_word_that_it_stands_for(tinies: Tinies) -> None:
    encoding = tinies("wordpiece").encode("the 서울 fox")
    rows = dict(spelled(encoding))
    assert rows["[UNK]"] == "서울".encode()


@pytest.mark.parametrize("kind", ["byte-bpe-nfc", "unigram-nfkc", "sentencepiece-unigram"])
@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("xe\u0301y", [1, 4, 5]),
        ("xe\u0323\u0301y", [1, 4, 6, 7]),  # a second mark that does not compose
        ("x\u1112\u1161\u11aby", [1, 10, 11]),  # Hangul from its letters
        ("x\u03b1\u0313\u0300\u0345y", [1, 9, 10]),  # four in one
        ("x\u09c7\u09bey", [1, 7, 8]),  # a vowel sign of two halves, neither a combining mark
        ("E\u0301", [3]),
    ],
)
def test_a_composed_character_covers_all_that_it_was_made_of(
    tinies: Tinies, kind: str, text: str, ends: list[int]
) -> None:
    """The end of a token that is closed is one of the places where composed characters end, never within one."""
    encoding = tinies(kind).encode(text)
    check_order(encoding)
    check_exact(encoding)
    inside = {len(text[:k].encode()) for k in range(len(text) + 1)} - {0, *ends}
    assert not inside & set(encoding.ends[encoding.closed].tolist())
    assert encoding.ends[-1] == len(encoding.data) and encoding.closed[-1]
    assert {len(text[:1].encode()), ends[-1]} & set(encoding.ends[encoding.closed].tolist())


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("\u0628\u0651\u064e\u062a", [2, 6, 8]),  # Arabic, shadda typed before fatha
        ("xa\u0316\u0301y", [1, 6, 7]),  # the accent composes over the mark below
        ("a\u0325\u0301\u0325z", [3, 7, 8]),
    ],
)
def test_marks_in_another_order_are_no_place_to_meet(tinies: Tinies, text: str, ends: list[int]) -> None:
    """Between marks that the normalisation swapped two tokenizers have not read the same text."""
    encoding = tinies("byte-bpe-nfc").encode(text)
    check_order(encoding)
    characters = {len(text[:k].encode()) for k in range(1, len(text) + 1)}
    assert characters & set(encoding.ends[encoding.closed].tolist()) == set(ends)
    plain = tinies("byte-bpe").encode(text)
    alignment = align(plain, encoding, method="span")
    assert characters & set(encoding.ends[alignment.shared].tolist()) == set(ends)


def test_no_end_of_marks_on_one_character(tinies: Tinies) -> None:
    encoding = tinies("byte-bpe-nfc").encode("e" + "\u0301\u0323" * 20_000 + " x")
    check_order(encoding)
    assert encoding.ends[-1] == len(encoding.data) and encoding.closed[-1]


def test_one_character_that_becomes_several_is_marked(tinies: Tinies) -> None:
    """NFKC turns ﬁ into f and i: tokens that each hold one of them have no byte range of their own."""
    encoding = tinies("unigram-nfkc").encode("ﬁ")
    owners = [k for k in range(len(encoding)) if encoding.ends[k] > encoding.starts[k]]
    assert len(owners) == 1
    assert (encoding.starts[owners[0]], encoding.ends[owners[0]]) == (0, 3)
    if len(encoding) > 2:
        assert not encoding.exact.all()


def test_special_tokens_in_the_text_are_text_unless_asked_for() -> None:
    for name, special in (("deepseek", "<｜end▁of▁sentence｜>"), ("qwen", "<|endoftext|>"), ("mistral", "</s>")):
        tokenizer = sample(name)
        literal = tokenizer.encode(f"a{special}b")
        assert not any(tokenizer.is_special(i) for i in literal.ids.tolist())
        assert literal.starts[0] == 0 and literal.ends[-1] == len(literal.data)
    parsed = sample("deepseek").encode("a<｜end▁of▁sentence｜>b", parse_special=True)
    assert [sample("deepseek").is_special(i) for i in parsed.ids.tolist()] == [False, True, False]
    assert spelled(parsed)[1][1] == "<｜end▁of▁sentence｜>".encode()


@pytest.mark.parametrize("name", SAMPLES)
def test_line_ends_and_runs_of_spaces(name: str) -> None:
    text = "a\r\n\r\n    b\t\tc   "
    encoding = sample(name).encode(text)
    check_order(encoding)
    covered = b"".join(data for _, data in spelled(encoding))
    if name == "minilm":
        assert covered == b"abc"
    else:
        assert covered == text.encode()


@pytest.mark.parametrize("name", SAMPLES)
def test_an_empty_text_has_no_tokens(name: str) -> None:
    encoding = sample(name).encode("")
    check_order(encoding)
    assert encoding.splits_character.shape == encoding.ids.shape


def test_a_text_of_which_nothing_is_left_has_no_tokens() -> None:
    """As a tokenizer without a normaliser that reports ranges may drop all there is."""
    from fusion_core.tokenizers._spans import find_spans

    spans = find_spans("\u0301\u0302", "\u0301\u0302".encode(), [], lambda: None, lambda: np.zeros((0, 2), np.int64))
    assert spans is not None and len(spans.starts) == len(spans.ends) == len(spans.exact) == len(spans.closed) == 0


def test_a_lone_surrogate_is_named(tinies: Tinies) -> None:
    with pytest.raises(TextError, match=r"lone surrogate \(U\+D83D\) at character 2"):
        tinies("byte-bpe").encode("ab\ud83dc")


def test_text_of_megabytes() -> None:
    text = "the quick brown fox, 中文 and 🙂\n" * 30_000
    encoding = sample("qwen").encode(text)
    assert encoding.ends[-1] == len(text.encode()) and encoding.exact.all()
    check_order(encoding)
