"""What a transfer needs to know of two vocabularies: both as sorted byte strings, and each entry's first token on the
other side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.mapping import VocabularyMapping, map_vocabulary
from fusion_core.tokenizers import Tokenizer
from fusion_core.transfer._words import Words, drops_blanks, read_words


@dataclass(frozen=True)
class Sorted:
    """Entries in the order of their bytes, so that those that start alike are neighbours.

    Attributes:
        ids: int32[m], the lowest id of each distinct byte string.
        buffer, offsets: uint8 and int64[m + 1], their bytes.
        rank: int32[size], the place of each id, -1 if it is not in here.
        also: int32[size], where an id is written in two ways, the place of the second one; else -1.
    """

    ids: NDArray[np.int32]
    buffer: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    rank: NDArray[np.int32]
    also: NDArray[np.int32]


def sort_entries(tokenizer: Tokenizer, chosen: NDArray[np.bool_]) -> Sorted:
    """The chosen entries (bool[size]) of a vocabulary, sorted."""
    canonical = tokenizer.vocabulary.canonical
    return _sort({i: [canonical[i]] for i in np.flatnonzero(chosen).tolist()}, tokenizer.size)


def _sort(written: dict[int, list[bytes]], size: int) -> Sorted:
    """Entries by their ids, ascending, each with the one or two strings that it is written as."""
    lowest: dict[bytes, int] = {}
    for i, strings in written.items():
        for string in strings:
            lowest.setdefault(string, i)
    ordered = sorted(lowest)
    offsets = np.zeros(len(ordered) + 1, dtype=np.int64)
    np.cumsum([len(s) for s in ordered], out=offsets[1:])
    ids = np.array([lowest[s] for s in ordered], dtype=np.int32)
    rank, also = (np.full(size, -1, dtype=np.int32) for _ in range(2))
    place = {s: n for n, s in enumerate(ordered)}
    for i, strings in written.items():
        rank[i] = place[strings[0]]
        if strings[1:]:
            also[i] = place[strings[1]]
    return Sorted(ids, np.frombuffer(b"".join(ordered), dtype=np.uint8), offsets, rank, also)


def reachable(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """bool[size]: entries that the tokenizer can produce: encoding their text gives them back. Entries that are no
    text by themselves (part of a character) are taken to be."""
    spells = tokenizer.vocabulary.spells
    ids = np.flatnonzero(spells)
    canonical = tokenizer.vocabulary.canonical
    found = np.zeros(tokenizer.size, dtype=np.bool_)
    texts, kept = [], []
    for i in ids.tolist():
        try:
            texts.append(canonical[i].decode("utf-8"))
            kept.append(i)
        except UnicodeDecodeError:
            found[i] = True
    for i, row in zip(kept, tokenizer.encode_fragments(texts), strict=True):
        # Not just the same bytes: `<0x23>` spells what `#` spells, but is only made where there is no `#`.
        found[i] = row == [i]
    return found


@dataclass(frozen=True, eq=False)
class TransferIndex:
    """The tables of a pair of tokenizers; `build_index` makes them.

    Attributes:
        source, target: the tokenizers.
        entries, targets: their entries by bytes; of the target only those that its tokenizer can produce.
        first: int32[source size], the first target token of each source entry, for special tokens the one of the same
            role; -1 for none.
        opens: bool[source size], the entry is only the beginning of some target tokens of which it is the first source
            token, so that what follows decides.
        source_first: int32[target size], the first source token of each target entry, -1 for none.
        source_cut: int32[target size], the same of a run of blanks less its last space, where the source's tokenizer
            leaves that space to the word behind; -1 elsewhere.
        spelled, spelled_from: int32 and int64[source size + 1]: each source entry in target tokens, one by one.
        lookahead: the target's tokenizer does so: a run of blanks is one space shorter once a word follows.
        open_runs: and the source's does not, so that a run of blanks in it is never sure.
        words: where the target drops blanks, how its entries are written, in `targets` too.
    """

    source: Tokenizer
    target: Tokenizer
    entries: Sorted
    targets: Sorted
    first: NDArray[np.int32]
    opens: NDArray[np.bool_]
    source_first: NDArray[np.int32]
    source_cut: NDArray[np.int32]
    spelled: NDArray[np.int32]
    spelled_from: NDArray[np.int64]
    lookahead: bool
    open_runs: bool
    words: Words | None = None


def looks_ahead(tokenizer: Tokenizer) -> bool:
    """Whether the last space of a run goes to the word behind, as GPT-2's pattern has it (`\\s+(?!\\S)`)."""
    alone, before_word = tokenizer.encode_fragments(["    ", "    x"])
    canonical = tokenizer.vocabulary.canonical
    return bool(alone and before_word) and len(canonical[before_word[0]]) < len(canonical[alone[0]])


def _is_run(data: bytes) -> bool:
    return len(data) > 1 and data.endswith(b" ") and not data.strip(b" \t\n\r\v\f")


def _spell_out(source: Tokenizer, target: Tokenizer) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Each source entry in target tokens, where these spell it; nothing where they do not, or it is no text."""
    texts, ids = [], []
    for i in np.flatnonzero(source.vocabulary.spells).tolist():
        try:
            texts.append(source.vocabulary.canonical[i].decode("utf-8"))
            ids.append(i)
        except UnicodeDecodeError:
            continue
    counts = np.zeros(source.size, dtype=np.int64)
    flat: list[int] = []
    canonical = target.vocabulary.canonical
    for i, text, row in zip(ids, texts, target.encode_fragments(texts), strict=True):
        if b"".join(canonical[t] for t in row) == text.encode():
            counts[i] = len(row)
            flat += row
    return np.array(flat, dtype=np.int32), np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def build_index(source: Tokenizer, target: Tokenizer) -> TransferIndex:
    """Work out the tables (a second or two for large vocabularies); keep the result for all texts of the pair."""
    if target.kind == "WordPiece" and drops_blanks(target):
        return _index_of_words(source, target)
    forth: VocabularyMapping = map_vocabulary(source, target, kind="first-token")
    back: VocabularyMapping = map_vocabulary(target, source, kind="first-token")
    can = reachable(target)
    ours, theirs = source.vocabulary.canonical, target.vocabulary.canonical
    opens = np.zeros(source.size, dtype=np.bool_)
    cut = np.full(target.size, -1, dtype=np.int32)
    if looks_ahead(source):
        runs = [t for t in np.flatnonzero(can).tolist() if _is_run(theirs[t])]
        rows = source.encode_fragments([theirs[t][:-1].decode() for t in runs])
        cut[runs] = [row[0] if row else -1 for row in rows]
    for t in np.flatnonzero(can).tolist():
        for s in (int(back.best[t]), int(cut[t])):
            if s >= 0 and len(theirs[t]) > len(ours[s]) > 0 and theirs[t].startswith(ours[s]):
                opens[s] = True
    lookahead = looks_ahead(target)
    if lookahead and not looks_ahead(source):  # else the source's own runs are cut already
        for s in np.flatnonzero(source.vocabulary.spells).tolist():
            opens[s] |= _is_run(ours[s])
    return TransferIndex(
        source,
        target,
        sort_entries(source, source.vocabulary.spells),
        sort_entries(target, can),
        forth.best,
        opens,
        back.best,
        cut,
        *_spell_out(source, target),
        lookahead,
        lookahead and not looks_ahead(source),
    )


def _index_of_words(source: Tokenizer, target: Tokenizer) -> TransferIndex:
    """The same for a target that drops blanks, and takes the longest piece that a word begins with."""
    words = read_words(source, target)
    targets = _sort(dict(sorted(words.strings.items())), target.size)
    spells = np.flatnonzero(source.vocabulary.spells).tolist()
    entries = {i: words.entry(source, i) for i in spells}
    alike: dict[bytes, list[int]] = {}
    for i, read in entries.items():
        alike.setdefault(read, []).append(i)
    opens = np.zeros(source.size, dtype=np.bool_)
    opens[alike.get(b" ", [])] = True
    texts = [string.decode("utf-8", "replace") for strings in words.strings.values() for string in strings]
    for text, row in zip(texts, source.encode_fragments(texts), strict=True):
        read = entries.get(row[0], b"") if row else b""
        if 0 < len(read) < len(text.encode()) and text.encode().startswith(read):
            opens[alike[read]] = True
    # Behind a run of blanks the source cuts a word as it does behind none of these: whatever goes on is open.
    begun = {string[:k] for strings in words.strings.values() for string in strings for k in range(2, len(string))}
    for i, read in entries.items():
        data = source.vocabulary.canonical[i]
        opens[i] |= data[: len(data) - len(data.lstrip())] not in (b"", b" ") and read in begun
    nothing: NDArray[np.int32] = np.full(target.size, -1, dtype=np.int32)
    return TransferIndex(
        source,
        target,
        sort_entries(source, source.vocabulary.spells),
        targets,
        map_vocabulary(source, target, kind="first-token").best,
        opens,
        nothing,
        nothing,
        np.zeros(0, dtype=np.int32),
        np.zeros(source.size + 1, dtype=np.int64),
        lookahead=False,
        open_runs=False,
        words=words,
    )
