"""`byte-exact`: the source's distribution over the bytes that come next, read off in target tokens."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fusion_core.distributions import TopK
from fusion_core.tokenizers import Encoding
from fusion_core.transfer import _byte_exact_kernel as kernel
from fusion_core.transfer._index import TransferIndex
from fusion_core.transfer._places import find_places
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import Transfer, unchanged, uncovered


@lru_cache(maxsize=16)
def kernel_pair(index: TransferIndex) -> kernel.Pair:
    """The tables of two vocabularies as the compiled loops take them."""
    source, words = index.source.vocabulary, index.words
    return kernel.Pair(
        s_buffer=np.ascontiguousarray(source.buffer),
        s_offsets=source.offsets,
        s_spells=source.spells,
        first=index.first,
        opens=index.opens,
        o_buffer=index.entries.buffer,
        o_offsets=index.entries.offsets,
        t_buffer=index.targets.buffer,
        t_offsets=index.targets.offsets,
        t_ids=index.targets.ids,
        t_rank=index.targets.rank,
        source_first=index.source_first,
        source_cut=index.source_cut,
        spelled=index.spelled,
        spelled_from=index.spelled_from,
        lookahead=index.lookahead,
        open_runs=index.open_runs,
        words=words is not None,
        read=np.frombuffer(b"", np.uint8) if words is None else words.read,
        reads=np.zeros(0, np.int64) if words is None else words.reads,
        closes=np.zeros(0, np.bool_) if words is None else words.closes,
        also=index.targets.also,
    )


def rows_of(top: TopK | None) -> kernel.Rows:
    """Distributions as the compiled loops take them; None gives none."""
    if top is None:
        return kernel.Rows(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.zeros(1), False)
    ids = np.zeros((1, 1), np.int32) if top.ids is None else np.ascontiguousarray(top.ids)
    return kernel.Rows(ids, np.ascontiguousarray(top.probs), top.tail, top.ids is None)


# An open entry is shared by this power of the target's own probabilities: the source is another model, and what the
# target all but rules out must keep a part. Nearest to `marginal` on the sample models was 0.5 to 0.7 with the weaker
# one as source, and 1 with the stronger one, which 0.5 would cost a third in bits per byte on code.
SHARING_POWER = 0.7


def sharing_rows(own: Predictions | None) -> kernel.Rows:
    """The weights by which open entries are shared; only their proportions count."""
    rows = rows_of(None if own is None else own.top)
    return rows if own is None else rows._replace(probs=rows.probs ** np.float32(SHARING_POWER))


def byte_exact(
    source: Predictions,
    target: Encoding,
    index: TransferIndex,
    *,
    own: Predictions | None = None,
    chaining: bool = True,
) -> Transfer:
    """The source's next-byte distribution in target tokens.

    At a target position that has read up to byte e, the last source distribution that has read no more is taken, and
    of its entries those that start with the bytes in between, renormalised. What each leaves after these bytes decides
    the next target token, unless it is only the beginning of longer ones. Then, with `chaining`, the text's own source
    token is followed by the source's next distributions; every other open entry is shared among the target tokens that
    it may become, in proportion to a power of the target's `own` probabilities, or without them goes to the token that
    it is. Where the target's tokens are the source's own, its distributions are passed through as they are.

    Returns:
        Positions 0 to m - 2; position i predicts token i + 1.
    """
    name = "byte-exact" if chaining else "byte-exact-open"
    places = find_places(source, target)
    if not len(places.row):
        return uncovered(name, 0, index.target.size)
    count = len(places.row)
    if places.same:
        return unchanged(name, source.top.rows(slice(1, count + 1)), index.target.size, kernel.DUST)
    own_of = np.full(count, -1, dtype=np.int64) if own is None else np.arange(1, count + 1, dtype=np.int64)
    indptr, ids, masses, ledger = kernel.transfer(
        np.frombuffer(places.text, dtype=np.uint8),
        places.row,
        places.pending,
        places.ends,
        places.cuts,
        target.ids[:-1],
        places.row,  # row r predicts token r: that is where the text's own path goes on
        source.encoding.ids,
        target.ids[1:],
        kernel_pair(index),
        rows_of(source.top),
        sharing_rows(own),
        own_of,
        chaining,
    )
    return Transfer(name, indptr, ids, masses, ledger, np.diff(indptr) > 0, index.target.size)
