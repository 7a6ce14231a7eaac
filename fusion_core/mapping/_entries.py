"""What the kinds of mapping share: which strings they compare, and special tokens, which map by role."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.tokenizers import EntryKind, Tokenizer

FORMS = ("bytes", "pieces")


@dataclass(frozen=True)
class Entries:
    """The entries of two vocabularies that are compared as strings.

    Attributes:
        source_ids, target_ids: int64, ascending.
        source, target: their strings.
    """

    source_ids: NDArray[np.int64]
    target_ids: NDArray[np.int64]
    source: list[str]
    target: list[str]


def comparable(source: Tokenizer, target: Tokenizer, form: str) -> Entries:
    """The entries that `form` compares.

    `bytes`: canonical bytes as text, of all entries that spell any. `pieces`: FuseLLM's way, every entry's raw piece,
    the source's space marker swapped for the target's.
    """
    if form == "bytes":
        ids = [np.flatnonzero(source.vocabulary.spells), np.flatnonzero(made(target))]
        texts = [
            [side.vocabulary.texts[i] for i in rows.tolist()] for side, rows in zip((source, target), ids, strict=True)
        ]
        return Entries(ids[0], ids[1], texts[0], texts[1])
    ids = [np.flatnonzero(side.vocabulary.kinds != EntryKind.UNUSED) for side in (source, target)]
    swap = (source.space_marker, target.space_marker)
    return Entries(
        ids[0],
        ids[1],
        [source.vocabulary.pieces[i].replace(*swap) for i in ids[0].tolist()],
        [target.vocabulary.pieces[i] for i in ids[1].tolist()],
    )


def made(target: Tokenizer) -> NDArray[np.bool_]:
    """bool[size]: entries that spell something, but for the byte pieces whose byte another entry spells: of `.` and
    `<0x2E>` a tokenizer only ever makes the first, whichever has the lower id."""
    vocabulary = target.vocabulary
    found = vocabulary.spells.copy()
    fallback = vocabulary.kinds == EntryKind.BYTE
    canonical = vocabulary.canonical
    others = {canonical[i] for i in np.flatnonzero(found & ~fallback).tolist() if len(canonical[i]) == 1}
    for i in np.flatnonzero(fallback).tolist():
        found[i] &= canonical[i] not in others
    return found


@dataclass(frozen=True)
class Table:
    """One target per source id: `best` (-1 for none), `distance` and `ties`, each int32[source size]."""

    best: NDArray[np.int32]
    distance: NDArray[np.int32]
    ties: NDArray[np.int32]


def empty_table(source: Tokenizer) -> Table:
    """Nothing mapped yet."""
    return Table(
        np.full(source.size, -1, dtype=np.int32),
        np.full(source.size, -1, dtype=np.int32),
        np.zeros(source.size, dtype=np.int32),
    )


def map_roles(table: Table, source: Tokenizer, target: Tokenizer) -> None:
    """Send bos, eos, pad and unk to the target's token of the same role, and other special tokens to one of the same
    name; what has neither stays unmapped."""
    # Of a token that is both bos and eos only the end is ever predicted.
    for role, i in sorted(source.vocabulary.roles.items(), key=lambda item: item[0] != "eos"):
        j = target.vocabulary.roles.get(role)
        if j is not None and table.best[i] < 0:
            table.best[i], table.distance[i], table.ties[i] = j, 0, 1
    named = {target.vocabulary.pieces[j]: j for j in np.flatnonzero(target.vocabulary.special)[::-1].tolist()}
    for i in np.flatnonzero(source.vocabulary.special).tolist():
        j = named.get(source.vocabulary.pieces[i])
        if j is not None and table.best[i] < 0:
            table.best[i], table.distance[i], table.ties[i] = j, 0, 1


def identical(source: Tokenizer, target: Tokenizer, form: str) -> Table:
    """Entries with an identical counterpart, the lowest target id where several are."""
    entries = comparable(source, target, form)
    table = empty_table(source)
    lowest: dict[str, int] = {}
    times: dict[str, int] = {}
    for j, text in zip(entries.target_ids.tolist(), entries.target, strict=True):
        lowest.setdefault(text, j)
        times[text] = times.get(text, 0) + 1
    best = np.array([lowest.get(text, -1) for text in entries.source], dtype=np.int32)
    table.best[entries.source_ids] = best
    table.distance[entries.source_ids] = np.where(best >= 0, 0, -1)
    table.ties[entries.source_ids] = [times.get(text, 0) for text in entries.source]
    if form == "bytes":
        map_roles(table, source, target)
    return table
