"""Several sources' distributions at the target's positions made into one: sparse in, sparse out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_core.errors import TransferError
from fusion_core.transfer import Predictions, Transfer

# What cross-entropies are of: a whole text of each source, or each target token.
LEVELS = ("sequence", "token")

Floats = NDArray[np.float64]

# Probability below which the product does not tell entries apart.
_FLOOR = 1e-12


def cross_entropy(source: Predictions, *, normalize: str = "byte") -> float:
    """A source's own cross-entropy of the text in nats: per `byte`, so that tokenizers can be compared, or per `token`,
    as FuseLLM compares them."""
    if normalize == "token":
        return float(source.nll.mean()) if len(source.nll) else float("nan")
    if normalize != "byte":
        raise TransferError(f"unknown normalisation {normalize!r}; choose byte or token")
    return source.bits_per_byte * float(np.log(2))


def token_cross_entropies(carried: Transfer, gold: NDArray[np.integer[Any]]) -> Floats:
    """float64[m]: nats of the gold token at each position through the transfer, for fusion at the level `token`."""
    return np.asarray(-np.log(carried.prob_of(gold)))


def cross_entropies(
    level: str, sources: Sequence[float], transfers: Sequence[Transfer], gold: NDArray[np.integer[Any]]
) -> Sequence[float] | Sequence[Floats]:
    """What `fuse` weighs by: at the level `sequence` the sources' own, as given, at `token` those of the gold tokens.

    Raises:
        TransferError: an unknown level.
    """
    if level not in LEVELS:
        raise TransferError(f"unknown level {level!r}; choose one of {', '.join(LEVELS)}")
    return sources if level == "sequence" else [token_cross_entropies(one, gold) for one in transfers]


def _min_ce(ce: Floats, temperature: float) -> Floats:
    weights = np.zeros_like(ce)
    weights[ce.argmin(axis=0), np.arange(ce.shape[1])] = 1.0
    return weights


def _avg_ce(ce: Floats, temperature: float) -> Floats:
    scores = np.exp(-ce) / temperature  # 0 where a source is not covered (CE is infinite), which has weight 0 below
    weights = np.where(np.isfinite(ce), np.exp(scores - scores.max(axis=0)), 0.0)
    return np.asarray(weights / np.maximum(weights.sum(axis=0), 1e-300))


def _equal(ce: Floats, temperature: float) -> Floats:
    present = np.isfinite(ce).astype(np.float64)
    return np.asarray(present / np.maximum(present.sum(axis=0), 1.0))


# float64[s, m] cross-entropies (infinite where a source has nothing) and a temperature -> weights that sum to 1.
RULES: dict[str, Callable[[Floats, float], Floats]] = {
    "min_ce": _min_ce,
    "avg_ce": _avg_ce,
    "mean": _equal,
    "product": _equal,
}


def fusion_weights(
    transfers: Sequence[Transfer],
    rule: str = "min_ce",
    cross_entropies: Sequence[float] | Sequence[Floats] | None = None,
    *,
    temperature: float = 1.0,
) -> Floats:
    """float64[s, m]: each source's weight at each position; 0 where it is not covered, summing to 1 where any is.

    Args:
        rule: `min_ce` (the best source alone), `avg_ce` (softmax of exp(-CE), as FuseLLM's code weighs; a temperature
            below 1 is sharper), `mean` or `product` (equal weights).
        cross_entropies: one number per source (level `sequence`) or float64[m] per source (level `token`); needed for
            `min_ce` and `avg_ce`.

    Raises:
        TransferError: no sources, sources of different lengths or vocabularies, an unknown rule, no cross-entropies.
    """
    if rule not in RULES:
        raise TransferError(f"unknown fusion rule {rule!r}; choose one of {', '.join(RULES)}")
    if not transfers:
        raise TransferError("there is nothing to fuse")
    if len({(len(t), t.size) for t in transfers}) != 1:
        raise TransferError("sources can only be fused at the same positions of the same target vocabulary")
    if temperature <= 0:
        raise TransferError(f"the temperature must be above 0, got {temperature}")
    count = len(transfers[0])
    if cross_entropies is None:
        if rule.endswith("_ce"):
            raise TransferError(f"{rule!r} needs the sources' cross-entropies")
        cross_entropies = [0.0] * len(transfers)
    if len(cross_entropies) != len(transfers):
        raise TransferError(f"{len(transfers)} sources need as many cross-entropies, got {len(cross_entropies)}")
    ce = np.stack([np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)) for value in cross_entropies])
    covered = np.stack([t.covered for t in transfers])
    # What is not covered is infinite; a covered source that says the text is impossible, or of which no cross-entropy
    # is known, is only worse than all others.
    ce = np.where(np.isfinite(ce), ce, np.finfo(np.float64).max)
    weights = RULES[rule](np.where(covered, ce, np.inf), temperature)
    return np.where(covered, weights, 0.0)


def fuse(
    transfers: Sequence[Transfer],
    rule: str = "min_ce",
    cross_entropies: Sequence[float] | Sequence[Floats] | None = None,
    *,
    temperature: float = 1.0,
) -> Transfer:
    """One distribution per position from several sources'; arguments as for `fusion_weights`.

    All rules but `product` mix: probabilities and ledgers are the weighted sums, and where one source keeps an entry
    that another does not, the share that it has of the other's tail counts too (as approximate). `product` is the
    normalised geometric mean of the same.
    """
    weights = fusion_weights(transfers, rule, cross_entropies, temperature=temperature)
    covered = weights.sum(axis=0) > 0
    ledger = sum((w[:, None] * t.ledger for w, t in zip(weights, transfers, strict=True)), np.zeros((len(covered), 5)))
    ledger[~covered] = (0.0, 0.0, 0.0, 0.0, 1.0)
    # What an entry has that no source keeps, of all sources' tails; and how much of the tails kept entries leave out.
    others, left_out = np.zeros(len(covered)), np.zeros(len(covered))
    owners, ids, values = [], [], []
    for w, t in zip(weights, transfers, strict=True):
        owner = np.repeat(np.arange(len(t)), np.diff(t.indptr))
        held = w[owner] > 0
        mass, owner = t.probs[held].astype(np.float64), owner[held]
        owners.append(owner)
        ids.append(t.ids[held].astype(np.int64))
        share = w * t.tail_share
        others += share
        left_out += share * np.diff(t.indptr)
        # By how much the entry exceeds one that is not kept: its weighted probability, or logarithm for the product.
        if rule == "product":
            absent, lost = t.tail_share[owner], t.lost_share[owner]
            values.append(w[owner] * np.log(np.maximum(mass + lost, _FLOOR) / np.maximum(absent + lost, _FLOOR)))
        else:
            values.append(w[owner] * mass - share[owner])
    size = transfers[0].size
    keys, inverse = np.unique(np.concatenate(owners) * size + np.concatenate(ids), return_inverse=True)
    sums: Floats = np.bincount(inverse, weights=np.concatenate(values), minlength=len(keys)).astype(np.float64)
    owner, out_ids = keys // size, keys % size
    counts = np.bincount(owner, minlength=len(covered))
    if rule == "product":
        sums = _normalised(sums, owner, counts, size)
        kept = np.bincount(owner, weights=sums, minlength=len(covered))
        before = ledger[:, :3].sum(axis=1)
        scale = np.where(before > 0, kept / np.maximum(before, 1e-300), 0.0)
        ledger[:, :3] *= scale[:, None]
        ledger[covered, 3], ledger[covered, 4] = (1.0 - ledger[covered, :3].sum(axis=1)), 0.0
    else:
        sums = np.maximum(sums + others[owner], 0.0)
        shared = np.where(covered, others * counts - left_out, 0.0)
        ledger[:, 2] += shared
        ledger[:, 3] -= shared
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Transfer(rule, indptr, out_ids.astype(np.int32), sums.astype(np.float32), ledger, covered, size)


def _normalised(excess: Floats, owner: NDArray[np.int64], counts: NDArray[np.int64], size: int) -> Floats:
    """Probabilities of the kept entries, from logarithms relative to one that is not: with e the excess, an entry kept
    has exp(e) times its share, and all `size` shares sum to 1."""
    top = np.zeros(len(counts))
    np.maximum.at(top, owner, excess)
    scaled = np.exp(excess - top[owner])
    total = np.bincount(owner, weights=scaled, minlength=len(counts)) + (size - counts) * np.exp(-top)
    return np.asarray(scaled / np.maximum(total, 1e-300)[owner])
