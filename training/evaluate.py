"""Bits per byte of a model on documents, by domain, with confidence intervals over documents and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_core.errors import TextError
from fusion_core.models import Model
from training.calibration import Reliability
from training.corpus import Document

# What models are compared in, wherever they are: it rounds no weights, and bfloat16, in which a GPU is asked otherwise,
# moves SmolLM2 by 0.001 bits per byte, as much as methods may differ. Validation is in a run's own precision.
DTYPE = "float32"
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

    @classmethod
    def of(
        cls, document: Document, place: int, bits: float, size: int, tokens: int, hits: int, reliability: Reliability
    ) -> Score:
        """Of a document and its place among those that were scored; `size` in bytes."""
        whole = document.whole or f"{document.name}, {place}"
        return cls(place, document.name, whole, document.domain, bits, size, tokens, hits, reliability)


def score(
    model: Model, documents: Sequence[Document], progress: Callable[[float, int], None] | None = None
) -> list[Score]:
    """Every document's score; those of fewer than two tokens hold nothing to predict and are left out. `progress` is
    told how many of the documents are done, those at hand by their tokens."""
    found = []
    for start in range(0, len(documents), _BATCH):
        some = documents[start : start + _BATCH]
        within = None if progress is None else partial(_within, progress, start, len(some), len(documents))
        scored = model.score([d.text for d in some], progress=within)
        for place, (document, one) in enumerate(zip(some, scored, strict=True), start):
            if len(one.nll):
                size = len(one.encoding.data) - int(one.encoding.ends[0])
                bits, hits = float(one.nll.sum() / np.log(2)), int(one.correct.sum())
                kept = Reliability.of(one.confidence, one.correct)
                found.append(Score.of(document, place, bits, size, len(one.nll), hits, kept))
        if progress is not None:
            progress(min(len(documents), start + _BATCH), len(documents))
    return found


def _within(
    progress: Callable[[float, int], None], before: int, some: int, documents: int, done: int, total: int
) -> None:
    progress(before + some * done / max(1, total), documents)


def table(scores: Mapping[str, Sequence[Sequence[Score]]], seed: int = 0) -> pd.DataFrame:
    """One row per model and domain (and all of them): bits per byte with a 95 % interval, and the difference to the
    first model, paired over documents.

    A model has one list of scores for each seed that it was trained with; its bits per byte are those of all of them
    together. Intervals are of resampled documents and, independently of them, resampled seeds (the pigeonhole
    bootstrap: Owen 2007, Annals of Applied Statistics 1:2). So those of one seed say nothing of what another would
    give, and those of three reach about from the lowest to the highest. Models with as many seeds as the first are
    paired over seeds too, in their order.

    All scored the same documents; only what all of them could score is counted. The parts of a long document are
    resampled together. Of fewer than `FEWEST` documents the intervals are NaN.

    Raises:
        TextError: there is no document that all of them could score.
    """
    everywhere = set.intersection(*({s.place for s in run} for runs in scores.values() for run in runs))
    if not everywhere:
        raise TextError("there is nothing to compare: no document has two tokens or more for each of these models")
    kept = {name: [[s for s in run if s.place in everywhere] for run in runs] for name, runs in scores.items()}
    first = next(iter(scores))
    domains = sorted({s.domain for s in kept[first][0]})
    rows = []
    for name, runs in kept.items():
        for domain in [*domains, *(["all"] if len(domains) > 1 else [])]:
            ours, theirs = (_sums(some, domain) for some in (runs, kept[first]))
            bits, difference = _ratio(ours), _ratio(ours) - _ratio(theirs)
            low = high = gain_low = gain_high = float("nan")
            if ours.shape[1] >= FEWEST:
                draws = np.random.default_rng(seed)
                documents = _draws(draws, ours.shape[1])
                seeds = _draws(draws, len(ours))
                drawn = _ratio(ours, seeds, documents)
                other = _ratio(theirs, seeds if len(theirs) == len(ours) else _draws(draws, len(theirs)), documents)
                low, high = np.quantile(drawn, (0.025, 0.975))
                gain_low, gain_high = np.quantile(drawn - other, (0.025, 0.975))
            some = [s for run in runs for s in run if domain in ("all", s.domain)]
            rows.append(
                {
                    "model": name,
                    "seeds": len(runs),
                    "domain": domain,
                    "documents": ours.shape[1],
                    "bits per byte": float(bits),
                    "low": low,
                    "high": high,
                    "top-1": sum(s.hits for s in some) / max(1, sum(s.tokens for s in some)),
                    "calibration error": Reliability.total(s.reliability for s in some).error,
                    "difference": float(difference),
                    "difference low": gain_low,
                    "difference high": gain_high,
                }
            )
    return pd.DataFrame(rows)


def _sums(runs: Sequence[Sequence[Score]], domain: str) -> NDArray[np.float64]:
    """float64[seeds, documents, 2]: bits and bytes, in the order of the documents."""
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for n, run in enumerate(runs):
        for one in run:
            if domain in ("all", one.domain):
                pairs = found.setdefault((one.domain, one.whole), np.zeros((len(runs), 2)))
                pairs[n] += one.bits, one.bytes
    return np.stack(list(found.values()), axis=1)


def _draws(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """float64[_RESAMPLES, count]: how often each of `count` is drawn in as many draws with replacement."""
    return random.multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(np.float64)


def _ratio(
    sums: NDArray[np.float64],
    seeds: NDArray[np.float64] | None = None,
    documents: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Bits per byte of float64[seeds, documents, 2], each counted once or as often as in each of `_draws`."""
    seeds = np.ones((1, sums.shape[0])) if seeds is None else seeds
    documents = np.ones((1, sums.shape[1])) if documents is None else documents
    total = np.einsum("rs,rd,sdk->rk", seeds, documents, sums, optimize=True)
    ratio: NDArray[np.float64] = total[:, 0] / total[:, 1]
    return ratio.squeeze()
