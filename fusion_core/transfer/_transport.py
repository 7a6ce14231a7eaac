"""`ot`: optimal transport between the source's entries and the target's own (PTA-LLM, arXiv 2509.17276), the entropic
problems of many positions solved at once by POT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from fusion_core.errors import TransferError
from fusion_core.tokenizers import Encoding, EntryKind, Vocabulary
from fusion_core.transfer._places import find_places
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import Transfer

ENTRIES = 10
# Positions whose plans are found together.
_BATCH = 1024
# What it costs to make a special token of text or of another one, and back: more than most entries are long. Where mass
# has to take a way that costs much more, the iterations do not find it.
_APART = 8.0
# Of Sinkhorn's; five times as many take five times as long, for the rows' sums in the third digit.
_ITERATIONS = 200
REGULARISATION = 1 / 30  # the paper's code multiplies the cost by 30


@dataclass(frozen=True)
class Plan:
    """One position's transport: `plan` float64[a, b] moves the kept source entries' mass (rows) to target ones."""

    source_ids: NDArray[np.int64]
    target_ids: NDArray[np.int64]
    cost: NDArray[np.float64]
    plan: NDArray[np.float64]


def transport_plan(
    source: Predictions, own: Predictions, source_row: int, own_row: int, entries: int = ENTRIES
) -> Plan:
    """The plan between the best entries of one row of each side. Its total is 1, its columns sum to the target's
    renormalised probabilities, and its rows to the source's as nearly as `_ITERATIONS` come. Costs are edit distances
    of the entries' texts, spaces at the start left out where there is more."""
    sides = _side(source, [source_row], entries), _side(own, [own_row], entries)
    cost = _costs(source, own, sides[0].ids, sides[1].ids)
    ours, theirs = (side.known[0] for side in sides)
    plan = _solve(cost, sides[0].mass, sides[1].mass)[0]
    return Plan(sides[0].ids[0, ours], sides[1].ids[0, theirs], cost[0][ours][:, theirs], plan[ours][:, theirs])


@dataclass(frozen=True)
class _Side:
    """The best entries of some rows: int64[n, e], which of them the tokenizer has (a model's padding rows are without
    mass here, their ids 0), the renormalised mass of these and what they had together, and what all others have."""

    ids: NDArray[np.int64]
    known: NDArray[np.bool_]
    mass: NDArray[np.float64]
    kept: NDArray[np.float64]
    tail: NDArray[np.float64]


def _side(predictions: Predictions, rows: list[int], entries: int) -> _Side:
    top = predictions.top.rows(rows).truncate(entries)
    ids = np.broadcast_to(np.arange(top.k), top.logprobs.shape) if top.ids is None else top.ids
    mass = top.probs.astype(np.float64)
    # Rounded to float32, probabilities may sum to a little more than 1.
    tail = 1.0 - np.minimum(mass.sum(axis=1), 1.0)
    known = ids < predictions.encoding.tokenizer.size
    mass[~known] = 0.0
    kept = mass.sum(axis=1)
    return _Side(
        np.where(known, ids, 0).astype(np.int64),
        known,
        mass / np.maximum(kept, 1e-300)[:, None],
        np.minimum(kept, 1.0 - tail),
        tail,
    )


def _costs(
    source: Predictions, own: Predictions, ours: NDArray[np.int64], theirs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64[n, a, b]: edit distances, each pair of different entries measured once; special tokens are as near as can
    be to those of the same role or name, and `_APART` from everything else."""
    found = []
    for predictions, ids in ((source, ours), (own, theirs)):
        different, places = np.unique(ids, return_inverse=True)
        names = [_compared(predictions.encoding.tokenizer.vocabulary, i) for i in different.tolist()]
        found.append((names, places.reshape(ids.shape)))
    (a, at_a), (b, at_b) = found
    if len(a) * len(b) <= 16 * ours.shape[1] * theirs.size:
        return _distances(a, b)[at_a[:, :, None], at_b[:, None, :]]
    rows = [_distances([a[i] for i in at_a[n].tolist()], [b[j] for j in at_b[n].tolist()]) for n in range(len(ours))]
    return np.stack(rows)


@dataclass(frozen=True)
class _Compared:
    """An entry's text without the spaces at its start, unless it is nothing else; for a special token, whose it is."""

    text: str
    special: str


def _compared(vocabulary: Vocabulary, i: int) -> _Compared:
    if vocabulary.kinds[i] == EntryKind.SPECIAL:
        roles = [role for role in ("eos", *vocabulary.roles) if vocabulary.roles.get(role) == i]
        return _Compared("", roles[0] if roles else vocabulary.pieces[i])
    text = vocabulary.texts[i]
    return _Compared(text.lstrip(" ") or text, "")


def _distances(a: list[_Compared], b: list[_Compared]) -> NDArray[np.float64]:
    table = cdist([one.text for one in a], [one.text for one in b], scorer=Levenshtein.distance).astype(np.float64)
    numbers = {"": 0}
    ours, theirs = (np.array([numbers.setdefault(one.special, len(numbers)) for one in side]) for side in (a, b))
    special = (ours > 0)[:, None] | (theirs > 0)[None, :]
    table[special] = np.where(ours[:, None] == theirs[None, :], 0.0, _APART)[special]
    return table


def _solve(cost: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n, a, b]: entropic plans of n problems at once; each total is 1."""
    from ot.batch import solve_batch

    floor = 1e-12  # logarithms of the marginals are taken
    found = solve_batch(
        cost, REGULARISATION, np.maximum(a, floor), np.maximum(b, floor), max_iter=_ITERATIONS, tol=1e-6,
        method="log_sinkhorn", grad="detach",
    )  # fmt: skip
    plan = np.asarray(found.plan)
    return np.asarray(plan / plan.sum(axis=(1, 2), keepdims=True))


def optimal_transport(
    source: Predictions, target: Encoding, own: Predictions | None, *, barycentric: bool = True
) -> Transfer:
    """At every shared boundary, the source's mass moved along the plan: all of it, or, not `barycentric` and as the
    paper's code does, each source entry's whole mass to its heaviest target entry.

    Raises:
        TransferError: the target's own predictions are missing.
    """
    if own is None:
        raise TransferError("optimal transport needs the target model's own predictions")
    places = find_places(source, target)
    rows = np.where(places.shared, places.row, -1)
    chosen = np.flatnonzero(rows >= 0)
    ledger = np.zeros((len(rows), 5))
    ledger[:, 4] = rows < 0
    counts = np.zeros(len(rows), dtype=np.int64)
    ids, masses = [], []
    for start in range(0, len(chosen), _BATCH):
        some = chosen[start : start + _BATCH]
        ours, theirs = _side(source, rows[some].tolist(), ENTRIES), _side(own, (some + 1).tolist(), ENTRIES)
        plan = _solve(_costs(source, own, ours.ids, theirs.ids), ours.mass, theirs.mass)
        if barycentric:
            moved = plan.sum(axis=1)
        else:
            moved = np.zeros(theirs.ids.shape)
            np.add.at(moved, (np.arange(len(some))[:, None], plan.argmax(axis=2)), ours.mass)
        moved = np.where(theirs.known, moved * ours.kept[:, None], 0.0)
        held = moved > 0
        counts[some] = held.sum(axis=1)
        ids.append(theirs.ids[held])
        masses.append(moved[held])
        ledger[some, 2], ledger[some, 3] = moved.sum(axis=1), ours.tail
        ledger[some, 4] = np.maximum(0.0, 1.0 - ours.tail - moved.sum(axis=1))
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    name = "ot" if barycentric else "ot-argmax"
    return Transfer(
        name, indptr, np.concatenate([*ids, []]).astype(np.int32), np.concatenate([*masses, []]).astype(np.float32),
        ledger, rows >= 0, target.tokenizer.size,
    )  # fmt: skip
