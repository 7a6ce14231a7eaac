"""The sources as one predictor of the target's tokens, without any training: what distillation would have to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fusion_core.errors import ConfigError
from fusion_core.fusion import cross_entropies, cross_entropy, fuse
from fusion_core.models import load_model
from fusion_core.transfer import build_index, transfer
from training.calibration import Reliability
from training.config import PUBLISHED, Config
from training.corpus import Document
from training.evaluate import DTYPE, Score

_BATCH = 8


def check_ensemble(config: Config) -> None:
    """Raise `ConfigError` where there are no sources, one is carried by a published rule, which gives no whole
    distribution, or the gold token itself would choose between them."""
    if not config.sources:
        raise ConfigError("an ensemble needs sources")
    if published := [s.method for s in config.sources if s.method in PUBLISHED]:
        raise ConfigError(f"an ensemble needs whole distributions, which {published[0]} does not give")
    if config.fusion.level == "token" and config.fusion.rule in ("min_ce", "avg_ce"):
        raise ConfigError(
            f"an ensemble by {config.fusion.rule} at the level token lets the gold token choose its predictor; take "
            "the level sequence, or the rule mean or product ('fusescope fidelity' gives that bound, and says so)"
        )


def score_ensemble(
    config: Config, documents: Sequence[Document], progress: Callable[[float, int], None] | None = None
) -> list[Score]:
    """Every document's score by the sources carried to the target's tokens and fused by the config's rule.

    Raises:
        ConfigError: as `check_ensemble`.
    """
    check_ensemble(config)
    names = list(dict.fromkeys([config.target, *(source.model for source in config.sources)]))
    asked = config.teach
    models = {name: load_model(name, device=asked.device, dtype=asked.dtype or DTYPE) for name in names}
    target = models[config.target]
    wanted = [(source.model, source.method) for source in config.sources]
    if config.fusion.with_target:
        wanted.append((config.target, "byte-exact"))
    indices = [build_index(models[name].tokenizer, target.tokenizer) for name, _ in wanted]
    fusion, found = config.fusion, []
    for start in range(0, len(documents), _BATCH):
        some = documents[start : start + _BATCH]
        read = {
            name: model.predict_all([d.text for d in some], top_k=config.teach.top_k) for name, model in models.items()
        }
        for n, document in enumerate(some):
            own = read[config.target][n]
            if len(own.encoding) < 2:
                continue
            theirs = [read[name][n] for name, _ in wanted]
            carried = [
                transfer(one, own.encoding, index, method=method, own=own)
                for one, index, (_, method) in zip(theirs, indices, wanted, strict=True)
            ]
            gold = own.encoding.ids[1:]
            ce = cross_entropies(fusion.level, [cross_entropy(one) for one in theirs], carried, gold)
            fused = fuse(carried, fusion.rule, ce, temperature=fusion.temperature)
            best = fused.best()
            size = len(own.encoding.data) - int(own.encoding.ends[0])
            bits = float(-np.log2(np.maximum(fused.prob_of(gold), 1e-12)).sum())
            correct = best == gold
            kept = Reliability.of(fused.prob_of(np.maximum(best, 0)), correct)
            found.append(Score.of(document, start + n, bits, size, len(gold), int(correct.sum()), kept))
        if progress is not None:
            progress(min(len(documents), start + _BATCH), len(documents))
    return found
