"""A user's walk through the Vocabulary page, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.support.page import settled

pytestmark = pytest.mark.browser
Shoot = Callable[[Page, str], None]
PAIR = "source=mistral&target=minilm"


def _ready(page: Page) -> None:
    page.locator(".js-plotly-plot").first.wait_for(timeout=40_000)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_it_shows_what_maps_how(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}")
    _ready(page)
    expect(page.get_by_test_id("stDataFrame").first).to_be_visible()
    expect(page.get_by_text("Latin").first).to_be_visible()
    expect(page.get_by_text("8 largest of")).to_be_visible()
    shoot(page, "vocabulary")


def test_one_entry_is_followed_through_every_kind(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}&entry=5000")
    _ready(page)
    for kind in ("hard", "soft", "first-token"):
        expect(page.get_by_text(kind, exact=False).first).to_be_visible()
    assert "entry=5000" in page.url
    shoot(page, "vocabulary-entry")


@pytest.mark.parametrize(("wanted", "found"), [("hello", "hello"), (" that", "␣that")])
def test_searching_and_downloading(address: str, page: Page, wanted: str, found: str) -> None:
    """A space is found as it is typed, though tables show it as ␣."""
    page.goto(f"{address}/vocabulary?{PAIR}&search={quote(wanted)}")
    _ready(page)
    with page.expect_download() as download:
        page.get_by_test_id("stDownloadButton").get_by_role("button").first.click()
    rows = download.value.path().read_text(encoding="utf-8").splitlines()
    assert 1 < len(rows) < 200 and all(found in row.lower() for row in rows[1:])


def test_nothing_found_says_so(address: str, page: Page) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}&search={quote('no such entry <b>')}")
    _ready(page)
    expect(page.get_by_text("No entry matches.")).to_be_visible()


def test_weighting_by_a_text_and_switching_pages_keep_the_choice(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}&weighted=true&example=Code")
    _ready(page)
    shoot(page, "vocabulary-weighted")
    page.get_by_role("link", name="Alignment").click()
    page.locator(".tok").first.wait_for()
    expect(page.get_by_role("combobox", name="Source tokenizer").first).to_have_value("mistral")
    page.wait_for_function(
        "['source=mistral', 'target=minilm', 'example=Code'].every((p) => location.search.includes(p))"
    )


def test_the_largest_pair_arrives_behind_a_progress_bar(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/vocabulary?source=qwen&target=deepseek")
    expect(page.get_by_test_id("stProgress").or_(page.locator(".js-plotly-plot")).first).to_be_visible()
    _ready(page)
    expect(page.get_by_test_id("stProgress")).to_have_count(0)
    shoot(page, "vocabulary-large")


def test_a_selected_row_does_not_outlive_its_table(address: str, page: Page) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}")
    _ready(page)
    entries, field = page.get_by_test_id("stDataFrame").first, page.get_by_role("spinbutton").first
    entries.scroll_into_view_if_needed()
    box = entries.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 18, box["y"] + 35 * 8 + 17)  # the eighth row's box; they are drawn on a canvas
    expect(field).to_have_value("7")
    search = page.get_by_role("textbox", name="Search")
    search.fill("javascript")
    search.press("Enter")
    expect(page.get_by_text(re.compile(r"^\d+ entr(y|ies)$"))).to_be_visible()
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(field).to_have_value("7")


def test_going_back_to_other_tokenizers_brings_back_the_entry_that_was_chosen(address: str, page: Page) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}")
    _ready(page)
    entry = page.get_by_role("spinbutton", name="Source id")
    entry.fill("123")
    entry.press("Enter")
    page.wait_for_function("location.search.includes('entry=123')")
    settled(page)
    source = page.get_by_role("combobox", name="Source tokenizer").first
    source.click()
    source.fill("minilm")
    page.get_by_role("option", name="minilm", exact=True).click()
    page.wait_for_function("location.search.includes('source=minilm')", timeout=60_000)
    _ready(page)
    settled(page)
    expect(entry).not_to_have_value("123")
    page.go_back()
    expect(entry).to_have_value("123", timeout=60_000)
    page.wait_for_function("location.search.includes('entry=123')")


def test_going_back_takes_a_search_back(address: str, page: Page) -> None:
    page.goto(f"{address}/vocabulary?{PAIR}")
    _ready(page)
    box = page.get_by_role("textbox", name="Search")
    for wanted in ("the", "zzzzqq"):
        box.fill(wanted)
        box.press("Enter")
        page.wait_for_function(f"location.search.includes('search={wanted}')")
        settled(page)
    page.go_back()
    expect(box).to_have_value("the", timeout=20_000)
    settled(page)
    page.go_back()
    expect(box).to_have_value("", timeout=20_000)
