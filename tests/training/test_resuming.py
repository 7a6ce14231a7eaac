"""A run that was interrupted goes on as if it had not been, or says why it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusion_core import ModelError, TrainingError
from tests.support import tiny
from tests.support.tiny_run import LINES, losses, quiet, tiny_config
from training.config import dump
from training.data import prepare
from training.splits import split_corpus

torch = pytest.importorskip("torch")
from training.dataset import Examples  # noqa: E402
from training.evaluate import score  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer import FusionTrainer  # noqa: E402


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(tmp_path: Path, models: tuple[str, str], workers: int) -> None:
    """Stopped as torchrun, a job scheduler or timeout do it: all its processes are told."""
    whole = tiny_config(tmp_path, models)
    train(whole, say=quiet)
    broken = tiny_config(tmp_path, models, output=str(tmp_path / "broken"))
    broken.training["dataloader_num_workers"] = workers
    path = tmp_path / "broken.yaml"
    path.write_text(dump(broken), encoding="utf-8")
    run = subprocess.Popen(
        [sys.executable, "-m", "training", "train", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.time() + 120
    while time.time() < deadline and not (broken.output / "checkpoints" / "checkpoint-3").exists():
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGTERM)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    if not json.loads(out)["finished"]:
        assert not (broken.output / "run.json").exists()
        train(broken, resume=True, say=quiet)
    assert (broken.output / "run.json").exists()
    expected = losses(whole.output)
    found = losses(broken.output)
    assert found.keys() == expected.keys() and len(expected) >= 8
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=1e-4), step


_FAILS = """
import sys
from training import trainer
from training.cli import main

step, steps = trainer.FusionTrainer.compute_loss, []

def fails(*args, **options):
    steps.append(len(steps))
    return step(*args, **options) / (1 // (len(steps) < 4))

trainer.FusionTrainer.compute_loss = fails
main()
"""


def test_a_run_that_fails_ends_and_its_workers_with_it(tmp_path: Path, models: tuple[str, str]) -> None:
    """Workers do not heed a signal while a run trains, and a process waits for its workers when it ends."""
    config = tiny_config(tmp_path, models)
    config.training["dataloader_num_workers"] = 2
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", _FAILS, "train", str(path)], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 1 and "ZeroDivisionError" in run.stderr, run.stderr


def test_a_run_does_not_go_on_with_other_texts(tmp_path: Path, models: tuple[str, str]) -> None:
    """Its batches are counted off from the beginning: with other texts the first ones would be others."""
    config = tiny_config(tmp_path, models)
    config.training.update(max_steps=3)
    train(config, say=quiet)
    (config.output / "run.json").unlink()
    longer = config.model_copy(update={"training": {**config.training, "max_steps": 4}})
    text = tmp_path / "lines.txt"
    text.write_text("\n".join([LINES[1], LINES[0], *LINES[2:]]), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"not those that the run .* began with \(train\)"):
        train(longer, resume=True, say=quiet)
    text.write_text("\n".join(LINES), encoding="utf-8")
    assert train(longer, resume=True, say=quiet)["steps"] == 4


def test_a_run_does_not_go_on_with_other_models(tmp_path: Path, models: tuple[str, str]) -> None:
    target = shutil.copytree(models[1], tmp_path / "target")
    config = tiny_config(tmp_path, (models[0], str(target)))
    config.training.update(max_steps=3)
    train(config, say=quiet)
    (config.output / "run.json").unlink()
    longer = config.model_copy(update={"training": {**config.training, "max_steps": 4}})
    mine = (target / "model.safetensors").read_bytes()
    tiny.save_model(target, "metaspace-bpe", 7)
    with pytest.raises(TrainingError, match=r"target is not the model any more"):
        train(longer, resume=True, say=quiet)
    (target / "model.safetensors").write_bytes(mine)  # as a copy, of another time
    for name, change in (("config.json", b'_eps": 1'), ("tokenizer.json", None)):
        kept = (target / name).read_bytes()
        other = kept.replace(b'_eps": 1', b'_eps": 3') if change else (Path(models[0]) / name).read_bytes()
        assert other != kept
        (target / name).write_bytes(other)
        with pytest.raises((TrainingError, ModelError), match=r"target is not the model any more"):
            train(longer, resume=True, say=quiet)
        (target / name).write_bytes(kept)
    told = (config.output / "versions.json").read_bytes()
    (config.output / "versions.json").unlink()
    with pytest.raises(TrainingError, match="no run's folder"):  # nothing tells what it began with
        train(longer, resume=True, say=quiet)
    (config.output / "versions.json").write_bytes(told)
    assert train(longer, resume=True, say=quiet)["steps"] == 4


def _rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = ("step", "loss", "eval_bits_per_byte", "epoch", "tokens")
    rows = [{name: value for name, value in json.loads(line).items() if name in kept} for line in lines]
    return [row for row in rows if "loss" in row or "eval_bits_per_byte" in row]


@pytest.mark.parametrize("last", [2, 4], ids=["within an epoch", "at an epoch's end"])
def test_a_stop_writes_one_checkpoint_and_leaves_no_trace_in_the_run(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    usual = tiny_config(tmp_path, models).training
    chosen = {**{n: v for n, v in usual.items() if not n.startswith("save_")}, "num_train_epochs": 3}
    whole = tiny_config(tmp_path, models, training=chosen, patience=2)
    result = train(whole, say=quiet)
    broken = tiny_config(tmp_path, models, training=chosen, patience=2, output=str(tmp_path / "broken"))
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
        assert not train(broken, say=quiet)["finished"]
    assert saved == [last]
    resumed = train(broken, resume=True, say=quiet)
    assert _rows(broken.output) == [pytest.approx(row, rel=1e-4) for row in _rows(whole.output)]
    examples = Examples(prepare(whole, split_corpus(whole).train, quiet))
    an_epoch = sum(len(examples[n]["tokens"]) - 1 for n in range(len(examples)))
    assert resumed["tokens"] == result["tokens"] == result["epochs"] * an_epoch
    assert resumed["validation_before"] == pytest.approx(result["validation_before"])
    assert resumed["validation_after"] == pytest.approx(result["validation_after"], rel=1e-4)


def test_early_stopping_goes_on_counting_and_a_run_keeps_its_settings(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation is worse than the one before: the fourth is the third bad one, after 28 of 70 steps."""
    usual = tiny_config(tmp_path, models).training
    chosen = {**{n: v for n, v in usual.items() if not n.startswith("save_")}, "num_train_epochs": 10}
    config = tiny_config(tmp_path, models, training=chosen, patience=3)
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
        assert not train(config, say=quiet)["finished"]
    other = tiny_config(tmp_path, models, training={**chosen, "learning_rate": 1e-3}, loss={"lam": 1.0}, patience=3)
    with pytest.raises(TrainingError, match=r"loss\.lam \(was 0\.5, now 1\.0\), training\.learning_rate \(was 0\.003"):
        train(other, resume=True, say=quiet)
    shorter = tiny_config(tmp_path, models, training={**chosen, "max_steps": 2}, patience=3)
    with pytest.raises(TrainingError, match=r"more than max_steps \(2\)"):
        train(shorter, resume=True, say=quiet)
    longer = tiny_config(tmp_path, models, training={**chosen, "num_train_epochs": 11, "logging_steps": 2}, patience=3)
    assert train(longer, resume=True, say=quiet)["steps"] == 28


def test_nothing_to_resume_is_said(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models)
    with pytest.raises(TrainingError, match="no run to go on with"):
        train(config, resume=True, say=quiet)
    # Of a run that was killed while its data were made there is nothing but these: it begins.
    prepare(config, split_corpus(config).train, quiet)
    lines: list[str] = []
    assert train(config, resume=True, say=lines.append)["finished"]
    assert any("no checkpoint was saved yet" in line for line in lines) and not any(
        ", 0 kept" in line for line in lines
    )


@pytest.mark.parametrize("steps", [3, 4])
def test_a_run_that_was_killed_just_before_its_end_takes_no_further_step(
    tmp_path: Path, models: tuple[str, str], steps: int
) -> None:
    config = tiny_config(tmp_path, models)
    config.training.update(max_steps=steps, save_steps=1)
    whole = train(config, say=quiet)
    rows = losses(config.output)
    (config.output / "run.json").unlink()
    again = train(config, resume=True, say=quiet)
    assert again["steps"] == whole["steps"] == steps and losses(config.output) == rows
    assert again["validation_after"] == pytest.approx(whole["validation_after"], abs=1e-6)
