"""Runs of the command line and of other machines are found, and their folders tell how they stand."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_core import TrainingError
from fusion_core.sealed import write_json
from training import progress, runs
from training.finding import find_runs
from training.processes import alone, at_work, of_pid, read_process, write_process


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "workspace"))


def _run(folder: Path, *more: str, age: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.yaml", "versions.json", *more):
        (folder / name).write_text("target: a\ncorpus: {name: stdlib-code}\noutput: gone\n", encoding="utf-8")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    return folder


def test_runs_are_found_by_where_they_lie_the_newest_first(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    _run(here / "sweep" / "clm" / "only,seed=0", age=30)
    _run(here / "alone", age=20)
    _run(there / "alone", age=40)
    _run(here / ".hidden" / "x")
    _run(here / "a" / "b" / "c" / "d" / "e")
    _run(here / "alone" / "inside")  # a run holds no other
    (here / "loop").symlink_to(here)
    (here / os.fsdecode(b"caf\xe9")).mkdir()  # no page could show it
    _run(here / os.fsdecode(b"caf\xe9") / "x")
    found = find_runs([here, there, here])
    assert list(found) == ["./alone", "sweep/clm/only,seed=0", str(there / "alone")]
    os.utime(there / "alone" / "versions.json")  # it goes on, and names stay
    assert find_runs([here, there])["./alone"] == here / "alone"
    assert list(find_runs([here / "alone"])) == [str(here / "alone")]
    assert find_runs([tmp_path / "nowhere"]) == {}


def test_what_the_app_launched_is_its_own_and_nothing_else_is(tmp_path: Path) -> None:
    _run(runs.run_folder("mine"), "launch.yaml")
    _run(runs.run_folder("by-hand"))
    elsewhere = _run(tmp_path / "elsewhere", "launch.yaml")
    _run(runs.runs_folder() / "mine (copy)", "launch.yaml", age=9)  # under a name that the app gives none
    assert list(find_runs([tmp_path / "workspace"])) == ["runs/by-hand", "runs/mine (copy)"]
    assert runs.read_run(runs.run_folder("mine")).resumable
    for folder in (runs.run_folder("by-hand"), elsewhere):
        run = runs.read_run(folder)
        assert run.state == "failed" and not run.launched and not run.resumable
        assert run.config().output == folder
        with pytest.raises(TrainingError, match="not started by the app"):
            runs.remove(run)
        assert folder.exists()


def test_many_folders_below_one_root_hide_nothing_below_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.finding._FOLDERS", 5)
    for n in range(9):
        (tmp_path / "many" / f"{n}").mkdir(parents=True)
    _run(tmp_path / "few" / "data" / "model")
    assert list(find_runs([tmp_path / "many", tmp_path / "few"])) == ["data/model"]


def test_figures_that_no_page_could_draw_are_passed_over(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    rows = ['{"step": 1, "loss": 2.5, "big": 1e300}', f'{{"step": {10**30}, "loss": 1}}', '{"step": 2, "loss": NaN}']
    (folder / "metrics.jsonl").write_text("\n".join(rows), encoding="utf-8")
    write_json(
        folder / "progress.json", progress.FORMAT, progress.VERSION, {"stage": "a", "number": 1, "of": 2, "done": "a"}
    )
    run = runs.read_run(folder)
    assert run.metrics == [{"step": 1, "loss": 2.5}, {"step": 2}] and run.standing is None


def test_a_run_that_goes_on_is_not_removed(tmp_path: Path) -> None:
    folder = _run(runs.run_folder("mine"), "launch.yaml")
    seen = runs.read_run(folder)
    with alone(folder), pytest.raises(TrainingError, match="another process"):
        runs.remove(seen)
    with at_work(folder), pytest.raises(TrainingError, match="is running"):
        runs.remove(seen)
    runs.remove(seen)
    assert not folder.exists()


def test_a_run_is_running_while_its_process_is_at_work(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), at_work(folder):
        assert runs.read_run(folder, "x/run").state == "running"
        raise ZeroDivisionError
    assert runs.read_run(folder).state == "failed"  # although this process goes on
    write_process(folder, replace(of_pid(os.getpid()), told=True))  # by who launched it, and then stopped it
    with at_work(folder):
        assert runs.read_run(folder).state == "running"
    assert runs.read_run(folder).state == "stopped"


def test_the_first_of_several_processes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with at_work(tmp_path):
        assert read_process(tmp_path) is None


def test_another_machines_run_is_running_as_long_as_it_writes(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    write_process(folder, replace(of_pid(os.getpid()), host="another-machine"))
    assert runs.read_run(folder).state == "failed"
    (folder / "progress.json").write_text("{}", encoding="utf-8")
    run = runs.read_run(folder)
    assert run.state == "running"
    assert not runs.stop(run)  # no process of this machine is meant
    os.utime(folder / "progress.json", (time.time() - 3600, time.time() - 3600))
    assert runs.read_run(folder).state == "failed"
