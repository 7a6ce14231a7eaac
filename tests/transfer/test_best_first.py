"""The compiled order of entries is the sorted one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusion_core.transfer import Transfer

_ROW = st.dictionaries(st.integers(0, 40), st.sampled_from([0.0, 1e-9, 0.1, 0.2, 0.3]), max_size=12)


@given(st.lists(st.tuples(_ROW, st.booleans()), max_size=8), st.integers(1, 6))
def test_best_first_is_a_sort_by_probability_and_id(rows: list[tuple[dict[int, float], bool]], k: int) -> None:
    indptr = np.concatenate(([0], np.cumsum([len(row) for row, _ in rows]))).astype(np.int64)
    ids = np.array([i for row, _ in rows for i in row], dtype=np.int32)
    probs = np.array([p for row, _ in rows for p in row.values()], dtype=np.float32)
    covered = np.array([c for _, c in rows], dtype=np.bool_)
    carried = Transfer("x", indptr, ids, probs, np.zeros((len(rows), 5)), covered, 41)
    counts, found, masses = carried.best_first(k, 1e-8)
    at = 0
    for count, (row, shown) in zip(counts.tolist(), rows, strict=True):
        expected = sorted((-p, i) for i, p in row.items() if p > 1e-8)[:k] if shown else []
        assert found[at : at + count].tolist() == [i for _, i in expected]
        assert np.allclose(masses[at : at + count], [-p for p, _ in expected])
        at += count
    assert at == len(found) == len(masses)
