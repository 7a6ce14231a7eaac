"""A trained model as a folder that `load_model` reads, whatever its weights were spread over while it was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fusion_core.models import Model, load_model


def gather_on_saving(trainer: Any) -> None:
    """Have DeepSpeed put weights that are spread over processes together when a model is saved; before training."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True


def save_whole(trainer: Any, target: Model, part: Path) -> None:
    """Write weights and tokenizer into `part`, adapters merged into the weights; to be called on all processes.

    Args:
        trainer: that of transformers, after training.
        target: what was trained, for its name and its tokenizer.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:  # else each process would keep its own share
        plugin.set_state_dict_type("FULL_STATE_DICT")
    adapters = hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    place = part.with_name(part.name + "-adapters") if adapters else part
    trainer.save_model(str(place))
    if not trainer.is_world_process_zero():
        return
    if adapters:
        from peft import PeftModel
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # under which a model that is loaded is spread over processes, and waits for them
        # The weights of this process may be a share only; those on disk are whole.
        base = load_model(target.name, device="cpu", dtype="float32", tokenizer=target.tokenizer).network
        PeftModel.from_pretrained(base, str(place)).merge_and_unload().save_pretrained(str(part))
        shutil.rmtree(place)
    (part / "training_args.bin").unlink(missing_ok=True)  # pickled; config.yaml says the same
    target.tokenizer.save(part)
