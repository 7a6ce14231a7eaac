"""The loss equals the dense float64 formulation, and so do its gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_core import TransferError

torch = pytest.importorskip("torch")
from fusion_core.loss import DIVERGENCES, FALLBACKS, SparseTarget, fusion_loss  # noqa: E402
from fusion_core.transfer import Transfer  # noqa: E402

N, V, K = 6, 11, 3


def _inputs(
    seed: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, SparseTarget, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, V, generator=g, dtype=torch.float64).mul_(2).to(dtype)
    gold = torch.randint(V, (N,), generator=g)
    ids = torch.stack([torch.randperm(V, generator=g)[:K] for _ in range(N)])
    probs = torch.rand(N, K + 1, generator=g, dtype=torch.float64)
    probs = (probs / probs.sum(1, keepdim=True))[:, :K]
    probs[0, 2] = 0.0  # a padded entry
    covered = torch.tensor([True, True, False, True, False, True])
    mask = torch.tensor([True, True, True, True, True, False])
    return logits, gold, SparseTarget(ids, probs, covered), mask


def _dense(logits, gold, target, mask, lam, divergence, fallback, temperature):  # type: ignore[no-untyped-def]
    """Position by position, over explicit outcomes: each kept id, and all others together."""
    clm, distances = [], []
    for i in range(N):
        if not mask[i]:
            continue
        clm.append(-torch.log_softmax(logits[i], 0)[gold[i]])
        full = torch.softmax(logits[i] / temperature, 0)
        ids, p = target.ids[i], target.probs[i]
        if not target.covered[i]:
            if fallback == "none":
                continue
            if fallback == "target":
                distances.append(logits.sum() * 0)
                continue
            ids, p = gold[i : i + 1], torch.ones(1, dtype=torch.float64)
        held = p > 0
        q = full[ids[held]]
        eps = torch.finfo(torch.float64).eps
        p = torch.cat([p[held], (1 - p[held].sum()).clamp_min(eps)[None]]).clamp_min(eps)
        q = torch.cat([q, (1 - q.sum())[None]]).clamp_min(eps)
        kl = lambda a, b: (a * (a.log() - b.log())).sum()  # noqa: E731
        middle = (p + q) / 2
        distances.append(
            {
                "ce": -(p * q.log()).sum(),
                "forward_kl": kl(p, q),
                "reverse_kl": kl(q, p),
                "js": (kl(p, middle) + kl(q, middle)) / 2,
            }[divergence]
        )
    return lam * torch.stack(clm).mean() + (1 - lam) * torch.stack(distances).mean()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("fallback", FALLBACKS)
@given(seed=st.integers(0, 1000), lam=st.floats(0, 1), temperature=st.sampled_from([1.0, 2.5]))
@settings(max_examples=10)
def test_value_and_gradient_are_the_dense_ones(
    divergence: str, fallback: str, seed: int, lam: float, temperature: float
) -> None:
    logits, gold, target, mask = _inputs(seed)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    options = {"lam": lam, "divergence": divergence, "fallback": fallback, "temperature": temperature}
    found = fusion_loss(ours, gold, target, mask=mask, chunk=4, **options)
    expected = _dense(theirs, gold, target, mask, **options)
    # Padded entries count as probability eps, which is all that may differ.
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-9)
    found.total.backward()
    expected.backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-9)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck(divergence: str) -> None:
    logits, gold, target, mask = _inputs(3)
    run = lambda x: fusion_loss(x, gold, target, lam=0.4, divergence=divergence, mask=mask).total  # noqa: E731
    assert torch.autograd.gradcheck(run, (logits.requires_grad_(),))


def test_low_precision_logits_are_accumulated_in_float32() -> None:
    logits, gold, target, mask = _inputs(5)
    half = logits.to(torch.bfloat16)
    exact = fusion_loss(half.double(), gold, target, mask=mask)
    found = fusion_loss(half.requires_grad_(), gold, target, mask=mask)
    assert found.total.dtype == torch.float32 and found.total.item() == pytest.approx(exact.total.item(), rel=1e-5)
    found.total.backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


def test_lam_one_is_plain_cross_entropy() -> None:
    logits, gold, target, _ = _inputs(7)
    found = fusion_loss(logits, gold, target, lam=1.0)
    assert float(found.total) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, gold)))
    assert found.positions == N and found.compared == 4


def test_nothing_to_compare_is_no_nan() -> None:
    logits, gold, target, _ = _inputs(8)
    bare = SparseTarget(target.ids, target.probs, torch.zeros(N, dtype=torch.bool))
    found = fusion_loss(logits, gold, bare)
    assert float(found.divergence) == 0.0 and found.compared == 0
    empty = fusion_loss(logits, gold, bare, mask=torch.zeros(N, dtype=torch.bool))
    assert float(empty.total) == 0.0


def test_a_transfer_becomes_a_sparse_target() -> None:
    carried = Transfer(
        "x", np.array([0, 3, 3]), np.array([5, 1, 2], np.int32), np.array([0.1, 0.5, 0.2], np.float32),
        np.array([[0.8, 0, 0, 0.2, 0], [0, 0, 0, 0, 1]]), np.array([True, False]), V,
    )  # fmt: skip
    target = SparseTarget.from_transfer(carried, 2)
    assert target.ids.tolist() == [[1, 2], [0, 0]] and target.covered.tolist() == [True, False]
    assert target.probs.numpy() == pytest.approx(np.array([[0.5, 0.2], [0, 0]]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"divergence": "l2"}, "ce, forward_kl"),
        ({"fallback": "best"}, "none, gold, target"),
        ({"lam": 1.5}, "between 0 and 1"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_wrong_options_are_named(change: dict[str, object], says: str) -> None:
    logits, gold, target, _ = _inputs(1)
    with pytest.raises(TransferError, match=says):
        fusion_loss(logits, gold, target, **change)


def test_an_id_out_of_range_is_named() -> None:
    logits, gold, target, _ = _inputs(1)
    with pytest.raises(TransferError, match="0 to 10; got"):
        fusion_loss(logits, gold + V, target)


@pytest.mark.parametrize("divergence", ["ce", "forward_kl"])
@pytest.mark.parametrize("gap", [10.0, 14.0, 30.0, 80.0])
def test_where_the_target_rules_out_what_p_says_the_gradient_stays(divergence: str, gap: float) -> None:
    """In float32, in which the probability itself is rounded away: it is there that the loss is needed most."""
    logits = torch.zeros(1, 50)
    logits[0, 7] = -gap
    logits.requires_grad_()
    p = SparseTarget(torch.tensor([[7]]), torch.tensor([[0.9]]), torch.ones(1, dtype=torch.bool))
    found = fusion_loss(logits, torch.tensor([3]), p, lam=0.0, divergence=divergence)
    found.total.backward()
    assert float(logits.grad[0, 7]) == pytest.approx(-0.9, abs=1e-3)
    entropy = 0.9 * np.log(0.9) + 0.1 * np.log(0.1) if divergence == "forward_kl" else 0.0
    assert found.total.item() == pytest.approx(0.9 * (gap + np.log(49)) + entropy, abs=1e-2)
