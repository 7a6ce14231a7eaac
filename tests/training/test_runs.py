"""Runs are processes of their own: launched, watched, stopped, resumed."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from fusion_core import ConfigError, TrainingError
from fusion_core.sealed import write_json
from tests.support import tiny
from tests.training.test_cli import fusescope
from training import runs
from training.config import Config, parse
from training.data import taught_folders
from training.finding import find_runs

pytest.importorskip("torch")
from training.train import train

LINES = ["the quick brown fox jumps over the lazy dog", "the dog naps while the fox runs over the hill"] * 10


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "workspace"))
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(f"{line} {n}" for n, line in enumerate(LINES)), encoding="utf-8")
    model = tiny.save_model(tmp_path / "model", "byte-bpe", 1)
    return parse(
        {
            "target": str(model),
            "corpus": {"files": [str(text)], "paragraphs": True, "validation": 0.1, "held_out": 0.1},
            "training": {
                "max_steps": 60, "use_cpu": True, "save_strategy": "steps", "save_steps": 5, "logging_steps": 1,
                "per_device_train_batch_size": 2,
            },
            "output": "unused",
        }
    )  # fmt: skip


def _wait(name: str, *states: str, steps: int = 0) -> runs.Run:
    for _ in range(600):
        run = runs.read_run(runs.run_folder(name))
        if run.state in states and max((row["step"] for row in run.metrics), default=0) >= steps:
            return run
        time.sleep(0.1)
    raise AssertionError(f"still {run.state}: {run.log()}")


def test_a_run_is_stopped_resumed_and_finished(config: Config) -> None:
    started = runs.launch("one", config)
    assert started.state == "running"
    with pytest.raises(TrainingError, match="already"):
        runs.launch("one", config)
    run = _wait("one", "running", steps=6)
    runs.stop(run)
    stopped = _wait("one", "stopped", "finished")
    if stopped.state == "stopped":
        assert stopped.resumable and not stopped.result
        assert runs.launch("one", config, resume=True).state == "running"
    done = _wait("one", "finished")
    assert done.result["steps"] == 60 and [run.name for run in runs.list_runs()] == ["one"]
    with pytest.raises(TrainingError, match="cannot be resumed"):
        runs.launch("one", config, resume=True)


def test_a_run_that_is_stopped_before_it_trains_was_stopped(config: Config) -> None:
    short = config.model_copy(update={"training": {**config.training, "max_steps": 2}})
    runs.stop(runs.launch("early", short))
    assert _wait("early", "stopped", "failed").state == "stopped"
    runs.launch("early", short, resume=True)
    assert _wait("early", "finished").result["steps"] == 2


def test_a_run_of_relative_paths_goes_on_from_anywhere(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was launched before its paths were made absolute."""
    monkeypatch.chdir(tmp_path)
    value = json.loads(config.model_dump_json()) | {"target": "model"}
    value["corpus"]["files"] = ["lines.txt"]
    value["training"] |= {"max_steps": 4, "save_steps": 2}
    runs.launch("new", parse(value))
    assert _wait("new", "finished").config().target == str(tmp_path / "model")
    folder = runs.run_folder("old")
    train(parse(value | {"output": str(folder)}), say=lambda _: None)
    (folder / "launch.yaml").write_text((folder / "config.yaml").read_text())
    (folder / "run.json").unlink()
    monkeypatch.chdir("/")
    old = runs.read_run(folder)
    assert old.resumable
    runs.launch("old", old.config(), resume=True)
    assert _wait("old", "finished").result["steps"] == 4


def test_a_run_is_found_while_its_data_are_made(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Path]] = []

    def looked(*_: object, **__: object) -> None:
        seen.append(find_runs([tmp_path]))
        raise KeyboardInterrupt

    monkeypatch.setattr("training.train.prepare", looked)
    with pytest.raises(KeyboardInterrupt):
        train(config.model_copy(update={"output": tmp_path / "run", "sources": []}), say=lambda _: None)
    assert list(seen[0]) == ["./run"]


def test_a_run_that_fails_says_why(config: Config) -> None:
    runs.launch("bad", config.model_copy(update={"target": "/nowhere"}))
    failed = _wait("bad", "failed")
    assert "there is no file or folder" in failed.log() and failed.resumable
    # Without a checkpoint it begins again, in the same folder.
    short = config.model_copy(update={"training": {**config.training, "max_steps": 2}})
    runs.launch("bad", short, resume=True)
    assert _wait("bad", "finished").result["steps"] == 2


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", "a\0", ".hidden", "x" * 65, "a b"])
def test_a_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a run"):
        runs.run_folder(name)


def test_a_hub_token_is_written_nowhere(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = "hf_" + "NeverWriteThisDown" * 2
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runs.launch("good", config.model_copy(update={"training": {**config.training, "max_steps": 3}}))
    runs.launch("bad", config.model_copy(update={"target": "nobody/nothing-of-that-name"}))
    _wait("good", "finished")
    assert "nobody/nothing-of-that-name" in _wait("bad", "failed").log()
    files = [path for path in (tmp_path / "workspace").rglob("*") if path.is_file()]
    assert len(files) > 20 and not [path for path in files if token.encode() in path.read_bytes()]


def test_a_second_run_in_the_same_folder_is_refused(config: Config) -> None:
    from training.processes import alone

    folder = runs.run_folder("two")
    with alone(folder), pytest.raises(TrainingError, match="another process is training"), alone(folder):
        raise AssertionError("both had it")
    with alone(folder):  # it is free again
        pass


def test_folders_that_are_no_runs_are_not_listed(config: Config) -> None:
    for name in ("sound", "<img src=x>", ".hidden", "two words"):
        folder = runs.runs_folder() / name
        folder.mkdir(parents=True)
        (folder / "launch.yaml").write_text("target: a\n", encoding="utf-8")
    assert [run.name for run in runs.list_runs()] == ["sound"]


@pytest.mark.parametrize("pid", [0, -1, 1 << 40, "x", None, float("inf")])
def test_a_damaged_process_file_is_no_process(config: Config, pid: object) -> None:
    folder = runs.run_folder("odd")
    folder.mkdir(parents=True)
    write_json(folder / "process.json", runs.FORMAT, runs.VERSION, {"pid": pid, "born": "1"})
    assert runs.read_run(folder).state == "failed"
    (folder / "process.json").write_text(json.dumps({"pid": 1, "born": "1"}), encoding="utf-8")
    assert runs.read_run(folder).state == "failed"


@pytest.mark.parametrize(
    "message", ["[enforce fail at inline_container.cc:664] unexpected pos", "basic_ios::clear: iostream error"]
)
def test_a_disk_that_fills_up_under_torch_is_told(tmp_path: Path, message: str) -> None:
    from training.guards import failures_told

    with pytest.raises(TrainingError, match="make room for it"), failures_told(tmp_path):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="shape"), failures_told(tmp_path):
        raise RuntimeError("a shape does not fit")


def test_a_run_of_relative_paths_is_read_from_another_folder(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    value = json.loads(config.model_dump_json()) | {"target": "model", "output": "run"}
    value["corpus"]["files"] = ["lines.txt"]
    value["training"]["max_steps"] = 2
    train(parse(value), say=lambda _: None)
    monkeypatch.chdir("elsewhere")
    found = runs.read_config(Path("../run"), ["corpus.limit=3"])
    assert [path.resolve() for path in found.corpus.files] == [tmp_path / "lines.txt"] and found.corpus.limit == 3
    assert os.path.samefile(found.target, tmp_path / "model")
    done = fusescope("evaluate", "../run", "--before", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 2 and "seen" not in done.stderr
    # In another order of splitting: what is held out of them was trained on.
    done = fusescope("evaluate", "../run", "--set", "corpus.split=order")
    assert done.returncode == 0 and re.search(r"was trained on \d of these", done.stderr), done.stderr
    lines = tmp_path / "lines.txt"
    lines.write_text(lines.read_text(encoding="utf-8").replace("fox", "box"), encoding="utf-8")
    done = fusescope("evaluate", "../run")
    assert done.returncode == 0 and "the corpus has changed since it was trained" in done.stderr


def test_what_models_were_taught_is_found_from_anywhere(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folders' names hold those of the models and files as the config spells them."""
    monkeypatch.chdir(tmp_path)
    value = json.loads(config.model_dump_json())
    value |= {"target": "model", "sources": [{"model": "./model"}], "output": "run", "teach": {"top_k": 4}}
    value["corpus"]["files"] = ["lines.txt"]
    value["training"]["max_steps"] = 1
    train(parse(value), say=lambda _: None)
    monkeypatch.chdir("/")
    run = runs.read_run(tmp_path / "run")
    assert len(taught_folders(run.written())) == 2 and run.config().target == str(tmp_path / "model")
