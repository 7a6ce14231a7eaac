"""`soft`: FuseLLM's MinED over vocabularies. `cooccurrence`: its second script, which decides ties by context."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fusion_core.mapping._entries import Table, comparable, empty_table, identical, map_roles
from fusion_core.mapping._nearest import Progress, all_nearest, neighbours
from fusion_core.tokenizers import Tokenizer

# Tokens to the left and to the right that count as context.
WINDOW = 4


def soft(source: Tokenizer, target: Tokenizer, form: str, progress: Progress | None) -> Table:
    """The identical entry if there is one, else the one of least Levenshtein distance; ties to the lowest id."""
    entries = comparable(source, target, form)
    table = empty_table(source)
    if len(entries.target):
        found = neighbours(entries.source, entries.target, progress=progress)
        table.best[entries.source_ids] = entries.target_ids[found.index]
        table.distance[entries.source_ids] = found.distance
        table.ties[entries.source_ids] = found.ties
    if form == "bytes":
        map_roles(table, source, target)
    return table


Contexts = dict[int, dict[int, int]]


def _contexts(rows: list[list[int]], anchors: list[int], wanted: set[int]) -> Contexts:
    """For each wanted id how often each anchor stands within `WINDOW` tokens of it."""
    contexts: Contexts = defaultdict(lambda: defaultdict(int))
    for row in rows:
        for at, token in enumerate(row):
            if token in wanted:
                for near in (*row[max(0, at - WINDOW) : at], *row[at + 1 : at + 1 + WINDOW]):
                    if anchors[near] >= 0:
                        contexts[token][anchors[near]] += 1
    return contexts


def _cosine(a: dict[int, int], b: dict[int, int]) -> float:
    if not a or not b:
        return 0.0
    dot = sum(count * b.get(key, 0) for key, count in a.items())
    norm = (sum(c * c for c in a.values()) * sum(c * c for c in b.values())) ** 0.5
    return float(dot / norm)


def cooccurrence(table: Table, source: Tokenizer, target: Tokenizer, form: str, texts: Sequence[str]) -> Table:
    """`table` as `soft` returns it, with the entries changed whose ties the corpus can decide: to the nearest entry
    whose neighbours there are most alike.

    A token's vector counts the entries within `WINDOW` tokens that both vocabularies have, so that vectors of both
    sides can be compared (cosine). Tokens that the corpus does not show keep the lowest id.
    """
    anchored = identical(source, target, form).best
    source_rows = [source.encode(text).ids.tolist() for text in texts]
    target_rows = [target.encode(text).ids.tolist() for text in texts]
    occurring = {i for row in source_rows for i in row if table.ties[i] > 1 and table.distance[i] > 0}
    if not occurring:
        return table
    entries = comparable(source, target, form)
    place = {int(i): n for n, i in enumerate(entries.source_ids)}
    tied = sorted(occurring)
    lists = all_nearest([entries.source[place[i]] for i in tied], entries.target)
    seen = {j for row in target_rows for j in row}
    candidates = {
        i: [j for j in entries.target_ids[rows].tolist() if j in seen] for i, rows in zip(tied, lists, strict=True)
    }
    is_anchor = np.full(target.size, -1, dtype=np.int64)
    is_anchor[anchored[anchored >= 0]] = anchored[anchored >= 0]
    source_contexts = _contexts(source_rows, anchored.tolist(), occurring)
    target_contexts = _contexts(target_rows, is_anchor.tolist(), {j for row in candidates.values() for j in row})
    for i in tied:
        scores = [(_cosine(source_contexts[i], target_contexts[j]), -j) for j in candidates[i]]
        if scores and max(scores)[0] > 0:
            table.best[i] = -max(scores)[1]
    return table
