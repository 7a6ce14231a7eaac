"""`marginal`: the slow gold standard, which asks the source itself what comes after every open entry."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.distributions import TopK
from fusion_core.errors import TransferError
from fusion_core.mapping import Progress
from fusion_core.tokenizers import Encoding
from fusion_core.transfer import _byte_exact_kernel as kernel
from fusion_core.transfer._byte_exact import kernel_pair, rows_of, sharing_rows
from fusion_core.transfer._index import TransferIndex
from fusion_core.transfer._places import find_places
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import Transfer, unchanged

if TYPE_CHECKING:
    from fusion_core.models import Model

# Mass above which an open entry is expanded, and below which all that is left open may stay so.
LEAST = 1e-3
_BATCH = 64
_DEPTH = 24


class _Cache:
    """The source's key-value cache of what `Model.predict` reads before a position, extended from one to the next, with
    room for `ahead` more tokens."""

    def __init__(self, model: Model, ids: NDArray[np.int32], ahead: int) -> None:
        self._model, self._ahead = model, ahead
        self._ids = [*([] if model.start is None else [model.start]), *ids.tolist()]
        self._begin, self._done = 0, 0
        self._held = self._new()
        # The argument's name as of transformers 5.24; earlier releases know the other one.
        names = inspect.signature(model.network.forward).parameters
        self._name = "cache" if "cache" in names else "past_key_values"

    def _new(self) -> Any:
        import transformers

        return transformers.DynamicCache(config=self._model.network.config)

    def _run(self, tokens: list[list[int]], held: Any) -> Any:
        """[rows, V] logits after the last token of each row; `held` grows by the tokens."""
        import torch

        with torch.inference_mode():
            inputs = torch.tensor(tokens, device=self._model.network.device)
            out = self._model.network(inputs, use_cache=True, logits_to_keep=1, **{self._name: held})
        return out.logits[:, -1]

    def extend(self, row: int) -> None:
        """Read what stands before source row `row`; rows must ascend."""
        end = row + (0 if self._model.start is None else 1)
        begin = self._model.context_start(max(0, end - 1))
        if self._model.positions is not None and end + self._ahead - begin > self._model.positions:
            begin = self._model.context_start(end - 1 + self._ahead)
        if begin != self._begin:
            self._begin, self._done, self._held = begin, begin, self._new()
        if end > self._done:
            self._run([self._ids[self._done : end]], self._held)
            self._done = end

    def after(self, paths: Sequence[Sequence[int]]) -> TopK:
        """The distributions after equally long paths that go on from what has been read."""
        held = copy.deepcopy(self._held)
        if self._done > self._begin:
            held.batch_repeat_interleave(len(paths))
        return TopK.from_logits(self._run([list(path) for path in paths], held), 0, size=self._model.tokenizer.size)


def marginal(
    model: Model,
    source: Predictions,
    target: Encoding,
    index: TransferIndex,
    positions: NDArray[np.integer[Any]],
    *,
    own: Predictions | None = None,
    passes: int = _DEPTH,
    progress: Progress | None = None,
) -> Transfer:
    """The source's distributions at chosen target positions, every open entry resolved by forward passes of the source.

    Entries of mass above `LEAST` are expanded, level by level, until less than `LEAST` is open at the position; what
    is left is shared out as `byte-exact` does, and is approximate. What forward passes resolve counts as chained.

    Args:
        model: the source model that made `source`.
        positions: ascending target positions; the result has one row for each.
        passes: levels at most, each a batch of forward passes: 1 asks only what comes after each open entry.

    Raises:
        TransferError: positions do not ascend or are out of range.
    """
    chosen = np.asarray(positions, dtype=np.int64)
    if len(chosen) and (chosen[0] < 0 or chosen[-1] > len(target) - 2 or (np.diff(chosen) <= 0).any()):
        raise TransferError(f"positions must ascend and lie between 0 and {len(target) - 2}")
    places = find_places(source, target)
    if places.same:
        return unchanged("marginal", source.top.rows(places.row[chosen]), index.target.size, kernel.DUST)
    pair, rows, own_rows = kernel_pair(index), rows_of(source.top), sharing_rows(own)
    text = np.frombuffer(places.text, dtype=np.uint8)
    passes = min(passes, _DEPTH, model.window // 2)
    cache = _Cache(model, source.encoding.ids, passes)
    scratch = kernel.new_scratch(index.target.size, max(index.source.size, source.top.k))
    room = max(len(pair.t_ids), own_rows.probs.shape[1]) + 3
    found, weights = np.empty(room, np.int64), np.empty(room)
    ledger = np.zeros((len(chosen), 5))
    ids, masses, counts = [], [], []
    for n, i in enumerate(chosen.tolist()):
        row, book = int(places.row[i]), ledger[n]
        scratch.counts[:] = 0
        known = row >= 0 and kernel.begin(
            pair,
            rows,
            row,
            text,
            places.pending[i],
            places.ends[i],
            places.cuts[i],
            target.ids[i],
            np.int64(-1),
            np.int64(-1),
            scratch,
            book,
        )
        if known:
            at_root = places.pending[i] == places.ends[i]
            _expand(
                pair,
                cache,
                row,
                at_root,
                passes,
                own_rows,
                i + 1 if own is not None else -1,
                scratch,
                book,
                found,
                weights,
            )
        else:
            book[:] = (0.0, 0.0, 0.0, 0.0, 1.0)
        touched = scratch.touched[: scratch.counts[0]].copy()
        held = scratch.total[touched].copy()
        scratch.total[touched] = 0.0
        ids.append(touched if known else touched[:0])
        masses.append(held if known else held[:0])
        counts.append(len(ids[-1]))
        if progress is not None:
            progress(n + 1, len(chosen))
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Transfer(
        "marginal",
        indptr,
        np.concatenate([*ids, []]).astype(np.int32),
        np.concatenate([*masses, []]).astype(np.float32),
        ledger,
        np.diff(indptr) > 0,
        index.target.size,
    )


def _expand(
    pair: kernel.Pair,
    cache: _Cache,
    row: int,
    at_root: bool,
    passes: int,
    own: kernel.Rows,
    own_row: int,
    scratch: kernel.Scratch,
    book: NDArray[np.float64],
    found: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> None:
    """Resolve the open entries of one position, level by level; the cache stands before source row `row`."""

    def waiting(path: tuple[int, ...]) -> list[tuple[tuple[int, ...], float, NDArray[np.int64]]]:
        """Take the entries put aside: the heavy ones with their paths; the others are shared out at once."""
        heavy = []
        for k in range(int(scratch.counts[1])):
            if scratch.mass[k] > LEAST and len(path) < passes:
                heavy.append(((*path, int(scratch.entry[k])), float(scratch.mass[k]), scratch.state[k].copy()))
            else:
                kernel.share(pair, k, at_root and not path, own, own_row, scratch, book, found, weights)
        scratch.counts[1] = 0
        return heavy

    level = waiting(())
    cache.extend(row)
    while level:
        if sum(mass for _, mass, _ in level) < LEAST:
            break
        following = []
        for start in range(0, len(level), _BATCH):
            batch = level[start : start + _BATCH]
            rows = rows_of(cache.after([path for path, _, _ in batch]))
            for r, (path, mass, state) in enumerate(batch):
                low, high, depth, token, before = state
                kernel.follow(
                    pair, rows, r, mass, low, high, depth, token, before, np.int64(-1), np.int64(-1), scratch, book
                )
                following += waiting(path)
        level = following
    for path, mass, (low, high, depth, token, before) in level:
        kernel.wait(scratch, path[-1], mass, low, high, depth, token, before)
        kernel.share(pair, 0, at_root and len(path) == 1, own, own_row, scratch, book, found, weights)
        scratch.counts[1] = 0
