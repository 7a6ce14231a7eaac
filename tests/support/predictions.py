"""Made-up predictions: seeded distributions on real encodings."""

from __future__ import annotations

import numpy as np

from fusion_core import Tokenizer
from fusion_core.distributions import TopK
from fusion_core.transfer import Predictions


def random_predictions(
    tokenizer: Tokenizer, text: str, seed: int, *, top_k: int = 0, has_start: bool = True, sharp: float = 3.0
) -> Predictions:
    """Every row drawn anew; entries that exist only."""
    encoding = tokenizer.encode(text)
    logits = np.random.default_rng(seed).normal(0, sharp, (len(encoding) + 1, tokenizer.size)).astype(np.float32)
    logits[:, ~tokenizer.vocabulary.spells] = -np.inf
    return Predictions(encoding, TopK.from_logits(logits, top_k), has_start, "made up")
