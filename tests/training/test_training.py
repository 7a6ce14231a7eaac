"""From texts to a trained model, on tiny models: data, losses, resuming, evaluation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fusion_core import ConfigError, ModelError, TrainingError, load_tokenizer, map_vocabulary
from fusion_core.compat.fusellm import transform_step_logits
from fusion_core.transfer import Transfer, build_index, transfer
from tests.support import tiny
from tests.support.predictions import random_predictions
from tests.training.test_cli import fusescope
from training.config import Config, parse
from training.corpus import Document
from training.data import prepare
from training.shards import read_shards
from training.splits import NO_VALIDATION, split_corpus
from training.stages import carry, teach
from training.stages.examples import pack

torch = pytest.importorskip("torch")
from fusion_core.loss import SparseTarget, fusion_loss  # noqa: E402
from fusion_core.models import load_model  # noqa: E402
from training.arguments import arguments_of  # noqa: E402
from training.dataset import Collator, Examples, example  # noqa: E402
from training.estimate import check_length, estimate  # noqa: E402
from training.evaluate import score, table  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer import FusionTrainer  # noqa: E402

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "naps", "and", "hill", "runs"]
LINES = [" ".join(np.random.default_rng(n).choice(WORDS, 12 + n % 5)) for n in range(24)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return str(tiny.save_model(root / "a", "byte-bpe", 1)), str(tiny.save_model(root / "b", "metaspace-bpe", 2))


def _config(folder: Path, models: tuple[str, str], **changes: object) -> Config:
    text = folder / "lines.txt"
    text.write_text("\n".join(LINES), encoding="utf-8")
    value = {
        "target": models[1],
        "sources": [{"model": models[0]}],
        "corpus": {"files": [str(text)], "paragraphs": True, "split": "order", "validation": 0.15, "held_out": 0.25},
        "teach": {"top_k": 12, "device": "cpu"},
        "loss": {"lam": 0.5},
        "max_length": 24,
        "training": {
            "num_train_epochs": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "logging_steps": 1,
            "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 3,
        },
        "output": str(folder / "run"),
    }  # fmt: skip
    return parse({**value, **changes})


def _quiet(_: str) -> None:
    pass


def _losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_documents_are_kept_apart(tmp_path: Path, models: tuple[str, str]) -> None:
    splits = split_corpus(_config(tmp_path, models))
    parts = [[d.text for d in part] for part in (splits.train, splits.validation, splits.held_out)]
    assert [text for part in parts for text in part] == LINES and [len(part) for part in parts] == [15, 3, 6]
    hashed = split_corpus(_config(tmp_path, models, corpus={"name": "stdlib-docstrings", "limit": 60}))
    assert len(hashed.train) > 30 and not {d.name for d in hashed.train} & {d.name for d in hashed.held_out}


def test_examples_hold_what_the_transfer_says(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models)
    documents = list(split_corpus(config).train)
    assert [d.text for d in documents] == [d.text for d in split_corpus(config).train]
    folder = prepare(config, split_corpus(config).train, _quiet)
    source, target = load_model(models[0], device="cpu"), load_model(models[1], device="cpu")
    index = build_index(source.tokenizer, target.tokenizer)
    rows = {}
    for batch in read_shards(folder):
        for row in batch.to_pylist():
            rows.setdefault(row["name"], []).append(row)
    for document in documents[:5]:
        own = target.predict(document.text, top_k=12)
        expected = transfer(source.predict(document.text, top_k=12), own.encoding, index, own=own)
        parts = rows[document.name]
        assert max(len(part["tokens"]) for part in parts) <= 24
        assert [token for part in parts for token in part["tokens"]] == own.encoding.ids.tolist()
        token = 0
        for part in parts:
            at = 0
            for count, covered in zip(part["counts"], part["covered"], strict=True):
                if token:
                    ids, probs = expected.at(token - 1)
                    assert covered == expected.covered[token - 1]
                    found = dict(zip(part["ids"][at : at + count], part["logprobs"][at : at + count], strict=True))
                    for i, p in list(zip(ids.tolist(), probs.tolist(), strict=True))[:5]:
                        assert np.exp(found.get(i, -np.inf)) == pytest.approx(p, abs=2e-3)
                else:
                    assert count == 0 and not covered
                at, token = at + count, token + 1


@pytest.mark.parametrize("start", [None, 1])
def test_the_collator_lines_up_logits_gold_and_distributions(
    tmp_path: Path, models: tuple[str, str], start: int | None
) -> None:
    config = _config(tmp_path, models)
    examples = Examples(prepare(config, split_corpus(config).train, _quiet))
    rows = [examples[n] for n in range(3)]
    batch = Collator(start)(rows)
    for r, row in enumerate(rows):
        tokens, bounds = row["tokens"].tolist(), np.concatenate(([0], np.cumsum(row["counts"])))
        read = batch["input_ids"][r][batch["attention_mask"][r].bool()].tolist()
        assert read == [*([] if start is None else [start]), *tokens]
        places = np.flatnonzero(batch["labels"][r].ne(-100).numpy()).tolist()
        assert [read[p + 1] for p in places] == batch["labels"][r][places].tolist()
        for p in places:
            t = p + 1 - (start is not None)  # the example's token that place p predicts
            part = slice(bounds[t], bounds[t + 1])
            count = bounds[t + 1] - bounds[t]
            assert batch["target_ids"][r, p, :count].tolist() == row["ids"][part].tolist()
            assert bool(batch["covered"][r, p]) == bool(row["covered"][t])
            assert batch["target_probs"][r, p, count:].sum() == 0


def test_a_token_that_the_target_cannot_read_is_told(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models, sources=[])
    row = Examples(prepare(config, split_corpus(config).train, _quiet))[0]
    with pytest.raises(ModelError, match="the target' reads 3 ids"):
        Collator(None, entries=3)([row])
    assert Collator(None, entries=440)([row])["input_ids"].shape[0] == 1


def test_where_a_source_is_sure_its_rest_is_kept() -> None:
    """A rest of 1e-5 would be nothing beside probabilities rounded to float16, and what reverse_kl asks for most."""
    probs = np.array([0.99999, 0.7, 0.29999], np.float32)
    rest = np.array([1e-5, 1e-5])
    ledger = np.stack([1 - rest, 0 * rest, 0 * rest, rest, 0 * rest], axis=1)
    one = Transfer("made", np.array([0, 1, 3]), np.array([3, 1, 2], np.int32), probs, ledger, np.ones(2, np.bool_), 9)
    documents = pa.RecordBatch.from_pylist(
        [{"name": "a", "domain": "", "text": "abc", "tokens": [1, 2, 3]}],
        schema=pa.schema([carry.CARRIED.field(name) for name in ("name", "domain", "text", "tokens")]),
    )
    rows = carry._rows(documents, [one], [1.0], 8)
    (back,) = carry.carried_of(rows, 9)
    assert back.probs == pytest.approx(probs, rel=1e-3) and back.rest[0] == pytest.approx(1e-5, rel=1e-2)
    tensors = Collator(None)([example(pack(rows, 8), 0)])
    assert 1.0 - tensors["target_probs"][0, 0].double().sum() == pytest.approx(1e-5, rel=2e-2)


@pytest.mark.parametrize("kind", ["hard", "soft", "ot"])
def test_the_published_rules_are_the_published_code(tmp_path: Path, kind: str) -> None:
    a, b = (load_tokenizer(tiny.train(kind, tmp_path)) for kind in ("byte-bpe", "metaspace-bpe"))
    source, own = (random_predictions(side, LINES[0], n, top_k=12) for n, side in enumerate((a, b)))
    found = carry.published(source, own, f"published-{kind}", carry.soft_pieces(a, b))
    soft = map_vocabulary(a, b, kind="soft", form="pieces")
    pieces = [piece.replace(a.space_marker, b.space_marker) for piece in a.vocabulary.pieces]
    nearest = {piece: b.vocabulary.pieces[j] for piece, j in zip(pieces, soft.best.tolist(), strict=True)}
    ids, logits = transform_step_logits(
        source.encoding.pieces, own.encoding.pieces, source.top.ids[1:], source.top.logprobs[1:],
        source_vocab=dict(enumerate(a.vocabulary.pieces)), target_vocab=b.vocabulary.by_piece,
        source_marker=a.space_marker, target_marker=b.space_marker, kind=kind, soft_mapping=nearest,
        target_topk_ids=own.top.ids[1:], target_topk_logits=own.top.logprobs[1:],
    )  # fmt: skip
    assert found.covered.all() and found.method == f"published-{kind}"
    for i in range(len(found)):
        expected = torch.softmax(torch.tensor(logits[i], dtype=torch.float64), dim=0).tolist()
        assert dict(zip(*(x.tolist() for x in found.at(i)), strict=True)) == pytest.approx(
            dict(zip(ids[i], expected, strict=True)), abs=1e-6
        )


@pytest.mark.parametrize("kind", ["hard", "soft", "ot"])
def test_the_published_rules_read_no_entry_that_was_kept_for_the_texts_sake(models: tuple[str, str], kind: str) -> None:
    """FuseLLM asks its models for the most probable entries alone, the gold token among them or not."""
    loaded = [load_model(name, device="cpu") for name in models]
    index = build_index(*(model.tokenizer for model in loaded))
    (batch,) = teach.batches([Document(f"d{n}", "", line) for n, line in enumerate(LINES[:3])])

    def carried(top_k: int, keep: str) -> pa.RecordBatch:
        sides = dict(zip(("source", "target"), loaded, strict=True))
        settings = {side: teach.settings(model, top_k, keep) for side, model in sides.items()}
        taught = carry.join({side: teach.teach(batch, model, top_k, keep) for side, model in sides.items()})
        return carry.carry(taught, settings, index, f"published-{kind}", 16)

    found, expected = carried(15, "text"), carried(8, "best")
    for name in ("counts", "ids", "covered"):
        assert found.column(name) == expected.column(name)
    ours, theirs = (one.column("logprobs").flatten().to_numpy().astype(float) for one in (found, expected))
    assert ours == pytest.approx(theirs, abs=5e-3)


def test_a_run_learns_and_holds_its_evidence(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models, fusion={"with_target": True, "rule": "avg_ce"})
    result = train(config, say=_quiet)
    assert result["finished"] and result["validation_after"] < result["validation_before"]
    names = {path.name for path in config.output.iterdir()}
    assert {"config.yaml", "versions.json", "metrics.jsonl", "run.json", "model", "README.md", "data"} <= names
    with pytest.raises(TrainingError, match="finished run"):
        train(config, say=_quiet)
    plain = _config(tmp_path, models, sources=[], output=str(tmp_path / "plain"))
    train(plain, say=_quiet)
    done = fusescope("evaluate", str(plain.output), str(config.output), "--before", "--format", "json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [row["model"] for row in rows] == [models[1], str(plain.output), str(config.output)]
    assert rows[0]["difference"] == 0 and rows[1]["difference"] < 0 and rows[1]["low"] <= rows[1]["bits per byte"]
    assert fusescope("evaluate", str(tmp_path)).returncode == 2


def test_each_run_is_judged_in_its_own_tokens(tmp_path: Path, models: tuple[str, str]) -> None:
    runs = []
    for name, target in zip("ab", models, strict=True):
        config = _config(tmp_path, models, target=target, sources=[], output=str(tmp_path / name))
        train(config, say=_quiet)
        runs.append(str(config.output))
    found = []
    for chosen in (runs, runs[1:]):
        done = fusescope("evaluate", *chosen, "--split", "train", "--format", "json")
        assert done.returncode == 0, done.stderr
        found.append({row["model"]: row["bits per byte"] for row in json.loads(done.stdout)})
    for one in found[1:]:
        for run, bits in one.items():
            assert bits == pytest.approx(found[0][run])


def test_documents_of_one_name_are_paired_with_themselves(models: tuple[str, str]) -> None:
    model = load_model(models[1], device="cpu")
    documents = [Document("test.txt", domain, text) for domain in ("de", "tr") for text in LINES[:6]]
    scores = score(model, documents)
    for _, row in table({"a": [scores], "b": [scores]}).iterrows():
        assert row["difference"] == row["difference low"] == row["difference high"] == 0


def test_the_loss_of_a_step_is_the_fusion_loss(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models)
    config.training.update(max_steps=1, per_device_train_batch_size=64)
    train(config, say=_quiet)
    examples = Examples(prepare(config, split_corpus(config).train, _quiet))
    target = load_model(models[1], device="cpu")
    batch = Collator(target.start)([examples[n] for n in range(len(examples))])
    with torch.inference_mode():
        logits = target.network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    flat = {name: tensor.flatten(0, 1) for name, tensor in batch.items()}
    sparse = SparseTarget(flat["target_ids"], flat["target_probs"], flat["covered"])
    gold = flat["labels"]
    expected = fusion_loss(logits.flatten(0, 1), gold.clamp_min(0), sparse, lam=0.5, mask=gold.ne(-100))
    assert _losses(config.output)[1] == pytest.approx(float(expected.total), rel=1e-3)


def test_a_resumed_run_has_the_losses_of_an_unbroken_one(tmp_path: Path, models: tuple[str, str]) -> None:
    whole = _config(tmp_path, models)
    train(whole, say=_quiet)
    broken = _config(tmp_path, models, output=str(tmp_path / "broken"))
    path = tmp_path / "broken.yaml"
    from training.config import dump

    path.write_text(dump(broken), encoding="utf-8")
    run = subprocess.Popen(
        [sys.executable, "-m", "training", "train", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 120
    while time.time() < deadline and not (broken.output / "checkpoints" / "checkpoint-3").exists():
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    if not json.loads(out)["finished"]:
        assert not (broken.output / "run.json").exists()
        train(broken, resume=True, say=_quiet)
    assert (broken.output / "run.json").exists()
    expected = _losses(whole.output)
    found = _losses(broken.output)
    assert found.keys() == expected.keys() and len(expected) >= 8
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=1e-4), step


def test_a_run_does_not_go_on_with_other_texts(tmp_path: Path, models: tuple[str, str]) -> None:
    """Its batches are counted off from the beginning: with other texts the first ones would be others."""
    config = _config(tmp_path, models)
    config.training.update(max_steps=3)
    train(config, say=_quiet)
    (config.output / "run.json").unlink()
    longer = config.model_copy(update={"training": {**config.training, "max_steps": 4}})
    text = tmp_path / "lines.txt"
    text.write_text("\n".join([LINES[1], LINES[0], *LINES[2:]]), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"not those that the run .* began with \(train\)"):
        train(longer, resume=True, say=_quiet)
    text.write_text("\n".join(LINES), encoding="utf-8")
    assert train(longer, resume=True, say=_quiet)["steps"] == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"eval_strategy": "epoch"}, "corpus": {"validation": 0.0}}, "no validation document"),
        ({"training": {"train_sampling_strategy": "group_by_length"}}, "not supported; random or sequential"),
    ],
)
def test_what_the_trainer_would_fail_with_is_told_before_the_data_are_made(
    tmp_path: Path, models: tuple[str, str], changes: dict[str, dict[str, object]], says: str
) -> None:
    value = json.loads(_config(tmp_path, models).model_dump_json())
    config = parse({**value, **{name: {**value[name], **some} for name, some in changes.items()}})
    with pytest.raises(TrainingError, match=says):
        train(config, say=_quiet)
    assert not (config.output / "data").exists()


def _rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = ("step", "loss", "eval_bits_per_byte", "epoch")
    rows = [{name: value for name, value in json.loads(line).items() if name in kept} for line in lines]
    return [row for row in rows if "loss" in row or "eval_bits_per_byte" in row]


@pytest.mark.parametrize("last", [2, 4], ids=["within an epoch", "at an epoch's end"])
def test_a_stop_writes_one_checkpoint_and_leaves_no_trace_in_the_run(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    usual = _config(tmp_path, models).training
    chosen = {**{n: v for n, v in usual.items() if not n.startswith("save_")}, "num_train_epochs": 3}
    whole = _config(tmp_path, models, training=chosen, patience=2)
    result = train(whole, say=_quiet)
    broken = _config(tmp_path, models, training=chosen, patience=2, output=str(tmp_path / "broken"))
    saved: list[int] = []
    save, read = FusionTrainer._save_checkpoint, FusionTrainer.get_batch_samples

    def counted(trainer: FusionTrainer, *args: Any, **options: Any) -> None:
        saved.append(trainer.state.global_step)
        save(trainer, *args, **options)

    def signalled(trainer: FusionTrainer, *args: Any, **options: Any) -> Any:
        if trainer.state.global_step == last - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(trainer, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FusionTrainer, "_save_checkpoint", counted)
        patch.setattr(FusionTrainer, "get_batch_samples", signalled)
        assert not train(broken, say=_quiet)["finished"]
    assert saved == [last]
    resumed = train(broken, resume=True, say=_quiet)
    assert _rows(broken.output) == [pytest.approx(row, rel=1e-4) for row in _rows(whole.output)]
    assert resumed["validation_before"] == pytest.approx(result["validation_before"])
    assert resumed["validation_after"] == pytest.approx(result["validation_after"], rel=1e-4)


def test_early_stopping_goes_on_counting_and_a_run_keeps_its_settings(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation is worse than the one before: the fourth is the third bad one, after 28 of 70 steps."""
    usual = _config(tmp_path, models).training
    chosen = {**{n: v for n, v in usual.items() if not n.startswith("save_")}, "num_train_epochs": 10}
    config = _config(tmp_path, models, training=chosen, patience=3)
    evaluate, read = FusionTrainer.evaluate, FusionTrainer.get_batch_samples

    def worse(trainer: FusionTrainer, *args: Any, **options: Any) -> dict[str, float]:
        one = replace(score(trainer._model_of, trainer._validation[:1])[0], bits=10.0 + trainer.state.global_step)
        with monkeypatch.context() as patch:
            patch.setattr("training.trainer.score", lambda *_, **__: [one])
            return evaluate(trainer, *args, **options)

    def signalled(trainer: FusionTrainer, *args: Any, **options: Any) -> Any:
        if trainer.state.global_step == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(trainer, *args, **options)

    monkeypatch.setattr(FusionTrainer, "evaluate", worse)
    with monkeypatch.context() as patch:
        patch.setattr(FusionTrainer, "get_batch_samples", signalled)
        assert not train(config, say=_quiet)["finished"]
    other = _config(tmp_path, models, training={**chosen, "learning_rate": 1e-3}, loss={"lam": 1.0}, patience=3)
    with pytest.raises(TrainingError, match=r"loss\.lam \(was 0\.5, now 1\.0\), training\.learning_rate \(was 0\.003"):
        train(other, resume=True, say=_quiet)
    shorter = _config(tmp_path, models, training={**chosen, "max_steps": 2}, patience=3)
    with pytest.raises(TrainingError, match=r"more than max_steps \(2\)"):
        train(shorter, resume=True, say=_quiet)
    longer = _config(tmp_path, models, training={**chosen, "num_train_epochs": 11, "logging_steps": 2}, patience=3)
    assert train(longer, resume=True, say=_quiet)["steps"] == 28


def test_what_the_trainer_refuses_is_said_before_any_data_is_made(tmp_path: Path, models: tuple[str, str]) -> None:
    for arguments, says in (
        ({"eval_strategy": "sometimes"}, "the Trainer refuses"),
        ({"report_to": "mlflow"}, "not inst"),
    ):
        config = _config(tmp_path, models, training={**arguments, "use_cpu": True})
        with pytest.raises(TrainingError, match=says):
            estimate(config, split_corpus(config))
        with pytest.raises(TrainingError, match=says):
            train(config, say=_quiet)
        assert not (config.output / "data").exists()
    with pytest.raises(ConfigError, match=r"training\.label_smoothing_factor: has no effect here"):
        _config(tmp_path, models, training={"label_smoothing_factor": 0.1})


def test_patience_evaluates_where_checkpoints_are_saved(tmp_path: Path, models: tuple[str, str]) -> None:
    made = arguments_of(_config(tmp_path, models, patience=2), validates=True)  # saves every third step
    assert (made.eval_strategy, made.eval_steps, made.load_best_model_at_end) == ("steps", 3, True)
    assert arguments_of(_config(tmp_path, models), validates=True).eval_strategy == "epoch"


def test_runs_that_share_their_data_may_ask_for_different_limits(tmp_path: Path, models: tuple[str, str]) -> None:
    corpus = _config(tmp_path, models).corpus.model_dump(mode="json", exclude_none=True)
    sizes = []
    for limit in (20, 8):
        config = _config(tmp_path, models, sources=[], data=str(tmp_path / "data"), corpus={**corpus, "limit": limit})
        sizes.append((len(Examples(prepare(config, split_corpus(config).train, _quiet))), config))
    assert sizes[0][0] > sizes[1][0]
    again = sizes[0][1]
    lines: list[str] = []
    prepare(again, split_corpus(again).train, lines.append)
    assert all(": 0 shards made" in line for line in lines)


def test_a_diverging_loss_stops_and_keeps_its_batch(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, models)
    real, calls = fusion_loss, []

    def third_is_nan(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        found = real(*args, **kwargs)
        return replace(found, total=found.total * float("nan")) if len(calls) == 3 else found

    monkeypatch.setattr("training.trainer.fusion_loss", third_is_nan)
    with pytest.raises(TrainingError, match="the batch that caused it"):
        train(config, say=_quiet)
    assert len(calls) == 3 and not (config.output / "run.json").exists()
    with np.load(config.output / "diverged.npz", allow_pickle=False) as kept:
        assert kept["input_ids"].shape == kept["labels"].shape


def test_examples_longer_than_the_target_reads_are_refused_at_once(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models, max_length=65)
    check_length(config, split_corpus(config))  # all of these texts are short
    config.corpus.files[0].write_text("\n".join(" ".join(LINES[n : n + 6]) for n in range(12)), encoding="utf-8")
    for asked in (lambda: train(config, say=_quiet), lambda: estimate(config, split_corpus(config))):
        with pytest.raises(ConfigError, match="reads 64 tokens at most"):
            asked()
    assert not (config.output / "data").exists()


def test_a_corpus_without_validation_documents_is_noticed(tmp_path: Path, models: tuple[str, str]) -> None:
    few = {**_config(tmp_path, models).corpus.model_dump(mode="json"), "limit": 2, "validation": 0.1, "held_out": 0}
    config = _config(tmp_path, models, corpus=few)
    assert NO_VALIDATION in estimate(config, split_corpus(config)).notice
    said: list[str] = []
    config.training.update(max_steps=1)
    train(config, say=said.append)
    assert NO_VALIDATION in said


def test_nothing_to_resume_is_said(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models)
    with pytest.raises(TrainingError, match="no run to go on with"):
        train(config, resume=True, say=_quiet)
    # Of a run that was killed while its data were made there is nothing but these: it begins.
    prepare(config, split_corpus(config).train, _quiet)
    lines: list[str] = []
    assert train(config, resume=True, say=lines.append)["finished"]
    assert any("no checkpoint was saved yet" in line for line in lines) and not any(
        ", 0 kept" in line for line in lines
    )


def test_without_sources_the_text_counts_whole(tmp_path: Path, models: tuple[str, str]) -> None:
    ends = []
    for lam in (0.0, 0.5):
        config = _config(tmp_path, models, sources=[], loss={"lam": lam}, output=str(tmp_path / f"lam {lam}"))
        config.training.update(max_grad_norm=0.1)  # would tell a scaled loss
        result = train(config, say=_quiet)
        ends.append(result["validation_after"])
        assert result["lam"] == 1.0 and "the text alone" in (config.output / "README.md").read_text(encoding="utf-8")
    assert ends[0] == pytest.approx(ends[1], rel=1e-5) and ends[0] < result["validation_before"]


def test_documents_of_one_token_are_nothing_to_train_on(tmp_path: Path, models: tuple[str, str]) -> None:
    tokenizer = load_tokenizer(models[1])
    word = next(word for word in (*"aeinot", "the", "and", " the", "de") if len(tokenizer.encode(word)) == 1)
    (tmp_path / "short.jsonl").write_text(json.dumps({"text": word}) + ("\n" + json.dumps({"text": word})) * 19)
    config = _config(
        tmp_path, models, corpus={"files": [str(tmp_path / "short.jsonl")], "validation": 0, "held_out": 0}
    )
    with pytest.raises(TrainingError, match="nothing to train on"):
        train(config, say=_quiet)


def test_lora_trains_adapters_and_saves_a_whole_model(tmp_path: Path, models: tuple[str, str]) -> None:
    pytest.importorskip("peft")
    config = _config(tmp_path, models, lora={"r": 4})
    assert train(config, say=_quiet)["finished"]
    assert (config.output / "model" / "model.safetensors").is_file()


def test_teaching_settings_make_other_shards(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _config(tmp_path, models)
    lines: list[str] = []
    prepare(config, split_corpus(config).train, lines.append)
    assert all(", 0 kept" in line for line in lines)
    lines.clear()
    prepare(config, split_corpus(config).train, lines.append)
    assert all(": 0 shards made" in line for line in lines) and len(lines) == 4
    lines.clear()
    changed = _config(tmp_path, models, sources=[{"model": models[0], "method": "boundary-hard"}])
    prepare(changed, split_corpus(changed).train, lines.append)
    assert [line.split(":")[1].startswith(" 0") for line in lines] == [True, True, False, False]
    assert all(teach.open_taught(path).top_k == 12 for path in (config.output / "data").glob("teach-*"))


def test_shards_of_an_older_revision_are_made_anew(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, models)
    prepare(config, split_corpus(config).train, _quiet)
    monkeypatch.setattr(carry, "REVISION", carry.REVISION + 1)
    lines: list[str] = []
    prepare(config, split_corpus(config).train, lines.append)
    assert [line.split(":")[1].startswith(" 0") for line in lines] == [True, True, False, False]
