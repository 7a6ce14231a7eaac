"""Bits per byte of a model on documents, by domain, with confidence intervals over documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_core.models import Model
from training.calibration import Reliability
from training.corpus import Document

_BATCH = 16
_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """One document: its place among those that were scored; bits of its text after the first token, and the bytes of
    that; hits: tokens guessed right; reliability: how sure the model was."""

    place: int
    name: str
    domain: str
    bits: float
    bytes: int
    tokens: int
    hits: int
    reliability: Reliability


def score(
    model: Model, documents: Sequence[Document], progress: Callable[[int, int], None] | None = None
) -> list[Score]:
    """Every document's score; those of fewer than two tokens hold nothing to predict and are left out."""
    found = []
    for start in range(0, len(documents), _BATCH):
        some = documents[start : start + _BATCH]
        for place, (document, one) in enumerate(zip(some, model.score([d.text for d in some]), strict=True), start):
            if len(one.nll):
                size = len(one.encoding.data) - int(one.encoding.ends[0])
                bits, hits = float(one.nll.sum() / np.log(2)), int(one.correct.sum())
                kept = Reliability.of(one.confidence, one.correct)
                found.append(Score(place, document.name, document.domain, bits, size, len(one.nll), hits, kept))
        if progress is not None:
            progress(min(len(documents), start + _BATCH), len(documents))
    return found


def table(scores: dict[str, list[Score]], seed: int = 0) -> pd.DataFrame:
    """One row per model and domain (and all of them): bits per byte with a 95 % interval from resampled documents, and
    the difference to the first model, paired over documents; all models scored the same list of them."""
    first = next(iter(scores))
    base = {s.place: s for s in scores[first]}
    rows = []
    for name, found in scores.items():
        domains = sorted({s.domain for s in found})
        for domain in [*domains, *(["all"] if len(domains) > 1 else [])]:
            some = [s for s in found if domain in ("all", s.domain) and s.place in base]
            bits, size = np.array([s.bits for s in some]), np.array([s.bytes for s in some])
            other = np.array([base[s.place].bits for s in some])
            rng = np.random.default_rng(seed)
            draws = rng.integers(0, len(some), (_RESAMPLES, len(some)))
            total = size[draws].sum(axis=1)
            low, high = np.quantile(bits[draws].sum(axis=1) / total, (0.025, 0.975))
            gain_low, gain_high = np.quantile((bits - other)[draws].sum(axis=1) / total, (0.025, 0.975))
            rows.append(
                {
                    "model": name,
                    "domain": domain,
                    "documents": len(some),
                    "bits per byte": bits.sum() / size.sum(),
                    "low": low,
                    "high": high,
                    "top-1": sum(s.hits for s in some) / max(1, sum(s.tokens for s in some)),
                    "calibration error": Reliability.total(s.reliability for s in some).error,
                    "difference": (bits - other).sum() / size.sum(),
                    "difference low": gain_low,
                    "difference high": gain_high,
                }
            )
    return pd.DataFrame(rows)
