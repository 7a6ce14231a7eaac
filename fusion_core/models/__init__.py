"""Causal language models by name, and what they predict on a text.

from fusion_core.models import load_model

model = load_model("smollm2-135m")          # a sample, a hub id, a folder, or a .gguf file
predictions = model.predict("Some text.")
predictions.bits_per_byte
"""

from fusion_core.models._load import SAMPLE_MODELS, load_model, require_torch
from fusion_core.models._model import Model

__all__ = ["SAMPLE_MODELS", "Model", "load_model", "require_torch"]
