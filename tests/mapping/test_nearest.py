"""The nearest-string search is exact, and ties go to the lowest index."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import editdistance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_core import MappingError
from fusion_core.mapping import all_nearest, map_vocabulary, nearest, neighbours
from tests.support.requires import sample

GOLDEN = Path(__file__).parents[1] / "golden" / "mapping.json.gz"
CASES: list[dict[str, Any]] = json.loads(gzip.decompress(GOLDEN.read_bytes()))

strings = st.lists(
    st.one_of(
        st.text("ab", max_size=5),
        st.text("ab東🙂é", max_size=8),
        st.text("ab", min_size=60, max_size=150),
        st.sampled_from(["", "\ud83d", "the", "then", "other"]),
    ),
    min_size=1,
    max_size=30,
)


def _brute_force(query: str, vocabulary: list[str]) -> tuple[int, int, list[int]]:
    distances = [editdistance.eval(query, entry) for entry in vocabulary]
    least = min(distances)
    return distances.index(least), least, [j for j, d in enumerate(distances) if d == least]


@given(queries=strings, vocabulary=strings)
@settings(max_examples=300)
def test_nearest_is_brute_force(queries: list[str], vocabulary: list[str]) -> None:
    index, distance = nearest(queries, vocabulary)
    assert index.dtype == np.int32 and distance.dtype == np.int32
    expected = [_brute_force(query, vocabulary) for query in queries]
    assert list(zip(index.tolist(), distance.tolist(), strict=True)) == [found[:2] for found in expected]
    assert neighbours(queries, vocabulary).ties.tolist() == [len(found[2]) for found in expected]
    for query, (_, _, ties) in zip(queries, expected, strict=True):
        assert all_nearest([query], vocabulary)[0].tolist() == ties


def test_ties_go_to_the_lowest_index_wherever_the_entries_stand() -> None:
    vocabulary = ["zz", "cat", "bat", "hat"]
    assert nearest(["rat"], vocabulary)[0].tolist() == [1]
    assert nearest(["rat"], vocabulary[::-1])[0].tolist() == [0]
    assert neighbours(["rat"], vocabulary).ties.tolist() == [3]


def test_no_queries_are_no_answers_and_no_vocabulary_is_an_error() -> None:
    assert [part.tolist() for part in nearest([], ["a"])] == [[], []]
    with pytest.raises(MappingError, match="empty"):
        nearest(["a"], [])


def test_golden_distances_and_ids_of_the_published_code() -> None:
    """Qwen onto DeepSeek; the second golden case needs Llama 2's vocabulary, which no package brings."""
    golden = next(case for case in CASES if case["source"] == "qwen3" and case["target"] == "deepseek_v3")
    qwen, deepseek = sample("qwen"), sample("deepseek")
    rows = np.array([row for row in golden["rows"] if row[0] < qwen.size])
    assert len(rows) >= 395
    mapping = map_vocabulary(qwen, deepseek, kind="soft", form="pieces")
    assert mapping.distance[rows[:, 0]].tolist() == rows[:, 2].tolist()
    assert mapping.best[rows[:, 0]].tolist() == rows[:, 1].tolist()
