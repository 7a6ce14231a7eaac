"""What happened at each target position of a transfer, in words and in figures: what the app draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TransferError
from fusion_core.transfer import LEDGER, Places, Predictions, Transfer

# What became of a position, by where most of its probability went.
OUTCOMES = ("transferred", "chained", "shared out", "beyond the top k", "lost", "no transfer")


@dataclass(frozen=True)
class PositionFigures:
    """Figures of each target position i, which predicts token i + 1; all arrays have the length m.

    Attributes:
        outcome: int64, an index into `OUTCOMES`.
        nll: float64, nats of the gold token through the transfer, the rest spread evenly; an uncovered position is
            uniform.
        kl: float64, nats by which the target's own distribution differs from the transfer, KL(transfer, own), all that
            was not kept being one outcome; NaN where there is no transfer.
        lost: float64, mass in the tail or lost.
        correct: bool, the most probable token is the gold one.
    """

    outcome: NDArray[np.int64]
    nll: NDArray[np.float64]
    kl: NDArray[np.float64]
    lost: NDArray[np.float64]
    correct: NDArray[np.bool_]


def outcomes(carried: Transfer) -> NDArray[np.int64]:
    """int64[m]: which entry of `OUTCOMES` each position had."""
    found = carried.ledger.argmax(axis=1) if len(carried) else np.zeros(0, dtype=np.int64)
    return np.where(carried.covered, found, len(LEDGER)).astype(np.int64)


def position_figures(carried: Transfer, own: Predictions) -> PositionFigures:
    """Figures of a transfer to the tokens of `own`, beside the target's own predictions."""
    if len(carried) != max(0, len(own.encoding) - 1):
        raise TransferError(f"{len(carried)} positions do not fit {len(own.encoding)} tokens")
    gold = own.encoding.ids[1:]
    return PositionFigures(
        outcomes(carried),
        -np.log(np.maximum(carried.prob_of(gold), 1e-30)),
        divergence_from_own(carried, own),
        carried.rest,
        np.asarray(carried.best() == gold),
    )


def divergence_from_own(carried: Transfer, own: Predictions) -> NDArray[np.float64]:
    """float64[m]: KL(transfer, target's own) in nats over the entries that the transfer has and one for all others."""
    count = len(carried)
    owner = np.repeat(np.arange(count), np.diff(carried.indptr))
    top = own.top.rows(slice(1, count + 1))
    if top.ids is None:
        inside = carried.ids < top.k
        logs = np.where(inside, top.logprobs[owner, np.where(inside, carried.ids, 0)], -np.inf).astype(np.float64)
    else:
        size = max(int(top.width), int(carried.size)) + 1
        keys = (np.arange(count)[:, None] * size + top.ids).reshape(-1)
        order = np.argsort(keys)
        wanted = owner * size + carried.ids
        at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(order) - 1)] if len(order) else owner
        flat = top.logprobs.reshape(-1)
        logs = np.where(keys[at] == wanted, flat[at], -np.inf).astype(np.float64) if len(order) else owner * 0.0
    even = np.maximum(top.tail, 1e-9) / max(1, top.width - top.k)
    q = np.maximum(np.where(np.isfinite(logs), np.exp(logs), even[owner]), 1e-30)
    p = carried.probs.astype(np.float64)
    terms = np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0.0)
    kept = np.bincount(owner, weights=terms, minlength=count)
    q_rest = np.maximum(1.0 - np.bincount(owner, weights=q, minlength=count), 1e-9)
    rest = np.clip(carried.rest, 0.0, 1.0)
    other = np.where(rest > 0, rest * np.log(np.maximum(rest, 1e-300) / q_rest), 0.0)
    return np.where(carried.covered, np.maximum(kept + other, 0.0), np.nan)


def reason(carried: Transfer, places: Places, position: int) -> str:
    """Why a position has what it has, in one sentence."""
    behind = int(places.ends[position] - places.pending[position])
    waits = f"the source has not read the last {behind} byte{'s' if behind != 1 else ''}"
    if carried.covered[position]:
        shares = ", ".join(f"{v:.0%} {n}" for n, v in zip(LEDGER, carried.ledger[position], strict=True) if v >= 0.005)
        where = "at a shared boundary" if behind == 0 else waits
        return f"{where}: {shares}"
    if places.row[position] < 0:
        return "no transfer: the source has no distribution here (it predicts no first token, or a character is open)"
    if carried.method.startswith("byte-exact"):
        return f"no transfer: {waits}, and none of its kept entries goes on with them"
    if behind:
        return f"no transfer: no shared boundary, {waits}"
    if not carried.method.startswith("fusellm"):
        return "no transfer: of what was kept of the source's distribution, nothing has a counterpart"
    return "no transfer: the text's tokens here are not one source token linked to one equal target token"
