"""Markup in texts, tokens, names and logs: looked for in the browser's own document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.support import tiny
from training.config import dump, parse

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Shoot = Callable[[Page, str], None]

HOSTILE = (
    "<script>window.hacked=1</script>",
    '<img src="http://evil.invalid/x.png" onerror="window.hacked=2">',
    '"><svg/onload=window.hacked=3>',
    "'\"`><body onload=window.hacked=4>",
    "<iframe srcdoc='<script>parent.hacked=5</script>'></iframe>",
    "![x](http://evil.invalid/y.png)",
    "[click](javascript:window.hacked=6)",
    '<a href="javascript:window.hacked=7" id="evil-link">x</a>',
    "<style>@import 'http://evil.invalid/z.css';</style>",
    "</textarea><script>window.hacked=8</script>",
    "{{constructor.constructor('window.hacked=9')()}}",
    ":material/home: :red[red] $\\href{javascript:window.hacked=10}{x}$",
    "\u003cimg src=x onerror=window.hacked=11\u003e",
    "<b onmouseover=window.hacked=12 autofocus tabindex=1 onfocus=window.hacked=13>x</b>",
)
# What none of them may leave in the document, looked for in shadow roots too. An address that Streamlit makes a link is
# harmless: it shows where it leads, and nothing is asked for before a click.
_TRACES = """() => {
    const found = [], roots = [document];
    while (roots.length) {
        const root = roots.pop();
        for (const node of root.querySelectorAll('*')) {
            if (node.shadowRoot) roots.push(node.shadowRoot);
            if (node.tagName === 'A' && /^https?:/.test(node.href) && node.rel.includes('noopener')
                && decodeURI(node.getAttribute('href')) === node.textContent) continue;
            for (const one of node.attributes) {
                const inline = one.name.startsWith('on') && one.value.includes('hacked');
                const linked = ['href', 'src', 'srcdoc', 'xlink:href', 'style'].includes(one.name)
                    && /evil\\.invalid|javascript:|hacked/i.test(one.value);
                if (inline || linked) found.push(node.outerHTML.slice(0, 200));
            }
            if (['SCRIPT', 'STYLE'].includes(node.tagName) && /hacked|evil\\.invalid/.test(node.textContent))
                found.push(node.outerHTML.slice(0, 200));
        }
    }
    return found;
}"""


@pytest.fixture
def watched(page: Page) -> Iterator[Page]:
    """A page on which nothing of the above may have happened when the test ends."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield page
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked === undefined")
    assert page.evaluate(_TRACES) == []
    assert not dialogs and not [url for url in asked if urlsplit(url).hostname == "evil.invalid"]


def _hover_all(page: Page, selector: str, most: int = 12) -> None:
    for n in range(min(most, page.locator(selector).count())):
        page.locator(selector).nth(n).hover(force=True)


def test_in_a_text(address: str, watched: Page) -> None:
    text = " ".join(HOSTILE)
    for method in ("span", "dtw"):
        watched.goto(f"{address}/?example={quote('Your own')}&text={quote(text)}&method={method}&against=exact")
        watched.locator(".tok").first.wait_for()
        _hover_all(watched, ".tok")
    watched.get_by_role("tab", name="Cost matrix").click()
    expect(watched.get_by_role("textbox", name="Your text")).to_have_value(text)


@pytest.mark.parametrize("first", range(0, len(HOSTILE), 4))
def test_in_names_that_are_told_to_be_wrong(address: str, watched: Page, first: int) -> None:
    name = " ".join(HOSTILE[first : first + 4])
    watched.goto(f"{address}/?source={quote(name)}&target={quote(name)}")
    expect(watched.get_by_test_id("stAlert").first).to_contain_text("hacked")


def test_in_the_tokens_of_a_vocabulary(address: str, watched: Page, workspace_folder: Path, shoot: Shoot) -> None:
    folder = workspace_folder / "hostile ![x](http:evil.invalid)"
    folder.mkdir()
    tree = json.loads(tiny.train("byte-bpe", folder).read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tree["added_tokens"] += [{"id": 400 + n, "content": one, **flags} for n, one in enumerate(HOSTILE)]
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    name = quote(str(folder / "tokenizer.json"))
    watched.goto(f"{address}/vocabulary?source={name}&target=qwen")
    search = watched.get_by_role("textbox", name="Search").first
    search.wait_for(timeout=60_000)
    search.fill("hacked")
    search.press("Enter")
    expect(watched.get_by_test_id("stCaptionContainer").filter(has_text="entries").first).to_be_visible()
    expect(watched.get_by_test_id("stException")).to_have_count(0)
    watched.goto(f"{address}/?source={name}&target={name}&example={quote('Your own')}&text={quote(' '.join(HOSTILE))}")
    watched.locator(".tok").first.wait_for()
    _hover_all(watched, ".tok")
    shoot(watched, "hostile-tokens")


def test_in_a_runs_log_and_metrics(address: str, watched: Page, workspace_folder: Path) -> None:
    config = {"target": HOSTILE[1], "corpus": {"name": "stdlib-code"}, "output": "x"}
    made = []
    for name in ("hostile-run", '<img src=x onerror="window.hacked=14">'):
        folder = workspace_folder / "runs" / name
        folder.mkdir(parents=True)
        made.append(folder)
        (folder / "launch.yaml").write_text(dump(parse(config)), encoding="utf-8")
        (folder / "log.txt").write_text("\n".join(HOSTILE), encoding="utf-8")
        rows = [{"step": 1, "loss": 2.0, HOSTILE[0]: 1.0}, {"step": 2, "loss": HOSTILE[1]}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        watched.goto(f"{address}/training")
        expect(watched.get_by_text("hostile-run: failed").first).to_be_visible(timeout=60_000)
        expect(watched.get_by_text("window.hacked=1").first).to_be_visible()  # the log, as it is
        expect(watched.get_by_text('onerror="window.hacked=14"')).to_have_count(0)  # no name of a run
        expect(watched.get_by_test_id("stException")).to_have_count(0)
    finally:
        for folder in made:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def test_an_uploaded_files_name_is_never_a_path(address: str, watched: Page, workspace_folder: Path) -> None:
    before = {path for path in workspace_folder.rglob("*") if "cache" not in path.parts}
    watched.goto(f"{address}/?example={quote('Your own')}")
    for name in ("../../escaped.txt", "/etc/cron.d/x.txt", "<img src=x onerror=window.hacked=15>.txt"):
        upload = {"name": name, "mimeType": "text/plain", "buffer": b"the quick brown fox, uploaded"}
        watched.locator("input[type=file]").first.set_input_files([upload])  # type: ignore[list-item]
        expect(watched.get_by_role("textbox", name="Your text")).to_have_value("the quick brown fox, uploaded")
    after = {path for path in workspace_folder.rglob("*") if "cache" not in path.parts}
    assert {path for path in after - before if path.is_file()} == set()
    assert not (workspace_folder.parent / "escaped.txt").exists() and not Path("/etc/cron.d/x.txt").exists()
