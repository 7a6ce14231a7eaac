"""What is only put together and measured: merged weights, ensembles, calibration; and what is trained in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_core import ConfigError, ModelError
from tests.support import tiny
from tests.support.tiny_run import quiet, tiny_config
from tests.training.test_cli import fusescope
from training.calibration import BINS, Reliability
from training.config import dump

torch = pytest.importorskip("torch")
from fusion_core.fidelity import fused_fidelity  # noqa: E402
from fusion_core.models import load_model  # noqa: E402
from fusion_core.transfer import build_index  # noqa: E402
from training.ensemble import score_ensemble  # noqa: E402
from training.merging import linear, merge_weights, slerp  # noqa: E402
from training.scores import run_scores  # noqa: E402
from training.splits import split_corpus  # noqa: E402
from training.train import train  # noqa: E402


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[str, str, str]:
    root = tmp_path_factory.mktemp("models")
    kinds = (("a", "byte-bpe", 1), ("b", "metaspace-bpe", 2), ("c", "metaspace-bpe", 3))
    return tuple(str(tiny.save_model(root / n, kind, seed)) for n, kind, seed in kinds)  # type: ignore[return-value]


@given(st.floats(0, 1), st.floats(0.01, math.pi - 0.01))
def test_slerp_goes_along_the_circle(weight: float, angle: float) -> None:
    a, b = torch.tensor([2.0, 0.0]), 2.0 * torch.tensor([math.cos(angle), math.sin(angle)])
    expected = 2.0 * torch.tensor([math.cos(weight * angle), math.sin(weight * angle)])
    assert torch.allclose(slerp(a, b, weight), expected, atol=1e-5)


@pytest.mark.parametrize("other", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_slerp_is_linear_where_there_is_no_angle(other: list[float]) -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor(other)
    assert torch.equal(slerp(a, b, 0.25), linear(a, b, 0.25)) and slerp(a, b, 0.25).isfinite().all()


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_merged_weights_load_and_lie_between(tmp_path: Path, models: tuple[str, str, str], method: str) -> None:
    merge_weights(models[1:], tmp_path / "m", method, 0.25)
    a, b, m = (load_model(str(p), device="cpu").network.state_dict() for p in (*models[1:], tmp_path / "m"))
    combine = {"linear": linear, "slerp": slerp}[method]
    assert a.keys() == m.keys()
    for name, tensor in a.items():
        assert torch.allclose(m[name], combine(tensor, b[name], 0.25), atol=1e-6)
    for weight, same in ((0.0, a), (1.0, b)):
        merge_weights(models[1:], tmp_path / f"{weight}", method, weight)
        found = load_model(str(tmp_path / f"{weight}"), device="cpu").network.state_dict()
        assert all(torch.allclose(found[name], same[name], atol=1e-6) for name in same)


def test_what_cannot_be_merged_is_refused(tmp_path: Path, models: tuple[str, str, str]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    wide = tiny.save_model(tmp_path / "wide", "metaspace-bpe", 1)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=440, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=2)
    ).save_pretrained(str(wide))
    gpt = tiny.save_model(tmp_path / "gpt", "metaspace-bpe", 1)
    GPT2LMHeadModel(GPT2Config(vocab_size=440, n_embd=32, n_layer=1, n_head=2)).save_pretrained(str(gpt))
    turned = Path(shutil.copytree(models[1], tmp_path / "turned"))  # the same shapes, read in another way
    config = json.loads((turned / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    config["num_attention_heads"], config["head_dim"] = 2 * heads, config["hidden_size"] // heads // 2
    (turned / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for other, says in (
        (turned, f"num_attention_heads is {heads} in one and {2 * heads}"),
        (wide, r"is \[.*\] in "),
        (gpt, "not of one architecture"),
        (models[0], "entries of their vocab"),
    ):
        with pytest.raises(ModelError, match=says):
            merge_weights([models[1], str(other)], tmp_path / "out")
    for bad, says in ((("cubic", 0.5), "unknown merge"), (("linear", 2.0), "from 0 to 1")):
        with pytest.raises(ModelError, match=says):
            merge_weights(models[1:], tmp_path / "out", *bad)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".part-*"))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_what_its_definition_says(tokens: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(x) for x in zip(*tokens, strict=True))
    expected = 0.0
    for n in range(BINS):
        inside = (confidence * BINS).astype(int).clip(max=BINS - 1) == n
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    halves = [Reliability.of(confidence[part], correct[part]) for part in (slice(0, 7), slice(7, None))]
    assert Reliability.total(halves).error == pytest.approx(expected, abs=1e-9)


def test_what_is_compared_is_asked_in_float32_wherever_it_is(
    tmp_path: Path, models: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def loaded(name: str, **options: Any) -> Any:
        asked.append(options["dtype"])
        return load_model(name, **options)

    for module in ("ensemble", "scores"):
        monkeypatch.setattr(f"training.{module}.load_model", loaded)
    sources = [{"model": models[0]}]
    for kind, dtype in (("ensemble", None), ("ensemble", "bfloat16"), ("linear", None)):
        name = f"{kind}-{dtype}"
        given = [{"model": models[2]}] if kind == "linear" else sources
        config = tiny_config(
            tmp_path,
            models[:2],
            kind=kind,
            sources=given,
            teach={"dtype": dtype, "top_k": 12},
            output=str(tmp_path / name),
        )
        train(config, say=quiet)
        run_scores(config.output, config, split_corpus(config).held_out)
    assert asked == ["float32"] * 4 + ["bfloat16"] * 4 + ["float32"]


def test_an_ensemble_is_measured_as_fidelity_measures_it(tmp_path: Path, models: tuple[str, str, str]) -> None:
    config = tiny_config(
        tmp_path, models[:2], kind="ensemble", sources=[{"model": m} for m in models[:2]], fusion={"rule": "mean"}
    )  # fmt: skip
    result = train(config, say=quiet)
    assert result["finished"] and result["steps"] == 0 and not (config.output / "model").exists()
    texts = split_corpus(config).validation
    loaded = [load_model(m, device="cpu") for m in models[:2]]
    sides = [[m.predict(d.text, top_k=12) for d in texts] for m in loaded]
    indices = [build_index(m.tokenizer, loaded[1].tokenizer) for m in loaded]
    _, fused = fused_fidelity(sides, sides[1], indices, rules=["mean"])
    assert result["validation_after"] == pytest.approx(fused[0].bpb, rel=1e-6)
    for changes, says in (({"sources": []}, "needs sources"), ({"sources": [{"model": models[0], "method":
        "published-hard"}]}, "whole distributions")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            score_ensemble(tiny_config(tmp_path, models[:2], kind="ensemble", **changes), texts)


def test_what_an_attempt_left_that_was_killed_is_no_obstacle(
    tmp_path: Path, models: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, models[:2], kind="linear", sources=[{"model": models[2]}])

    def killed(_: object, folder: Path, *__: object) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("training.train.merge_weights", killed)
        train(config, say=quiet)
    assert (config.output / "model" / "model.safetensors").read_bytes() == b"half"
    assert train(config, say=quiet)["finished"]


def test_an_ensemble_that_cannot_be_is_refused_where_nothing_is_measured_too(
    tmp_path: Path, models: tuple[str, str, str]
) -> None:
    config = tiny_config(tmp_path, models[:2], kind="ensemble", sources=[])
    unmeasured = config.model_copy(update={"corpus": config.corpus.model_copy(update={"validation": 0.0})})
    with pytest.raises(ConfigError, match="needs sources"):
        train(unmeasured, say=quiet)


def test_an_ensemble_chosen_by_what_is_to_be_predicted_is_refused(tmp_path: Path, models: tuple[str, str, str]) -> None:
    oracle = {"rule": "min_ce", "level": "token"}
    with pytest.raises(ConfigError, match="lets the gold token choose"):
        train(tiny_config(tmp_path, models[:2], kind="ensemble", fusion=oracle), say=quiet)


def test_one_line_in_a_config_makes_each_baseline_and_evaluate_shows_them_side_by_side(
    tmp_path: Path, models: tuple[str, str, str]
) -> None:
    lines = {
        "clm": {"sources": []},
        "slerp": {"kind": "slerp", "sources": [{"model": models[2]}]},
        "ensemble": {"kind": "ensemble"},
    }
    for name, changes in lines.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            dump(tiny_config(tmp_path, models[:2], output=str(tmp_path / name), **changes)), encoding="utf-8"
        )
        found = fusescope("train", str(path))
        assert found.returncode == 0, found.stderr
    page = tmp_path / "runs.html"
    runs = [str(tmp_path / name) for name in lines]
    found = fusescope("evaluate", *runs, "--before", "--format", "json", "--plot", str(page))
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)
    assert [row["model"] for row in rows] == [models[1], *runs]
    assert all(0 <= row["calibration error"] <= 1 and row["bits per byte"] > 0 for row in rows)
    content = page.read_text(encoding="utf-8")
    assert "Calibration" in content and "<script src=" not in content
    missing = fusescope("evaluate", runs[0], "--tasks", "no_such_task")
    assert missing.returncode == 2 and "lm-eval" in missing.stderr


def test_a_trained_model_brings_its_tokenizer(tmp_path: Path, models: tuple[str, str, str]) -> None:
    from transformers import AutoTokenizer

    config = tiny_config(tmp_path, models[:2])
    train(config, say=quiet)
    folder = str(config.output / "model")
    text = "the quick brown fox, naïve café"
    expected = load_model(models[1], device="cpu").tokenizer.encode(text).ids.tolist()
    assert load_model(folder, device="cpu").tokenizer.encode(text).ids.tolist() == expected
    assert AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False) == expected
