"""Alignment, vocabulary mapping, transfer, fusion and loss for models that do not share a tokenizer.

Arrays in, result objects out. Importing this package imports nothing heavy: names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fusion_core.errors import (
    AlignmentError,
    ConfigError,
    DistributionError,
    FusionError,
    MappingError,
    ModelError,
    TextError,
    TokenizerError,
    TrainingError,
    TransferError,
)

if TYPE_CHECKING:
    from fusion_core.alignment import Alignment, align
    from fusion_core.mapping import VocabularyMapping, load_mapping, map_vocabulary, save_mapping
    from fusion_core.tokenizers import SAMPLES, Encoding, Tokenizer, load_tokenizer

_HOMES = {
    "Alignment": "alignment",
    "Encoding": "tokenizers",
    "SAMPLES": "tokenizers",
    "Tokenizer": "tokenizers",
    "VocabularyMapping": "mapping",
    "align": "alignment",
    "load_mapping": "mapping",
    "load_tokenizer": "tokenizers",
    "map_vocabulary": "mapping",
    "save_mapping": "mapping",
}

__all__ = [
    "SAMPLES",
    "Alignment",
    "AlignmentError",
    "ConfigError",
    "DistributionError",
    "Encoding",
    "FusionError",
    "MappingError",
    "ModelError",
    "TextError",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
    "TransferError",
    "VocabularyMapping",
    "align",
    "load_mapping",
    "load_tokenizer",
    "map_vocabulary",
    "save_mapping",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fusion_core.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
