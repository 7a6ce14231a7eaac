"""The best of each method on held-out documents, as rows of results.json."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fusion_core import load_tokenizer
from fusion_core.models import load_model
from training.corpus import Document
from training.data import Say
from training.evaluate import Score, score, table
from training.sweep.plan import BEFORE
from training.sweep.search import Chosen


def read(chosen: Mapping[str, Chosen], target: str, held_out: Sequence[Document]) -> dict[str, list[Score]]:
    """The held-out scores of each method's best run, and of the target before training."""
    found = {}
    for method, one in chosen.items():
        own = load_tokenizer(one.config.target)
        found[method] = score(load_model(str(one.config.output / "model"), tokenizer=own), held_out)
    return {**found, BEFORE: score(load_model(target), held_out)}


def rows(scores: dict[str, list[Score]], chosen: Mapping[str, Chosen], seed: int, say: Say) -> list[dict[str, Any]]:
    """One row for each method, with its setting and what training it took, and one for the target before training."""
    frame = table(scores)
    say(frame.to_string())
    found: list[dict[str, Any]] = []
    for label, part in frame.groupby("model", sort=False):
        one = chosen.get(str(label))
        trial = one.trial if one else {}
        found.append(
            {
                "method": str(label),
                "seed": seed,
                "setting": dict(one.setting) if one else {},
                "validation_bits_per_byte": trial.get("validation_after"),
                "held_out": {str(row["domain"]): _figures(row) for _, row in part.iterrows()},
                **{field: trial.get(field) for field in ("steps", "epochs", "tokens", "seconds")},
                "machine": f"{platform.machine()}",
            }
        )
    return found


def _figures(row: pd.Series[Any]) -> dict[str, Any]:
    return {
        "bits_per_byte": round(float(row["bits per byte"]), 5),
        "interval": [_rounded(row["low"]), _rounded(row["high"])],
        "difference": round(float(row["difference"]), 5),
        "difference_interval": [_rounded(row["difference low"]), _rounded(row["difference high"])],
        "documents": int(row["documents"]),
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)
