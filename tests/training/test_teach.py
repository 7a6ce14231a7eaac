"""Taught shards: whole or not there, made once, and the same as asking the model."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fusion_core import DistributionError, load_tokenizer
from tests.support import tiny
from tests.training.test_cli import fusescope
from training.corpus import Document
from training.shards import MANIFEST, is_shards, read_manifest, read_shards, run_stage
from training.stages import teach

pytest.importorskip("torch")
from fusion_core.models import Model, load_model, weights_identity, weights_sample

TEXTS = [f"the quick brown fox jumps over {n} lazy dogs" * (1 + n) for n in range(12)]
DOCUMENTS = [Document(f"d{n}", "odd" if n % 2 else "even", text) for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module", params=["byte-bpe", "metaspace-bpe"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("m") / "m", request.param, 3), device="cpu")


def _run(folder: Path, model: Model, documents: list[Document] = DOCUMENTS, top_k: int = 5) -> tuple[int, int]:
    batches = teach.batches(documents, 600)
    chosen = teach.settings(model, top_k)
    outcome = run_stage(folder, "teach", chosen, batches, lambda b: teach.teach(b, model, top_k))
    return outcome.made, outcome.kept


def test_shards_hold_what_the_model_says(tmp_path: Path, model: Model) -> None:
    made, _ = _run(tmp_path, model)
    taught = teach.open_taught(tmp_path)
    listing = taught.listing()
    assert made == len(taught.manifest.shards) > 2 and [doc for doc, _, _ in listing] == DOCUMENTS
    for document, shard, row in listing:
        found = taught.predictions(model.tokenizer, shard, row)
        asked = model.predict(document.text, top_k=5)
        assert found.has_start == asked.has_start and found.encoding.ids.tolist() == asked.encoding.ids.tolist()
        assert np.allclose(found.top.logprobs, asked.top.logprobs, rtol=1e-3, atol=1e-3)
        assert found.bits_per_byte == pytest.approx(asked.bits_per_byte, rel=1e-3)


@pytest.mark.parametrize("top_k", [440, 10_000])
def test_all_entries_and_a_text_without_tokens_can_be_kept(tmp_path: Path, model: Model, top_k: int) -> None:
    """One tokenizer drops a text of spaces; both vocabularies are smaller than 10,000."""
    documents = [Document("blank", "d", "  "), *DOCUMENTS[:2]]
    _run(tmp_path, model, documents, top_k)
    taught = teach.open_taught(tmp_path)
    for document, shard, row in taught.listing():
        found, asked = taught.predictions(model.tokenizer, shard, row), model.predict(document.text)
        assert found.encoding.ids.tolist() == asked.encoding.ids.tolist() and found.top.k == taught.top_k
        if len(asked.encoding) > 1:
            assert found.bits_per_byte == pytest.approx(asked.bits_per_byte, rel=1e-3)


def test_a_changed_config_of_the_model_is_noticed(tmp_path: Path, model: Model) -> None:
    tiny.save_model(tmp_path / "m", "byte-bpe", 3)
    before = weights_identity(str(tmp_path / "m"))
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 3.0'))
    os.utime(config, (0, 0))
    assert weights_identity(str(tmp_path / "m")) != before


def test_shards_of_a_model_that_begins_a_text_otherwise_are_not_its_own(tmp_path: Path, model: Model) -> None:
    """The post-processor, which says so, is no part of the tokenizer's fingerprint."""
    _run(tmp_path, model)
    tokenizer = model.tokenizer
    assert teach.known_settings(tmp_path, model.name, tokenizer, 5) is not None
    begun = replace(tokenizer, adds_bos=not tokenizer.adds_bos)
    assert teach.known_settings(tmp_path, model.name, begun, 5) is None


def test_of_a_hub_id_the_cached_commit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights_identity("me/model") == "me/model" and weights_sample("me/model") is None
    seen = set()
    for commit, weights in (("a" * 40, b"1" * 9), ("b" * 40, b"2" * 9)):
        snapshot = tmp_path / "models--me--model" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (snapshot / "model.safetensors").write_bytes(weights)
        (tmp_path / "models--me--model" / "refs").mkdir(exist_ok=True)
        (tmp_path / "models--me--model" / "refs" / "main").write_text(commit)
        seen |= {weights_identity("me/model"), weights_sample("me/model")}
    assert len(seen) == 4 and None not in seen


def test_a_rerun_does_only_what_is_missing_damaged_or_changed(tmp_path: Path, model: Model) -> None:
    made, _ = _run(tmp_path, model)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert _run(tmp_path, model) == (0, made)
    first, second = sorted(before)[:2]
    (tmp_path / first).unlink()
    (tmp_path / second).write_bytes(before[second][:-1] + b"x")
    assert _run(tmp_path, model) == (2, made - 2)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")} == before
    # Another text changes its own shard, another k all of them; what is out of date is gone.
    changed = [*DOCUMENTS[:-1], Document("d11", "odd", "something else")]
    assert _run(tmp_path, model, changed)[0] == 1
    assert _run(tmp_path, model, changed, top_k=3)[1] == 0
    assert len(list(tmp_path.glob("*.parquet"))) == len(read_manifest(tmp_path).shards)


def test_tables_of_others_in_its_folder_stay(tmp_path: Path, model: Model) -> None:
    table = tmp_path / "0000.parquet"
    table.write_bytes(b"somebody's data")
    _run(tmp_path, model)
    _run(tmp_path, model, DOCUMENTS[:3], top_k=3)
    assert table.read_bytes() == b"somebody's data"


def test_an_interrupted_run_keeps_its_whole_shards(tmp_path: Path, model: Model) -> None:
    calls = 0

    def stops(batch: pa.RecordBatch) -> pa.RecordBatch:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return teach.teach(batch, model, 5)

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "teach", teach.settings(model, 5), teach.batches(DOCUMENTS, 600), stops)
    assert not read_manifest(tmp_path).complete and not list(tmp_path.glob(".part-*"))
    assert _run(tmp_path, model)[1] == 2 and read_manifest(tmp_path).complete


def test_after_an_interrupted_change_of_settings_no_shard_of_the_old_ones_is_read(tmp_path: Path, model: Model) -> None:
    def stops(batch: pa.RecordBatch) -> pa.RecordBatch:
        if is_shards(tmp_path) and read_manifest(tmp_path).settings["top_k"] == 3:
            raise KeyboardInterrupt
        return teach.teach(batch, model, 3)

    made, _ = _run(tmp_path, model, top_k=5)
    assert made > 2
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "teach", teach.settings(model, 3), teach.batches(DOCUMENTS, 600), stops)
    assert [batch.num_rows for batch in read_shards(tmp_path)] == [read_manifest(tmp_path).shards[0].rows]
    assert _run(tmp_path, model, top_k=3) == (made - 1, 1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / MANIFEST).write_text("{"), "cannot be read"),
        (
            lambda f: (f / MANIFEST).write_text(json.dumps({"format": "other"})),
            "no file of the format fusescope-shards",
        ),
        (lambda f: (f / MANIFEST).write_text(json.dumps({"format": "fusescope-shards", "version": 9})), "version 9"),
        (lambda f: next(f.glob("*.parquet")).write_bytes(b"x"), "damaged"),
        (lambda f: next(f.glob("*.parquet")).unlink(), "missing"),
    ],
)
def test_damage_is_told(tmp_path: Path, model: Model, damage: object, says: str) -> None:
    _run(tmp_path, model)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(DistributionError, match=says):
        list(read_shards(tmp_path))


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, model: Model) -> None:
    _run(tmp_path / "shards", model)
    taught = teach.open_taught(tmp_path / "shards")
    other = load_tokenizer(tiny.train("wordpiece", tmp_path))
    with pytest.raises(DistributionError, match="another tokenizer"):
        taught.predictions(other, *taught.listing()[0][1:])


def test_the_command_teaches_resumes_and_its_shards_measure_as_the_models(tmp_path: Path) -> None:
    for n, kind in enumerate(("byte-bpe", "metaspace-bpe")):
        tiny.save_model(tmp_path / kind, kind, n)
    text = tmp_path / "text.txt"
    text.write_text(TEXTS[4], encoding="utf-8")  # at TEXTS[3] both models are equally bad, and rounding decides
    for kind in ("byte-bpe", "metaspace-bpe"):
        arguments = ["teach", str(tmp_path / kind), "-f", str(text), "-o", str(tmp_path / f"t-{kind}"), "--top-k", "20"]
        first, again = fusescope(*arguments), fusescope(*arguments)
        assert first.returncode == 0, first.stderr
        assert "1 shards made, 0 kept" in first.stdout and "0 shards made, 1 kept" in again.stdout
    options = ["--method", "byte-exact", "--top-k", "20", "--format", "json"]
    pairs = [[str(tmp_path / f"{lead}{kind}") for kind in ("metaspace-bpe", "byte-bpe")] for lead in ("", "t-")]
    live = fusescope("fidelity", *pairs[0], "-f", str(text), "--also", pairs[0][1], *options)
    kept = fusescope("fidelity", *pairs[1], "--also", pairs[1][1], *options)
    assert live.returncode == kept.returncode == 0, live.stderr + kept.stderr
    a, b = json.loads(live.stdout), json.loads(kept.stdout)
    assert b["methods"][0]["bpb"] == pytest.approx(a["methods"][0]["bpb"], rel=1e-3)
    assert [row["rule"] for row in b["fused"]] == ["min_ce", "min_ce", "avg_ce", "avg_ce", "mean", "product"]
    assert [row["bpb"] for row in b["fused"]] == pytest.approx([row["bpb"] for row in a["fused"]], rel=2e-3)
    mixed = fusescope("fidelity", pairs[1][0], pairs[0][1], "-t", "the fox")
    assert mixed.returncode == 2 and "cannot be mixed" in mixed.stderr
    other = fusescope("fidelity", *pairs[1], "-t", "the fox")
    assert other.returncode == 2 and "bring their own texts" in other.stderr
