"""Scores of a finished run are measured once, and never taken for those of another model or text."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.tiny_run import quiet, tiny_config
from training.config import Config, parse
from training.corpus import Document

pytest.importorskip("torch")
from training import scores
from training.evaluate import Score
from training.scores import run_scores
from training.train import train

TEXTS = [
    Document("a", "d", "the cat sat"),
    Document("b", "d", "x"),
    Document("c", "e", "on the mat, 12 times", "whole"),
]


@pytest.fixture
def run(tmp_path: Path, workspace_folder: Path) -> tuple[Path, Config]:
    folder = tmp_path / "run"
    folder.mkdir()
    target = tiny.save_model(folder / "model", "byte-bpe", 1)
    return folder, parse({"target": str(target), "corpus": {"files": [str(target)]}, "output": str(folder)})


def _plain(found: Sequence[Score]) -> list[tuple[object, ...]]:
    return [
        (replace(one, reliability=None), *(np.asarray(part).tolist() for part in vars(one.reliability).values()))  # type: ignore[arg-type]
        for one in found
    ]


def test_what_was_measured_is_read_again_without_the_model(
    run: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_scores(*run, TEXTS)
    assert [one.place for one in first] == [0, 2] and first[1].whole == "whole" and first[0].whole == "a, 0"
    monkeypatch.setattr(scores, "load_model", None)
    assert _plain(run_scores(*run, TEXTS)) == _plain(first)


def test_a_target_that_has_got_another_tokenizer_or_is_gone_does_not_count(
    tmp_path: Path, models: tuple[str, str]
) -> None:
    """The model is about the tokens that it was trained on."""
    target = shutil.copytree(models[1], tmp_path / "target")
    config = tiny_config(tmp_path, (models[0], str(target)), sources=[])
    config.training.update(max_steps=2)
    train(config, say=quiet)
    first = run_scores(config.output, config, TEXTS)
    (target / "tokenizer.json").write_bytes((Path(models[0]) / "tokenizer.json").read_bytes())
    assert [one.bits for one in run_scores(config.output, config, TEXTS)] == [one.bits for one in first]
    shutil.rmtree(target)
    assert [one.bits for one in run_scores(config.output, config, TEXTS)] == [one.bits for one in first]


def test_other_weights_and_other_texts_are_measured_anew(run: tuple[Path, Config], tmp_path: Path) -> None:
    first = run_scores(*run, TEXTS)
    assert [one.place for one in run_scores(*run, TEXTS[::-1])] == [0, 2]
    assert run_scores(*run, TEXTS[::-1])[0].bits == pytest.approx(first[1].bits)
    shutil.copy(tiny.save_model(tmp_path / "other", "byte-bpe", 7) / "model.safetensors", run[0] / "model")
    assert run_scores(*run, TEXTS)[0].bits != pytest.approx(first[0].bits)


def test_a_damaged_file_of_scores_is_measured_anew(run: tuple[Path, Config]) -> None:
    first = run_scores(*run, TEXTS)
    (kept,) = (run[0] / "scores").iterdir()
    data = kept.read_bytes()
    for damaged in (b"", data[:-9], data.replace(b"PAR1", b"PAR2")):
        kept.write_bytes(damaged)
        assert _plain(run_scores(*run, TEXTS)) == _plain(first)
    assert kept.read_bytes() == data


def test_texts_without_anything_to_predict_keep_no_scores(run: tuple[Path, Config]) -> None:
    assert run_scores(*run, TEXTS[1:2]) == [] and not (run[0] / "scores").exists()
