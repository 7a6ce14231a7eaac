"""What the Training page lets through, and what it hands out."""

from __future__ import annotations

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from fusion_core import ConfigError

pytest.importorskip("torch")
from app.views.training import _as_file, _checked
from training import runs

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
    assert told == ["the config of *this* run is damaged"] * 2  # of the table of runs, and of their texts
