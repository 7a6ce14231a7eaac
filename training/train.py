"""`fusescope train`: a transformers Trainer on sparse distributions."""

from __future__ import annotations

import json
import os
import platform
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainingArguments

from fusion_core.errors import TrainingError
from fusion_core.loss import SparseTarget, fusion_loss
from fusion_core.models import Model, load_model
from fusion_core.workspace import atomic_path
from training.config import Config, LossSection, dump
from training.corpus import Document
from training.data import Say, prepare, split_corpus
from training.evaluate import score
from training.shards import read_shards

# A loss above this many nats a token is no longer training.
DIVERGED = 100.0
_DEFAULTS: dict[str, Any] = {
    "logging_steps": 10,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "report_to": "none",
    "per_device_train_batch_size": 4,
    "learning_rate": 2e-5,
    "seed": 0,
}


class Examples(torch.utils.data.Dataset):  # type: ignore[misc]
    """The packed examples of a folder of shards, held in memory as Arrow."""

    def __init__(self, folder: Path) -> None:
        self._batches = list(read_shards(folder))
        self._places = [(b, r) for b, batch in enumerate(self._batches) for r in range(batch.num_rows)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch, row = self._places[index]
        names = ("tokens", "counts", "ids", "probs", "covered")
        return {n: self._batches[batch].column(n)[row].values.to_numpy(zero_copy_only=False) for n in names}


class Collator:
    """Examples to padded tensors; distributions stay sparse: [rows, k] of ids and probabilities."""

    def __init__(self, start: int | None) -> None:
        self._lead = [] if start is None else [start]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lead = len(self._lead)
        length = max(len(row["tokens"]) for row in rows) + lead
        k = max(1, max(int(row["counts"].max(initial=0)) for row in rows))
        tokens = np.zeros((len(rows), length), np.int64)
        mask = np.zeros_like(tokens)
        gold, counted = np.zeros_like(tokens), np.zeros(tokens.shape, np.bool_)
        ids, probs = np.zeros((len(rows), length, k), np.int64), np.zeros((len(rows), length, k), np.float32)
        covered = np.zeros(tokens.shape, np.bool_)
        for r, row in enumerate(rows):
            n = len(row["tokens"])
            tokens[r, : n + lead] = [*self._lead, *row["tokens"]]
            mask[r, : n + lead] = 1
            # Logits at place p predict the token at place p + 1, which is the example's token p + 1 - lead.
            first = 1 - lead
            gold[r, : n - first] = row["tokens"][first:]
            counted[r, : n - first] = True
            covered[r, : n - first] = row["covered"][first:]
            counts = row["counts"]
            owner = np.repeat(np.arange(n), counts)
            place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
            kept = owner >= first
            ids[r, owner[kept] - first, place[kept]] = row["ids"][kept]
            probs[r, owner[kept] - first, place[kept]] = row["probs"][kept]
        # float16 may round a row above 1.
        probs /= np.maximum(probs.sum(axis=2, keepdims=True), 1.0)
        arrays = {
            "input_ids": tokens, "attention_mask": mask, "gold": gold, "counted": counted, "target_ids": ids,
            "target_probs": probs, "covered": covered,
        }  # fmt: skip
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class FusionTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is `fusion_loss`, and which evaluates in bits per byte."""

    def __init__(
        self, *args: Any, loss: LossSection, model_of: Model, validation: list[Document], folder: Path, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # losses are means, which gradient accumulation averages
        self._loss, self._model_of, self._validation, self._folder = loss, model_of, validation, folder
        self._parts: list[tuple[float, float]] = []

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The fusion loss of one batch.

        Raises:
            TrainingError: it is NaN or beyond all bounds; the batch is kept beside the checkpoints.
        """
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        logits = output.logits
        flat = {
            name: inputs[name].flatten(0, 1) for name in ("gold", "counted", "target_ids", "target_probs", "covered")
        }
        found = fusion_loss(
            logits.flatten(0, 1),
            flat["gold"],
            SparseTarget(flat["target_ids"], flat["target_probs"], flat["covered"]),
            lam=self._loss.lam,
            divergence=self._loss.divergence,
            fallback=self._loss.fallback,
            mask=flat["counted"],
            temperature=self._loss.temperature,
        )
        value = float(found.total.detach())
        if not np.isfinite(value) or value > DIVERGED:
            path = self._folder / "diverged.npz"
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **{name: tensor.cpu().numpy() for name, tensor in inputs.items()})
            raise TrainingError(
                f"the loss is {value} at step {self.state.global_step}; the batch that caused it is in {path}. A lower "
                "learning_rate, or max_grad_norm, may help"
            )
        self._parts.append((float(found.clm), float(found.divergence)))
        return (found.total, output) if return_outputs else found.total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's figures, with the loss's two parts."""
        if "loss" in logs and self._parts:
            clm, divergence = np.mean(self._parts, axis=0)
            logs |= {"clm": float(clm), "divergence": float(divergence)}
            self._parts.clear()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Bits per byte on the validation documents."""
        was = self.model.training
        network = self.accelerator.unwrap_model(self.model).eval()
        scores = score(Model(self._model_of.name, self._model_of.tokenizer, network), self._validation)
        self.model.train(was)
        size = sum(one.bytes for one in scores)
        found = {"eval_bits_per_byte": sum(one.bits for one in scores) / max(1, size)}
        self.log(found)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


class _Record(TrainerCallback):  # type: ignore[misc]
    """metrics.jsonl, and a clean end on SIGTERM."""

    def __init__(self, path: Path) -> None:
        self._path, self._stop = path, False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        def stop(*_: Any) -> None:
            self._stop = True

        self._before = signal.signal(signal.SIGTERM, stop)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._stop:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def train(config: Config, *, resume: bool = False, say: Say = print) -> dict[str, Any]:
    """Prepare the data, train, and save the model into the run's folder.

    Args:
        resume: go on from the last checkpoint of an unfinished run.

    Returns:
        What `run.json` holds: bits per byte before and after on the validation documents, steps, seconds.

    Raises:
        TrainingError: the loss diverged, a run is there already, or there is nothing to resume.
        ConfigError, ModelError, TextError, DistributionError: what the config asks for cannot be had.
    """
    folder = config.output
    checkpoints = folder / "checkpoints"
    if resume and not any(checkpoints.glob("checkpoint-*")):
        raise TrainingError(f"{folder} holds no checkpoint to resume from; run without --resume")
    if not resume and (folder / "run.json").exists():
        raise TrainingError(f"{folder} holds a finished run; give another output (--set output=...), or remove it")
    splits = split_corpus(config)
    state = PartialState(cpu=bool(config.training.get("use_cpu")))
    if not state.is_main_process:
        say = _silent
    say(f"documents: {len(splits.train)} train, {len(splits.validation)} validation, {len(splits.held_out)} held out")
    # Of several processes the first one makes the data; the others then find it made.
    with state.main_process_first():
        examples = prepare(config, splits.train, say)
    if state.is_main_process:
        _write(folder / "config.yaml", dump(config))
        _write(folder / "versions.json", json.dumps(_versions(config), indent=1))
    arguments = _arguments(config, bool(splits.validation))
    transformers.set_seed(arguments.seed)
    # Training keeps full-precision weights; 'bf16: true' under training mixes precisions.
    target = load_model(config.target, device=str(arguments.device), dtype="float32")
    network = _with_lora(target.network, config) if config.lora else target.network
    if not resume and state.is_main_process:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    trainer = FusionTrainer(
        model=network,
        args=arguments,
        train_dataset=Examples(examples),
        eval_dataset=splits.validation or None,  # only its presence counts: see FusionTrainer.evaluate
        data_collator=Collator(target.start),
        callbacks=[_Record(folder / "metrics.jsonl")],
        loss=config.loss,
        model_of=target,
        validation=splits.validation,
        folder=folder,
    )
    before = trainer.evaluate()["eval_bits_per_byte"] if splits.validation and not resume else None
    done = trainer.train(resume_from_checkpoint=resume or None)
    after = trainer.evaluate()["eval_bits_per_byte"] if splits.validation else None
    finished = trainer.state.global_step >= trainer.state.max_steps
    result = {
        "target": config.target,
        "sources": [source.model_dump() for source in config.sources],
        "lam": config.loss.lam,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": done.metrics.get("train_runtime"),
        "validation_before": before,
        "validation_after": after,
        "finished": finished,
    }
    if trainer.is_world_process_zero():
        if finished:
            saved = trainer.accelerator.unwrap_model(trainer.model)
            saved = saved.merge_and_unload() if config.lora else saved
            saved.save_pretrained(str(folder / "model"))
            _write(folder / "README.md", _card(config, result))
            _write(folder / "run.json", json.dumps(result, indent=1))
        else:
            say(f"stopped at step {trainer.state.global_step}; go on with --resume")
    return result


def _silent(line: str) -> None:
    """Says nothing: every process but the first."""


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _arguments(config: Config, validates: bool) -> TrainingArguments:
    defaults = dict(_DEFAULTS)
    if validates and "eval_strategy" not in config.training:
        defaults["eval_strategy"] = "epoch"
    chosen = {**defaults, **config.training}
    if chosen.get("load_best_model_at_end"):
        chosen = {"metric_for_best_model": "bits_per_byte", "greater_is_better": False, **chosen}
    try:
        return TrainingArguments(
            output_dir=str(config.output / "checkpoints"), remove_unused_columns=False, label_names=["gold"], **chosen
        )
    except (TypeError, ValueError, ImportError) as error:
        raise TrainingError(f"the Trainer refuses what 'training' says: {' '.join(str(error).split())}") from error


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


def _versions(config: Config) -> dict[str, Any]:
    packages = ("fusescope", "torch", "transformers", "accelerate", "numpy", "pyarrow")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "seed": config.training.get("seed", _DEFAULTS["seed"]),
        **{name: version(name) for name in packages},
    }


def _card(config: Config, result: dict[str, Any]) -> str:
    taught = ", ".join(f"{source.model} ({source.method})" for source in config.sources) or "no model, the text alone"

    def bits(name: str) -> str:
        return "not measured" if result[name] is None else f"{result[name]:.4f}"

    return (
        f"---\nbase_model: {config.target}\n---\n# {config.output.name}\n\n"
        f"{config.target}, taught by {taught}; lam {config.loss.lam}, divergence {config.loss.divergence}.\n\n"
        f"Validation bits per byte: {bits('validation_before')} before, {bits('validation_after')} after "
        f"{result['steps']} steps.\n\nMade with fusescope; `config.yaml` holds all settings, `data/` the manifests.\n"
    )
