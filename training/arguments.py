"""The transformers Trainer's arguments from a config: its defaults here, and what it refuses."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available

from fusion_core.errors import TrainingError
from training.config import DEFAULTS, Config
from training.guards import refusals_told
from training.precision import lacks_bfloat16, trains_on_cpu

_METRIC = "bits_per_byte"
# Processes that put batches together beside a GPU's steps, which are shorter than that takes; and the shared memory in
# bytes that the batches between them need at least. A container has 64 MB of it where nobody asked for more.
_WORKERS, _SHARED = 4, 1 << 30
# What optimizers are given of a model besides its weights.
_OF_MODELS = ("params", "model", "optimizer_dict")


def arguments_of(config: Config, validates: bool) -> TrainingArguments:
    """What the run of `config` trains with; `validates`: whether it has validation documents.

    Raises:
        TrainingError: the Trainer refuses what `training` says, or lacks what `report_to` names.
    """
    defaults = dict(DEFAULTS)
    if validates:
        defaults |= _evaluating(config)
    defaults["dataloader_pin_memory"] = torch.cuda.is_available()
    # A loss that is no number stops the run (see FusionTrainer); this filter waits for the GPU at every step.
    defaults["logging_nan_inf_filter"] = False
    if not trains_on_cpu(config.training) and not config.online:
        defaults["dataloader_num_workers"] = _workers()
    chosen = {**defaults, **config.training}
    asks_gpu = config.online and torch.cuda.is_available() and config.teach.device != "cpu"
    if asks_gpu and chosen.get("dataloader_num_workers"):
        raise TrainingError(
            "training.dataloader_num_workers: online sources are on the GPU, where other processes cannot ask them; "
            "leave it out, set teach.device: cpu, or online: false"
        )
    if chosen["dataloader_pin_memory"]:  # then a batch is copied to the GPU beside its work
        chosen.setdefault("accelerator_config", {"non_blocking": True})
    if chosen.get("bf16") and trains_on_cpu(chosen):
        chosen = {"use_cpu": True, **chosen, "bf16": not lacks_bfloat16(chosen)}
    if not torch.accelerator.is_available():  # else several processes on CPUs would not know of each other
        chosen = {"use_cpu": True, **chosen}
    if validates:
        if config.patience:
            chosen = {"load_best_model_at_end": True, **chosen}
        _check_best(config, chosen)
        chosen |= {"metric_for_best_model": _METRIC, "greater_is_better": False}
    if chosen.get("eval_strategy", "no") != "no" and not validates:
        raise TrainingError(
            "training.eval_strategy asks for evaluation, and there is no validation document; leave it out, or raise "
            "corpus.validation"
        )
    if (sampling := chosen.get("train_sampling_strategy", "random")) not in ("random", "sequential"):
        raise TrainingError(f"training.train_sampling_strategy: {sampling} is not supported; random or sequential is")
    with refusals_told():
        made = TrainingArguments(
            output_dir=str(config.output / "checkpoints"), remove_unused_columns=False, label_names=["labels"], **chosen
        )
        _try_out(made)
    there = get_available_reporting_integrations()
    if missing := sorted(set(made.report_to) - set(there)):
        raise TrainingError(
            f"training.report_to names {', '.join(missing)}, which is not installed; there is "
            f"{', '.join([*there, 'none'])}, and metrics.jsonl is always written"
        )
    return made


def _workers() -> int:
    """Processes beside a GPU where nothing is said: none where each would begin with a copy of all that is read, or
    where they could not hand over what they make."""
    shared = Path("/dev/shm")  # noqa: S108
    cramped = shared.is_dir() and shutil.disk_usage(shared).free < _SHARED
    return 0 if cramped or multiprocessing.get_start_method() != "fork" else _WORKERS


def _check_best(config: Config, chosen: dict[str, Any]) -> None:
    """What is measured is bits per byte, and the fewer the better."""
    metric = chosen.get("metric_for_best_model") or _METRIC
    if str(metric).removeprefix("eval_") != _METRIC or chosen.get("greater_is_better"):
        raise TrainingError(
            f"training.metric_for_best_model: runs are measured in {_METRIC} alone, and fewer are better; leave "
            "metric_for_best_model and greater_is_better out"
        )
    if config.patience and not chosen["load_best_model_at_end"]:
        raise TrainingError(
            "patience stops a run and keeps its best checkpoint, which training.load_best_model_at_end: false forbids; "
            "leave one of them out"
        )


def _try_out(made: TrainingArguments) -> None:
    """Make the optimizer and the schedule for a single weight: the Trainer makes them when all data is there."""
    weight = torch.nn.Linear(1, 1)
    if made.optim_target_modules:  # names modules of the model
        optimizer = torch.optim.SGD(weight.parameters())
    else:
        kind, found = Trainer.get_optimizer_cls_and_kwargs(made, weight)
        optimizer = kind(weight.parameters(), **{n: v for n, v in found.items() if n not in _OF_MODELS})
    get_scheduler(made.lr_scheduler_type, optimizer, 0, 1, made.lr_scheduler_kwargs)
    if made.use_liger_kernel and not is_liger_kernel_available():
        raise ImportError("use_liger_kernel needs the package liger-kernel")


def check_batches(made: TrainingArguments, examples: int) -> None:
    """Raise `TrainingError` where there are no examples, or no full batch of them and none but full ones are taken."""
    if not examples:
        raise TrainingError("there is nothing to train on: no document has two tokens or more")
    size = made.train_batch_size * made.world_size
    if made.dataloader_drop_last and examples < size:
        raise TrainingError(
            f"there are {examples} examples, fewer than one batch of {size}, and training.dataloader_drop_last leaves "
            "out what does not fill one; leave it out, or lower per_device_train_batch_size"
        )


def _evaluating(config: Config) -> dict[str, Any]:
    """When to evaluate where the config does not say: at every epoch's end, or with patience at every checkpoint."""
    if config.patience and config.training.get("save_strategy") == "steps":
        return {"eval_strategy": "steps", "eval_steps": config.training.get("save_steps", 500)}
    return {"eval_strategy": "epoch"}
