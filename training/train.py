"""`fusescope train`: a transformers Trainer on sparse distributions."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from fusion_core import load_tokenizer
from fusion_core.errors import DivergedError, TrainingError
from fusion_core.loss import SparseTarget, fusion_loss
from fusion_core.models import Model, load_model
from fusion_core.sealed import write_json
from fusion_core.workspace import atomic_path
from training.checkpoints import latest, rewind, step_of
from training.config import DEFAULTS, Config, LossSection, dump
from training.corpus import Document
from training.data import Say, plan, prepare
from training.dataset import Collator, Examples, OnlineExamples, check_packing
from training.engines import Engine
from training.ensemble import score_ensemble
from training.evaluate import score
from training.guards import alone, failures_told
from training.merging import merge_weights
from training.progress import Journal, Standing, Tell
from training.runs import FORMAT, RESULT, VERSION
from training.saving import gather_on_saving, save_whole
from training.splits import split_corpus

# A loss above this many nats a token is no longer training.
DIVERGED = 100.0


class FusionTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is `fusion_loss`, and which evaluates in bits per byte."""

    def __init__(
        self, *args: Any, loss: LossSection, model_of: Model, validation: list[Document], folder: Path, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        # Sums are divided by the counts of the whole step, see get_batch_samples: nothing is left to scale.
        self.model_accepts_loss_kwargs = True
        self._loss, self._model_of, self._validation, self._folder = loss, model_of, validation, folder
        self._parts: list[tuple[float, float]] = []
        # Since the run's first step, by all processes, also before a resumed run was interrupted.
        self.tokens, self.seconds = 0, 0.0
        self._waited, self._began, self._read = 0.0, time.perf_counter(), 0
        self._logged: int | None = None  # the step of the last row of metrics; a resumed run begins at its checkpoint

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The batches of one step, with the positions that its two losses are means over: int64[2], counted over all
        batches and processes, so that neither accumulation nor the number of processes changes the losses."""
        start = time.perf_counter()
        if self._logged is None:
            self._logged = self.state.global_step
        samples = []
        for _ in range(num_batches):
            try:
                samples.append(next(epoch_iterator))
            except StopIteration:
                break
        self._waited += time.perf_counter() - start
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        for batch in samples:
            counted = batch["labels"].ne(-100)
            compared = counted if self._loss.fallback != "none" else counted & batch["covered"]
            counts += torch.stack([counted.sum(), compared.sum()]).to(device)
        totals = self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts
        self._read += int(totals[0])
        self.tokens += int(totals[0])
        return samples, totals

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This batch's share of the step's loss.

        Raises:
            DivergedError: it is NaN or beyond all bounds; the batch is kept beside the checkpoints.
        """
        read = {name: inputs[name] for name in ("attention_mask", "position_ids") if name in inputs}
        output = model(input_ids=inputs["input_ids"], **read, use_cache=False)
        gold = inputs["labels"].flatten()
        flat = {name: inputs[name].flatten(0, 1) for name in ("target_ids", "target_probs", "covered")}
        found = fusion_loss(
            output.logits.flatten(0, 1),
            gold.clamp_min(0),
            SparseTarget(flat["target_ids"], flat["target_probs"], flat["covered"]),
            lam=self._loss.lam,
            divergence=self._loss.divergence,
            fallback=self._loss.fallback,
            mask=gold.ne(-100),
            temperature=self._loss.temperature,
            counts=None if num_items_in_batch is None else (num_items_in_batch[0], num_items_in_batch[1]),
        )
        # Gradients are averaged over processes, and these are sums by the counts of all of them.
        total = found.total * self.args.world_size
        value = float(total.detach())
        if not np.isfinite(value) or value > DIVERGED:
            path = self._folder / "diverged.npz"
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **{name: tensor.cpu().numpy() for name, tensor in inputs.items()})
            raise DivergedError(
                f"the loss is {value} at step {self.state.global_step}; the batch that caused it is in {path}. A lower "
                "learning_rate, or max_grad_norm, may help"
            )
        self._parts.append((float(found.clm), float(found.divergence)))
        return (total, output) if return_outputs else total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's figures, with the loss's two parts, tokens a second, and the share of time spent waiting for
        data."""
        if "loss" in logs and self._parts:
            steps = max(1, self.state.global_step - (self._logged or 0))
            parts = torch.tensor(np.sum(self._parts, axis=0) / steps, dtype=torch.float32, device=self.args.device)
            if self.args.world_size > 1:
                parts = self.accelerator.reduce(parts, "sum")
            seconds = max(1e-9, time.perf_counter() - self._began)
            self.seconds += seconds
            logs |= {
                "tokens": self.tokens,
                "seconds": self.seconds,
                "clm": float(parts[0]),
                "divergence": float(parts[1]),
                "tokens_per_second": self._read / seconds,
                "waiting": self._waited / seconds,
            }
            self._restart()
        super().log(logs, *args, **kwargs)

    def _restart(self) -> None:
        """Count anew from here."""
        self._parts.clear()
        self._logged, self._read, self._waited, self._began = self.state.global_step, 0, 0.0, time.perf_counter()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See `Trainer.train`."""
        self._began = time.perf_counter()
        return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Bits per byte on the validation documents."""
        start, was = time.perf_counter(), self.model.training
        # Not unwrapped: what shards a model's weights gathers them where the model is called.
        scores = score(Model(self._model_of.name, self._model_of.tokenizer, self.model.eval()), self._validation)
        self.model.train(was)
        self._began += time.perf_counter() - start  # no time of training
        size = sum(one.bytes for one in scores)
        found = {"eval_bits_per_byte": sum(one.bits for one in scores) / max(1, size)}
        self.log(found)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


class _Before(TrainerCallback):  # type: ignore[misc]
    """What the model is asked before the first step, once it is as it is trained: a sharded one answers nothing before.

    Raises:
        TrainingError: rows are packed and the model mixes their documents.
    """

    def __init__(self, trainer: FusionTrainer, packing: bool, evaluate: bool) -> None:
        self._trainer, self._packing, self._evaluate = trainer, packing, evaluate
        self.bits: float | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        if self._packing and not check_packing(self._trainer.model):
            raise TrainingError(
                "the target does not keep packed documents apart by their position ids; set packing: false"
            )
        if self._evaluate:
            self.bits = self._trainer.evaluate()["eval_bits_per_byte"]


class _Record(TrainerCallback):  # type: ignore[misc]
    """metrics.jsonl, progress, and a clean end on SIGTERM."""

    def __init__(self, path: Path, tell: Tell, number: int) -> None:
        self._path, self._tell, self._number, self.stopped = path, tell, number, False

    def _stand(self, state: Any) -> None:
        if state.is_world_process_zero:
            done, total = float(state.global_step), float(state.max_steps)
            self._tell(Standing("train", self._number, self._number, done, total, "steps"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stand(state)

        def stop(*_: Any) -> None:
            self.stopped = True

        self._before = signal.signal(signal.SIGTERM, stop)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stand(state)
        if self.stopped:
            control.should_save = control.should_training_stop = True
        # A row of metrics is a mean since the row before; none is to reach over a checkpoint.
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            # The Trainer's mean over the run leaves out what came before an interruption.
            logs = {name: value for name, value in logs.items() if name not in ("train_loss", "total_flos")}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


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
    with alone(config.output), failures_told(config.output):
        return _train(config, resume, say, engine)


def _train(config: Config, resume: bool, say: Say, engine: Engine | None) -> dict[str, Any]:
    folder = config.output
    if (folder / RESULT).exists():
        raise TrainingError(f"{folder} holds a finished run; give another output (--set output=...), or remove it")
    checkpoint = latest(folder / "checkpoints")
    if resume and checkpoint is None:
        raise TrainingError(f"{folder} holds no checkpoint to resume from; run without --resume")
    if not resume and checkpoint is not None:
        raise TrainingError(
            f"{folder} holds an unfinished run, saved after step {step_of(checkpoint)}; go on with it (--resume), give "
            "another output (--set output=...), or remove it"
        )
    if config.kind != "train":
        return _without_training(config, say)
    splits = split_corpus(config)
    state = PartialState(cpu=bool(config.training.get("use_cpu")))
    if not state.is_main_process:
        say = _silent
    say(f"documents: {len(splits.train)} train, {len(splits.validation)} validation, {len(splits.held_out)} held out")
    tell = Journal(folder)
    stages = 0 if config.online else len(plan(config, splits.train))
    # Of several processes the first one makes the data; the others then find it made.
    with state.main_process_first():
        if config.online:
            examples: Any = OnlineExamples(config, list(splits.train))
        else:
            heard = tell if state.is_main_process else None
            examples = Examples(prepare(config, splits.train, say, engine, heard, more=1))
    if state.is_main_process:
        if resume:
            spent = rewind(folder)
        else:
            _forget(folder)
        _write(folder / "config.yaml", dump(config))
        write_json(folder / "versions.json", FORMAT, VERSION, _versions(config))
    arguments = _arguments(config, bool(splits.validation))
    transformers.set_seed(arguments.seed)
    # Training keeps full-precision weights; 'bf16: true' under training mixes precisions.
    place = "cpu" if _sharded() else str(arguments.device)  # who shards a model moves it
    target = load_model(config.target, device=place, dtype="float32")
    network = _with_lora(target.network, config) if config.lora else target.network
    record = _Record(folder / "metrics.jsonl", tell, stages + 1)
    trainer = FusionTrainer(
        model=network,
        args=arguments,
        train_dataset=examples,
        eval_dataset=splits.validation or None,  # only its presence counts: see FusionTrainer.evaluate
        data_collator=Collator(target.start, packing=config.packing),
        callbacks=[
            record,
            *([EarlyStoppingCallback(config.patience)] if config.patience else []),
        ],
        loss=config.loss,
        model_of=target,
        validation=splits.validation,
        folder=folder,
    )
    gather_on_saving(trainer)
    start = _Before(trainer, config.packing, bool(splits.validation) and not resume)
    trainer.add_callback(start)
    if resume and state.is_main_process:
        trainer.tokens, trainer.seconds = spent
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    after = trainer.evaluate()["eval_bits_per_byte"] if splits.validation else None
    finished = not record.stopped
    result = {
        "target": config.target,
        "sources": [source.model_dump() for source in config.sources],
        "lam": config.loss.lam,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "validation_before": start.bits,
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


def _without_training(config: Config, say: Say) -> dict[str, Any]:
    """The baselines that are only put together and measured."""
    validation = split_corpus(config).validation
    folder = config.output
    if config.kind == "ensemble":
        scores = score_ensemble(config, validation) if validation else []
    else:
        models = [config.target, *(source.model for source in config.sources)]
        merge_weights(models, folder / "model", config.kind, config.merge_weight)
        tokenizer = load_tokenizer(config.target)
        tokenizer.save(folder / "model")
        merged = load_model(str(folder / "model"), device=config.teach.device, tokenizer=tokenizer)
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
    _write(folder / "config.yaml", dump(config))
    write_json(folder / "versions.json", FORMAT, VERSION, _versions(config))
    write_json(folder / RESULT, FORMAT, VERSION, result)
    say(f"{config.kind}: {folder}")
    return result


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


def _arguments(config: Config, validates: bool) -> TrainingArguments:
    defaults = dict(DEFAULTS)
    if validates and "eval_strategy" not in config.training:
        defaults["eval_strategy"] = "epoch"
    defaults["dataloader_pin_memory"] = torch.cuda.is_available()
    chosen = {**defaults, **config.training}
    if chosen.get("bf16") and not torch.cuda.is_available():
        chosen = {"use_cpu": True, **chosen}
    if config.patience:
        chosen = {"load_best_model_at_end": True, **chosen}
    if chosen.get("load_best_model_at_end"):
        chosen = {"metric_for_best_model": "bits_per_byte", "greater_is_better": False, **chosen}
    try:
        return TrainingArguments(
            output_dir=str(config.output / "checkpoints"), remove_unused_columns=False, label_names=["labels"], **chosen
        )
    except (TypeError, ValueError, ImportError) as error:
        raise TrainingError(f"the Trainer refuses what 'training' says: {' '.join(str(error).split())}") from error


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


def _versions(config: Config) -> dict[str, Any]:
    packages = ("fusescope", "torch", "transformers", "accelerate", "numpy", "pyarrow")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "seed": config.training.get("seed", DEFAULTS["seed"]),
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
