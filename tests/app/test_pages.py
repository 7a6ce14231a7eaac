"""The pages' content without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.requires import sample

MAIN = Path(__file__).parents[2] / "app" / "main.py"


def _open(**query: str) -> AppTest:
    sample("qwen"), sample("deepseek")
    page = AppTest.from_file(str(MAIN), default_timeout=120)
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


def _metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def test_it_opens_on_two_samples_and_an_example_with_figures() -> None:
    page = _open()
    assert [box.value for box in page.selectbox[:2]] == ["qwen", "deepseek"]
    assert _metrics(page)["Shared boundaries"].endswith("%")
    assert page.dataframe[0].value["kind"].isin(["1:1", "1:n", "n:1", "n:m", "unpaired"]).all()


def test_the_url_is_the_whole_state() -> None:
    page = _open(
        source="mistral", target="minilm", method="dtw", cost="containment", compare="pieces", against="exact",
        example="Your own", text="Hello 東京",
    )  # fmt: skip
    assert page.text_area[0].value == "Hello 東京"
    assert [box.value for box in page.selectbox] == ["mistral", "minilm", "dtw", "exact", "containment", "pieces"]
    assert {"Path cost", "Agreement"} <= set(_metrics(page))


def test_a_file_that_is_no_text_is_told_until_another_one_comes() -> None:
    page = _open(example="Your own", text="Hello 東京")
    page.file_uploader(key="upload").upload("latin.txt", "naïve".encode("latin-1"), "text/plain").run()
    says = "The file is not UTF-8 (byte 2). Convert it first, for example with iconv."
    assert [error.value for error in page.error] == [says] and page.text_area[0].value == "Hello 東京"
    page.selectbox(key="method").select("dtw").run()  # the page is drawn anew, and the file is still no text
    assert [error.value for error in page.error] == [says]
    page.file_uploader(key="upload").upload("text.txt", "naïve".encode(), "text/plain").run()
    assert not page.error and page.text_area[0].value == "naïve" and not page.exception


def test_choosing_another_method_changes_the_figures() -> None:
    span, warped = (_metrics(_open(example="Numbers", method=method)) for method in ("span", "dtw"))
    assert "Path cost" in warped and "Path cost" not in span


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"source": "qwne"}, "did you mean 'qwen'"),
        ({"target": "/etc/passwd"}, "lies outside the folders"),
        ({"source": "nobody/nothing"}, "the hub did not provide it"),
        ({"source": "a\0b"}, "NUL"),
    ],
)
def test_a_wrong_name_is_one_clear_error(query: dict[str, str], says: str) -> None:
    page = _open(**query)
    assert len(page.error) == 1 and says in page.error[0].value.replace("\\", "")
    assert not page.metric


def test_an_empty_text_says_what_to_do() -> None:
    page = _open(example="Your own")
    assert "The text is empty" in page.info[0].value and not page.metric


def test_a_long_text_is_cut_and_says_so() -> None:
    page = AppTest.from_file(str(MAIN), default_timeout=120)
    page.query_params["example"] = "Your own"
    page.session_state["own_text"] = "word " * 1_000_000
    page.run()
    assert "5 MB" in page.warning[0].value and _metrics(page)["Shared boundaries"] == "100.0%"


def test_the_same_tokenizer_on_both_sides_is_said() -> None:
    page = _open(source="qwen", target="qwen")
    assert "the same tokenizer" in page.info[0].value and _metrics(page)["Equal one to one"] == "100.0%"
