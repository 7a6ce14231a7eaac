"""Models run as they were trained, and the gold standard asks them the right questions."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion_core import DistributionError, ModelError, TokenizerError, TransferError
from fusion_core.fidelity import fidelity
from fusion_core.transfer import METHODS, build_index, marginal, transfer
from tests.support import tiny
from tests.support.requires import sample

torch = pytest.importorskip("torch")
from fusion_core.models import Model, load_model  # noqa: E402

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[Model, Model]:
    root = tmp_path_factory.mktemp("models")
    return (
        load_model(tiny.save_model(root / "a", "byte-bpe", 1), device="cpu"),
        load_model(tiny.save_model(root / "b", "metaspace-bpe", 2), device="cpu"),
    )


def test_predictions_are_the_models_own(pair: tuple[Model, Model]) -> None:
    model = pair[0]
    found = model.predict(TEXT)
    assert not found.has_start and len(found.top) == len(found.encoding) + 1
    ids = torch.tensor([found.encoding.ids.tolist()])
    with torch.inference_mode():
        logits = model.network(ids).logits[0]
    expected = torch.log_softmax(logits, dim=-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    assert found.nll == pytest.approx(-expected.numpy(), abs=1e-5)
    # Padding rows of the network are part of the softmax, and are never kept.
    assert found.top.width == 440 > found.top.k == model.tokenizer.size and found.top.tail[1:].min() > 0


def test_tokens_that_the_weights_do_not_know_are_told(pair: tuple[Model, Model]) -> None:
    """As where tokens were added to a tokenizer alone."""
    network = copy.deepcopy(pair[0].network)
    entries = int(pair[0].tokenizer.encode(TEXT).ids.max())
    network.resize_token_embeddings(entries)
    model = replace(pair[0], network=network)
    for read in (model.predict, lambda text: model.score([text])):
        with pytest.raises(ModelError, match=f"gave the id {entries}, and .* reads {entries} ids"):
            read(TEXT)


def test_every_position_of_a_long_text_has_context(pair: tuple[Model, Model]) -> None:
    model = pair[0]
    found = model.predict(" ".join([TEXT] * 8), top_k=5, keep="best")
    assert len(found.encoding) > 96 and model.window == 64 and found.top.k == 5
    for row, begin in ((40, 0), (64, 0), (74, 32), (len(found.encoding), 64)):
        ids = torch.tensor([found.encoding.ids[begin:row].tolist()])
        with torch.inference_mode():
            expected = torch.log_softmax(model.network(ids).logits[0, -1], dim=-1)[: model.tokenizer.size]
        assert found.top.logprobs[row] == pytest.approx(expected.topk(5).values.numpy(), abs=1e-4)


def test_a_batch_predicts_what_each_text_alone_predicts(pair: tuple[Model, Model]) -> None:
    model = pair[1]
    texts = [" ".join([TEXT] * 8), "", "the fox", TEXT, "dogs"]
    for together, text in zip(model.predict_all(texts, top_k=3), texts, strict=True):
        alone = model.predict(text, top_k=3)
        assert together.encoding.text == text and together.top.logprobs.shape == alone.top.logprobs.shape
        assert together.top.logprobs == pytest.approx(alone.top.logprobs, abs=1e-4)


def test_scores_are_those_of_the_predictions_whatever_the_length(pair: tuple[Model, Model]) -> None:
    texts = [" ".join([TEXT] * 8), "", "the fox", "a", TEXT]
    started = replace(pair[1], tokenizer=replace(pair[1].tokenizer, adds_bos=True))
    for model in (*pair, started):
        for scored, text in zip(model.score(texts), texts, strict=True):
            found = model.predict(text)
            assert scored.nll == pytest.approx(found.nll, abs=1e-4) and len(scored.nll) == len(scored.correct)
            best = found.top.rows(slice(1, -1)).best()
            assert scored.correct.tolist() == (best == found.encoding.ids[1:]).tolist()
    assert started.start is not None and pair[0].start is None


def test_a_model_that_says_nan_is_not_scored(pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair[0].network.model.norm.weight, "data", torch.full((32,), torch.nan))
    with pytest.raises(DistributionError, match="NaN"):
        pair[0].score([TEXT])


def test_without_torch_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_core.models._load.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="make samples"):
        load_model("smollm2-135m")


def test_an_empty_text_has_no_predictions_to_judge(pair: tuple[Model, Model]) -> None:
    found = pair[0].predict("")
    assert len(found.top) == 1 and np.isnan(found.bits_per_byte)
    with pytest.raises(TransferError, match="too short"):
        fidelity(found, pair[1].predict(""), build_index(pair[0].tokenizer, pair[1].tokenizer))


def test_marginal_leaves_next_to_nothing_open_and_is_what_the_source_says(pair: tuple[Model, Model]) -> None:
    a, b = pair
    source, own = a.predict(TEXT), b.predict(TEXT)
    index = build_index(a.tokenizer, b.tokenizer)
    positions = np.arange(1, len(own.encoding) - 1, 4)
    found = marginal(a, source, own.encoding, index, positions, own=own)
    assert found.ledger.sum(axis=1) == pytest.approx(np.ones(len(positions)), abs=1e-4)
    opened = transfer(source, own.encoding, index, method="byte-exact-open", own=own)
    # What forward passes settle was open before, and what was sure stays as it was.
    assert (found.ledger[:, 2] <= opened.ledger[positions, 2] + 1e-6).all()
    assert found.ledger[:, 0] == pytest.approx(opened.ledger[positions, 0], abs=1e-5)
    for n, i in enumerate(positions.tolist()):
        off = np.abs(found.to_dense(n) - opened.to_dense(i)).sum() / 2
        assert off <= opened.ledger[i, 2] + 1e-4
    with pytest.raises(TransferError, match="ascend"):
        marginal(a, source, own.encoding, index, np.array([3, 1]))


def test_marginal_stays_within_a_table_of_positions(tmp_path: Path, pair: tuple[Model, Model]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=440, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4)
    torch.manual_seed(5)
    GPT2LMHeadModel(config).save_pretrained(str(tmp_path))
    tiny.train("byte-bpe", tmp_path)
    source_model, target = load_model(str(tmp_path), device="cpu"), pair[1].tokenizer
    text = " ".join([TEXT] * 8)
    source, encoding = source_model.predict(text), target.encode(text)
    assert len(source.encoding) > 64
    index, positions = build_index(source_model.tokenizer, target), np.arange(1, len(encoding) - 1, 3)
    found = marginal(source_model, source, encoding, index, positions)
    assert found.ledger.sum(axis=1) == pytest.approx(np.ones(len(positions)), abs=1e-4)
    opened = transfer(source, encoding, index, method="byte-exact-open")
    assert (found.ledger[:, 1] > 0.1).any() and found.ledger[:, 2].max() < opened.ledger[positions, 2].max()


def test_fidelity_of_every_method(pair: tuple[Model, Model]) -> None:
    a, b = pair
    source, own = a.predict(TEXT), b.predict(TEXT)
    index = build_index(a.tokenizer, b.tokenizer)
    positions = np.array([1, 5])
    reference = marginal(a, source, own.encoding, index, positions, own=own)
    found = fidelity(source, own, index, reference=reference, reference_positions=positions)
    assert [row.name for row in found.methods] == list(METHODS)
    assert set(found.to_dict()) >= {"source", "target", "bytes", "positions", "source_bpb", "target_bpb", "methods"}
    for row in found.methods:
        assert sum(row.ledger.values()) == pytest.approx(1.0, abs=1e-4)
        assert row.ratio == pytest.approx(row.bpb / found.source_bpb) and row.kl is not None and row.kl >= -1e-6
    assert len(found.to_frame()) == len(METHODS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "no model was named"),
        ("qwen", "tokenizer alone, without weights; the sample models are smollm2"),
        ("/nowhere/model", "no file or folder"),
        ("missing-model", "missing-model"),
    ],
)
def test_a_wrong_name_is_one_clear_error(name: str, says: str) -> None:
    with pytest.raises((ModelError, TokenizerError), match=says):
        load_model(name)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        load_model(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"no \.gguf file"):
        load_model(tmp_path / "weights.pt")


def test_a_run_of_spaces_is_one_token_of_the_sample_models_tokenizer() -> None:
    assert sample("gemma-3-270m").encode("x:\n    if y").pieces == ["x", ":", "\n", "▁▁▁▁", "if", "▁y"]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("gemma-3-270m", "smollm2-135m"), ("smollm2-135m", "gemma-3-270m")])
def test_the_sample_models_seen_through_byte_exact(
    source: str, target: str, sample_models: Callable[[str], Model]
) -> None:
    prose = (
        "The committee had not expected such a response, and nobody in the old courthouse knew what to do next. "
        "Everyone has the right to freedom of thought, conscience and religion; this right includes freedom to change."
    )
    code = (
        "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
        "    return total / len(values)\n"
    )
    a, b = sample_models(source), sample_models(target)
    index = build_index(a.tokenizer, b.tokenizer)
    for text, limit in ((prose, 1.02), (code, 1.05)):
        figures = fidelity(a.predict(text), b.predict(text), index, ["byte-exact", "byte-exact-open", "fusellm-hard"])
        ours, opened, published = figures.methods
        assert ours.coverage >= (0.999 if a.start is not None else 0.97)
        # Short texts: what a model pays for the rest of a first token that the other cuts differently counts for more.
        assert ours.ratio <= limit + 0.03 and opened.ratio <= 1.10
        assert ours.ratio <= published.ratio + 0.01 and (text is prose or published.ratio > 1.3)


@pytest.fixture(scope="module")
def sample_models(workspace_folder: Path) -> Callable[[str], Model]:
    from functools import cache

    @cache
    def loaded(name: str) -> Model:
        sample(name)
        return load_model(name, device="cpu")

    return loaded


def test_the_command_prints_the_agreed_json(tmp_path: Path) -> None:
    a, b = tiny.save_model(tmp_path / "a", "byte-bpe", 1), tiny.save_model(tmp_path / "b", "metaspace-bpe", 2)
    command = [sys.executable, "-m", "training", "fidelity", str(a), str(b), "--text", TEXT, "--top-k", "16"]
    command += ["--method", "byte-exact", "--method", "fusellm-soft"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["methods"]] == ["byte-exact", "fusellm-soft"]
    assert set(found["methods"][0]) == {"name", "coverage", "top1", "nll", "bpb", "ratio", "ledger", "seconds"}
    table = subprocess.run([*command, "--against-marginal", "2"], capture_output=True, text=True, timeout=300)
    assert table.returncode == 0 and "same top-1" in table.stdout and "byte-exact" in table.stdout
    wrong = subprocess.run([*command, "--method", "magic"], capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 2 and "unknown transfer method 'magic'" in wrong.stderr
