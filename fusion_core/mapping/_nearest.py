"""The nearest entries of a vocabulary: Levenshtein distance in characters, ties to the lowest index."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import MappingError
from fusion_core.kernels import class_masks, pack

# `progress(done, total)` is called between chunks; raising in it stops the search.
Progress = Callable[[int, int], None]

_CHUNK = 512


@dataclass(frozen=True)
class Neighbours:
    """What a search found: `index`, `distance`, `ties` (int32[n]): the lowest nearest entry, how far, how many such."""

    index: NDArray[np.int32]
    distance: NDArray[np.int32]
    ties: NDArray[np.int32]


def nearest(
    queries: Sequence[str], vocabulary: Sequence[str], *, progress: Progress | None = None, workers: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each query the entry of least Levenshtein distance in characters; ties go to the lowest index.

    Args:
        queries: n strings.
        vocabulary: at least one string.
        progress: called as `progress(done, total)` now and then; an exception from it ends the search.
        workers: threads; all cores by default.

    Returns:
        `index` int32[n] and `distance` int32[n].

    Raises:
        MappingError: the vocabulary is empty.
    """
    found = neighbours(queries, vocabulary, progress=progress, workers=workers)
    return found.index, found.distance


def neighbours(
    queries: Sequence[str], vocabulary: Sequence[str], *, progress: Progress | None = None, workers: int | None = None
) -> Neighbours:
    """Like `nearest`, and how many entries are as near as the one returned."""
    return _search(queries, vocabulary, progress, workers)


def all_nearest(
    queries: Sequence[str], vocabulary: Sequence[str], *, progress: Progress | None = None
) -> list[NDArray[np.int32]]:
    """For each query every entry of least distance, ascending."""
    found = _search(queries, vocabulary, progress, None)
    listed = np.zeros(len(queries) + 1, dtype=np.int64)
    np.cumsum(found.ties, out=listed[1:])
    collected = np.full(max(int(listed[-1]), 1), -1, dtype=np.int32)
    _search(queries, vocabulary, progress, None, listed, collected)
    return [np.sort(collected[a:b]) for a, b in pairwise(listed.tolist())]


def _search(
    queries: Sequence[str],
    vocabulary: Sequence[str],
    progress: Progress | None,
    workers: int | None,
    listed: NDArray[np.int64] | None = None,
    collected: NDArray[np.int32] | None = None,
) -> Neighbours:
    if not vocabulary:
        raise MappingError("the vocabulary to search in is empty")
    count = len(queries)
    index, distance, ties = (np.zeros(count, dtype=np.int32) for _ in range(3))
    wanted: NDArray[np.int64] = np.arange(count)
    if collected is None:
        # Equal strings need no search, and most vocabularies share most of their entries.
        places: dict[str, tuple[int, int]] = {}
        for i, text in enumerate(vocabulary):
            first, times = places.get(text, (i, 0))
            places[text] = (first, times + 1)
        missing = []
        for i, text in enumerate(queries):
            place = places.get(text)
            if place is None:
                missing.append(i)
            else:
                index[i], ties[i] = place
        wanted = np.asarray(missing, dtype=np.int64)
    if len(wanted):
        texts = [queries[i] for i in wanted.tolist()]
        # Neighbours in length take about equally long, so that chunks are even.
        part = _search_unequal(texts, vocabulary, progress, workers or os.cpu_count() or 1, listed, collected)
        index[wanted], distance[wanted], ties[wanted] = part.index, part.distance, part.ties
    return Neighbours(index, distance, ties)


def _search_unequal(
    queries: list[str],
    vocabulary: Sequence[str],
    progress: Progress | None,
    workers: int,
    listed: NDArray[np.int64] | None,
    collected: NDArray[np.int32] | None,
) -> Neighbours:
    from fusion_core.mapping import _nearest_kernel as kernel

    raw, offsets = pack(vocabulary)
    letters, codes = np.unique(raw, return_inverse=True)
    codes = codes.astype(np.int32)
    q_raw, q_offsets = pack(queries)
    q_codes = np.searchsorted(letters, q_raw).astype(np.int32)
    known = q_codes < len(letters)
    known[known] = letters[q_codes[known]] == q_raw[known]
    q_codes[~known] = len(letters)
    classes, q_classes = class_masks(raw, offsets), class_masks(q_raw, q_offsets)
    postings = kernel.build_index(codes, offsets, len(letters), classes)
    lengths = np.diff(offsets)
    longest = int(max(lengths.max(), np.diff(q_offsets).max()))
    by_length = np.bincount(lengths, minlength=longest + 2)
    at_most_count = np.cumsum(by_length).astype(np.int64)
    first_of = np.full(longest + 2, len(lengths), dtype=np.int64)
    np.minimum.at(first_of, lengths, np.arange(len(lengths)))
    at_most_first = np.minimum.accumulate(first_of)
    total = len(queries)
    index, distance, ties = (np.zeros(total, dtype=np.int32) for _ in range(3))
    least = 0 if collected is not None else 1
    if listed is None or collected is None:
        listed, collected = np.zeros(total + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)

    def run(start: int) -> int:
        stop = min(start + _CHUNK, total)
        kernel.search(
            start, stop, q_codes, q_offsets, q_classes, codes, offsets, *postings,
            at_most_count, at_most_first, least, index, distance, ties, listed, collected,
        )  # fmt: skip
        return stop - start

    done = 0
    executor = ThreadPoolExecutor(max_workers=max(1, workers))
    try:
        pending: set[Future[int]] = {executor.submit(run, start) for start in range(0, total, _CHUNK)}
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            done += sum(future.result() for future in finished)
            if progress is not None:
                progress(done, total)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return Neighbours(index, distance, ties)
