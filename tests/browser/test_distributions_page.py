"""The Distributions page in a browser, on the sample models."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.requires import sample

pytest.importorskip("torch")
pytestmark = [pytest.mark.browser, pytest.mark.slow]
Shoot = Callable[[Page, str], None]


def _ready(page: Page) -> None:
    """Until nothing runs any more; the first run converts and loads two models."""
    expect(page.get_by_text("Where it hurts")).to_be_visible(timeout=600_000)
    expect(page.locator("button.tok").nth(30)).to_be_visible()
    expect(page.locator(".js-plotly-plot .annotation-text").first).to_be_visible()


def test_a_click_on_a_token_shows_how_it_was_predicted(address: str, page: Page, shoot: Shoot) -> None:
    sample("smollm2-135m"), sample("gemma-3-270m")
    page.goto(f"{address}/distributions?models=gemma-3-270m&target_model=smollm2-135m&example=Code")
    _ready(page)
    chips = page.locator("button.tok")
    expect(chips.nth(60)).to_be_visible()
    field = page.get_by_role("spinbutton", name=re.compile("Target token"))
    # It opens on the token to which the published rule does most harm, and that token is marked.
    marked = page.locator("button.tok.pinned")
    expect(marked).to_have_attribute("data-index", field.input_value())
    chips.nth(20).click()
    expect(field).to_have_value("20")
    expect(page.locator("button.tok.pinned")).to_have_attribute("data-index", "20")
    # The same token clicked again after another one was looked at is looked at again.
    field.fill("30")
    field.press("Enter")
    expect(marked).to_have_attribute("data-index", "30")
    chips.nth(20).click()
    expect(field).to_have_value("20")
    for title in ("gemma-3-270m itself", "byte-exact", "fusellm-hard", "target smollm2-135m"):
        expect(page.locator(".js-plotly-plot .annotation-text", has_text=title).first).to_be_visible()
    shoot(page, "distributions")


def test_two_sources_are_fused_and_their_winner_colours_the_tokens(address: str, page: Page, shoot: Shoot) -> None:
    sample("smollm2-135m"), sample("gemma-3-270m")
    page.goto(
        f"{address}/distributions?models=gemma-3-270m&models=smollm2-135m&example=Prose&methods=byte-exact"
        "&color=best+source&rule=mean"
    )
    _ready(page)
    expect(page.get_by_text("All sources fused")).to_be_visible()
    colors = set(page.locator("button.tok").evaluate_all("all => all.map((node) => node.style.background)"))
    assert len(colors) >= 3  # two sources, and the first token, which nothing predicts
    shoot(page, "distributions-fused")
    # Training begins with what was looked at.
    page.get_by_role("link", name="Training").click()
    expect(page.get_by_text("A new run")).to_be_visible()
    shown = page.locator("[data-testid=stCode]").first
    expect(shown).to_contain_text("model: gemma-3-270m")
    expect(shown).to_contain_text("model: smollm2-135m")
    expect(shown).to_contain_text("rule: min_ce")


def test_a_model_that_is_not_there_is_told_in_words(address: str, page: Page) -> None:
    page.goto(f"{address}/distributions?models=nobody%2Fnothing")
    expect(page.get_by_test_id("stAlert").first).to_contain_text("nobody/nothing", timeout=60_000)
    expect(page.get_by_test_id("stException")).to_have_count(0)
