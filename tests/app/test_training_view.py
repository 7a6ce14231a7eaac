"""What the Training page lets through, and what it hands out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from fusion_core import ConfigError

pytest.importorskip("torch")
from app import watching
from app.views.training import _as_file, _checked
from fusion_core.sealed import write_json
from training import runs
from training.processes import FORMAT, VERSION

TEXT = "target: smollm2-135m\nsources: []\ncorpus: {name: stdlib-docstrings}"


@pytest.mark.parametrize("argument", ["report_to: [wandb]", "report_to: all", "trackio_space_id: me/x", "project: x"])
def test_nothing_is_sent_elsewhere(argument: str) -> None:
    with pytest.raises(ConfigError, match="use it on the command line"):
        _checked(f"{TEXT}\ntraining: {{{argument}}}")
    assert _checked(f"{TEXT}\ntraining: {{report_to: tensorboard}}").training["report_to"]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_file_is_what_was_shown_with_a_folder_for_the_run(end: str) -> None:
    assert yaml.safe_load(_as_file(TEXT + end)) == {**yaml.safe_load(TEXT), "output": "runs/my-run"}
    own = f"{TEXT}\noutput: runs/mine{end}"
    assert _as_file(own) == own


def test_errors_in_parts_that_draw_themselves_anew_are_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[object]:
        raise ConfigError("the config of *this* run is damaged")

    monkeypatch.setattr(runs, "list_runs", broken)
    page = AppTest.from_string("from app.views import training\ntraining.render()", default_timeout=120).run()
    assert not page.exception, page.exception
    told = [error.value.replace("\\", "") for error in page.error]
    assert told == ["the config of *this* run is damaged"] * 3  # of the table of runs, their comparison and their texts


PAGE = """
import streamlit as st
from app import state
from app.views import training
st.session_state["_pages"] = {}
state.show("training", training.FIELDS, training.render)
"""


def test_another_run_begins_with_the_config_of_one_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path))
    first = tmp_path / "runs" / "first"
    first.mkdir(parents=True)
    (first / "launch.yaml").write_text(f"{TEXT}\nloss: {{lam: 0.3}}\noutput: {first}\n", encoding="utf-8")
    page = AppTest.from_string(PAGE, default_timeout=120).run()
    page.button(key="again_first").click().run()
    assert not page.exception, page.exception
    begun = yaml.safe_load(page.text_area(key="train_yaml").value)
    asked = {name: value for name, value in yaml.safe_load(TEXT).items() if value}
    assert begun == {**asked, "loss": {"lam": 0.3}}
    assert page.text_input(key="train_name").value == "first-2" and page.toggle(key="train_own").value
    # It is in the address, and comes back with it.
    again = AppTest.from_string(PAGE, default_timeout=120)
    for name in ("train_own", "train_yaml", "train_name"):
        again.query_params[name] = page.query_params[name]
    again.run()
    assert yaml.safe_load(again.text_area(key="train_yaml").value) == begun


def test_a_form_that_is_changed_is_not_covered_by_older_text() -> None:
    page = AppTest.from_string(PAGE, default_timeout=120).run()
    page.toggle(key="train_own").set_value(True).run()
    page.text_area(key="train_yaml").set_value("target: mine").run()
    page.toggle(key="train_own").set_value(False).run()
    page.toggle(key="train_own").set_value(True).run()
    assert page.text_area(key="train_yaml").value == "target: mine"  # nothing was changed since
    page.toggle(key="train_own").set_value(False).run()
    page.number_input(key="train_batch").set_value(2).run()
    page.toggle(key="train_own").set_value(True).run()
    assert "per_device_train_batch_size: 2" in page.text_area(key="train_yaml").value
    page.text_area(key="train_yaml").set_value("# " + "x" * 5000).run()
    assert "train_yaml" not in page.query_params  # too long for an address


def test_what_a_runs_folder_names_is_read_within_the_apps_folders_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path / "workspace"))
    folder = tmp_path / "workspace" / "forged"
    folder.mkdir(parents=True)
    outside = f"target: {tmp_path}\ncorpus: {{name: stdlib-code}}\noutput: x\n"
    (folder / "config.yaml").write_text(outside, encoding="utf-8")
    for name in ("versions.json", "run.json"):
        write_json(folder / name, FORMAT, VERSION, {})
    watching._begun_elsewhere.clear()
    page = AppTest.from_string(PAGE, default_timeout=120).run()
    assert page.multiselect(key="train_picked").value == ["./forged"]
    assert "lies outside the folders" in " ".join(caption.value for caption in page.caption)  # of its texts
    page.button(key="compare").click().run()
    assert [("lies outside the folders" in error.value) for error in page.error] == [True] and not page.exception
    watching._begun_elsewhere.clear()
