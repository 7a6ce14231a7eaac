"""The compatible mode returns what the published code returned."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_core import MappingError, TransferError
from fusion_core.compat.fusellm import sinkhorn, transform_step_logits
from tests.oracles import fusellm as oracle

GOLDEN = Path(__file__).parents[1] / "golden" / "transfer.json.gz"
CASES: list[dict[str, Any]] = json.loads(gzip.decompress(GOLDEN.read_bytes()))


def _run(case: dict[str, Any], kind: str) -> tuple[list[list[int]], list[list[float]]]:
    source = {int(i): piece for i, piece in case["source_pieces"].items()}
    target = {int(i): piece for i, piece in case["target_pieces"].items()}
    return transform_step_logits(
        [source[i] for i in case["source_ids"]],
        [target[i] for i in case["target_ids"]],
        case["source_topk_ids"],
        case["source_topk_logits"],
        source_vocab=source,
        target_vocab={piece: i for i, piece in target.items()},
        source_marker=case["source_marker"],
        target_marker=case["target_marker"],
        kind=kind,
        soft_mapping=case["soft_mapping"],
        target_topk_ids=case["target_topk_ids"],
        target_topk_logits=case["target_topk_logits"],
    )


@pytest.mark.parametrize("kind", ["hard", "soft", "ot"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['source']}-{case['target']}-{case['text_name']}")
def test_published_results_are_reproduced(case: dict[str, Any], kind: str) -> None:
    ids, values = _run(case, kind)
    assert ids == case["results"][kind]["ids"]
    for ours, theirs in zip(values, case["results"][kind]["logits"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


_piece = st.text("abĠ", min_size=1, max_size=3)


@given(data=st.data())
def test_it_agrees_with_the_published_loops(data: st.DataObject) -> None:
    vocab = data.draw(st.lists(_piece, min_size=2, max_size=8, unique=True))
    targets = data.draw(st.lists(st.text("ab▁", min_size=1, max_size=3), min_size=2, max_size=8, unique=True))
    source_vocab, target_vocab = dict(enumerate(vocab)), {piece: i for i, piece in enumerate(targets)}
    source = data.draw(st.lists(st.sampled_from(vocab), min_size=1, max_size=8))
    target = data.draw(st.lists(st.sampled_from(targets), min_size=1, max_size=8))
    width = data.draw(st.integers(1, len(vocab)))
    ids = [data.draw(st.permutations(range(len(vocab))))[:width] for _ in source]
    logits = [sorted(data.draw(st.lists(st.floats(-9, 9), min_size=width, max_size=width))) for _ in source]
    names = {piece.replace("Ġ", "▁") for piece in vocab}
    soft = {name: data.draw(st.sampled_from(targets)) for name in sorted(names)}
    for mapping in (None, soft):
        expected = oracle.transform(source, target, ids, logits, source_vocab, target_vocab, ("Ġ", "▁"), mapping)
        for as_arrays in (False, True):
            found = transform_step_logits(
                source, target, np.array(ids) if as_arrays else ids, np.array(logits) if as_arrays else logits,
                source_vocab=source_vocab, target_vocab=target_vocab, source_marker="Ġ", target_marker="▁",
                kind="hard" if mapping is None else "soft", soft_mapping=mapping,
            )  # fmt: skip
            assert found == expected


def test_the_published_sinkhorn_keeps_both_marginals() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.dirichlet(np.ones(10)), rng.dirichlet(np.ones(10))
    plan = sinkhorn(rng.integers(0, 3, (10, 10)).astype(float), rows, columns, 2.0, 1e-9)
    assert plan.sum(0) == pytest.approx(columns, abs=1e-6) and plan.sum(1) == pytest.approx(rows, abs=1e-6)


_ARGS: dict[str, Any] = {
    "source_vocab": {0: "a"}, "target_vocab": {"a": 0}, "source_marker": "Ġ", "target_marker": "Ġ", "kind": "hard",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": "magic"}, TransferError, "hard, soft, ot"),
        ({"kind": "soft"}, TransferError, "soft_mapping"),
        ({"kind": "ot", "soft_mapping": {}}, TransferError, "target_topk_ids"),
        ({"kind": "soft", "soft_mapping": {}}, MappingError, "no entry for the source piece 'a'"),
        ({"source_vocab": {}}, MappingError, "source id 0"),
        ({"target_vocab": {}}, MappingError, "'a' is not in target_vocab"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], error: type[Exception], says: str) -> None:
    target = ["b"] if "target_vocab" in change else ["a"]
    with pytest.raises(error, match=says.replace("'a'", "'[ab]'")):
        transform_step_logits(["a"], target, [[0]], [[1.0]], **{**_ARGS, **change})


def test_rows_must_fit_the_tokens() -> None:
    with pytest.raises(TransferError, match="2 source tokens need as many rows, got 1"):
        transform_step_logits(["a", "a"], ["a"], [[0]], [[1.0]], **_ARGS)
