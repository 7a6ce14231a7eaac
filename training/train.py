"""`fusescope train`: from a config to a finished run's folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from transformers import EarlyStoppingCallback

from fusion_core import load_tokenizer
from fusion_core.errors import TrainingError
from fusion_core.models import config_sample, load_model, weights_sample
from fusion_core.sealed import write_json
from fusion_core.workspace import atomic_path
from training.arguments import arguments_of, check_batches
from training.checkpoints import latest, rewind, step_of
from training.config import DEFAULTS, Config, dump
from training.data import Say, plan, prepare, sharing
from training.dataset import Collator, Examples, OnlineExamples
from training.engines import Engine
from training.ensemble import check_ensemble, score_ensemble
from training.estimate import check_length
from training.evaluate import DTYPE, score
from training.guards import failures_told, refusals_told
from training.merging import merge_weights
from training.precision import lacks_bfloat16, notice
from training.processes import FORMAT, VERSION, alone, at_work
from training.progress import Journal
from training.resuming import check_models, check_same, check_texts, restore_patience
from training.runs import CONFIG, RESULT, VERSIONS, began_with, read_result
from training.saving import gather_on_saving, save_whole
from training.splits import NO_VALIDATION, Splits, split_corpus
from training.trainer import Before, FusionTrainer, Record


def train(config: Config, *, resume: bool = False, say: Say = print, engine: Engine | None = None) -> dict[str, Any]:
    """Prepare the data, train, and save the model into the run's folder.

    Args:
        resume: go on from the last checkpoint of an unfinished run.
        engine: where the stages run that make the data.

    Returns:
        What `run.json` holds: bits per byte before and after on the validation documents, steps, seconds.

    Raises:
        TrainingError: the loss diverged, a run is there already or trains just now, there is nothing to resume, or
            memory or disk do not suffice.
        ConfigError, ModelError, TextError, DistributionError: what the config asks for cannot be had.
    """
    with alone(config.output), failures_told(config.output), at_work(config.output):
        return _train(config, resume, say, engine)


def _train(config: Config, resume: bool, say: Say, engine: Engine | None) -> dict[str, Any]:
    folder = config.output
    if (folder / RESULT).exists():
        raise TrainingError(f"{folder} holds a finished run; give another output (--set output=...), or remove it")
    _check_whose(folder)
    checkpoint = latest(folder / "checkpoints")
    if resume and checkpoint is None:
        if not (folder / "data").exists() and not (folder / CONFIG).exists():
            raise TrainingError(f"{folder} holds no run to go on with; run without --resume")
        say("no checkpoint was saved yet: the run begins at its first step, with the data that are there")
        resume = False
    if not resume and checkpoint is not None:
        raise TrainingError(
            f"{folder} holds an unfinished run, saved after step {step_of(checkpoint)}; go on with it (--resume), give "
            "another output (--set output=...), or remove it"
        )
    if config.kind != "train":
        # Of several processes one suffices, however long it takes.
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
        if state.is_main_process:
            _without_training(config, say)
        state.wait_for_everyone()
        return read_result(folder)
    if resume:
        check_same(config, folder, step_of(checkpoint) if checkpoint else 0)
    splits = split_corpus(config)
    if resume:
        check_texts(splits, folder)
        for what, now in (("models", _models), ("configs", _configs), ("tokenizers", _tokenizers)):
            check_models(now(config), began_with(folder, what), folder)
    check_length(config, splits)
    # Before anything is made: what the Trainer refuses is to be known now, and its settings decide how processes wait.
    arguments = arguments_of(config, bool(splits.validation))
    device = str(arguments.device)
    state = PartialState()
    if not state.is_main_process:
        say = _silent
    if instead := notice(config.training):
        say(instead)
    say(f"documents: {len(splits.train)} train, {len(splits.validation)} validation, {len(splits.held_out)} held out")
    if splits.train.copies:
        say(f"{splits.train.copies} more are copies of documents that are kept apart, and are left out")
    if config.corpus.validation and not splits.validation:
        say(NO_VALIDATION)
    if state.is_main_process and not resume:
        _begin(config, splits)
    tell = Journal(folder)
    stages = 0 if config.online else len(plan(config, splits.train))
    # Of several processes the first one makes the data; the others then find it made.
    with state.main_process_first():
        if config.online:
            examples: Any = OnlineExamples(config, list(splits.train))
        else:
            heard = tell if state.is_main_process else None
            with sharing(config, say):
                examples = Examples(prepare(config, splits.train, say, engine, heard, more=1))
    check_batches(arguments, len(examples))
    if state.is_main_process:
        if resume:
            spent = rewind(folder)
            _begin(config, splits)  # it may be asked for more epochs
        else:
            _forget(folder)
    transformers.set_seed(arguments.seed)
    # Training keeps full-precision weights; 'bf16: true' under training mixes precisions.
    place = "cpu" if _sharded() else device  # who shards a model moves it
    target = load_model(config.target, device=place, dtype="float32")
    network = _with_lora(target.network, config) if config.lora else target.network
    stopper = EarlyStoppingCallback(config.patience) if config.patience and splits.validation else None
    if stopper and resume and checkpoint:
        restore_patience(stopper, checkpoint)
    with refusals_told():
        trainer = FusionTrainer(
            model=network,
            args=arguments,
            train_dataset=examples,
            eval_dataset=splits.validation or None,  # only its presence counts: see FusionTrainer.evaluate
            data_collator=Collator(target.start, packing=config.packing, entries=target.entries),
            callbacks=[stopper] if stopper else None,
            loss=config.loss if config.sources else config.loss.model_copy(update={"lam": 1.0}),  # CLM whole
            model_of=target,
            validation=splits.validation,
            folder=folder,
        )
    gather_on_saving(trainer)
    record = Record(trainer, folder / "metrics.jsonl", tell, stages + 1)
    trainer.add_callback(record)
    start = Before(trainer, config.packing, bool(splits.validation) and not resume)
    trainer.add_callback(start)
    if resume and state.is_main_process:
        trainer.go_on_from(*spent)
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    finished = not record.stopped
    after = trainer.evaluate()["eval_bits_per_byte"] if splits.validation and finished else None
    result = {
        "target": config.target,
        "sources": [source.model_dump() for source in config.sources],
        "lam": config.loss.lam if config.sources else 1.0,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "validation_before": _bits_before(folder / "metrics.jsonl") if resume else start.bits,
        "validation_after": after,
        "finished": finished,
    }
    part = folder / ".part-model"
    if finished:
        save_whole(trainer, target, part)
    state.wait_for_everyone()
    if trainer.is_world_process_zero():
        if finished:
            shutil.rmtree(folder / "model", ignore_errors=True)  # of an attempt that was killed just before its end
            part.replace(folder / "model")
            _write(folder / "README.md", _card(config, result))
            write_json(folder / RESULT, FORMAT, VERSION, result)
        else:
            say(f"stopped at step {trainer.state.global_step}; go on with --resume")
    return result


def _bits_before(metrics: Path) -> float | None:
    """What a run that was interrupted had measured before its first step."""
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
        row = json.loads(line)
        if row["step"] == 0 and "eval_bits_per_byte" in row:
            return float(row["eval_bits_per_byte"])
    return None


def _without_training(config: Config, say: Say) -> None:
    """The baselines that are only put together and measured."""
    if config.kind == "ensemble":
        check_ensemble(config)
    splits = split_corpus(config)
    validation, folder = splits.validation, config.output
    _begin(config, splits)
    if config.kind == "ensemble":
        scores = score_ensemble(config, validation) if validation else []
    else:
        models = [config.target, *(source.model for source in config.sources)]
        shutil.rmtree(folder / "model", ignore_errors=True)  # of an attempt that was killed before its end
        merge_weights(models, folder / "model", config.kind, config.merge_weight)
        tokenizer = load_tokenizer(config.target)
        tokenizer.save(folder / "model")
        merged = load_model(str(folder / "model"), device=config.teach.device, dtype=DTYPE, tokenizer=tokenizer)
        scores = score(merged, validation) if validation else []
    bits, size = sum(one.bits for one in scores), sum(one.bytes for one in scores)
    result = {
        "target": config.target,
        "sources": [source.model_dump() for source in config.sources],
        "kind": config.kind,
        "validation_before": None,
        "validation_after": bits / size if size else None,
        "steps": 0,
        "finished": True,
    }
    write_json(folder / RESULT, FORMAT, VERSION, result)
    say(f"{config.kind}: {folder}")


def _check_whose(folder: Path) -> None:
    """Raise `TrainingError` where `folder` holds what a run would write over, and no run that has begun."""
    if (folder / VERSIONS).exists():
        return
    if others := [name for name in ("model", "checkpoints", CONFIG, "README.md") if (folder / name).exists()]:
        raise TrainingError(
            f"{folder} is no run's folder, and holds {', '.join(others)}, which a run writes; give another output "
            "(--set output=...), or move them away"
        )


def _begin(config: Config, splits: Splits) -> None:
    """Say in the run's folder what it is; from now on what it writes there is its own."""
    write_json(config.output / VERSIONS, FORMAT, VERSION, _versions(config, splits))
    _write(config.output / CONFIG, dump(config))


def _forget(folder: Path) -> None:
    """Remove what an attempt left that was killed before its first checkpoint was whole."""
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    for name in ("checkpoints", ".part-model", ".part-model-adapters"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _silent(line: str) -> None:
    """Says nothing: every process but the first."""


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sharded() -> bool:
    """Whether `accelerate launch` was told to spread the weights over processes."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))


def _with_lora(network: Any, config: Config) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainingError("lora needs peft: pip install 'fusescope[lora]'") from error
    section = config.lora
    assert section is not None  # noqa: S101  # the caller looked
    return get_peft_model(
        network,
        LoraConfig(
            r=section.r, lora_alpha=section.alpha, lora_dropout=section.dropout, target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip


def _versions(config: Config, splits: Splits) -> dict[str, Any]:
    packages = ("fusescope", "torch", "transformers", "accelerate", "numpy", "pyarrow")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "bf16": bool(config.training.get("bf16")) and not lacks_bfloat16(config.training),
        "seed": config.training.get("seed", DEFAULTS["seed"]),
        "folder": str(Path.cwd()),
        "texts": splits.identities,
        "models": _models(config),
        "configs": _configs(config),
        "tokenizers": _tokenizers(config),
        **{name: version(name) for name in packages},
    }


def _models(config: Config) -> dict[str, str]:
    """By name what tells the weights of a run's models from others of that name."""
    return {name: found for name in _names(config) if (found := weights_sample(name)) is not None}


def _configs(config: Config) -> dict[str, str]:
    """By name what tells the config.json of a run's models from others of that name."""
    return {name: found for name in _names(config) if (found := config_sample(name)) is not None}


def _tokenizers(config: Config) -> dict[str, str]:
    """By name what tells the tokenizers of a run's models from others of that name."""
    return {name: load_tokenizer(name).fingerprint for name in _names(config)}


def _names(config: Config) -> list[str]:
    return list(dict.fromkeys((config.target, *(source.model for source in config.sources))))


def _card(config: Config, result: dict[str, Any]) -> str:
    taught = ", ".join(f"{source.model} ({source.method})" for source in config.sources)
    how = f"taught by {taught}; lam {config.loss.lam}, divergence {config.loss.divergence}"

    def bits(name: str) -> str:
        return "not measured" if result[name] is None else f"{result[name]:.4f}"

    return (
        f"---\nbase_model: {config.target}\n---\n# {config.output.name}\n\n"
        f"{config.target}, {how if taught else 'trained on the text alone'}.\n\n"
        f"Validation bits per byte: {bits('validation_before')} before, {bits('validation_after')} after "
        f"{result['steps']} steps.\n\nMade with fusescope; `config.yaml` holds all settings, `data/` the manifests.\n"
    )
