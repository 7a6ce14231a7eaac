"""A user's walk through the Alignment page, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.support.page import settled

pytestmark = pytest.mark.browser
Shoot = Callable[[Page, str], None]


def _choose(page: Page, label: str, option: str) -> None:
    box = page.get_by_role("combobox", name=label, exact=False).first
    box.click()
    box.fill(option)
    page.get_by_role("option", name=option, exact=True).first.click()


def _ready(page: Page) -> None:
    page.locator(".tok").first.wait_for()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def _metric(page: Page, label: str) -> str:
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue").inner_text()


def test_it_opens_on_samples_and_draws_every_token(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(address)
    _ready(page)
    assert page.locator(".tok[data-side=source]").count() > 30
    assert page.locator(".tok[data-side=target]").count() > 30
    assert page.locator("svg path").count() > 30
    shoot(page, "alignment")


def test_the_page_has_an_address_of_its_name_too(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/alignment?example=Code&source=mistral")
    _ready(page)
    expect(page.get_by_text("Page not found")).to_have_count(0)
    expect(page.get_by_role("radio", name="Code")).to_be_checked()
    expect(page.get_by_role("navigation", name="App pages").get_by_role("link")).to_have_count(4)
    shoot(page, "alignment-by-name")
    page.get_by_role("link", name="Vocabulary").click()  # and its choices go along
    page.wait_for_function("location.pathname == '/vocabulary' && location.search.includes('mistral')")


def test_no_part_is_wider_than_the_page(address: str, page: Page) -> None:
    page.set_viewport_size({"width": 900, "height": 900})
    page.goto(f"{address}/?example=Code&method=dtw&against=span")
    _ready(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_choosing_tokenizers_text_and_method_is_kept_in_the_url(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(address)
    _ready(page)
    _choose(page, "Source tokenizer", "mistral")
    page.get_by_test_id("stButtonGroup").get_by_text("Chinese", exact=True).click()
    _choose(page, "Method", "dtw")
    page.wait_for_function("location.search.includes('mistral') && location.search.includes('dtw')")
    expect(page.get_by_test_id("stMetric").filter(has_text="Path cost")).to_be_visible()
    cost = _metric(page, "Path cost")
    page.goto(page.url)  # what a colleague sees who is sent the address
    _ready(page)
    assert _metric(page, "Path cost") == cost and "Chinese" in page.url
    page.get_by_role("tab", name="Cost matrix").click()
    page.locator(".js-plotly-plot .heatmaplayer").first.wait_for()
    shoot(page, "cost-matrix-chinese")


def test_pointing_at_a_token_lights_its_partners_and_clicking_keeps_it(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/?example=Numbers")
    _ready(page)
    token = page.locator(".tok[data-side=target]").nth(3)
    token.hover()
    expect(page.locator(".tok[data-side=source].lit").first).to_be_visible()
    expect(page.locator(".details")).to_contain_text("bytes")
    token.click()
    page.wait_for_function("location.search.includes('token=t3')")
    page.reload()
    _ready(page)
    expect(page.locator(".tok.pinned")).to_have_attribute("data-index", "3")
    shoot(page, "token-pinned")


def test_comparing_methods_lists_what_they_disagree_on(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/?example={quote('Mixed scripts')}&method=span&against=dtw&source=qwen&target=mistral")
    _ready(page)
    expect(page.get_by_test_id("stMetric").filter(has_text="Agreement")).to_be_visible()
    page.get_by_role("tab", name="Disagreements").click()
    expect(page.get_by_text("only one of the two methods has")).to_be_visible()
    shoot(page, "methods-compared")


def test_what_is_seen_can_be_downloaded(address: str, page: Page) -> None:
    page.goto(f"{address}/?example={quote('Your own')}&text={quote('Hello 東京 12345')}")
    _ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="All as JSON").click()
    found = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert found["text"] == "Hello 東京 12345" and found["source"]["tokenizer"] == "qwen"
    with page.expect_download() as download:
        page.get_by_role("button", name="Links as CSV").click()
    lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(found["edges"]) + 1


def test_markup_in_a_text_stays_text(address: str, page: Page, shoot: Shoot) -> None:
    hostile = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> **b** [l](javascript:1)'
    page.goto(f"{address}/?example={quote('Your own')}&text={quote(hostile)}&method=dtw")
    _ready(page)
    page.locator(".tok").first.hover()
    page.get_by_role("tab", name="Cost matrix").click()
    page.locator(".js-plotly-plot .heatmaplayer").first.wait_for()
    assert page.evaluate("window.hacked === undefined")
    shoot(page, "hostile-text")


def test_a_wrong_name_is_a_message_and_can_be_mended(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/?source=qwne&target={quote('<b>x</b>')}")
    error = page.get_by_test_id("stAlert")
    expect(error).to_contain_text("did you mean 'qwen'")
    shoot(page, "wrong-name")
    page.goto(f"{address}/?source=qwen&target=/etc/passwd")
    expect(page.get_by_test_id("stAlert")).to_contain_text("outside the folders")
    _choose(page, "Target tokenizer", "minilm")
    _ready(page)


def test_typing_and_emptying_a_text(address: str, page: Page) -> None:
    page.goto(f"{address}/?example={quote('Your own')}")
    expect(page.get_by_text("The text is empty")).to_be_visible()
    box = page.get_by_label("Your text")
    box.fill("naïve 🙂")
    box.press("Control+Enter")
    _ready(page)
    box.fill("")
    box.press("Control+Enter")
    expect(page.get_by_text("The text is empty")).to_be_visible()


def test_uploading_five_megabytes_works_on_the_start_and_says_so(address: str, page: Page, shoot: Shoot) -> None:
    page.goto(f"{address}/?example={quote('Your own')}")
    # Only when its first run has ended does the page take what is put into its fields for sure.
    expect(page.get_by_test_id("stAlert")).to_contain_text("The text is empty")
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    data = ("The quick brown fox, 東京 and 12345.\n" * 130_000).encode()
    page.locator("input[type=file]").set_input_files({"name": "big.txt", "mimeType": "text/plain", "buffer": data})
    # While the page is drawn anew the old notice stands beside the new one.
    expect(page.get_by_test_id("stAlert").filter(has_text="5.1 MB")).to_be_visible(timeout=120_000)
    _ready(page)
    assert page.locator(".tok").count() < 5000
    shoot(page, "large-text")


def test_going_back_brings_back_what_the_page_showed(page: Page, address: str) -> None:
    page.goto(f"{address}/?source=mistral&target=minilm&example=Code&method=dtw")
    expect(page.get_by_text("Path cost").first).to_be_visible()
    settled(page)
    entries, before = page.evaluate("history.length"), page.url
    page.get_by_role("link", name="Vocabulary").click()
    expect(page.get_by_text("Exact counterpart")).to_be_visible()
    settled(page)
    assert page.evaluate("history.length") == entries + 1  # one for its path and its query
    page.go_back()
    page.wait_for_url(before)
    expect(page.get_by_text("Path cost").first).to_be_visible()
    source, target = (page.get_by_label(f"{side} tokenizer").last for side in ("Source", "Target"))
    expect(source).to_have_value("mistral")
    expect(target).to_have_value("minilm")
    source.click()
    source.fill("qwen")
    page.keyboard.press("Enter")
    expect(page).not_to_have_url(re.compile("source=mistral"))
    expect(page.get_by_text("Path cost").first).to_be_visible()
    page.go_back()
    expect(source).to_have_value("mistral")
    expect(page).to_have_url(re.compile("source=mistral.*target=minilm.*example=Code.*method=dtw"))


def test_going_back_undoes_the_last_choice(address: str, page: Page) -> None:
    """The user's own text and the token that was clicked are in the address as the pickers are."""
    page.goto(f"{address}/?source=mistral&target=minilm&example=Your+own")
    area = page.get_by_role("textbox", name="Your text")
    expect(area).to_be_visible(timeout=60_000)
    for text in ("hello one", "second text here"):
        before = page.url
        area.fill(text)
        area.press("Control+Enter")
        page.wait_for_function(f"location.href !== {json.dumps(before)} && location.search.includes('text=')")
        expect(page.locator(".tok[data-side=source]").first).to_contain_text(text[:3])
        settled(page)
    page.locator(".tok[data-side=source]").nth(1).click()
    page.wait_for_function("location.search.includes('token=s1')")
    settled(page)
    page.locator(".tok[data-side=target]").nth(2).click()
    page.wait_for_function("location.search.includes('token=t2')")
    settled(page)
    page.go_back()
    expect(page.locator(".tok.pinned")).to_have_attribute("data-side", "source", timeout=20_000)
    settled(page)
    page.go_back()
    expect(page.locator(".tok.pinned")).to_have_count(0, timeout=20_000)
    settled(page)
    page.go_back()
    expect(page.get_by_role("textbox", name="Your text")).to_have_value("hello one", timeout=20_000)
