"""Figures about mappings: what share maps how, by script, by length; and where two kinds differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from fusion_core.errors import MappingError
from fusion_core.mapping._entries import comparable
from fusion_core.mapping._mapping import OUTCOMES, VocabularyMapping
from fusion_core.text import script_of
from fusion_core.tokenizers import EntryKind, Tokenizer

if TYPE_CHECKING:
    import pandas as pd

BREAKDOWNS = ("all", "script", "length", "special")
_LENGTHS = ("1", "2", "3", "4", "5 to 8", "9 to 16", "17+")


def occurrences(tokenizer: Tokenizer, text: str) -> NDArray[np.int64]:
    """int64[size]: how often each id occurs in the tokenizer's encoding of `text`."""
    return np.bincount(tokenizer.encode(text).ids, minlength=tokenizer.size).astype(np.int64)


def breakdown(
    mapping: VocabularyMapping, source: Tokenizer, by: str = "all", counts: NDArray[np.int64] | None = None
) -> pd.DataFrame:
    """How many entries map how: one row per group of `by`, one column per outcome, and `total`.

    Args:
        by: `all`, `script` (of the entry's first letter), `length` (in characters) or `special`.
        counts: int64[size], occurrences in a text; entries then count as often as they occur.

    Raises:
        MappingError: `by` is unknown, or the mapping is for another source.
    """
    import pandas as pd

    if by not in BREAKDOWNS:
        raise MappingError(f"unknown breakdown {by!r}; choose one of {', '.join(BREAKDOWNS)}")
    if mapping.source_size != source.size:
        raise MappingError("the mapping is for another source tokenizer")
    ids = np.flatnonzero(source.vocabulary.kinds != EntryKind.UNUSED)
    groups = _groups(source, ids, by)
    weight = np.ones(len(ids), dtype=np.int64) if counts is None else counts[ids]
    frame = pd.DataFrame({"group": groups, "outcome": mapping.outcome[ids], "weight": weight})
    table = frame.pivot_table(index="group", columns="outcome", values="weight", aggfunc="sum", fill_value=0)
    table = table.reindex(columns=range(len(OUTCOMES)), fill_value=0).astype(np.int64)
    table.columns = pd.Index(OUTCOMES)
    table["total"] = table.sum(axis=1)
    table = table[table["total"] > 0]
    order = list(_LENGTHS) if by == "length" else table["total"].sort_values(ascending=False, kind="stable").index
    return table.reindex([group for group in order if group in table.index]).rename_axis(by)


def _groups(source: Tokenizer, ids: NDArray[np.int64], by: str) -> list[str]:
    special = source.vocabulary.special
    texts = source.vocabulary.texts
    if by == "all":
        return ["all entries"] * len(ids)
    if by == "special":
        return ["special" if special[i] else "text" for i in ids.tolist()]
    if by == "script":
        return ["Special tokens" if special[i] else script_of(texts[i]) for i in ids.tolist()]
    edges = np.array([2, 3, 4, 5, 9, 17])
    return [_LENGTHS[k] for k in np.searchsorted(edges, [len(texts[i]) for i in ids.tolist()], side="right")]


def disagreements(
    first: VocabularyMapping,
    second: VocabularyMapping,
    source: Tokenizer,
    target: Tokenizer,
    counts: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Entries that two mappings treat differently, the worst first.

    `damage` is the second mapping's edit distance per character of what it compared of the entry, its text or its piece
    (1: nothing of it is left; more: it became something longer), times the entry's occurrences if `counts` are given,
    in which case entries that do not occur are left out.
    """
    import pandas as pd

    for mapping in (first, second):
        mapping.check_tokenizers(source, target)
    ids = np.flatnonzero((first.best != second.best) & (source.vocabulary.kinds != EntryKind.UNUSED))
    if counts is not None:
        ids = ids[counts[ids] > 0]
    compared = source.vocabulary.pieces if second.provenance.form == "pieces" else source.vocabulary.texts
    lengths = np.array([max(1, len(compared[i])) for i in ids.tolist()], dtype=np.float64)
    relative = np.where(second.best[ids] < 0, 1.0, np.clip(second.distance[ids], 0, None) / lengths)
    occurring = np.ones(len(ids), dtype=np.int64) if counts is None else counts[ids]
    damage = relative * occurring
    order = np.lexsort((ids, -damage))
    ids = ids[order]

    def shown(best: NDArray[np.int32]) -> list[str]:
        return [target.vocabulary.shown(j) if j >= 0 else "" for j in best[ids].tolist()]

    return pd.DataFrame(
        {
            "id": ids,
            "text": [source.vocabulary.shown(i) for i in ids.tolist()],
            "piece": [source.vocabulary.pieces[i] for i in ids.tolist()],
            first.kind: shown(first.best),
            second.kind: shown(second.best),
            "distance": second.distance[ids],
            "ties": second.ties[ids],
            "occurrences": occurring[order] if counts is not None else np.zeros(len(ids), dtype=np.int64),
            "damage": damage[order],
        }
    )


def nearest_targets(
    source: Tokenizer, target: Tokenizer, source_id: int, limit: int = 10, *, form: str = "bytes"
) -> pd.DataFrame:
    """The `limit` target entries nearest to one source entry, ties by id: id, text, piece, distance.

    Empty where `form` compares nothing of the entry: in bytes it spells nothing, or it is unused.
    """
    import pandas as pd

    entries = comparable(source, target, form)
    place = np.flatnonzero(entries.source_ids == source.vocabulary.check(source_id))
    query = [entries.source[p] for p in place.tolist()]
    distances = process.cdist(query, entries.target, scorer=Levenshtein.distance, dtype=np.int32).ravel()
    ids = entries.target_ids[: len(distances)]
    chosen = np.lexsort((ids, distances))[:limit]
    rows = ids[chosen].tolist()
    return pd.DataFrame(
        {
            "id": rows,
            "text": [target.vocabulary.shown(j) for j in rows],
            "piece": [target.vocabulary.pieces[j] for j in rows],
            "distance": distances[chosen],
        }
    )
