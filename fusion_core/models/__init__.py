"""Causal language models by name, and what they predict on a text.

from fusion_core.models import load_model

model = load_model("smollm2-135m")          # a sample, a hub id, a folder, or a .gguf file
predictions = model.predict("Some text.")
predictions.bits_per_byte
"""

from fusion_core.models._identity import config_sample, weights_identity, weights_sample
from fusion_core.models._load import (
    SAMPLE_MODELS,
    default_dtype,
    load_model,
    require_torch,
    text_config,
    weights_folder,
)
from fusion_core.models._model import BATCH_TOKENS, KEEP, Model, check_ids
from fusion_core.models._selection import most_probable
from fusion_core.models._size import ModelSize, model_size

__all__ = [
    "BATCH_TOKENS",
    "KEEP",
    "SAMPLE_MODELS",
    "Model",
    "ModelSize",
    "check_ids",
    "config_sample",
    "default_dtype",
    "load_model",
    "model_size",
    "most_probable",
    "require_torch",
    "text_config",
    "weights_folder",
    "weights_identity",
    "weights_sample",
]
