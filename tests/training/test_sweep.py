"""A sweep chooses on validation, judges on held-out documents, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusion_core import ConfigError, TrainingError
from tests.support import tiny
from tests.support.tiny_run import quiet, tiny_config
from training.commands.evaluation import evaluate
from training.config import load
from training.console import Format
from training.seeds import by_method
from training.sweep import Sweep, read_sweep, run
from training.sweep.plan import value_of
from training.sweep.search import FORMAT, VERSION, read_trials

pytest.importorskip("torch")
import training.train
from fusion_core.sealed import read_json, write_json


@pytest.fixture
def sweep(tmp_path: Path, workspace_folder: Path) -> Sweep:
    models = tuple(str(tiny.save_model(tmp_path / n, k, i)) for n, k, i in (("a", "byte-bpe", 1), ("b", "byte-bpe", 2)))
    config = tiny_config(tmp_path, models, output=str(tmp_path / "sweep"))
    shared = json.loads(config.model_dump_json(exclude_unset=True))
    shared["training"] = {"max_steps": 2, "learning_rate": 3e-3, "use_cpu": True, "disable_tqdm": True}
    value = {
        "config": shared,
        "methods": {"clm": {"sources": []}, "byte-exact": {}},
        "grid": {"loss.lam": [0.1, 0.9]},
        "fixed": {"clm": ["loss.lam"]},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return read_sweep(path)


RECIPES = Path(training.__file__).parent / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_recipes_are_what_this_program_reads(path: Path) -> None:
    if "methods:" in path.read_text(encoding="utf-8"):
        assert len(read_sweep(path).methods) >= 3
    else:
        load(path)


def test_a_small_learning_rate_in_the_grid_stays_a_number(sweep: Sweep) -> None:
    value = value_of(sweep, "clm", {"training.learning_rate": 5e-5}, 0)
    assert value["training"]["learning_rate"] == 5e-5


def test_another_seed_asks_for_the_best_setting_and_not_for_its_model(tmp_path: Path, sweep: Sweep) -> None:
    """Models take room, and one that was judged may be removed while the sweep goes on."""
    root, said = tmp_path / "sweep", list[str]()

    def say(line: str) -> None:
        said.append(line)
        if "before training" in line:  # the table of a seed that was judged
            for model in root.glob("*/*/model"):
                shutil.rmtree(model)

    rows = run(replace(sweep, seeds=[0, 1]), say)["rows"]
    assert sum(line.endswith(" ...") for line in said) == 3 + 2
    settings = [row["setting"] for row in rows if row["method"] == "byte-exact"]
    assert len(settings) == 2 and settings[0] == settings[1]


def test_each_methods_best_setting_is_judged_and_a_rerun_trains_nothing(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row["method"]: row for row in run(sweep, quiet)["rows"]}
    assert list(rows) == ["clm", "byte-exact", "before training"]
    trials = read_json(tmp_path / "sweep" / "trials.json", FORMAT, VERSION)["trials"]
    bits = {lam: trials[f"byte-exact/lam={lam},seed=0"]["validation_after"] for lam in (0.1, 0.9)}
    best = min(bits, key=bits.__getitem__)
    assert rows["byte-exact"]["setting"] == {"loss.lam": best} and rows["clm"]["setting"] == {}
    assert rows["byte-exact"]["validation_bits_per_byte"] == bits[best]
    kept = {path.parent.name for path in (tmp_path / "sweep" / "byte-exact").glob("*/model")}
    assert kept == {f"lam={best},seed=0"}

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training.train, "train", never)
    assert {row["method"]: row["held_out"] for row in run(sweep, quiet)["rows"]} == {
        n: r["held_out"] for n, r in rows.items()
    }


def test_models_that_are_not_kept_are_not_trained_again_to_be_judged(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = replace(sweep, seeds=[0, 1], keep_models=False)
    found = run(sweep, quiet)
    assert not list((tmp_path / "sweep").glob("*/*/model"))
    whole, made = training.train.train, []

    def counted(config: Any, **options: Any) -> dict[str, Any]:
        made.append(config.output.parent.name)
        return whole(config, **options)

    monkeypatch.setattr(training.train, "train", counted)
    assert run(sweep, quiet) == found and made == []
    path = tmp_path / "sweep" / "trials.json"
    trials = read_trials(path)
    for trial in trials.values():
        assert trial.pop("weights")  # as older versions left it
    write_json(path, FORMAT, VERSION, {"trials": trials})
    once_more = run(sweep, quiet)
    assert len(made) == 4 and run(sweep, quiet) == once_more and len(made) == 4  # two methods, two seeds
    with pytest.raises(TrainingError, match="has no model any more"):
        evaluate([next((tmp_path / "sweep" / "clm").iterdir())])
    made.clear()
    # What was not measured before cannot be, without the model.
    shutil.rmtree(next((tmp_path / "sweep" / "clm").glob("*seed=1")) / "scores")
    again = run(sweep, quiet)
    assert made == ["clm"]
    assert [row["held_out"] for row in again["rows"]] == [row["held_out"] for row in found["rows"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": [1]}, "no field 'seed', did you mean 'seeds'"), ({"keep_models": "no"}, "true or false")],
)
def test_a_wrong_field_of_a_sweep_is_named(tmp_path: Path, sweep: Sweep, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"config": sweep.config, "methods": {"clm": {}}, **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        read_sweep(path)


def test_methods_are_compared_on_the_same_documents_or_not_at_all(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.train, "train", None)
    sweep.methods["more"] = {"corpus.limit": 12}
    with pytest.raises(ConfigError, match=r"more .* has other validation documents"):
        run(sweep, quiet)
    # It is the methods that must agree, not the config that none of them is.
    one = replace(sweep, methods={"clm": {"sources": []}}, grid={"corpus.limit": [12]}, fixed={})
    with pytest.raises(TypeError):  # it comes to the training
        run(one, quiet)


def test_each_method_may_name_its_target_and_a_sweep_keeps_what_its_config_says(tmp_path: Path, sweep: Sweep) -> None:
    shared = {**sweep.config, "data": str(tmp_path / "shared"), "training": {**sweep.config["training"], "seed": 7}}
    target = shared.pop("target")
    path = tmp_path / "own.yaml"
    methods = {"clm": {"target": target, "sources": []}, "other": {"target": target}}
    path.write_text(yaml.safe_dump({"config": shared, "methods": methods}), encoding="utf-8")
    found = run(read_sweep(path), quiet)["rows"]
    assert [(row["method"], row["seed"]) for row in found] == [("clm", 7), ("other", 7), ("before training", 7)]
    assert (tmp_path / "shared").is_dir() and not (tmp_path / "sweep" / "data").exists()
    for seeds, says in (([3, -1], "0 or more"), ([1 << 32, 3], "at most")):
        path.write_text(yaml.safe_dump({"config": sweep.config, "methods": methods, "seeds": seeds}), encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"training\.seed: must be .*{says}"):
            read_sweep(path)


@pytest.mark.parametrize("name", ["../../victim", "a/b", "..", "before training", ""])
def test_a_method_cannot_name_a_folder_elsewhere(tmp_path: Path, sweep: Sweep, name: str) -> None:
    """What is in a run's folder is removed where it was interrupted."""
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"config": sweep.config, "methods": {name: {}}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot name a method"):
        read_sweep(path)
    for changes in (
        {"methods": {}},
        {"methods": {"clm": {}}, "seeds": []},
        {"methods": {"clm": {}}, "seeds": [1, 0, 1]},
    ):
        path.write_text(yaml.safe_dump({"config": sweep.config, **changes}), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"a sweep needs|named twice"):
            read_sweep(path)
    for changes, says in (
        ({"methods": {"clm": ["sources=[]"]}}, "by name the changes"),
        ({"methods": {"clm": "sources=[]"}}, "by name the changes"),
        ({"methods": {"clm": {}}, "grid": {"loss.lam": []}}, "no value for loss.lam"),
        ({"methods": {"clm": {}}, "grid": {"loss.lam": [1]}, "fixed": {"cml": ["loss.lam"]}}, "'fixed' holds cml"),
        ({"methods": {"clm": {}}, "grid": {"loss.lam": [1]}, "fixed": {"clm": ["lam"]}}, "'fixed' holds clm"),
        ({"methods": {"clm": {}}, "seeds": [0, 1 << 32]}, "4294967295 at most"),
    ):
        path.write_text(yaml.safe_dump({"config": sweep.config, **changes}), encoding="utf-8")
        with pytest.raises(ConfigError, match=says):
            read_sweep(path)
    root, folder = Path(sweep.config["output"]), value_of(sweep, "clm", {"target": "../../x"}, 0)["output"]
    assert Path(folder).resolve().parent == (root / "clm").resolve()


def test_another_config_is_another_trial(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def recorded(config: Any, **options: Any) -> dict[str, Any]:
        made.append(config.training["max_steps"])
        return {"validation_after": None, "finished": True}

    monkeypatch.setattr(training.train, "train", recorded)
    for steps in (2, 2, 3):
        sweep.config["training"]["max_steps"] = steps
        with pytest.raises(TrainingError, match="every setting of 'clm' diverged"):
            run(sweep, quiet)
    assert made == [2, 3]


def test_other_texts_or_weights_are_another_trial(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def recorded(config: Any, **options: Any) -> dict[str, Any]:
        made.append(1)
        return {"validation_after": None, "finished": True}

    monkeypatch.setattr(training.train, "train", recorded)
    text = Path(sweep.config["corpus"]["files"][0])
    weights = Path(sweep.config["target"]) / "model.safetensors"
    for change, trained in (
        (lambda: None, 1),
        (lambda: None, 1),
        (lambda: text.write_text(text.read_text(encoding="utf-8").replace("fox", "box"), encoding="utf-8"), 2),
        (lambda: os.utime(weights, (0, 0)), 3),
    ):
        change()
        with pytest.raises(TrainingError, match="every setting of 'clm' diverged"):
            run(sweep, quiet)
        assert len(made) == trained


def test_a_smaller_grid_brings_back_the_model_that_had_lost(sweep: Sweep) -> None:
    rows = {row["method"]: row for row in run(sweep, quiet)["rows"]}
    (loser,) = {0.1, 0.9} - {rows["byte-exact"]["setting"]["loss.lam"]}
    sweep.grid["loss.lam"] = [loser]
    again = {row["method"]: row for row in run(sweep, quiet)["rows"]}
    assert again["byte-exact"]["setting"] == {"loss.lam": loser}
    assert again["byte-exact"]["held_out"] != rows["byte-exact"]["held_out"]


@pytest.mark.parametrize("part", ["validation", "held_out"])
def test_documents_to_choose_on_and_to_judge_on_are_asked_for_first(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(training.train, "train", None)
    sweep.config["corpus"][part] = 0.0
    with pytest.raises(ConfigError, match=r"see corpus\.validation and corpus\.held_out"):
        run(sweep, quiet)


def test_a_run_that_was_stopped_is_no_trial(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, made = training.train.train, []

    def stopped(config: Any, **options: Any) -> dict[str, Any]:
        made.append(config.output.name)
        return {**whole(config, **options), "finished": len(made) != 2}

    monkeypatch.setattr(training.train, "train", stopped)
    with pytest.raises(TrainingError, match=r"stopped in byte-exact/lam=0\.1,seed=0; the same command"):
        run(sweep, quiet)
    assert list(read_trials(tmp_path / "sweep" / "trials.json")) == ["clm/only,seed=0"]
    run(sweep, quiet)
    assert made == ["only,seed=0", "lam=0.1,seed=0", "lam=0.1,seed=0", "lam=0.9,seed=0"]


def test_several_seeds_are_judged_together(tmp_path: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """Further seeds train the setting that the first one chose, and each method has one row of all of them."""
    sweep.seeds.append(1)
    found = run(sweep, quiet)
    rows = {(row["method"], row["seed"]): row for row in found["rows"]}
    assert rows["byte-exact", 0]["setting"] == rows["byte-exact", 1]["setting"]
    assert len(list((tmp_path / "sweep" / "byte-exact").iterdir())) == 3  # two settings, and one of them once more
    over = {row["method"]: row for row in found["over_seeds"]}
    assert list(over) == ["clm", "byte-exact", "before training"]
    assert over["clm"]["seeds"] == [0, 1] and over["before training"]["seeds"] == []
    for method in ("clm", "byte-exact"):
        ((domain, both),) = over[method]["held_out"].items()
        each = [rows[method, seed]["held_out"][domain]["bits_per_byte"] for seed in (0, 1)]
        assert both["bits_per_byte"] == pytest.approx(sum(each) / 2, abs=2e-5) and each[0] != each[1]
    assert read_json(tmp_path / "sweep" / "results.json", FORMAT, VERSION)["over_seeds"] == found["over_seeds"]

    runs = sorted(str(path.parent) for path in (tmp_path / "sweep").glob("*/*/model"))
    clm, ours = [run for run in runs if "clm" in run], [run for run in runs if "byte-exact" in run]
    capsys.readouterr()  # what the Trainer prints
    asked: dict[str, Any] = {"split": "held_out", "over_seeds": True}
    evaluate([Path(run) for run in (*reversed(clm), *ours)], before=True, output=Format.json, **asked)
    shown = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["seeds"]) for row in shown] == [(sweep.config["target"], 1), (clm[0], 2), (ours[0], 2)]
    for row, method in zip(shown[1:], ("clm", "byte-exact"), strict=True):
        (both,) = over[method]["held_out"].values()
        assert row["bits per byte"] == pytest.approx(both["bits_per_byte"], abs=1e-5)
    evaluate([Path(run) for run in (*clm, *ours)], output=Format.table, **asked)
    out = capsys.readouterr().out
    assert "clm/only,seed=0" in out and "seeds" in out and str(tmp_path) not in out
    with pytest.raises(ConfigError, match="one method with one seed"):
        by_method({"a": load(Path(clm[0]) / "config.yaml"), "b": load(Path(clm[0]) / "config.yaml")})


def test_the_sources_ensemble_is_judged_beside_what_is_trained(tmp_path: Path, sweep: Sweep) -> None:
    sweep.methods.pop("byte-exact")
    sweep.methods["ensemble"] = {"kind": "ensemble"}
    sweep.fixed["ensemble"] = ["loss.lam"]
    rows = {row["method"]: row for row in run(sweep, quiet)["rows"]}
    assert list(rows) == ["clm", "ensemble", "before training"]
    ((_, judged),) = rows["ensemble"]["held_out"].items()
    assert judged["bits_per_byte"] > 0 and judged["difference"] != 0 and rows["ensemble"]["steps"] == 0
    assert (tmp_path / "sweep" / "ensemble" / "only,seed=0" / "scores").is_dir()
