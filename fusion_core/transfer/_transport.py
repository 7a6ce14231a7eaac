"""`ot`: optimal transport between the source's entries and the target's own (PTA-LLM, arXiv 2509.17276), position by
position, the entropic problem solved by POT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from fusion_core.errors import TransferError
from fusion_core.tokenizers import Encoding
from fusion_core.transfer._places import find_places
from fusion_core.transfer._predictions import Predictions
from fusion_core.transfer._result import Transfer

ENTRIES = 10
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
    """The plan between the best entries of one row of each side; its total is 1, marginals are the renormalised
    probabilities. Costs are edit distances of the entries' texts, spaces at the start left out."""
    import ot

    sides = []
    for predictions, row in ((source, source_row), (own, own_row)):
        top = predictions.top.rows(slice(row, row + 1)).truncate(entries)
        ids = np.arange(top.k) if top.ids is None else top.ids[0]
        mass = top.probs[0].astype(np.float64)
        texts = predictions.encoding.tokenizer.vocabulary.texts
        sides.append((ids.astype(np.int64), mass / mass.sum(), [texts[i].lstrip(" ") for i in ids.tolist()]))
    (a_ids, a, a_texts), (b_ids, b, b_texts) = sides
    cost = cdist(a_texts, b_texts, scorer=Levenshtein.distance).astype(np.float64)
    plan = ot.sinkhorn(a, b, cost, REGULARISATION, method="sinkhorn_log", numItermax=1000, stopThr=1e-8, warn=False)
    return Plan(a_ids, b_ids, cost, np.asarray(plan))


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
    ids, masses, counts = [], [], []
    ledger = np.zeros((len(rows), 5))
    for i, row in enumerate(rows.tolist()):
        if row < 0:
            counts.append(0)
            ledger[i, 4] = 1.0
            continue
        found = transport_plan(source, own, row, i + 1)
        kept = float(source.top.rows(slice(row, row + 1)).truncate(ENTRIES).probs.sum())
        plan = found.plan / found.plan.sum()
        moved = np.zeros(plan.shape[1])
        if barycentric:
            moved = plan.sum(axis=0)
        else:
            np.add.at(moved, plan.argmax(axis=1), plan.sum(axis=1))
        held = np.flatnonzero(moved > 0)
        ids.append(found.target_ids[held])
        masses.append(moved[held] * kept)
        counts.append(len(held))
        ledger[i, 2], ledger[i, 3] = kept, 1.0 - kept
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    name = "ot" if barycentric else "ot-argmax"
    return Transfer(
        name, indptr, np.concatenate([*ids, []]).astype(np.int32), np.concatenate([*masses, []]).astype(np.float32),
        ledger, rows >= 0, target.tokenizer.size,
    )  # fmt: skip
