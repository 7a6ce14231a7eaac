"""The entries kept along a text are those with the best share of what agrees with it, and what they cost is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion_core import ModelError
from fusion_core.fidelity import fidelity
from fusion_core.transfer import build_index, marginal
from tests.support import tiny
from tests.support.requires import sample

torch = pytest.importorskip("torch")
from fusion_core.models import Model, load_model  # noqa: E402
from fusion_core.models._agreeing import agreeing, agreeing_on_device  # noqa: E402

TEXT = "the quick brown fox jumps over the lazy dog, naïve café"


@pytest.fixture(scope="module", params=["byte-bpe", "metaspace-bpe", "sentencepiece-bpe", "wordpiece"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("m") / "m", request.param, 7), device="cpu")


def _expected(model: Model, text: str, k: int) -> list[set[int]]:
    """By definition: half the most probable, the text's own token, the rest by the share of what agrees."""
    full = model.predict(text)
    encoding, canonical = full.encoding, model.tokenizer.vocabulary.canonical
    lowest: dict[bytes, int] = {}
    for s in np.flatnonzero(model.tokenizer.vocabulary.spells).tolist():
        lowest.setdefault(canonical[s], s)
    kept = []
    for row in range(0 if full.has_start else 1, len(encoding) + 1):
        logprobs = full.top.logprobs[row].astype(np.float64)
        following = b" " if row == 0 and encoding.canonical[0].startswith(b" ") else b""  # which the tokenizer adds
        following += encoding.data[encoding.starts[row] :] if row < len(encoding) else b""
        score = dict(enumerate(logprobs.tolist()))

        def agrees(data: bytes, following: bytes = following) -> int:
            n = 0
            while n < min(len(data), len(following), 12) and data[n] == following[n]:
                n += 1
            return n

        for data, s in lowest.items():
            depth = agrees(data)
            if depth:
                rivals = [o for d, o in lowest.items() if d.startswith(following[:depth])]
                score[s] = max(score[s], logprobs[s] - np.log(np.exp(logprobs[rivals]).sum()))
        for s in np.argsort(-logprobs, kind="stable")[: (k + 1) // 2].tolist():
            score[s] = np.inf
        if row < len(encoding):
            score[int(encoding.ids[row])] = np.inf
        kept.append(set(sorted(score, key=lambda s: -score[s])[:k]))
    return kept


@pytest.mark.parametrize("k", [2, 9, 40])
def test_what_is_kept_is_what_the_definition_says(model: Model, k: int) -> None:
    found, full = model.predict(TEXT, top_k=k), model.predict(TEXT)
    assert found.top.ids is not None and found.top.k == k
    for row, expected in enumerate(_expected(model, TEXT, k), start=0 if found.has_start else 1):
        assert set(found.top.ids[row].tolist()) == expected
        assert found.top.logprobs[row] == pytest.approx(full.top.logprobs[row, found.top.ids[row]], abs=1e-5)
        assert (np.diff(found.top.logprobs[row]) <= 0).all()
    assert found.nll == pytest.approx(full.nll, abs=1e-5)  # the text's own token is always there


def test_windows_and_batches_keep_the_same(model: Model) -> None:
    texts = [" ".join([TEXT] * 4), "", "the fox"]
    for text, together in zip(texts, model.predict_all(texts, top_k=6), strict=True):
        assert together.nll == pytest.approx(model.predict(text).nll, abs=1e-4)


def test_both_ways_of_counting_agree() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 40)).astype(np.float32) * 4
    total = np.log(np.exp(values).sum(axis=1)).astype(np.float32)
    ids = rng.permutation(45)[:38].astype(np.int32)  # some beyond the logits
    ranges = np.zeros((6, 4, 2), np.int64)
    for r in range(5):  # the last agrees with nothing
        low, high = 0, 38
        for d in range(rng.integers(1, 5)):
            low, high = sorted(rng.integers(low, high + 1, 2).tolist())
            if low < high:
                ranges[r, d] = low, high
            else:
                break
    least = np.full(7, -3.0, np.float32)
    one = agreeing(values, total, ids, ranges, least[:6])
    other = agreeing_on_device(torch.from_numpy(values), torch.from_numpy(total)[:, None], ids, ranges, least[:6])
    assert len(one[0]) > 5
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_an_unknown_way_to_keep_is_named(model: Model) -> None:
    with pytest.raises(ModelError, match="text, best"):
        model.predict(TEXT, top_k=3, keep="some")


def test_more_passes_come_nearer_to_the_marginal(model: Model) -> None:
    index = build_index(model.tokenizer, model.tokenizer)
    source = model.predict(TEXT)
    positions = np.arange(1, len(source.encoding) - 1, 3)
    deep = marginal(model, source, source.encoding, index, positions, own=source)
    one = marginal(model, source, source.encoding, index, positions, own=source, passes=1)
    assert one.ledger[:, 2].sum() >= deep.ledger[:, 2].sum()


@pytest.mark.slow
@pytest.mark.parametrize("direction", [("gemma-3-270m", "smollm2-135m"), ("smollm2-135m", "gemma-3-270m")])
def test_a_cache_of_64_entries_costs_next_to_nothing_on_real_models(direction: tuple[str, str]) -> None:
    for name in direction:
        sample(name)
    source, target = (load_model(name, device="cpu") for name in direction)
    text = "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।\n    def f(x):\n        return x\n"
    index = build_index(source.tokenizer, target.tokenizer)
    own = target.predict(text)
    whole, cut = (fidelity(source.predict(text, top_k=k), own, index, ["byte-exact"]).methods[0] for k in (0, 64))
    assert whole.coverage == cut.coverage == 1 and cut.bpb < 1.05 * whole.bpb
