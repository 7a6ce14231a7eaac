"""The fusion loss `lam * CLM + (1 - lam) * D(Q, P)` on sparse targets (FuseLLM, arXiv 2401.10491, eq. 5).

P is a source's or a fused distribution: k ids with their probabilities, and a rest. The rest is treated as one outcome,
"none of these", whose probability under the target's Q is what Q gives to all other ids: a divergence of the two
coarsened distributions, which never exceeds that of the full ones. Nothing is spread over ids of which P says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_core.errors import TransferError
from fusion_core.transfer import Transfer

FALLBACKS = ("none", "gold", "target")


@dataclass(frozen=True)
class SparseTarget:
    """P at n positions: `ids` int64[n, k] (padded with 0), `probs` float[n, k] (padded with 0), `covered` bool[n]."""

    ids: Tensor
    probs: Tensor
    covered: Tensor

    @classmethod
    def from_transfer(cls, carried: Transfer, k: int, device: Any = "cpu") -> SparseTarget:
        """The k most probable entries of each position; the others go to the rest."""
        n = len(carried)
        owner = np.repeat(np.arange(n), np.diff(carried.indptr))
        order = np.lexsort((carried.ids, -carried.probs, owner))
        place = np.arange(len(owner)) - carried.indptr[:-1][owner]
        kept = place < k
        ids, probs = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
        ids[owner[kept], place[kept]] = carried.ids[order][kept]
        probs[owner[kept], place[kept]] = carried.probs[order][kept]
        probs[~carried.covered] = 0.0
        tensors = (torch.from_numpy(ids), torch.from_numpy(probs), torch.from_numpy(carried.covered.copy()))
        return cls(*(tensor.to(device) for tensor in tensors))


# Probabilities and their logarithms, both [n, k + 1] with the rest last. Logarithms are taken before probabilities are
# rounded: where Q all but rules out what P says, the loss goes on growing and the gradient stays what it is.
_Both = tuple[Tensor, Tensor]


def _with_rest(logs: Tensor, kept: Tensor) -> _Both:
    """Of the kept entries' log-probabilities [n, k]; entries that are not kept count as nothing, and the rest, which is
    what is missing from 1, is nothing below the dtype's resolution."""
    probs = torch.where(kept, logs.exp(), torch.zeros_like(logs))
    rest = (1.0 - probs.sum(dim=1, keepdim=True)).clamp_min(torch.finfo(logs.dtype).eps)
    logs = torch.where(kept, logs, torch.zeros_like(logs))
    return torch.cat([probs, rest], dim=1), torch.cat([logs, rest.log()], dim=1)


def _terms(a: _Both, log_b: Tensor) -> Tensor:
    return (a[0] * (a[1] - log_b)).sum(dim=1)


def _forward_kl(p: _Both, q: _Both) -> Tensor:
    return _terms(p, q[1])


def _reverse_kl(p: _Both, q: _Both) -> Tensor:
    return _terms(q, p[1])


def _jensen_shannon(p: _Both, q: _Both) -> Tensor:
    middle = (p[0] + q[0]) / 2
    log_middle = torch.where(middle > 0, middle, torch.ones_like(middle)).log()
    return (_terms(p, log_middle) + _terms(q, log_middle)) / 2


def _cross_entropy(p: _Both, q: _Both) -> Tensor:
    return -(p[0] * q[1]).sum(dim=1)


# D of P and Q in nats: [n].
DIVERGENCES: dict[str, Callable[[_Both, _Both], Tensor]] = {
    "ce": _cross_entropy,
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "js": _jensen_shannon,
}


@dataclass(frozen=True)
class FusionLoss:
    """`total` = lam * `clm` + (1 - lam) * `divergence`, each a mean over its positions; the gradient is `total`'s."""

    total: Tensor
    clm: Tensor
    divergence: Tensor
    positions: int
    compared: int


def fusion_loss(
    logits: Tensor,
    gold: Tensor,
    target: SparseTarget,
    *,
    lam: float = 0.9,
    divergence: str = "ce",
    fallback: str = "none",
    mask: Tensor | None = None,
    temperature: float = 1.0,
    chunk: int = 512,
    counts: tuple[Any, Any] | None = None,
) -> FusionLoss:
    """The loss of n positions.

    Args:
        logits: [n, V], any float dtype; accumulated in float32 (float64 if they are). Row i predicts `gold[i]`.
        gold: int64[n], the **next** token of each position.
        target: P at the same positions.
        lam: weight of CLM, 0 to 1; FuseLLM's default is 0.9.
        divergence: a name in `DIVERGENCES`.
        fallback: what an uncovered position is compared with: `none` (it is left out of D), `gold` (a one-hot on the
            gold next token) or `target` (its own distribution: no divergence, but it counts in the mean).
        mask: bool[n], positions that count at all: neither padding nor prompt. All by default.
        temperature: divides the logits for D alone; P is taken as it is.
        counts: what the two sums are divided by, where these n positions are only a part of a step: the positions of
            all parts that are counted, and that are compared. By default those found here.
        chunk: positions that are worked on at a time. Beside `logits` and their gradient, no [n, V] tensor is made.

    Raises:
        TransferError: an unknown name, an id or a number out of range, shapes that do not fit, or a target whose
            probabilities are none.
    """
    n = logits.shape[0] if logits.ndim == 2 else -1
    if divergence not in DIVERGENCES:
        raise TransferError(f"unknown divergence {divergence!r}; choose one of {', '.join(DIVERGENCES)}")
    if fallback not in FALLBACKS:
        raise TransferError(f"unknown fallback {fallback!r}; choose one of {', '.join(FALLBACKS)}")
    if not 0.0 <= lam <= 1.0 or temperature <= 0 or chunk < 1:
        raise TransferError("lam must lie between 0 and 1, the temperature above 0, and chunk be 1 or more")
    rows = (gold.shape, target.covered.shape, (n,) if mask is None else mask.shape)
    if n < 0 or any(shape != (n,) for shape in rows) or target.ids.shape != target.probs.shape:
        raise TransferError("logits must be [n, V], and gold, target and mask have n rows")
    if target.ids.ndim != 2 or target.ids.shape[0] != n or target.ids.shape[1] == 0:
        raise TransferError("the target's ids and probabilities must be [n, k], with a k of 1 or more")
    counted = torch.ones(n, dtype=torch.bool, device=logits.device) if mask is None else mask.bool()
    for ids in (gold[counted], target.ids):
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= logits.shape[1]):
            raise TransferError(f"ids go from 0 to {logits.shape[1] - 1}; got {int(ids.min())} to {int(ids.max())}")
    if not bool((target.probs >= 0).all() & (target.probs.sum(dim=1) <= 1.01).all()):  # false for NaN too
        raise TransferError("the target's probabilities must be 0 or more, and sum to at most 1 in each row")
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    ids, probs = target.ids, target.probs.to(kind)
    gold = torch.where(counted, gold, torch.zeros_like(gold))
    if fallback == "gold":
        first = torch.zeros_like(probs)
        first[:, 0] = 1.0
        bare = ~target.covered[:, None]
        ids = torch.where(bare, gold[:, None].expand_as(ids), ids)
        probs = torch.where(bare, first, probs)
    compared = counted if fallback != "none" else counted & target.covered
    active = counted & target.covered if fallback != "gold" else counted
    positions, comparisons = int(counted.sum()), int(compared.sum())
    clm, distance = _Losses.apply(logits, gold, ids, probs, counted, active, divergence, temperature, chunk)
    by_clm, by_distance = counts or (positions, comparisons)
    clm, distance = clm / max(1, by_clm), distance / max(1, by_distance)
    return FusionLoss(lam * clm + (1 - lam) * distance, clm.detach(), distance.detach(), positions, comparisons)


class _Losses(torch.autograd.Function):  # type: ignore[misc]
    """Sums of CLM and of D. Forward keeps only [n] and [n, k] tensors; backward writes the logits' gradient in chunks.

    D is a function f of the k kept log-probabilities l_c (the rest is 1 less the sum of their q_c), so with g = df/dl
    the gradient by logit j is `[j kept] g_j - q_j sum_c g_c`, divided by the temperature.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        gold: Tensor,
        ids: Tensor,
        probs: Tensor,
        counted: Tensor,
        active: Tensor,
        divergence: str,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        n, kind = len(logits), probs.dtype
        norm, warm = torch.empty(n, dtype=kind, device=logits.device), torch.empty(n, dtype=kind, device=logits.device)
        for start in range(0, n, chunk):
            part = logits[start : start + chunk].to(kind)
            norm[start : start + chunk] = torch.logsumexp(part, dim=1)
            warm[start : start + chunk] = (
                norm[start : start + chunk] if temperature == 1.0 else torch.logsumexp(part / temperature, dim=1)
            )
        at_gold = logits.gather(1, gold[:, None])[:, 0].to(kind)
        clm = torch.where(counted, norm - at_gold, torch.zeros_like(norm)).sum()
        with torch.enable_grad():
            kept = probs > 0
            logs = (logits.gather(1, ids).to(kind) / temperature - warm[:, None]).detach().requires_grad_()
            each = DIVERGENCES[divergence](_with_rest(probs.log(), kept), _with_rest(logs, kept))
            distance = torch.where(active, each, torch.zeros_like(each)).sum()
            (slope,) = torch.autograd.grad(distance, logs)
        ctx.save_for_backward(logits, gold, ids, slope, norm, warm, counted)
        ctx.temperature, ctx.chunk = temperature, chunk
        return clm, distance.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, gold, ids, slope, norm, warm, counted = ctx.saved_tensors
        by_clm, by_distance = (grad.to(norm.dtype) for grad in grads)
        out = torch.empty_like(logits)
        a = by_clm * counted.to(norm.dtype)
        kept = by_distance * slope / ctx.temperature
        b = -kept.sum(dim=1)
        for start in range(0, len(logits), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            part = logits[rows].to(norm.dtype)
            if ctx.temperature == 1.0:
                grad = torch.exp(part - norm[rows, None]).mul_((a + b)[rows, None])
            else:
                grad = torch.exp(part / ctx.temperature - warm[rows, None]).mul_(b[rows, None])
                grad += torch.exp(part - norm[rows, None]).mul_(a[rows, None])
            grad.scatter_add_(1, ids[rows], kept[rows])
            grad.scatter_add_(1, gold[rows, None], -a[rows, None])
            out[rows] = grad.to(out.dtype)
        return (out, *(None,) * 8)
