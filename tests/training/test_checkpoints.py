"""After an interruption: what is whole is kept, what is not is as if it never was."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusion_core import TrainingError
from training.checkpoints import latest, rewind


def _checkpoint(run: Path, step: int, state: str = "{}", optimizer: bool = True) -> Path:
    folder = run / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(state, encoding="utf-8")
    if optimizer:
        with zipfile.ZipFile(folder / "optimizer.pt", "w") as archive:  # the form of torch's files
            archive.writestr("data", b"0" * 4000)
    return folder


def _metrics(run: Path, rows: list[dict[str, object]], tail: str = "") -> Path:
    path = run / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path


def test_the_newest_whole_one_counts(tmp_path: Path) -> None:
    assert latest(tmp_path / "checkpoints") is None
    _checkpoint(tmp_path, 3)
    whole = _checkpoint(tmp_path, 20)
    _checkpoint(tmp_path, 100, '{"epoch": ')
    (tmp_path / "checkpoints" / "checkpoint-200").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-x").mkdir()
    assert latest(tmp_path / "checkpoints") == whole


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors"])
def test_a_checkpoint_that_was_cut_is_passed_over(tmp_path: Path, name: str) -> None:
    whole, cut = _checkpoint(tmp_path, 3), _checkpoint(tmp_path, 6)
    save_file({"weight": np.zeros(1000, np.float32)}, cut / "model.safetensors")
    assert latest(tmp_path / "checkpoints") == cut
    with (cut / name).open("r+b") as file:
        file.truncate(2000)
    assert latest(tmp_path / "checkpoints") == whole


def test_rows_after_it_and_half_rows_go(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 4)
    _checkpoint(tmp_path, 8, "")
    rows = [
        {"step": 2, "loss": 3.0, "tokens": 10, "seconds": 1.5},
        {"step": 4, "loss": 2.0, "tokens": 20, "seconds": 3.0},
    ]
    path = _metrics(tmp_path, [*rows, {"step": 6, "loss": 1.0, "tokens": 30}], '{"step": 7, "lo')
    assert rewind(tmp_path) == (20, 3.0)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-4"]


def test_the_leave_of_a_stopped_run_is_taken_back(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 4)
    path = _metrics(
        tmp_path, [{"step": 4, "loss": 2.0}, {"step": 4, "train_runtime": 9.0}, {"step": 4, "eval_bits_per_byte": 1.0}]
    )
    rewind(tmp_path)
    assert path.read_text().count("\n") == 1


def test_weights_alone_are_not_gone_on_with(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 4, optimizer=False)
    with pytest.raises(TrainingError, match="no optimizer state"):
        rewind(tmp_path)
