"""Whether a model is right as often as it says: confidence against accuracy (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Tokens by the probability of the most probable one, in `BINS` bins of equal width.

    Attributes:
        counts, hits: int64[BINS], tokens, and those among them where the most probable one was right.
        confidence: float64[BINS], the sum of the probabilities.
    """

    counts: NDArray[np.int64]
    hits: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> Reliability:
        """From n tokens."""
        sure = np.asarray(confidence, dtype=np.float64)
        place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        sums = np.zeros(BINS)
        np.add.at(sums, place, sure)
        hits = np.bincount(place[correct], minlength=BINS).astype(np.int64)
        return cls(np.bincount(place, minlength=BINS).astype(np.int64), hits, sums)

    @classmethod
    def total(cls, parts: Iterable[Reliability]) -> Reliability:
        """Several taken together."""
        held = list(parts)
        empty = np.zeros(BINS)
        return cls(
            sum((p.counts for p in held), empty.astype(np.int64)),
            sum((p.hits for p in held), empty.astype(np.int64)),
            sum((p.confidence for p in held), empty),
        )

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy, 0 to 1, weighted by tokens."""
        total = self.counts.sum()
        return float(np.abs(self.confidence - self.hits).sum() / total) if total else float("nan")
