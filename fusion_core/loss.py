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
    """P at n positions: `ids` int32 or int64[n, k] (padded with 0), `probs` float[n, k] (padded with 0), `covered`
    bool[n]."""

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
    """`total` = lam * `clm` + (1 - lam) * `divergence`, each a mean over its positions; the gradient is `total`'s.
    `positions` and `compared`, int64[]: over how many the two are means."""

    total: Tensor
    clm: Tensor
    divergence: Tensor
    positions: Tensor
    compared: Tensor


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
    checked: bool = False,
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
        checked: ids and probabilities are known to be in range. On a GPU to look at them is to wait for all that was
            asked of it before.
        chunk: positions that are worked on at a time where the logits are not of the dtype that is accumulated in, or
            the temperature is not 1. Beside `logits` and their gradient, no [n, V] tensor is made.

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
    compared = counted if fallback != "none" else counted & target.covered
    gold = torch.where(counted, gold, torch.zeros_like(gold))
    if not checked:
        _check(gold, target, logits.shape[1])
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    ids, probs = target.ids.long(), target.probs.to(kind)
    if fallback == "gold":
        first = torch.zeros_like(probs)
        first[:, 0] = 1.0
        bare = ~target.covered[:, None]
        ids = torch.where(bare, gold[:, None].expand_as(ids), ids)
        probs = torch.where(bare, first, probs)
    active = counted & target.covered if fallback != "gold" else counted
    learns = torch.is_grad_enabled() and logits.requires_grad
    clm, distance = _Losses.apply(logits, gold, ids, probs, counted, active, divergence, temperature, chunk, learns)
    positions, comparisons = counted.sum(), compared.sum()
    by_clm, by_distance = (torch.as_tensor(by).clamp_min(1) for by in counts or (positions, comparisons))
    clm, distance = clm / by_clm, distance / by_distance
    return FusionLoss(lam * clm + (1 - lam) * distance, clm.detach(), distance.detach(), positions, comparisons)


def _check(gold: Tensor, target: SparseTarget, width: int) -> None:
    """Raise `TransferError` for ids and probabilities out of range."""
    for ids in (gold, target.ids):
        low, high = torch.stack(ids.aminmax()).tolist() if ids.numel() else (0, 0)
        if low < 0 or high >= width:
            raise TransferError(f"ids go from 0 to {width - 1}; got {low} to {high}")
    if not bool((target.probs >= 0).all() & (target.probs.sum(dim=1) <= 1.01).all()):  # false for NaN too
        raise TransferError("the target's probabilities must be 0 or more, and sum to at most 1 in each row")


class _Losses(torch.autograd.Function):  # type: ignore[misc]
    """Sums of CLM and of D, and the logits' gradient.

    D is a function f of the k kept log-probabilities l_c (the rest is 1 less the sum of their q_c), so with g = df/dl
    the gradient by logit j is `[j kept] g_j - q_j sum_c g_c`, divided by the temperature. Where the logits are of the
    dtype that is worked in, the forward pass leaves q where the gradient is to be; else they are read again in chunks.
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
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        n, kind = len(logits), probs.dtype
        ctx.at_once = logits.dtype == kind and temperature == 1.0 and learns
        if ctx.at_once:
            ctx.softmax = torch.softmax(logits, dim=1)
            norm = warm = _norm(logits, ctx.softmax)
        else:
            norm, warm = (torch.empty(n, dtype=kind, device=logits.device) for _ in range(2))
            for start in range(0, n, chunk):
                rows = slice(start, start + chunk)
                part = logits[rows].to(kind)
                norm[rows] = _norm(part, torch.softmax(part, dim=1))
                if temperature != 1.0:
                    part = part / temperature
                    warm[rows] = _norm(part, torch.softmax(part, dim=1))
            warm = norm if temperature == 1.0 else warm
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
        a = by_clm * counted.to(norm.dtype)
        kept = by_distance * slope / ctx.temperature
        b = -kept.sum(dim=1)
        if ctx.at_once:
            out = torch.softmax(logits, dim=1) if ctx.softmax is None else ctx.softmax
            ctx.softmax = None  # it is written over: a second pass through a retained graph works it out anew
            return (_gradient(out, a + b, kept, ids, a, gold), *(None,) * 9)
        out = torch.empty_like(logits)
        for start in range(0, len(logits), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            part = logits[rows].to(norm.dtype)
            if ctx.temperature == 1.0:
                grad = _gradient(_exp(part, norm[rows]), (a + b)[rows], kept[rows], ids[rows], a[rows], gold[rows])
            else:
                grad = _exp(part, norm[rows]).mul_(a[rows, None])
                grad += _gradient(
                    _exp(part / ctx.temperature, warm[rows]), b[rows], kept[rows], ids[rows], a[rows], gold[rows]
                )
            out[rows] = grad.to(out.dtype)
        return (out, *(None,) * 9)


def _norm(logits: Tensor, softmax: Tensor) -> Tensor:
    """log sum exp of each row of [n, V]. The softmax is at hand, which is one pass over the logits on a GPU where
    logsumexp is four; at its largest entry it is 1 / V or more, so that no digit is lost."""
    top, where = logits.max(dim=1, keepdim=True)
    return (top - softmax.gather(1, where).log())[:, 0]


def _exp(logits: Tensor, norm: Tensor) -> Tensor:
    """The softmax of each row whose log sum exp is known: [n, V]."""
    return (logits - norm[:, None]).exp_()


def _gradient(softmax: Tensor, scale: Tensor, kept: Tensor, ids: Tensor, a: Tensor, gold: Tensor) -> Tensor:
    """`scale` times each row of `softmax`, which is written over, and what kept ids and the gold one get besides."""
    softmax.mul_(scale[:, None])
    softmax.scatter_add_(1, ids, kept)
    return softmax.scatter_add_(1, gold[:, None], -a[:, None])
