"""How large a model is, from its config alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_core.errors import ModelError
from fusion_core.models._load import first_line, local_or_hub, read_config, require_torch


@dataclass(frozen=True)
class ModelSize:
    """What decides the memory that a model takes.

    Attributes:
        parameters: all weights, tied ones once.
        layers, hidden, intermediate: of its blocks; `intermediate` is the width of their feed-forward part.
        width: entries of its logits.
        positions: tokens that it can read at once at most, None where its config names no limit.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    width: int
    positions: int | None


def model_size(name: str | Path) -> ModelSize:
    """The size of the model called `name`, named as for `load_model`; raises `ModelError` as that does."""
    label = str(name).strip()
    require_torch()
    import torch
    import transformers

    try:
        config = read_config(local_or_hub(label))
        with torch.device("meta"):
            network = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        # Models that also see or hear keep their text model's figures in a config of its own.
        text = config.get_text_config()
        hidden = int(text.hidden_size)
        return ModelSize(
            int(network.num_parameters()),
            int(text.num_hidden_layers),
            hidden,
            _feed_forward(text, hidden),
            int(network.get_output_embeddings().weight.shape[0]),
            getattr(config, "max_position_embeddings", None) or None,
        )
    except ModelError:
        raise
    except Exception as error:  # the library has many ways to say no
        raise ModelError(f"cannot read the config of the model {label!r}: {first_line(error)}") from error


def _feed_forward(config: Any, hidden: int) -> int:
    found = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    # GPT-2 and its kin leave it out and take four times the width; a few models have one for each layer.
    return max(map(int, found)) if isinstance(found, list | tuple) else int(found or 4 * hidden)
