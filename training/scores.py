"""What a finished run scores on documents: measured once, then kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fusion_core import Tokenizer, TokenizerError, load_tokenizer
from fusion_core.models import load_model, weights_identity
from fusion_core.sealed import SealError, read_table, write_table
from fusion_core.workspace import digest
from training.calibration import BINS, Reliability
from training.config import Config
from training.corpus import Document
from training.ensemble import score_ensemble
from training.evaluate import DTYPE, Score, score
from training.runs import target_tokenizer
from training.stages.carry import REVISION

# The version changes whenever the same model and text would give other figures.
FORMAT = "fusescope-scores"
VERSION = 1

_SCORES = pa.schema(
    [
        ("place", pa.int64()),
        ("bits", pa.float64()),
        ("size", pa.int64()),
        ("tokens", pa.int64()),
        ("hits", pa.int64()),
        ("bin_counts", pa.list_(pa.int64(), BINS)),
        ("bin_hits", pa.list_(pa.int64(), BINS)),
        ("bin_confidence", pa.list_(pa.float64(), BINS)),
    ]
)


def run_scores(
    folder: Path, config: Config, documents: Sequence[Document], progress: Callable[[float, int], None] | None = None
) -> list[Score]:
    """The scores of a run's model, or of the ensemble that it stands for, as `evaluate.score` gives them.

    They are kept under `scores/` in the run's folder, by the weights, the tokenizer and the texts, and read from there
    the next time. A folder that cannot be written keeps none.

    Raises:
        ConfigError: as `score_ensemble`.
        ModelError, TokenizerError: the run's model or tokenizer cannot be loaded.
    """
    path = _place(folder, config, documents, None)
    with suppress(SealError):
        return _read(path, documents)
    if config.kind == "ensemble":
        found = score_ensemble(config, documents, progress)
    else:
        tokenizer = _tokenizer(folder, config)  # the one that the model's probabilities are about
        found = score(load_model(str(folder / "model"), dtype=DTYPE, tokenizer=tokenizer), documents, progress)
    if found:
        with suppress(OSError):
            _write(path, found)
    return found


def kept_scores(folder: Path, config: Config, documents: Sequence[Document], weights: str) -> list[Score] | None:
    """What `run_scores` kept of the run's model when its `weights_identity` was `weights`, whether or not it is still
    there; None if nothing was, or not of these documents."""
    try:
        return _read(_place(folder, config, documents, weights), documents)
    except SealError:
        return None


def _place(folder: Path, config: Config, documents: Sequence[Document], weights: str | None) -> Path:
    tokenizer = _tokenizer(folder, config)
    if config.kind == "ensemble":
        models = [config.target, *(source.model for source in config.sources)]
        identities = "\n".join(map(weights_identity, models))
        dtype = config.teach.dtype or DTYPE
        sides = [load_tokenizer(source.model).fingerprint for source in config.sources]
        chosen = config.model_dump_json(include={"target", "sources", "fusion", "teach"})
        settings = digest(chosen, str(REVISION), *sides)
    else:
        identities, dtype, settings = weights or weights_identity(str(folder / "model")), DTYPE, ""
    begins = str(tokenizer.adds_bos)
    key = digest(tokenizer.fingerprint, begins, identities, dtype, settings, *(one.text for one in documents))
    return folder / "scores" / f"{key[:16]}.parquet"


def _tokenizer(folder: Path, config: Config) -> Tokenizer:
    """The target's, as long as it is the one that was trained with, and else the one saved beside the model."""
    saved = folder / "model"
    try:
        found = load_tokenizer(config.target)
    except TokenizerError:
        if config.kind == "ensemble" or not saved.is_dir():
            raise
        return load_tokenizer(str(saved))
    changed = target_tokenizer(folder) not in (None, found.fingerprint)
    return load_tokenizer(str(saved)) if changed and saved.is_dir() else found


def _write(path: Path, scores: Sequence[Score]) -> None:
    columns = {
        "place": [one.place for one in scores],
        "bits": [one.bits for one in scores],
        "size": [one.bytes for one in scores],
        "tokens": [one.tokens for one in scores],
        "hits": [one.hits for one in scores],
        "bin_counts": _bins([one.reliability.counts for one in scores]),
        "bin_hits": _bins([one.reliability.hits for one in scores]),
        "bin_confidence": _bins([one.reliability.confidence for one in scores]),
    }
    write_table(pa.table(columns, schema=_SCORES), path, FORMAT, VERSION, {})


def _bins(rows: Sequence[NDArray[np.generic]]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(np.concatenate(rows), BINS)


def _read(path: Path, documents: Sequence[Document]) -> list[Score]:
    found = []
    for row in read_table(path, FORMAT, VERSION)[0].to_pylist():
        counts, hits, confidence = (np.asarray(row.pop(f"bin_{name}")) for name in ("counts", "hits", "confidence"))
        found.append(Score.of(documents[row["place"]], reliability=Reliability(counts, hits, confidence), **row))
    return found
