"""The Distributions page without a browser, on tiny models in the workspace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.support import tiny
from training.corpus import Document
from training.data import run, teaching
from training.engines import InProcess
from training.stages import teach

pytest.importorskip("torch")


PAGE = (
    "from app import state\n"
    "from app.views import distributions\n"
    "state.show('distributions', distributions.FIELDS, distributions.render)"
)


@pytest.fixture(scope="module")
def models(workspace_folder: Path) -> tuple[str, str]:
    folder = workspace_folder / "tiny"
    folder.mkdir(exist_ok=True)
    kinds = ("byte-bpe", "metaspace-bpe")
    return tuple(str(tiny.save_model(folder / kind, kind, n)) for n, kind in enumerate(kinds))  # type: ignore[return-value]


def _open(**query: str | list[str]) -> AppTest:
    page = AppTest.from_string(PAGE, default_timeout=180)
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception, page.exception
    return page


def _words(page: AppTest) -> str:
    return " ".join(element.value for element in (*page.markdown, *page.info, *page.error, *page.caption))


def test_one_source_shows_every_method_and_a_position(models: tuple[str, str]) -> None:
    page = _open(models=[models[0]], target_model=models[1], example="Prose")
    summary = page.dataframe[0].value
    assert summary["method"].tolist() == ["byte-exact", "boundary-hard", "boundary-soft", "ot", "fusellm-hard"]
    assert (summary[["exact", "chained", "approximate", "tail", "lost"]].sum(axis=1) - 1).abs().max() < 1e-5
    assert "What comes next?" in _words(page) and "All sources fused" not in _words(page)
    damage = page.dataframe[-1].value
    assert damage["damage"].is_monotonic_decreasing and len(damage) > 20
    # The page opens on the token to which the published rule does most harm.
    harm = damage["fusellm-hard"] - damage["byte-exact"]
    shown = page.number_input(key="position").value
    assert harm[damage["token"] == shown].item() == pytest.approx(harm.max(), abs=1e-9)


def test_a_long_text_is_cut_with_one_notice(models: tuple[str, str]) -> None:
    page = _open(models=[models[0]], target_model=models[1], example="Your own", text="the fox runs. " * 7_000)
    assert [warning.value for warning in page.warning] == [
        "This text has 98 KB; the page works on its first 8 KB. For all of it: `fusescope teach MODEL --file TEXT`, "
        "then choose *Taught shards* above."
    ]


def test_several_sources_are_fused(models: tuple[str, str]) -> None:
    page = _open(
        models=list(models), target_model=models[1], example="Numbers", methods=["byte-exact"], color="best source",
        rule="mean",
    )  # fmt: skip
    metrics = {metric.label: float(metric.value) for metric in page.metric if "through" in metric.label}
    fused = next(metric for metric in page.metric if metric.label == "fused")
    assert len(metrics) == 2 and 0 < float(fused.value) < max(metrics.values())


def test_taught_shards_need_no_model(models: tuple[str, str], workspace_folder: Path) -> None:
    empty = _open(origin="Taught shards")
    assert "No taught shards" in _words(empty) and "fusescope teach" in _words(empty)
    documents = [Document("a", "x", "the quick brown fox"), Document("b", "x", "over the lazy dog")]
    for n, name in enumerate(models):
        step = teaching(str(name), workspace_folder / "taught" / str(n), lambda: teach.batches(documents), top_k=20)
        run(step, lambda _: None, InProcess())
    page = _open(origin="Taught shards", color="lost or tail")
    assert page.selectbox(key="document").options == ["a (19 characters)", "b (17 characters)"]
    assert page.dataframe[0].value["method"].tolist()[0] == "byte-exact"


def test_folders_of_one_name_and_model_are_two_sources(models: tuple[str, str], workspace_folder: Path) -> None:
    documents = [Document("a", "x", "the quick brown fox jumps over the lazy dog")]
    folders = [str(workspace_folder / "taught" / parent / "shards") for parent in ("few", "many", "own")]
    for folder, model, top_k in zip(folders, (models[0], models[0], models[1]), (2, 40, 40), strict=True):
        run(teaching(model, Path(folder), lambda: teach.batches(documents), top_k=top_k), lambda _: None, InProcess())
    page = AppTest.from_string(PAGE, default_timeout=180)
    page.query_params["origin"] = "Taught shards"
    page.query_params["methods"] = ["byte-exact"]
    page.session_state["source_shards"], page.session_state["target_shards"] = folders[:2], folders[2]
    page.run()
    assert not page.exception, page.exception
    summary = page.dataframe[0].value
    assert summary["source"].tolist() == ["few/shards", "many/shards"]
    # Two entries leave more in the tail than forty: neither is shown with the other's figures.
    few, many = summary["tail"]
    assert few > many + 0.1


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"models": ["nobody/nothing"]}, "nobody/nothing"),
        ({"models": ["/etc"]}, "lies outside the folders"),
        ({"example": "Your own", "text": ""}, "The text is empty"),
        ({"example": "Your own", "text": "a"}, "too short"),
    ],
)
def test_what_is_missing_or_wrong_is_said(models: tuple[str, str], query: dict[str, object], says: str) -> None:
    page = _open(**{"models": [models[0]], "target_model": models[1], "example": "Prose", **query})  # type: ignore[arg-type]
    assert says in _words(page).replace("\\", "")


def test_folders_outside_are_refused(models: tuple[str, str]) -> None:
    from app.paths import permitted_folder
    from fusion_core import DistributionError

    for name in ("/etc", "../../../../etc", "a\0b", os.path.expanduser("~")):
        with pytest.raises(DistributionError, match=r"outside the folders|no usable path"):
            permitted_folder(name)
