"""`statistical` (FuseChat, arXiv 2408.07990): weights from how often an alignment links two ids over a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusion_core.alignment import align
from fusion_core.mapping._entries import identical
from fusion_core.mapping._mapping import Provenance, VocabularyMapping
from fusion_core.mapping._nearest import Progress
from fusion_core.tokenizers import Tokenizer


def count_links(
    source: Tokenizer, target: Tokenizer, texts: Sequence[str], method: str, cost: str, progress: Progress | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """int64[p, 2] pairs of (source id, target id), ascending, and how often each was linked (int64[p])."""
    keys = []
    for done, text in enumerate(texts, start=1):
        alignment = align(source, target, text=text, method=method, cost=cost)
        i, j = alignment.edges[:, 0], alignment.edges[:, 1]
        keys.append(alignment.source.ids[i].astype(np.int64) * target.size + alignment.target.ids[j])
        if progress is not None:
            progress(done, len(texts))
    joined = np.concatenate(keys) if keys else np.zeros(0, dtype=np.int64)
    pairs, counts = np.unique(joined, return_counts=True)
    return np.stack([pairs // target.size, pairs % target.size], axis=1), counts.astype(np.int64)


def statistical(
    provenance: Provenance,
    source: Tokenizer,
    target: Tokenizer,
    texts: Sequence[str],
    method: str,
    cost: str,
    progress: Progress | None,
) -> VocabularyMapping:
    """Link counts, each row divided by its sum. An entry that the corpus does not show keeps its identical
    counterpart, if it has one, and is lost otherwise."""
    pairs, counts = count_links(source, target, texts, method, cost, progress)
    table = identical(source, target, "bytes")
    shown = np.zeros(source.size, dtype=np.bool_)
    shown[pairs[:, 0]] = True
    kept = np.flatnonzero(~shown & (table.best >= 0))
    rows = np.concatenate([pairs[:, 0], kept])
    columns = np.concatenate([pairs[:, 1], table.best[kept]])
    values = np.concatenate([counts, np.ones(len(kept), dtype=np.int64)])
    order = np.lexsort((columns, -values, rows))  # heaviest first, ties to the lowest target id
    rows, columns, values = rows[order], columns[order], values[order]
    totals = np.bincount(rows, weights=values, minlength=source.size)
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=source.size)))).astype(np.int64)
    best = np.full(source.size, -1, dtype=np.int64)
    filled = np.diff(indptr) > 0
    best[filled] = columns[indptr[:-1][filled]]
    same = filled & (best == table.best)
    return VocabularyMapping(
        provenance,
        indptr,
        columns.astype(np.int32),
        (values / totals[rows]).astype(np.float32),
        np.where(same, 0, -1).astype(np.int32),
        np.zeros(source.size, dtype=np.int32),
        target.size,
    )
