"""Alignments of real and tiny tokenizers: edges, groups, figures and what they are saved as."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_core import Alignment, AlignmentError, Tokenizer, align
from fusion_core.alignment import COMPARES, COSTS, KINDS, METHODS, difference
from tests.support import tiny
from tests.support.requires import sample
from tests.tokenizers.test_spans import TEXTS

Tinies = Callable[[str], Tokenizer]
kinds = st.sampled_from(tiny.KINDS)
methods = st.sampled_from([(m, k, w) for m in METHODS for k in COSTS for w in COMPARES if m == "dtw" or (k, w) == (
    "edit", "bytes")])  # fmt: skip


def _pairs(alignment: Alignment) -> set[tuple[int, int]]:
    return {(i, j) for i, j in alignment.edges.tolist()}


@given(text=TEXTS, source=kinds, target=kinds)
@settings(max_examples=150)
def test_span_links_tokens_exactly_where_their_bytes_overlap(
    tinies: Tinies, text: str, source: str, target: str
) -> None:
    a, b = tinies(source).encode(text), tinies(target).encode(text)
    expected = {
        (i, j)
        for i, j in product(range(len(a)), range(len(b)))
        if max(a.starts[i], b.starts[j]) < min(a.ends[i], b.ends[j])
    }
    found = align(a, b)
    assert _pairs(found) == expected and len(found.edges) == len(expected)
    assert found.edges.tolist() == sorted(found.edges.tolist())


@given(text=TEXTS, source=kinds, target=kinds)
@settings(max_examples=100)
def test_exact_keeps_the_edges_of_equal_bytes_in_the_same_place(
    tinies: Tinies, text: str, source: str, target: str
) -> None:
    span, exact = (align(tinies(source), tinies(target), text=text, method=method) for method in ("span", "exact"))
    a, b = span.source, span.target
    assert _pairs(exact) == {
        (i, j)
        for i, j in _pairs(span)
        if (a.starts[i], a.ends[i], a.canonical[i]) == (b.starts[j], b.ends[j], b.canonical[j])
    }


@given(text=TEXTS, source=kinds, target=kinds, method=methods)
@settings(max_examples=200)
def test_groups_partition_both_sides_and_the_text(
    tinies: Tinies, text: str, source: str, target: str, method: tuple[str, str, str]
) -> None:
    a, b = tinies(source).encode(text), tinies(target).encode(text)
    if method[0] == "dtw" and bool(len(a)) != bool(len(b)):
        return  # no path exists, and `dtw` says so
    found = align(a, b, method=method[0], cost=method[1], compare=method[2])
    if not len(a) and not len(b):
        assert len(found.groups) == 0
        return
    for column, length in ((0, len(a)), (2, len(b)), (4, len(a.data))):
        bounds = found.groups[:, column : column + 2].tolist()
        read = max([*a.ends.tolist(), *b.ends.tolist()]) if column == 4 else length
        assert bounds[0][0] == 0 and read <= bounds[-1][1] <= length
        assert all(low <= high for low, high in bounds)
        assert all(before[1] == after[0] for before, after in pairwise(bounds))
    # Minimal: no group could be cut at a byte where both sides have read the same text. Tokens of no bytes at the
    # start, such as an added prefix space, belong to the first group that has any.
    for a0, a1, b0, b1, _, _ in found.groups.tolist():
        inner_a = {int(a.ends[i]) for i in range(a0, a1 - 1) if a.closed[i] and a.ends[i]}
        inner_b = {int(b.ends[j]) for j in range(b0, b1 - 1) if b.closed[j] and b.ends[j]}
        assert not (inner_a & inner_b)
    shares = {name: value for name, value in vars(found.quality).items() if not name.endswith("per_byte")}
    assert len(shares) == 5 and all(0 <= value <= 1 for value in shares.values())


@given(text=TEXTS, kind=kinds)
@settings(max_examples=60)
def test_a_tokenizer_against_itself_is_one_to_one(tinies: Tinies, text: str, kind: str) -> None:
    found = align(tinies(kind), tinies(kind), text=text)
    assert found.quality.shared_boundaries == 1 or not found.target.closed.all()
    if kind in tiny.LOSSLESS and found.source.closed.all():
        assert found.quality.equal_one_to_one == 1
        assert {KINDS[k] for k in found.kinds} <= {"1:1"}


def test_figures_of_a_text_that_can_be_counted_by_hand() -> None:
    """Qwen cuts " 2048" into a space and digits; Mistral, too, but differently."""
    found = align(sample("qwen"), sample("deepseek"), text="Hello 12345")
    assert found.source.pieces == ["Hello", "Ġ", "1", "2", "3", "4", "5"]
    assert found.target.pieces == ["Hello", "Ġ", "123", "45"]
    assert [KINDS[k] for k in found.kinds] == ["1:1", "1:1", "n:1", "n:1"]
    assert found.groups[:, :4].tolist() == [[0, 1, 0, 1], [1, 2, 1, 2], [2, 5, 2, 3], [5, 7, 3, 4]]
    quality = found.quality
    assert quality.shared_boundaries == 1 and quality.linked == 1 and quality.inexact == 0
    assert quality.equal_one_to_one == pytest.approx(2 / 4)
    assert quality.bytes_beyond_one_to_one == pytest.approx(5 / 11)
    assert (quality.source_tokens_per_byte, quality.target_tokens_per_byte) == pytest.approx((7 / 11, 4 / 11))
    assert found.edges.tolist() == [[0, 0], [1, 1], [2, 2], [3, 2], [4, 2], [5, 3], [6, 3]]


def test_the_samples_split_one_character_into_different_bytes() -> None:
    found = align(sample("qwen"), sample("mistral"), text="🧬")
    assert found.quality.shared_boundaries < 1 or len(found.source) == len(found.target)
    assert found.groups[0].tolist()[4:] == [0, 4] or found.groups[-1].tolist()[5] == 4


def test_dtw_in_pieces_is_the_bare_kernel_on_pieces_without_markers() -> None:
    from fusion_core.alignment import dtw

    text = "Two tokenizers read the same text, and disagree."
    a, b = sample("qwen").encode(text), sample("mistral").encode(text)
    edges, cost = dtw([p.replace("Ġ", "") for p in a.pieces], [p.replace("▁", "") for p in b.pieces])
    found = align(a, b, method="dtw", compare="pieces")
    assert found.edges.tolist() == edges.tolist() and found.cost == cost
    assert found.edge_costs.sum() == pytest.approx(cost)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_text_has_no_edges_and_loses_nothing(method: str) -> None:
    found = align(sample("qwen"), sample("deepseek"), text="", method=method)
    assert len(found.edges) == 0 and len(found.groups) == 0 and len(found.to_frame()) == 0
    assert found.quality.shared_boundaries == 1 and found.quality.bytes_beyond_one_to_one == 0


def test_json_holds_the_whole_result() -> None:
    found = align(sample("qwen"), sample("minilm"), text="Ünïcode 東京\r\n", method="dtw")
    loaded = json.loads(found.to_json())
    assert loaded["edges"] == found.edges.tolist() and loaded["cost"] == found.cost
    assert loaded["source"]["ids"] == found.source.ids.tolist()
    assert loaded["target"]["exact"] == found.target.exact.tolist()
    assert len(loaded["kinds"]) == len(loaded["groups"]) == len(found.groups)
    assert loaded["quality"]["linked"] == found.quality.linked


def test_frames_have_a_row_per_edge_and_per_group() -> None:
    found = align(sample("qwen"), sample("deepseek"), text="Hello 12345")
    frame = found.to_frame()
    assert len(frame) == len(found.edges) and list(frame["kind"][:2]) == ["1:1", "1:1"]
    assert frame["source_text"][1] == frame["target_text"][1] and frame["target_end"].iloc[-1] == 11
    groups = found.group_frame()
    assert list(groups["kind"]) == [KINDS[k] for k in found.kinds] and groups["source"][2] == "1 | 2 | 3"


def test_every_edge_has_a_reason_in_words() -> None:
    for method, says in (("span", "both cover bytes 0–5"), ("dtw", "cheapest path"), ("exact", "same bytes")):
        assert says in align(sample("qwen"), sample("deepseek"), text="Hello 12345", method=method).reason(0)


def test_the_difference_of_two_methods_is_their_edges_apart() -> None:
    a, b = sample("qwen").encode("Hello 12345"), sample("deepseek").encode("Hello 12345")
    span, exact = align(a, b), align(a, b, method="exact")
    apart = difference(span, exact)
    assert apart.only_first.tolist() == [[2, 2], [3, 2], [4, 2], [5, 3], [6, 3]] and not len(apart.only_second)
    assert apart.agreement == pytest.approx(2 / 7)
    assert list(apart.to_frame()["only in"]) == ["span"] * 5
    assert difference(span, span).agreement == 1
    with pytest.raises(AlignmentError, match="same two encodings"):
        difference(span, align(a, a))


def test_wrong_arguments_say_what_is_possible() -> None:
    qwen = sample("qwen")
    with pytest.raises(AlignmentError, match="span, dtw, exact"):
        align(qwen, qwen, text="a", method="magic")
    with pytest.raises(AlignmentError, match="bytes, pieces"):
        align(qwen, qwen, text="a", method="dtw", compare="colour")
    with pytest.raises(AlignmentError, match="need a text"):
        align(qwen, qwen)
    with pytest.raises(AlignmentError, match="different texts"):
        align(qwen.encode("a"), qwen.encode("b"))


def test_five_megabytes_are_aligned() -> None:
    text = "The quick brown fox, 東京 and 12345.\n" * 130_000
    found = align(sample("qwen"), sample("deepseek"), text=text)
    assert found.groups[-1, 5] == len(text.encode()) > 5_000_000
    assert np.all(np.diff(found.edges[:, 1]) >= 0)
