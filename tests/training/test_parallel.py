"""Losses do not depend on how a step is cut: into processes, accumulated batches, packed rows; nor on where they are
made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_core import TrainingError
from tests.support import tiny
from tests.support.launch import launched
from tests.support.tiny_run import losses, quiet, tiny_config
from training.config import Config, dump

torch = pytest.importorskip("torch")
from fusion_core.models import load_model  # noqa: E402
from training.dataset import Collator, Examples, OnlineExamples, check_packing  # noqa: E402
from training.estimate import estimate  # noqa: E402
from training.evaluate import score  # noqa: E402
from training.precision import INSTEAD, lacks_bfloat16  # noqa: E402
from training.splits import split_corpus  # noqa: E402
from training.train import train  # noqa: E402


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return str(tiny.save_model(root / "a", "byte-bpe", 1)), str(tiny.save_model(root / "b", "metaspace-bpe", 2))


def _run(folder: Path, models: tuple[str, str], output: str, data: bool = True, **changes: object) -> Config:
    training = {
        "max_steps": 4, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "logging_steps": 1,
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **changes.pop("training", {}),  # type: ignore[dict-item]
    }  # fmt: skip
    shared = {"data": str(folder / "data")} if data else {}
    return tiny_config(folder, models, training=training, output=str(folder / output), **shared, **changes)


def _same(a: Config, b: Config, rel: float = 1e-4) -> None:
    left, right = losses(a.output), losses(b.output)
    assert len(left) == len(right) == 4
    assert list(left.values()) == pytest.approx(list(right.values()), rel=rel)


def _in_two_processes(module: str, config: Path, *options: str) -> None:
    two = ("--standalone", "--nproc-per-node", "2")
    launched("torch.distributed.run", *two, "-m", module, config, *options)


def test_of_two_processes_one_merges(tmp_path: Path, models: tuple[str, str]) -> None:
    config = tiny_config(tmp_path, models, kind="linear", sources=[{"model": models[1]}])
    path = tmp_path / "merge.yaml"
    path.write_text(dump(config), encoding="utf-8")
    _in_two_processes("training", path)
    assert (config.output / "model" / "model.safetensors").is_file() and (config.output / "run.json").is_file()


@pytest.mark.parametrize(("size", "packing"), [(5, False), (6, False), (5, True)])
def test_two_processes_have_the_losses_of_one(
    tmp_path: Path, models: tuple[str, str], size: int, packing: bool
) -> None:
    """Of 28 examples the third step, an epoch's last, has 8 or 4: 5 and 3 for the two processes, or 4 and none."""
    one = _run(tmp_path, models, "one", training={"per_device_train_batch_size": 2 * size})
    train(one, say=quiet)
    two = _run(tmp_path, models, "two", training={"per_device_train_batch_size": size}, packing=packing)
    if not torch.cuda.is_available():
        del two.training["use_cpu"]  # a machine without a GPU needs no telling
    path = tmp_path / "two.yaml"
    path.write_text(dump(two), encoding="utf-8")
    _in_two_processes("training", path)
    _same(one, two)
    rows = [json.loads(line) for line in (two.output / "metrics.jsonl").read_text().splitlines()]
    ours = [json.loads(line) for line in (one.output / "metrics.jsonl").read_text().splitlines()]
    for key in ("clm", "divergence", "eval_bits_per_byte"):
        assert [r[key] for r in rows if key in r] == pytest.approx([r[key] for r in ours if key in r], rel=1e-4)
    a, b = (load_model(str(c.output / "model"), device="cpu").network.state_dict() for c in (one, two))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_a_signal_to_one_process_stops_all_of_them_after_the_same_step(tmp_path: Path, models: tuple[str, str]) -> None:
    one = _run(tmp_path, models, "one")
    train(one, say=quiet)
    two = _run(tmp_path, models, "two", training={"per_device_train_batch_size": 2})
    path = tmp_path / "two.yaml"
    path.write_text(dump(two), encoding="utf-8")
    for module, options in (("tests.support.one_process_is_stopped", []), ("training", ["--resume"])):
        _in_two_processes(module, path, *options)
        if not options:
            assert [p.name for p in (two.output / "checkpoints").iterdir()] == ["checkpoint-2"]
            assert not (two.output / "run.json").exists()
    _same(one, two)


_FSDP = ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP")
_ZERO = ("--use_deepspeed", "--zero_stage", "3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "module", "leaves"),
    [
        pytest.param(_FSDP, "tests.support.sharded_on_cpu", "pytorch_model_fsdp_0", id="fsdp"),
        pytest.param(_ZERO, "training", "zero_to_fp32.py", id="zero-3"),
    ],
)
def test_sharded_weights_have_the_losses_of_whole_ones(
    tmp_path: Path, models: tuple[str, str], how: tuple[str, ...], module: str, leaves: str
) -> None:
    """Resumed from the second step; with adapters and packed rows."""
    if how == _ZERO:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed, and pip cannot build it in every place")

    def sharded(config: Config, *options: str) -> None:
        path = config.output.with_suffix(".yaml")
        path.write_text(dump(config), encoding="utf-8")
        two = ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no"]
        run = ("--dynamo_backend", "no", "-m", module, path, *options)
        launched("accelerate.commands.launch", *how, *two, *run, DS_ACCELERATOR="cpu")
        assert any((config.output / "checkpoints").glob(f"*/{leaves}")), "nothing was sharded"

    one = _run(tmp_path, models, "one")
    train(one, say=quiet)
    halves = {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
    two = _run(tmp_path, models, "two", training=halves)
    sharded(two)
    _same(one, two)
    for name in ("run.json", "model", "checkpoints/checkpoint-4"):
        gone = two.output / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    sharded(two, "--resume")
    _same(one, two)
    a, b = (load_model(str(c.output / "model"), device="cpu").network.state_dict() for c in (one, two))
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)
    adapted = _run(tmp_path, models, "adapted", training=halves, lora={"r": 4}, packing=True)
    sharded(adapted)
    result = json.loads((adapted.output / "run.json").read_text())
    model = load_model(str(adapted.output / "model"), device="cpu")
    scores = score(model, split_corpus(adapted).validation)
    assert result["validation_after"] < result["validation_before"]
    assert sum(s.bits for s in scores) / sum(s.bytes for s in scores) == pytest.approx(result["validation_after"])


def test_accumulated_batches_have_the_losses_of_a_whole_one(tmp_path: Path, models: tuple[str, str]) -> None:
    one = _run(tmp_path, models, "one")
    cut = _run(
        tmp_path, models, "cut", training={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    )  # fmt: skip
    train(one, say=quiet)
    train(cut, say=quiet)
    _same(one, cut)


def test_a_dropped_batch_takes_nothing_from_the_last_full_one(tmp_path: Path, models: tuple[str, str]) -> None:
    """Of 28 examples four batches of 6 are full."""
    plain = _run(tmp_path, models, "plain", training={"per_device_train_batch_size": 6})
    full = {"per_device_train_batch_size": 6, "dataloader_drop_last": True}
    dropped = _run(tmp_path, models, "dropped", training=full)
    train(plain, say=quiet)
    train(dropped, say=quiet)
    _same(plain, dropped)
    for drop, steps in ((False, 10), (True, 8)):
        epochs = {**full, "max_steps": -1, "num_train_epochs": 2, "dataloader_drop_last": drop}
        config = _run(tmp_path, models, "epochs", training=epochs)
        assert estimate(config, split_corpus(config)).steps == steps


@pytest.mark.parametrize("changes", [{"packing": True}, {"training": {"gradient_checkpointing": True}}])
def test_packing_and_checkpointing_change_no_loss(
    tmp_path: Path, models: tuple[str, str], changes: dict[str, object]
) -> None:
    plain, other = _run(tmp_path, models, "plain"), _run(tmp_path, models, "other", **changes)
    train(plain, say=quiet)
    train(other, say=quiet)
    _same(plain, other)


def test_bf16_stays_near(tmp_path: Path, models: tuple[str, str]) -> None:
    plain, half = _run(tmp_path, models, "plain"), _run(tmp_path, models, "half", training={"bf16": True})
    train(plain, say=quiet)
    train(half, say=quiet)
    _same(plain, half, rel=2e-2)
    assert json.loads((half.output / "versions.json").read_text())["bf16"] is not lacks_bfloat16({"bf16": True})


@pytest.mark.parametrize("flag", ["", "avx512_bf16", "bf16"])
def test_bf16_is_float32_where_the_processor_only_emulates_it(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, flag: True})
    plain, half = _run(tmp_path, models, "plain"), _run(tmp_path, models, "half", training={"bf16": True})
    said: list[str] = []
    foretold = estimate(half, split_corpus(half)).notice
    train(plain, say=quiet)
    train(half, say=said.append)
    as_asked = json.loads((half.output / "versions.json").read_text())["bf16"]
    if flag:
        assert as_asked and not foretold and INSTEAD not in said and losses(plain.output) != losses(half.output)
    else:
        assert not as_asked and foretold == INSTEAD and INSTEAD in said
        assert losses(plain.output) == losses(half.output)


def test_online_teaching_gives_the_numbers_of_the_cache(tmp_path: Path, models: tuple[str, str]) -> None:
    sources = [{"model": models[0]}]
    for more in ({"sources": sources}, {"sources": sources, "fusion": {"with_target": True, "rule": "avg_ce"}}):
        name = "fused" if "fusion" in more else "one"
        kept, live = _run(tmp_path, models, name, **more), _run(tmp_path, models, f"{name}-live", online=True, **more)
        train(kept, say=quiet)
        train(live, say=quiet)
        _same(kept, live, rel=1e-3)
        assert not (live.output / "data").exists()
    documents = list(split_corpus(live).train)
    examples = OnlineExamples(live, documents)
    assert len(examples) >= len(documents) and examples[len(examples) - 1]["name"] == documents[-1].name
    namesakes = OnlineExamples(live, [replace(document, name="one name") for document in documents])
    everyone = range(len(examples))
    for one, other in zip(examples.__getitems__(everyone), namesakes.__getitems__(everyone), strict=True):
        assert one["tokens"].tolist() == other["tokens"].tolist()


def test_packed_rows_hold_what_padded_ones_do(tmp_path: Path, models: tuple[str, str]) -> None:
    config = _run(tmp_path, models, "x")
    from training.data import prepare

    examples = Examples(prepare(config, split_corpus(config).train, quiet))
    rows = [examples[n] for n in range(4)]
    packed, padded = Collator(1, packing=True)(rows), Collator(1)(rows)
    kept = padded["attention_mask"].bool()
    for name in ("input_ids", "labels", "covered", "target_ids", "target_probs"):
        assert torch.equal(packed[name][0], padded[name][kept])
    assert "attention_mask" not in packed and (packed["position_ids"] == 0).sum() == 4


def test_a_model_that_mixes_packed_documents_is_refused(
    tmp_path: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_model(models[1], device="cpu").network
    assert check_packing(network)
    whole = type(network).forward

    def blind(self: object, *args: object, position_ids: object = None, **kwargs: object) -> object:
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(network), "forward", blind)
    assert not check_packing(network)
    with pytest.raises(TrainingError, match="keep packed documents apart"):
        train(_run(tmp_path, models, "x", packing=True), say=quiet)
