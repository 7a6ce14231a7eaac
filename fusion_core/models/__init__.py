"""Causal language models by name, and what they predict on a text.

from fusion_core.models import load_model

model = load_model("smollm2-135m")          # a sample, a hub id, a folder, or a .gguf file
predictions = model.predict("Some text.")
predictions.bits_per_byte
"""

from fusion_core.models._load import (
    SAMPLE_MODELS,
    default_dtype,
    load_model,
    require_torch,
    weights_folder,
    weights_identity,
)
from fusion_core.models._model import KEEP, Model

__all__ = [
    "KEEP",
    "SAMPLE_MODELS",
    "Model",
    "default_dtype",
    "load_model",
    "require_torch",
    "weights_folder",
    "weights_identity",
]
