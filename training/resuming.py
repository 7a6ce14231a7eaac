"""What a run needs to go on as if it had never been interrupted, besides its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerState

from fusion_core.errors import TrainingError
from training.config import DEFAULTS, Config, load
from training.runs import began_with
from training.splits import Splits

# Fields that may be others when a run goes on: where things lie and how they are made, not what they are.
_FREE = ("version", "output", "data", "patience", "online", "teach.device")
# Of the Trainer's arguments: how long it trains, and what it writes down on the way.
_FREE_ARGUMENTS = ("num_train_epochs", "max_steps", "report_to", "run_name", "disable_tqdm", "dataloader_num_workers")
_FREE_BEGINNINGS = ("logging_", "save_", "eval_", "log_")


def check_same(config: Config, folder: Path, done: int) -> None:
    """Raise `TrainingError` where `config` is not what the run in `folder` began with, `done` steps ago.

    More epochs or steps may be asked for, and what is logged, saved and evaluated; all else would be another run under
    this one's name.
    """
    limit = int(config.training.get("max_steps", -1))
    if 0 < limit < done:
        raise TrainingError(f"the run in {folder} has {done} steps behind it, more than max_steps ({limit}) asks for")
    ours, theirs = _fields(config), _fields(load(folder / "config.yaml"))
    changed = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if changed:
        shown = ", ".join(f"{name} (was {theirs.get(name)}, now {ours.get(name)})" for name in changed[:4])
        raise TrainingError(
            f"the run in {folder} was begun with other settings, so that going on would be another run: {shown}; take "
            "them back, or train anew into another output"
        )


def check_texts(splits: Splits, folder: Path) -> None:
    """Raise `TrainingError` where the corpus no longer holds what the run in `folder` began with: the batches that its
    checkpoint has behind it would be others."""
    began = began_with(folder, "texts")
    changed = [name for name, identity in splits.identities.items() if began.get(name, identity) != identity]
    if changed:
        raise TrainingError(
            f"the texts to be split are not those that the run in {folder} began with ({', '.join(changed)}): put the "
            "corpus back as it was, or train anew into another output"
        )


def check_models(models: Mapping[str, str], began: Mapping[str, str], folder: Path) -> None:
    """Raise `TrainingError` where a model is no longer the one that the run in `folder` began with: its adapters, and
    the rest of an epoch, would go on over another.

    Args:
        models: by name what tells its weights, its config or its tokenizer from others.
        began: the same as it was then.
    """
    changed = [name for name, identity in models.items() if began.get(name, identity) != identity]
    if changed:
        raise TrainingError(
            f"{', '.join(changed)} is not the model any more that the run in {folder} began with: put it back as it "
            "was, or train anew into another output"
        )


def _fields(config: Config) -> dict[str, Any]:
    """The values that must stay, by dotted names."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                walk(one, f"{name}.{key}" if name else str(key))
        elif name not in _FREE:
            found[name] = value

    dumped = json.loads(config.model_dump_json())
    arguments = {**DEFAULTS, **dumped.pop("training")}
    walk(dumped, "")
    for name, value in arguments.items():
        if name not in _FREE_ARGUMENTS and not name.startswith(_FREE_BEGINNINGS):
            found[f"training.{name}"] = value
    return found


def restore_patience(callback: EarlyStoppingCallback, checkpoint: Path) -> None:
    """Let early stopping go on counting: the Trainer writes its count into checkpoints, and does not read it."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    kept = state.stateful_callbacks.get(type(callback).__name__)
    for one in kept if isinstance(kept, list) else [kept]:
        if isinstance(one, dict):
            callback.early_stopping_patience_counter = int(
                one.get("attributes", {}).get("early_stopping_patience_counter", 0)
            )
