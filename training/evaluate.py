"""Bits per byte of a model on documents, by domain, with confidence intervals over documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_core.errors import TextError
from fusion_core.models import Model
from training.calibration import Reliability
from training.corpus import Document

_BATCH = 16
_RESAMPLES = 2000
# Documents below which resampling them says nothing of others: there is no interval.
FEWEST = 5


@dataclass(frozen=True)
class Score:
    """One document: its place among those that were scored; bits of its text after the first token, and the bytes of
    that; hits: tokens guessed right; reliability: how sure the model was; whole: the document that it is a part of, or
    itself."""

    place: int
    name: str
    whole: str
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
                whole = document.whole or f"{document.name}, {place}"
                name, domain = document.name, document.domain
                found.append(Score(place, name, whole, domain, bits, size, len(one.nll), hits, kept))
        if progress is not None:
            progress(min(len(documents), start + _BATCH), len(documents))
    return found


def table(scores: dict[str, list[Score]], seed: int = 0) -> pd.DataFrame:
    """One row per model and domain (and all of them): bits per byte with a 95 % interval from resampled documents, and
    the difference to the first model, paired over documents.

    All models scored the same list; only what all of them could score is counted. The parts of a long document are
    resampled together. Of fewer than `FEWEST` documents the intervals are NaN.

    Raises:
        TextError: there is no document that all of them could score.
    """
    everywhere = set.intersection(*({s.place for s in found} for found in scores.values()))
    if not everywhere:
        raise TextError("there is nothing to compare: no document has two tokens or more for each of these models")
    kept = {name: [s for s in found if s.place in everywhere] for name, found in scores.items()}
    first = next(iter(scores))
    domains = sorted({s.domain for s in kept[first]})
    rows = []
    for name, found in kept.items():
        for domain in [*domains, *(["all"] if len(domains) > 1 else [])]:
            some = [s for s in found if domain in ("all", s.domain)]
            ours, theirs = _sums(some), _sums([s for s in kept[first] if domain in ("all", s.domain)])
            low = high = gain_low = gain_high = float("nan")
            if len(ours) >= FEWEST:
                draws = np.random.default_rng(seed).integers(0, len(ours), (_RESAMPLES, len(ours)))
                low, high = np.quantile(_ratio(ours[draws]), (0.025, 0.975))
                gain_low, gain_high = np.quantile(_ratio(ours[draws]) - _ratio(theirs[draws]), (0.025, 0.975))
            bits = _ratio(ours)
            rows.append(
                {
                    "model": name,
                    "domain": domain,
                    "documents": len(ours),
                    "bits per byte": bits,
                    "low": low,
                    "high": high,
                    "top-1": sum(s.hits for s in some) / max(1, sum(s.tokens for s in some)),
                    "calibration error": Reliability.total(s.reliability for s in some).error,
                    "difference": bits - _ratio(theirs),
                    "difference low": gain_low,
                    "difference high": gain_high,
                }
            )
    return pd.DataFrame(rows)


def _sums(scores: Sequence[Score]) -> NDArray[np.float64]:
    """float64[documents, 2]: bits and bytes, in the order of the documents."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in scores:
        pair = found.setdefault((one.domain, one.whole), [0.0, 0.0])
        pair[0] += one.bits
        pair[1] += one.bytes
    return np.array(list(found.values()))


def _ratio(sums: NDArray[np.float64]) -> Any:
    """Bits per byte of [..., documents, 2]."""
    total = sums.sum(axis=-2)
    return total[..., 0] / total[..., 1]
