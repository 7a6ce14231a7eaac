"""`dtw` is the textbook recurrence, on every input and whichever way its kernel takes through memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_core import AlignmentError
from fusion_core.alignment import COSTS, cost_matrix, dtw
from tests.oracles import dtw as oracle

GOLDEN = Path(__file__).parents[1] / "golden" / "alignment.json.gz"
CASES: list[dict[str, Any]] = json.loads(gzip.decompress(GOLDEN.read_bytes()))

# Few letters and many repeats make ties; empty strings and strings beyond 64 characters take other kernels.
tokens = st.lists(
    st.one_of(
        st.text("ab", max_size=4),
        st.text("aé東🙂", max_size=3),
        st.text("ab", min_size=60, max_size=140),
        st.sampled_from(["", " ", "the", "then", "\ud800", "\udcff"]),
    ),
    min_size=1,
    max_size=12,
)


def _same_as_oracle(source: list[str], target: list[str], cost: str) -> None:
    edges, total = dtw(source, target, cost)
    expected, least = oracle.dtw(source, target, oracle.COSTS[cost])
    assert edges.dtype == np.int32
    assert [tuple(edge) for edge in edges.tolist()] == expected
    assert total == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("cost", COSTS)
@given(source=tokens, target=tokens)
@settings(max_examples=300)
def test_edges_and_cost_are_those_of_the_recurrence(cost: str, source: list[str], target: list[str]) -> None:
    _same_as_oracle(source, target, cost)


@pytest.mark.parametrize("cost", COSTS)
@given(
    source=st.lists(st.text("ab", max_size=3), min_size=1, max_size=40),
    length=st.integers(1, 40),
    rests=st.integers(0, 2000),
)
@settings(max_examples=100)
def test_long_sequences_in_little_memory_are_still_exact(cost: str, source: list[str], length: int, rests: int) -> None:
    """The kernel keeps checkpoints and walks back in strips when the table is too large for memory, and does with
    plainer bounds for the rows for which it cannot keep all: for none (all fit), for some, or for all."""
    from fusion_core.alignment import _dtw_kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_dtw_kernel, "COST_CELLS", 64)
        patch.setattr(_dtw_kernel, "MOVE_CELLS", 48)
        patch.setattr(_dtw_kernel, "REST_CELLS", rests)
        patch.setattr(_dtw_kernel, "DISTANCE_TIME", 1 << 20)
        _same_as_oracle(source, (source[::-1] * 40)[:length], cost)
        _same_as_oracle(source, (source * 40)[:length], cost)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_golden_edges_and_costs_of_the_published_code(case: int) -> None:
    golden = CASES[case]
    source = [piece.replace(golden["source_marker"], "") for piece in golden["source_pieces"]]
    target = [piece.replace(golden["target_marker"], "") for piece in golden["target_pieces"]]
    edges, cost = dtw(source, target)
    assert edges.tolist() == golden["edges"] and cost == golden["cost"]


def test_all_golden_cases_are_there() -> None:
    assert len(CASES) == 24 and all(len(case["edges"]) > 4 for case in CASES)


@pytest.mark.parametrize("cost", COSTS)
def test_ties_go_to_the_diagonal_then_up(cost: str) -> None:
    assert dtw(["a", "a", "a"], ["a", "a"], cost)[0].tolist() == [[0, 0], [1, 0], [2, 1]]


def test_a_contained_string_costs_a_tenth() -> None:
    assert cost_matrix(["the"], ["other"], "containment") == pytest.approx(np.array([[0.2]]))
    assert cost_matrix(["the"], ["other"]).tolist() == [[2.0]]
    assert cost_matrix(["a", "b"], ["ab"], "containment") == pytest.approx(np.array([[0.1], [0.1]]))


def test_nothing_against_nothing_is_an_empty_path_and_against_something_an_error() -> None:
    edges, cost = dtw([], [])
    assert edges.shape == (0, 2) and cost == 0
    with pytest.raises(AlignmentError, match="the source has no tokens"):
        dtw([], ["a"])
    with pytest.raises(AlignmentError, match="the target has no tokens"):
        dtw(["a"], [])


def test_an_unknown_cost_names_the_known_ones() -> None:
    with pytest.raises(AlignmentError, match="edit, containment"):
        dtw(["a"], ["a"], "hamming")


def test_too_many_pairs_are_refused_before_any_work() -> None:
    with pytest.raises(AlignmentError, match="are too many; give a shorter text, or use the method span"):
        dtw(["a"] * 50_000, ["b"] * 50_000)
