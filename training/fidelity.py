"""Running the models of a fidelity measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TransferError
from fusion_core.models import Model, load_model
from fusion_core.transfer import Predictions, Transfer, TransferIndex, build_index, marginal
from training.console import progress


@dataclass(frozen=True)
class Pair:
    """Two models' predictions on one text, and the index of their tokenizers."""

    model: Model
    source: Predictions
    own: Predictions
    index: TransferIndex


def predict_pair(source: str, target: str, text: str, top_k: int) -> Pair:
    """Load both models and run them on `text`, with progress bars."""
    models, predictions = [], []
    for name in (source, target):
        with progress(f"loading {name}"):
            models.append(load_model(name))
        with progress(f"{name} reads the text") as update:
            predictions.append(models[-1].predict(text, top_k=top_k, progress=update))
    with progress("indexing the vocabularies"):
        index = build_index(models[0].tokenizer, models[1].tokenizer)
    return Pair(models[0], predictions[0], predictions[1], index)


@dataclass(frozen=True)
class Sampled:
    """`marginal` at random positions, ascending, and how long it took."""

    transfer: Transfer
    positions: NDArray[np.integer[Any]]
    seconds: float


def sample_marginal(pair: Pair, count: int, seed: int) -> Sampled:
    """The gold standard at `count` random positions; raises `TransferError` for too short a text."""
    total = len(pair.own.encoding) - 1
    if total < 1:
        raise TransferError("the text is too short: it needs at least two tokens on both sides")
    positions = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    start = time.perf_counter()
    with progress("marginal") as update:
        found = marginal(
            pair.model, pair.source, pair.own.encoding, pair.index, positions, own=pair.own, progress=update
        )
    return Sampled(found, positions, time.perf_counter() - start)
