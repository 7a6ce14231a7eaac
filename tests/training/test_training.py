"""From texts to a trained model, on tiny models: losses, settings, evaluation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion_core import ConfigError, TrainingError, load_tokenizer
from tests.support.tiny_run import LINES, losses, quiet, tiny_config
from tests.training.test_cli import fusescope
from training.config import parse
from training.corpus import Document
from training.data import prepare
from training.splits import NO_VALIDATION, split_corpus

torch = pytest.importorskip("torch")
from fusion_core.loss import SparseTarget, fusion_loss  # noqa: E402
from fusion_core.models import load_model  # noqa: E402
from training.arguments import arguments_of  # noqa: E402
from training.dataset import Collator, Examples  # noqa: E402
from training.estimate import check_length, estimate  # noqa: E402
from training.evaluate import score, table  # noqa: E402
from training.train import train  # noqa: E402


def test_documents_are_kept_apart(tmp_path: Path, models: tuple[str, str]) -> None:
    splits = split_corpus(tiny_config(tmp_path, models))
    parts = [[d.text for d in part] for part in (splits.train, splits.validation, splits.held_out)]
    assert [text for part in parts for text in part] == LINES and [len(part) for part in parts] == [15, 3, 6]
    hashed = split_corpus(tiny_config(tmp_path, models, corpus={"name": "stdlib-docstrings", "limit": 60}))
    assert len(hashed.train) > 30 and not {d.name for d in hashed.train} & {d.name for d in hashed.held_out}


def test_a_run_learns_and_holds_its_evidence(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models, fusion={"with_target": True, "rule": "avg_ce"})
    result = train(config, say=quiet)
    assert result["finished"] and result["validation_after"] < result["validation_before"]
    names = {path.name for path in config.output.iterdir()}
    assert {"config.yaml", "versions.json", "metrics.jsonl", "run.json", "model", "README.md", "data"} <= names
    with pytest.raises(TrainingError, match="finished run"):
        train(config, say=quiet)
    plain = tiny_config(tmp_path, models, sources=[], output=str(tmp_path / "plain"))
    train(plain, say=quiet)
    done = fusescope("evaluate", str(plain.output), str(config.output), "--before", "--format", "json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [row["model"] for row in rows] == [models[1], str(plain.output), str(config.output)]
    assert rows[0]["difference"] == 0 and rows[1]["difference"] < 0 and rows[1]["low"] <= rows[1]["bits per byte"]
    assert fusescope("evaluate", str(tmp_path)).returncode == 2


def test_each_run_is_judged_in_its_own_tokens(tmp_path: Path, models: tuple[str, str]) -> None:
    runs = []
    for name, target in zip("ab", models, strict=True):
        config = tiny_config(tmp_path, models, target=target, sources=[], output=str(tmp_path / name))
        train(config, say=quiet)
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
    config = tiny_config(tmp_path, models)
    config.training.update(max_steps=1, per_device_train_batch_size=64)
    train(config, say=quiet)
    examples = Examples(prepare(config, split_corpus(config).train, quiet))
    target = load_model(models[1], device="cpu")
    batch = Collator(target.start)([examples[n] for n in range(len(examples))])
    with torch.inference_mode():
        logits = target.network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    flat = {name: tensor.flatten(0, 1) for name, tensor in batch.items()}
    sparse = SparseTarget(flat["target_ids"], flat["target_probs"], flat["covered"])
    gold = flat["labels"]
    expected = fusion_loss(logits.flatten(0, 1), gold.clamp_min(0), sparse, lam=0.5, mask=gold.ne(-100))
    assert losses(config.output)[1] == pytest.approx(float(expected.total), rel=1e-3)


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
    value = json.loads(tiny_config(tmp_path, models).model_dump_json())
    config = parse({**value, **{name: {**value[name], **some} for name, some in changes.items()}})
    with pytest.raises(TrainingError, match=says):
        train(config, say=quiet)
    assert not (config.output / "data").exists()


def test_what_the_trainer_refuses_is_said_before_any_data_is_made(tmp_path: Path, models: tuple[str, str]) -> None:
    for arguments, says in (
        ({"eval_strategy": "sometimes"}, "the Trainer refuses"),
        ({"report_to": "mlflow"}, "not inst"),
        ({"optim": "adamw_bnb_8bit"}, "the Trainer refuses"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "the Trainer refuses"),
        ({"use_liger_kernel": True}, "the Trainer refuses"),
        ({"metric_for_best_model": "loss"}, "bits_per_byte alone"),
    ):
        config = tiny_config(tmp_path, models, training={**arguments, "use_cpu": True})
        with pytest.raises(TrainingError, match=says):
            estimate(config, split_corpus(config))
        with pytest.raises(TrainingError, match=says):
            train(config, say=quiet)
        assert not (config.output / "data").exists()
    with pytest.raises(ConfigError, match=r"training\.label_smoothing_factor: has no effect here"):
        tiny_config(tmp_path, models, training={"label_smoothing_factor": 0.1})


def test_where_a_gpu_trains_others_put_the_batches_together(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def workers(online: bool = False, device: str = "cuda", **given: object) -> int:
        teach = {"device": device, "dtype": "float32"}
        config = tiny_config(tmp_path, models, training=given, online=online, teach=teach)
        return int(arguments_of(config, validates=False).dataloader_num_workers)

    assert workers() == 0
    monkeypatch.setattr("training.arguments.trains_on_cpu", lambda chosen: bool(chosen.get("use_cpu")))
    assert workers() == 4 and workers(dataloader_num_workers=2) == 2
    assert workers(dataloader_num_workers=0) == workers(use_cpu=True) == workers(online=True) == 0
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=64 << 20))  # as in a container
    assert workers() == 0
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert workers(online=True, device="cpu", dataloader_num_workers=1, use_cpu=True) == 1
    with pytest.raises(TrainingError, match="online sources are on the GPU"):
        workers(online=True, dataloader_num_workers=1, use_cpu=True)


def test_what_is_watched_is_bits_per_byte(tmp_path: Path, models: tuple[str, str]) -> None:
    arguments = {"lr_scheduler_type": "reduce_lr_on_plateau", "num_train_epochs": 1, "use_cpu": True}
    assert train(tiny_config(tmp_path, models, training=arguments), say=quiet)["finished"]
    unsaid = {"greater_is_better": None, "metric_for_best_model": None, "load_best_model_at_end": True}
    made = arguments_of(tiny_config(tmp_path, models, training=unsaid), validates=True)
    assert (made.metric_for_best_model, made.greater_is_better) == ("bits_per_byte", False)
    config = tiny_config(tmp_path, models, patience=1, training={"load_best_model_at_end": False, "use_cpu": True})
    with pytest.raises(TrainingError, match=r"patience .* keeps its best checkpoint"):
        arguments_of(config, validates=True)
    assert not arguments_of(config, validates=False).load_best_model_at_end


def test_a_run_without_a_full_batch_is_no_run(tmp_path: Path, models: tuple[str, str]) -> None:
    arguments = {"dataloader_drop_last": True, "per_device_train_batch_size": 99, "use_cpu": True}
    config = tiny_config(tmp_path, models, training=arguments)
    with pytest.raises(TrainingError, match="fewer than one batch of 99"):
        estimate(config, split_corpus(config))
    with pytest.raises(TrainingError, match="fewer than one batch of 99"):
        train(config, say=quiet)


def test_a_file_that_is_missing_is_no_full_disk(tmp_path: Path, models: tuple[str, str]) -> None:
    arguments = {"accelerator_config": str(tmp_path / "none.json"), "use_cpu": True}
    with pytest.raises(TrainingError, match="No such file") as told:
        train(tiny_config(tmp_path, models, training=arguments), say=quiet)
    assert "make room" not in str(told.value)


def test_patience_evaluates_where_checkpoints_are_saved(tmp_path: Path, models: tuple[str, str]) -> None:
    made = arguments_of(tiny_config(tmp_path, models, patience=2), validates=True)  # saves every third step
    assert (made.eval_strategy, made.eval_steps, made.load_best_model_at_end) == ("steps", 3, True)
    assert arguments_of(tiny_config(tmp_path, models), validates=True).eval_strategy == "epoch"


def test_a_diverging_loss_stops_and_keeps_its_batch(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, models)
    real, calls = fusion_loss, []

    def third_is_nan(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        found = real(*args, **kwargs)
        return replace(found, total=found.total * float("nan")) if len(calls) == 3 else found

    monkeypatch.setattr("training.trainer.fusion_loss", third_is_nan)
    with pytest.raises(TrainingError, match="the batch that caused it"):
        train(config, say=quiet)
    assert len(calls) == 3 and not (config.output / "run.json").exists()
    with np.load(config.output / "diverged.npz", allow_pickle=False) as kept:
        assert kept["input_ids"].shape == kept["labels"].shape


def test_examples_longer_than_the_target_reads_are_refused_at_once(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models, max_length=65)
    check_length(config, split_corpus(config))  # all of these texts are short
    config.corpus.files[0].write_text("\n".join(" ".join(LINES[n : n + 6]) for n in range(12)), encoding="utf-8")
    for asked in (lambda: train(config, say=quiet), lambda: estimate(config, split_corpus(config))):
        with pytest.raises(ConfigError, match="reads 64 tokens at most"):
            asked()
    assert not (config.output / "data").exists()


def test_a_long_document_behind_much_text_is_found(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, models, max_length=100)
    last = config.corpus.model_copy(update={"validation": 0.0, "held_out": 0.0})
    config.corpus.files[0].write_text("\n".join([*LINES, " ".join(LINES[:6])]), encoding="utf-8")
    monkeypatch.setattr("training.estimate._READ", 50)  # bytes after which lengths are only estimated
    with pytest.raises(ConfigError, match="reads 64 tokens at most"):
        check_length(
            config.model_copy(update={"corpus": last}), split_corpus(config.model_copy(update={"corpus": last}))
        )


@pytest.mark.parametrize("name", ["model", "checkpoints", "README.md", "config.yaml"])
@pytest.mark.parametrize("kind", ["train", "linear"])
def test_what_is_no_runs_is_not_written_over(tmp_path: Path, models: tuple[str, str], name: str, kind: str) -> None:
    config = tiny_config(tmp_path, models, kind=kind, sources=[{"model": models[1]}])
    config.output.mkdir()
    (config.output / name).write_text("mine")
    with pytest.raises(TrainingError, match=f"no run's folder, and holds {name}"):
        train(config, say=quiet)
    assert (config.output / name).read_text() == "mine"
    (config.output / name).unlink()
    assert train(config, say=quiet)["finished"]


def test_the_time_since_the_last_row_of_figures_counts(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models, sources=[])
    config.training.update(logging_steps=100, save_strategy="no", max_steps=4, eval_strategy="no")
    found = train(config, say=quiet)
    assert found["seconds"] > 0 and found["tokens"] > 0


def test_a_corpus_without_validation_documents_is_noticed(tmp_path: Path, models: tuple[str, str]) -> None:
    few = {**tiny_config(tmp_path, models).corpus.model_dump(mode="json"), "limit": 2, "validation": 0.1, "held_out": 0}
    config = tiny_config(tmp_path, models, corpus=few)
    assert NO_VALIDATION in estimate(config, split_corpus(config)).notice
    said: list[str] = []
    config.training.update(max_steps=1)
    train(config, say=said.append)
    assert NO_VALIDATION in said


def test_without_sources_the_text_counts_whole(tmp_path: Path, models: tuple[str, str]) -> None:
    ends = []
    for lam in (0.0, 0.5):
        config = tiny_config(tmp_path, models, sources=[], loss={"lam": lam}, output=str(tmp_path / f"lam {lam}"))
        config.training.update(max_grad_norm=0.1)  # would tell a scaled loss
        result = train(config, say=quiet)
        ends.append(result["validation_after"])
        assert result["lam"] == 1.0 and "the text alone" in (config.output / "README.md").read_text(encoding="utf-8")
    assert ends[0] == pytest.approx(ends[1], rel=1e-5) and ends[0] < result["validation_before"]


def test_documents_of_one_token_are_nothing_to_train_on(tmp_path: Path, models: tuple[str, str]) -> None:
    tokenizer = load_tokenizer(models[1])
    word = next(word for word in (*"aeinot", "the", "and", " the", "de") if len(tokenizer.encode(word)) == 1)
    (tmp_path / "short.jsonl").write_text(json.dumps({"text": word}) + ("\n" + json.dumps({"text": word})) * 19)
    config = tiny_config(
        tmp_path, models, corpus={"files": [str(tmp_path / "short.jsonl")], "validation": 0, "held_out": 0}
    )
    with pytest.raises(TrainingError, match="nothing to train on"):
        train(config, say=quiet)


def test_lora_trains_adapters_and_saves_a_whole_model(tmp_path: Path, models: tuple[str, str]) -> None:
    pytest.importorskip("peft")
    config = tiny_config(tmp_path, models, lora={"r": 4})
    assert train(config, say=quiet)["finished"]
    assert (config.output / "model" / "model.safetensors").is_file()
