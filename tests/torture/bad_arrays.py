"""Hard and impossible arrays: logits, packed distributions, fusion, loss, the compatible mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fusion_core.compat.fusellm import transform_step_logits
from fusion_core.distributions import TopK
from fusion_core.errors import DistributionError
from fusion_core.fusion import RULES, fuse
from fusion_core.packing import pack, unpack
from fusion_core.transfer import Transfer
from tests.torture.mutation import Case, Random

# Rows that a model may give; those after the fourth are no distribution.
_SOUND = 4


def _row(rng: np.random.Generator, width: int, kind: int) -> np.ndarray:
    row = rng.normal(0, rng.choice((0.0, 1.0, 30.0)), width)
    if kind == 1:
        row[rng.random(width) < 0.5] = -np.inf
        row[rng.integers(width)] = 0.0
    elif kind == 2:
        row = np.full(width, rng.choice((0.0, -3e38, 3e38, 7.5)))
    elif kind == 3:
        row = row * 1e6  # all mass on one entry, the others below any float's range
    elif kind == 4:
        row[rng.integers(width)] = np.nan
    elif kind == 5:
        row[rng.integers(width)] = np.inf
    elif kind == 6:
        row[:] = -np.inf
    return row


def logits(folder: Path) -> Case:
    """float32 and float64 agree with a float64 softmax within 1e-5, float16 within 2e-3 of its own rounded logits."""
    import torch

    def case(random: Random) -> None:
        rng = np.random.default_rng(random.randrange(1 << 62))
        n, width = int(rng.integers(0, 4)), int(rng.choice((1, 2, 5, 17, 300)))
        kinds = rng.integers(0, 7 if rng.random() < 0.3 else _SOUND, n)
        values = np.stack([_row(rng, width, int(k)) for k in kinds]) if n else np.zeros((0, width))
        dtype = rng.choice(["float16", "float32", "float64"])
        with np.errstate(over="ignore"):
            given = values.astype(dtype)
            exact = given.astype(np.float32).astype(np.float64)  # what is accumulated
        k = int(rng.choice((0, 1, 3, 5, 1000)))
        size = int(rng.integers(1, width + 3)) if rng.random() < 0.3 else None
        sound = np.isfinite(exact.max(axis=1)).all() and not np.isnan(exact).any() if n else True
        argument: Any = torch.from_numpy(given) if rng.random() < 0.4 else given
        try:
            top = TopK.from_logits(argument, k, size=size)
        except DistributionError:
            assert not sound
            raise
        assert sound
        if not n:
            assert len(top) == 0
            return
        shifted = exact - exact.max(axis=1, keepdims=True)
        expected = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
        kept = min(width, size or width)
        ids = np.broadcast_to(np.arange(top.k), (n, top.k)) if top.ids is None else top.ids
        assert top.k == (kept if k == 0 else min(k, kept)) and top.width == width and ids.max() < kept
        assert np.allclose(top.probs, np.take_along_axis(expected, ids.astype(np.int64), axis=1), atol=1e-5)
        best = np.sort(expected[:, :kept], axis=1)[:, ::-1][:, : top.k]
        assert np.allclose(np.sort(top.probs, axis=1)[:, ::-1], best, atol=1e-5)
        assert np.allclose(top.tail, 1.0 - top.probs.sum(axis=1, dtype=np.float64), atol=1e-5)
        assert np.allclose(np.exp(top.to_dense().astype(np.float64)).sum(axis=1), 1.0, atol=1e-4)
        cut = top.truncate(2)
        assert cut.k == min(2, top.k) and (cut.tail >= top.tail - 1e-6).all()
        assert not np.isfinite(top.logprob_of(np.full(n, width + 5))).any()

    return case


def packing(folder: Path) -> Case:
    def case(random: Random) -> None:
        rng = np.random.default_rng(random.randrange(1 << 62))
        n, width, k = int(rng.integers(0, 5)), int(rng.choice((5, 300, 260_000))), int(rng.choice((1, 4, 64)))
        k = min(k, width)
        scores = rng.normal(0, rng.choice((0.0, 2.0, 40.0, 1e5)), (n, k + 1)).astype(np.float32)
        logprobs = TopK.from_logits(scores, 0).logprobs[:, :k] if n else scores[:, :k]
        rows = np.stack([rng.choice(width, k, replace=False) for _ in range(n)]) if n else np.zeros((0, k))
        top = TopK(rows.astype(np.int32), logprobs, width)
        ids, steps = pack(top)
        if rng.random() < 0.5:
            found = unpack(ids, steps, k, width)
            order = np.lexsort((top.ids, -top.logprobs), axis=1)
            assert np.array_equal(found.ids, np.take_along_axis(top.ids, order, axis=1))
            was = np.take_along_axis(top.probs, order, axis=1)
            assert np.allclose(found.probs, was, rtol=1.2e-2, atol=1e-6)  # 0.1 % of at most 11 nats
            return
        # Damaged: it must be refused, or be distributions all the same.
        how = rng.integers(5)
        if how == 0 and len(steps):
            steps[rng.integers(len(steps))] ^= np.uint16(1 << rng.integers(16))
        elif how == 1 and len(ids):
            ids[rng.integers(len(ids))] ^= np.int32(1 << rng.integers(31))
        elif how == 2:
            steps = steps[: rng.integers(len(steps) + 1)]
        elif how == 3:
            k = int(rng.choice((0, -1, k + 1, 3)))
        else:
            width = int(rng.integers(1, width + 1))
        found = unpack(ids, steps, k, width)
        assert found.ids is not None and (found.ids >= 0).all() and (found.ids < width).all()
        assert (found.probs.sum(axis=1, dtype=np.float64) <= 1 + 1e-5).all() and not np.isnan(found.logprobs).any()

    return case


def _transfer(rng: np.random.Generator, positions: int, size: int) -> Transfer:
    """Made up: some positions uncovered, some with everything on one entry, some with nothing kept."""
    ids, probs, counts = [], [], []
    ledger, covered = np.zeros((positions, 5)), rng.random(positions) < 0.8
    for i in range(positions):
        count = int(rng.integers(0, min(size, 6) + 1)) if covered[i] else 0
        mass = rng.dirichlet(np.full(count + 1, rng.choice((0.01, 1.0))))
        if rng.random() < 0.2 and count:
            mass = np.zeros(count + 1)
            mass[0] = 1.0
        ids += rng.choice(size, count, replace=False).tolist()
        probs += mass[:count].tolist()
        counts.append(count)
        if covered[i]:
            ledger[i, 0], ledger[i, 3] = mass[:count].sum(), mass[-1]
        else:
            ledger[i, 4] = 1.0
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Transfer("made up", indptr, np.array(ids, np.int32), np.array(probs, np.float32), ledger, covered, size)


def fusing(folder: Path) -> Case:
    def case(random: Random) -> None:
        rng = np.random.default_rng(random.randrange(1 << 62))
        positions, size = int(rng.integers(0, 6)), int(rng.choice((1, 5, 1000)))
        sources = [_transfer(rng, positions, size) for _ in range(rng.integers(1, 4))]
        rule = random.choice(list(RULES))
        levels: list[Any] = [float(rng.choice((0.0, 0.5, 3.0, 800.0, np.inf, np.nan))) for _ in sources]
        if rng.random() < 0.4:
            levels = [rng.exponential(5, positions) for _ in sources]
        fused = fuse(sources, rule, levels, temperature=float(rng.choice((0.01, 1.0, 50.0))))
        assert np.allclose(fused.ledger.sum(axis=1), 1.0, atol=1e-5) and (fused.ledger >= -1e-6).all()
        assert np.isfinite(fused.probs).all() and (fused.probs >= -1e-7).all()
        owner = np.repeat(np.arange(positions), np.diff(fused.indptr))
        mass = np.bincount(owner, weights=fused.probs, minlength=positions)
        assert np.allclose((mass + fused.rest)[fused.covered], 1.0, atol=1e-4)
        for i in range(positions):
            assert abs(fused.to_dense(i).sum() - 1.0) < 1e-4
        counts, ids, probs = fused.best_first(3)
        assert counts.sum() == len(ids) == len(probs) and (counts <= 3).all()

    return case


def losses(folder: Path) -> Case:
    import torch

    from fusion_core.loss import DIVERGENCES, FALLBACKS, SparseTarget, fusion_loss

    def case(random: Random) -> None:
        rng = np.random.default_rng(random.randrange(1 << 62))
        n, width, k = int(rng.integers(0, 5)), int(rng.choice((1, 5, 40))), int(rng.choice((0, 1, 3, 60)))
        scale = rng.choice((0.0, 1.0, 100.0, 1e4))
        logits = torch.from_numpy(rng.normal(0, scale, (n, width))).to(
            random.choice((torch.float32, torch.bfloat16, torch.float64))
        )
        k = min(k, width) if rng.random() < 0.9 else k
        ids = np.stack([rng.permutation(max(width, k))[:k] for _ in range(n)]) if n else np.zeros((0, k))
        probs = rng.dirichlet(np.full(k + 1, rng.choice((0.01, 1.0))), n)[:, :k] if n else np.zeros((0, k))
        if rng.random() < 0.1 and probs.size:
            probs[0, 0] = rng.choice((np.nan, -0.5, 3.0, np.inf))
        gold = rng.integers(-1 if rng.random() < 0.05 else 0, width + (rng.random() < 0.05), n)
        target = SparseTarget(
            torch.from_numpy(ids.astype(np.int64)),
            torch.from_numpy(probs.astype(np.float32)),
            torch.from_numpy(rng.random(n) < 0.7),
        )
        variable = logits.clone().requires_grad_()
        found = fusion_loss(
            variable,
            torch.from_numpy(gold),
            target,
            lam=float(rng.choice((0.0, 0.5, 1.0))),
            divergence=random.choice(list(DIVERGENCES)),
            fallback=random.choice(FALLBACKS),
            mask=torch.from_numpy(rng.random(n) < 0.8),
            temperature=float(rng.choice((0.5, 1.0, 4.0))),
            chunk=int(rng.choice((1, 3, 512))),
        )
        assert torch.isfinite(found.total) and not np.isnan(probs).any() and (probs >= 0).all()
        assert found.clm >= -1e-6 and found.divergence > -1e-5
        found.total.backward()
        assert torch.isfinite(variable.grad).all()

    return case


def compatible_mode(folder: Path) -> Case:
    pieces = ["Ġthe", "the", "▁the", "fox", "Ġ", "▁", "", "a", "Ġa", "é", "<unk>", "Ġfox", "▁fox", "x" * 50]
    source_vocab, target_vocab = dict(enumerate(pieces)), {piece: n for n, piece in enumerate(pieces)}

    def case(random: Random) -> None:
        rng = np.random.default_rng(random.randrange(1 << 62))
        ours = [random.choice(pieces) for _ in range(rng.integers(0, 8))]
        theirs = [random.choice(pieces) for _ in range(rng.integers(0, 8))]
        k, kind = int(rng.integers(0, 5)), random.choice(("hard", "soft", "ot"))
        high = len(pieces) + (rng.random() < 0.05)
        ids = [rng.integers(0, high, k).tolist() for _ in ours]
        logits = [np.sort(rng.normal(0, 5, k))[::-1].tolist() for _ in ours]
        soft = {p.replace("Ġ", "▁"): random.choice(pieces) for p in pieces if rng.random() < 0.98}
        own = [rng.choice(len(pieces), 4, replace=False).tolist() for _ in theirs]
        found = transform_step_logits(
            ours, theirs, ids, logits, source_vocab=source_vocab, target_vocab=target_vocab, source_marker="Ġ",
            target_marker="▁", kind=kind, soft_mapping=soft, target_topk_ids=own,
            target_topk_logits=[np.sort(rng.normal(0, 5, 4))[::-1].tolist() for _ in theirs],
        )  # fmt: skip
        assert len(found[0]) == len(found[1]) == len(theirs)
        for row, values in zip(*found, strict=True):
            assert len(row) == len(values) and all(0 <= i < len(pieces) for i in row)
            assert np.isfinite(values).all()

    return case
