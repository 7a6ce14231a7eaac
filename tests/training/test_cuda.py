"""On a GPU: the same losses as on a CPU, the memory that is promised, and runs that are whole there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.launch import launched
from tests.support.tiny_run import losses, quiet, tiny_config
from training.config import Config, dump

torch = pytest.importorskip("torch")
from fusion_core.loss import DIVERGENCES, SparseTarget, fusion_loss  # noqa: E402
from fusion_core.models import load_model  # noqa: E402
from training.train import train  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

_ON_CPU = {"device": "cpu", "dtype": "float32", "top_k": 12}
_ON_GPU = {"device": "cuda", "dtype": "float32", "top_k": 12}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return str(tiny.save_model(root / "a", "byte-bpe", 1)), str(tiny.save_model(root / "b", "metaspace-bpe", 2))


def _run(folder: Path, models: tuple[str, str], output: str, **changes: object) -> Config:
    training = {
        "max_steps": 8, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "logging_steps": 1,
        "disable_tqdm": True, "save_strategy": "no", **changes.pop("training", {}),  # type: ignore[dict-item]
    }  # fmt: skip
    return tiny_config(
        folder, models, **{"training": training, "teach": _ON_CPU, "output": str(folder / output), **changes}
    )


def _made(config: Config) -> list[float]:
    train(config, say=quiet)
    return list(losses(config.output).values())


def _target(n: int, size: int, k: int, device: str) -> SparseTarget:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(size, generator=generator)[:k] for _ in range(n)])
    probs = torch.rand(n, k + 1, generator=generator)
    probs = (probs / probs.sum(1, keepdim=True))[:, :k]
    covered = torch.rand(n, generator=generator) > 0.2
    return SparseTarget(ids.to(device), probs.to(device), covered.to(device))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_and_its_gradient_are_those_of_the_cpu(
    divergence: str, dtype: torch.dtype, rel: float, temperature: float
) -> None:
    n, size = 700, 3000
    generator = torch.Generator().manual_seed(0)
    drawn = (3 * torch.randn(n, size, generator=generator)).to(dtype)
    gold = torch.randint(size, (n,), generator=generator)
    found = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        logits = drawn.to(device, kind).requires_grad_()
        loss = fusion_loss(
            logits,
            gold.to(device),
            _target(n, size, 20, device),
            lam=0.4,
            divergence=divergence,
            temperature=temperature,
        )
        loss.total.backward()
        assert logits.grad is not None
        found.append((float(loss.total), logits.grad.double().cpu(), int(loss.positions), int(loss.compared)))
    (a, grad_a, *counts_a), (b, grad_b, *counts_b) = found
    assert b == pytest.approx(a, rel=1e-5) and counts_a == counts_b
    assert float((grad_a - grad_b).norm() / grad_a.norm()) < rel


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1.05), (torch.bfloat16, 1.6)])
def test_beside_the_logits_and_their_gradient_no_tensor_of_their_size_is_made(dtype: torch.dtype, most: float) -> None:
    """Logits of bfloat16 are worked on in chunks of float32."""
    n, size = 8192, 49152
    logits = torch.randn(n, size, device="cuda", dtype=dtype).requires_grad_()
    gold, target = torch.randint(size, (n,), device="cuda"), _target(n, 4000, 64, "cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fusion_loss(logits, gold, target).total.backward()
    added = torch.cuda.max_memory_allocated() - before
    assert added < most * logits.numel() * logits.element_size()


def test_what_a_model_says_there_is_what_it_says_on_the_cpu(models: tuple[str, str]) -> None:
    texts = [*tiny.SENTENCES[:7], "the dog " * 100]
    for name in models:
        there, here = (load_model(name, device=device, dtype="float32") for device in ("cuda", "cpu"))
        for a, b in zip(there.predict_all(texts, top_k=0), here.predict_all(texts, top_k=0), strict=True):
            np.testing.assert_allclose(a.top.logprobs, b.top.logprobs, atol=2e-4)
        for a, b in zip(there.score(texts), here.score(texts), strict=True):
            np.testing.assert_allclose(a.nll, b.nll, atol=2e-4)


@pytest.mark.parametrize("fusion", [{}, {"with_target": True, "rule": "avg_ce"}])
def test_a_run_has_the_losses_of_one_on_the_cpu(
    tmp_path: Path, models: tuple[str, str], fusion: dict[str, object]
) -> None:
    there = _made(_run(tmp_path, models, "there", teach=_ON_GPU, fusion=fusion))
    here = _made(_run(tmp_path, models, "here", training={"use_cpu": True}, fusion=fusion))
    assert len(there) == 8 and there == pytest.approx(here, rel=2e-3)


def test_online_sources_give_the_numbers_of_the_cache(tmp_path: Path, models: tuple[str, str]) -> None:
    cached, online = (_made(_run(tmp_path, models, str(way), teach=_ON_GPU, online=way)) for way in (False, True))
    assert len(online) == 8 and online == pytest.approx(cached, rel=1e-3)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(tmp_path: Path, models: tuple[str, str], bf16: bool) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3, "bf16": bf16, "lr_scheduler_type": "constant"}
    unbroken = _made(_run(tmp_path, models, "unbroken", training=saving))
    config = _run(tmp_path, models, "resumed", training={**saving, "max_steps": 3})
    train(config, say=quiet)
    (config.output / "run.json").unlink()
    longer = _run(tmp_path, models, "resumed", training=saving)
    train(longer, resume=True, say=quiet)
    assert list(losses(longer.output).values()) == pytest.approx(unbroken, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"packing": True},
        {"lora": {"r": 4}},
        {"training": {"gradient_checkpointing": True}},
        {"training": {"optim": "adamw_torch_fused"}},
        {"training": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}},
    ],
    ids=["packing", "lora", "checkpointing", "fused-adamw", "accumulation"],
)
def test_in_bfloat16_it_stays_near(tmp_path: Path, models: tuple[str, str], changes: dict[str, object]) -> None:
    alike = {"lora": changes["lora"]} if "lora" in changes else {}
    whole = _made(_run(tmp_path, models, "float32", **alike))
    half = _run(tmp_path, models, "bf16", **{**changes, "training": {"bf16": True, **changes.get("training", {})}})  # type: ignore[dict-item]
    assert _made(half) == pytest.approx(whole, rel=0.05)
    assert (half.output / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(
            ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"), id="fsdp"
        ),
        pytest.param(("--use_deepspeed", "--zero_stage", "2"), id="zero-2"),
    ],
)
def test_a_sharding_launcher_has_the_losses_of_none(
    tmp_path: Path, models: tuple[str, str], how: tuple[str, ...]
) -> None:
    """By one process: that its backend, NCCL, and its optimizer work at all."""
    if "--use_deepspeed" in how:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed, and pip cannot build it in every place")
    one, two = _run(tmp_path, models, "one"), _run(tmp_path, models, "two")
    path = tmp_path / "two.yaml"
    path.write_text(dump(two), encoding="utf-8")
    machine = ("--num_processes", "1", "--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no")
    launched("accelerate.commands.launch", *how, *machine, "--dynamo_backend", "no", "-m", "training", path)
    assert list(losses(two.output).values()) == pytest.approx(_made(one), rel=1e-3)


def test_workers_put_batches_together_and_what_was_spent_is_told(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _run(tmp_path, models, "run", training={"dataloader_num_workers": 2})
    alone = _run(tmp_path, models, "alone", training={"dataloader_num_workers": 0})
    assert _made(config) == pytest.approx(_made(alone), rel=1e-3)
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "tokens_per_second" in row]
    assert all(0 <= row["waiting"] <= 1 for row in rows)
    assert rows[-1]["tokens"] == json.loads((config.output / "run.json").read_text())["tokens"] > 0
