"""The transformers Trainer's arguments from a config: its defaults here, and what it refuses."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from fusion_core.errors import TrainingError
from training.config import DEFAULTS, Config
from training.precision import lacks_bfloat16, trains_on_cpu


def arguments_of(config: Config, validates: bool) -> TrainingArguments:
    """What the run of `config` trains with; `validates`: whether it has validation documents.

    Raises:
        TrainingError: the Trainer refuses what `training` says, or lacks what `report_to` names.
    """
    defaults = dict(DEFAULTS)
    if validates:
        defaults |= _evaluating(config)
    defaults["dataloader_pin_memory"] = torch.cuda.is_available()
    chosen = {**defaults, **config.training}
    if chosen.get("bf16") and trains_on_cpu(chosen):
        chosen = {"use_cpu": True, **chosen, "bf16": not lacks_bfloat16(chosen)}
    if config.patience:
        chosen = {"load_best_model_at_end": True, **chosen}
    if chosen.get("load_best_model_at_end"):
        chosen = {"metric_for_best_model": "bits_per_byte", "greater_is_better": False, **chosen}
    if chosen.get("eval_strategy", "no") != "no" and not validates:
        raise TrainingError(
            "training.eval_strategy asks for evaluation, and there is no validation document; leave it out, or raise "
            "corpus.validation"
        )
    if (sampling := chosen.get("train_sampling_strategy", "random")) not in ("random", "sequential"):
        raise TrainingError(f"training.train_sampling_strategy: {sampling} is not supported; random or sequential is")
    try:
        made = TrainingArguments(
            output_dir=str(config.output / "checkpoints"), remove_unused_columns=False, label_names=["labels"], **chosen
        )
    except (TypeError, ValueError, ImportError) as error:
        raise TrainingError(f"the Trainer refuses what 'training' says: {' '.join(str(error).split())}") from error
    there = get_available_reporting_integrations()
    if missing := sorted(set(made.report_to) - set(there)):
        raise TrainingError(
            f"training.report_to names {', '.join(missing)}, which is not installed; there is "
            f"{', '.join([*there, 'none'])}, and metrics.jsonl is always written"
        )
    return made


def _evaluating(config: Config) -> dict[str, Any]:
    """When to evaluate where the config does not say: at every epoch's end, or with patience at every checkpoint."""
    if config.patience and config.training.get("save_strategy") == "steps":
        return {"eval_strategy": "steps", "eval_steps": config.training.get("save_steps", 500)}
    return {"eval_strategy": "epoch"}
