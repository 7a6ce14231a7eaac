"""The app as a user starts it, and a Chromium to walk through it; screenshots go to artifacts/."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.requires import chromium, sample

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def address(workspace_folder: Path) -> Iterator[str]:
    for name in ("qwen", "deepseek", "mistral", "minilm"):
        sample(name)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    log = (workspace_folder / "app.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "training", "app", "--no-browser", "--port", str(port)], stdout=log, stderr=log
    )
    url = f"http://localhost:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).read()
                break
            except OSError:
                assert server.poll() is None, (workspace_folder / "app.log").read_text()
                time.sleep(0.25)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)
        log.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    expect.set_options(timeout=30_000)  # a busy machine draws slowly; waiting costs nothing where it does not
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own; a script error in it fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert not errors, errors


@pytest.fixture
def shoot() -> Callable[[Page, str], None]:
    """Keep a picture of the whole page."""

    def shot(page: Page, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        height = page.evaluate("document.querySelector('[data-testid=stMain]')?.scrollHeight || 1000")
        page.set_viewport_size({"width": 1400, "height": min(4000, height + 60)})
        page.wait_for_timeout(600)
        page.screenshot(path=ARTIFACTS / f"{name}.png")

    return shot
