"""Twenty sessions at once on the app: most speak its WebSocket protocol, some are real browsers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

import psutil

from fusion_core import SAMPLES
from tests.torture.outcome import Row

# One word for each session, a single token for most sample tokenizers, and none that the app or its plots say (as
# "window" and "candlestick"): an answer that holds another session's is not its own.
WORDS = (
    "elephant", "tiger", "coffee", "garden", "winter", "summer", "banana", "butter", "turtle", "guitar", "doctor",
    "monkey",
    "pocket", "bridge", "castle", "forest", "island", "market", "planet", "rocket",
)  # fmt: skip
# Words by which a browser knows that its last text is shown.
_TURNS = ("bread", "horse", "music", "paper", "river", "sugar")
# What the app may grow to: tokenizers, models and results within their caps (app/results.py), and Python itself.
MEMORY = 6 << 30
GROWTH = 1.10
P95 = 2.0
_T = TypeVar("_T")


@dataclass
class Server:
    """The app as a user starts it."""

    port: int
    process: psutil.Process
    log: Path

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self.process.memory_info().rss)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start the app, and stop it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    log = folder / "app.log"
    environment = {
        **os.environ,
        "CI": "1",
        "FUSESCOPE_WORKSPACE": os.environ.get("FUSESCOPE_WORKSPACE", str(folder / "workspace")),
    }
    command = [sys.executable, "-m", "training", "app", "--no-browser", "--port", str(port)]
    with log.open("wb") as sink:
        started = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1).read()
                break
            except OSError:
                time.sleep(0.25)
        yield Server(port, psutil.Process(started.pid), log)
    finally:
        started.terminate()
        started.wait(timeout=20)


@dataclass
class Seen:
    """What all sessions went through."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, seconds: float, failure: str) -> None:
        self.seconds.setdefault(kind, []).append(seconds)
        if failure:
            self.failures.append(failure)


def p95(values: list[float]) -> float:
    """The 95th percentile, 0 of nothing."""
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)] if values else 0.0


class Session:
    """One WebSocket session on one page."""

    def __init__(self, port: int, page: str, query: str) -> None:
        self.port, self.page, self.query = port, page, query
        self._ids: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        import websockets

        address = f"localhost:{self.port}"
        self._socket = await websockets.connect(
            f"ws://{address}/_stcore/stream", subprotocols=["streamlit"], origin=f"http://{address}", max_size=None,  # type: ignore[list-item, arg-type]
            ping_timeout=None,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    async def run(self, **values: str) -> tuple[bytes, bool]:
        """Run the page with widgets, by their keys, changed; all that came back, and whether it holds an exception."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        message = BackMsg()
        message.rerun_script.query_string = self.query
        message.rerun_script.page_name = self.page
        for key, value in values.items():
            state = message.rerun_script.widget_states.widgets.add()
            state.id, state.string_value = self._ids[key], value
        await self._socket.send(message.SerializeToString())
        parts, broken = [], False
        while True:
            data = await asyncio.wait_for(self._socket.recv(), 120)
            assert isinstance(data, bytes)
            parts.append(data)
            forward = ForwardMsg()
            forward.ParseFromString(data)
            kind = forward.WhichOneof("type")
            if kind == "delta" and forward.delta.WhichOneof("type") == "new_element":
                element = forward.delta.new_element
                name = element.WhichOneof("type")
                broken |= name == "exception"
                identity = getattr(getattr(element, name), "id", "")
                if isinstance(identity, str) and identity.startswith("$$ID-"):
                    self._ids[identity.split("-", 2)[2]] = identity
            if kind == "script_finished":
                return b"".join(parts), broken


def _finished(work: Coroutine[object, object, _T]) -> _T:
    """Run in a thread of its own: the caller's may have a loop already, as after the browser tests Playwright's."""
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(asyncio.run, work).result()


def draws_a_page(port: int) -> bool:
    """Whether the Alignment page of a server runs to its end and sends tokens."""

    async def ask() -> bool:
        async with Session(port, "", "source=qwen&target=mistral&example=Prose") as session:
            data, broken = await session.run()
            return not broken and data.count(b'"piece"') > 20

    return _finished(ask())


def _text(number: int, rng: random.Random) -> str:
    filler = " ".join(rng.choices(("the", "old", "house", "and", "a", "long", "road", "of", "stone"), k=40))
    return f"{filler} {WORDS[number]} {rng.randrange(10**6)} {filler} {WORDS[number]}"


def _wrong(data: bytes, number: int, broken: bool) -> str:
    if broken:
        return f"session {number}: an exception on the page"
    if WORDS[number].encode() not in data:
        return f"session {number}: its own text is not in the answer"
    others = [word for n, word in enumerate(WORDS) if n != number and word.encode() in data]
    return f"session {number}: the answer holds another session's text ({others})" if others else ""


async def _person(
    server: Server,
    number: int,
    page: str,
    query: str,
    opened: asyncio.Barrier,
    seconds: float,
    pause: float,
    seen: Seen,
) -> None:
    rng = random.Random(number)
    text, turn = _text(number, rng), 0
    async with Session(server.port, page, f"{query}&example=Your%20own&text={quote(text)}") as session:
        try:
            await session.run()  # not counted: tokenizers and models are loaded
            await opened.wait()
            until = time.time() + seconds
            while time.time() < until:
                await asyncio.sleep(rng.uniform(0, 2 * pause))
                turn += 1
                kind, values = page or "alignment", {}
                if page != "distributions" or turn % 3 == 0:
                    text = _text(number, rng)
                    kind += ", a new text" if page == "distributions" else ""
                else:  # looked at in another way
                    values = {"color": rng.choice(("gold token, nats", "lost or tail", "what happened"))}
                start = time.time()
                data, broken = await session.run(own_text=text, **values)
                seen.add(kind, time.time() - start, _wrong(data, number, broken))
        except Exception as error:
            seen.add(page, 120.0, f"session {number}: {type(error).__name__}: {error}")


async def _glutton(server: Server, opened: asyncio.Barrier, seconds: float, seen: Seen) -> None:
    """Asks for the most that the page gives: 40 KB of short tokens warped, the largest vocabularies mapped."""
    rng = random.Random(99)
    query = "source=mistral&target=minilm&method=dtw&compare=pieces&example=Your%20own&text=x"
    async with (
        Session(server.port, "", query) as first,
        Session(server.port, "vocabulary", "source=qwen3.6&target=gemma-3-270m") as second,
    ):
        await first.run()
        await opened.wait()
        until = time.time() + seconds
        while time.time() < until:
            text = "".join(rng.choices("qxzjv", k=40_000))
            done = await asyncio.gather(first.run(own_text=text), second.run(), return_exceptions=True)
            for one in done:
                if isinstance(one, BaseException):
                    seen.failures.append(f"the one who asks for much: {type(one).__name__}: {one}")


def _browse(server: Server, number: int, until: float, pause: float, seen: Seen) -> None:
    from playwright.sync_api import Error, sync_playwright

    from tests.browser.conftest import FLAGS
    from tests.support.requires import chromium

    rng, turn = random.Random(number), 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page()
        try:
            page.goto(
                f"http://localhost:{server.port}/?example=Your%20own&text={quote(_text(number, rng))}", timeout=60_000
            )
            page.locator(".tok").first.wait_for(timeout=60_000)
            while time.time() < until:
                time.sleep(rng.uniform(0, 2 * pause))
                turn += 1
                start = time.time()
                page.get_by_label("Your text").fill(f"{WORDS[number]} and {_TURNS[turn % len(_TURNS)]} on the road")
                page.get_by_label("Your text").press("Control+Enter")
                page.locator(".tok[data-side=target]").get_by_text(_TURNS[turn % len(_TURNS)]).wait_for(timeout=60_000)
                text = page.locator(".strip").inner_text()
                others = [word for n, word in enumerate(WORDS) if n != number and word in text]
                seen.add(
                    "browser",
                    time.time() - start,
                    f"browser {number}: shows another's text ({others})" if others else "",
                )
        except Error as error:
            seen.add("browser", 120.0, f"browser {number}: {error}")
        finally:
            browser.close()


def _places(models: bool = True) -> list[tuple[str, str]]:
    """A page and the tokenizers or models of each session."""
    pairs = [
        ("qwen", "mistral"),
        ("deepseek", "minilm"),
        ("mistral", "qwen"),
        ("minilm", "deepseek"),
        ("qwen", "deepseek"),
    ]
    alignment = [("", f"source={a}&target={b}&method={m}") for a, b in pairs for m in ("span", "dtw")]
    vocabulary = [("vocabulary", f"source={a}&target={b}") for a, b in pairs[:3]]
    found = [*alignment, *vocabulary]
    if models and all(SAMPLES[name].path for name in ("smollm2-135m", "gemma-3-270m")):
        found += [("distributions", "models=gemma-3-270m&target_model=smollm2-135m")] * 3
    return found


def load(
    folder: Path, seconds: float, *, browsers: int = 4, pause: float = 8.0, models: bool = True, timed: bool = True
) -> list[Row]:
    """Sessions for `seconds` each with and without one that asks for much; then as many interactions as fit into as
    long, one after the other, while memory is watched."""
    places = _places(models)[: 20 - browsers]
    rows = []
    with serving(folder) as server:
        for title, greedy in (("20 sessions", False), ("20 sessions, one of them asking for much", True)):
            seen = Seen()
            until = time.time() + seconds + 15  # the pages open first
            threads = [
                threading.Thread(target=_browse, args=(server, 19 - n, until, pause, seen), daemon=True)
                for n in range(browsers)
            ]
            for thread in threads:
                thread.start()
            _finished(_all(server, places, seconds, pause, seen, greedy=greedy))
            for thread in threads:
                thread.join(120)
            rows.append(_judged(Row(f"load: {title}"), seen, timed))
            rows[-1].count(server.memory < MEMORY, f"{server.memory >> 20} MB")
            rows[-1].note += f"; {server.memory >> 20} MB"
        rows.append(_soak(server, places, seconds, timed))
        if models:
            rows.append(_loaded_once(server))
    return rows


async def _all(
    server: Server, places: list[tuple[str, str]], seconds: float, pause: float, seen: Seen, *, greedy: bool = False
) -> None:
    opened = asyncio.Barrier(len(places) + greedy)
    people = [_person(server, n, *place, opened, seconds, pause, seen) for n, place in enumerate(places)]
    await asyncio.gather(*people, *([_glutton(server, opened, seconds - 5, seen)] if greedy else []))


def _judged(row: Row, seen: Seen, timed: bool) -> Row:
    every = [value for values in seen.seconds.values() for value in values]
    row.tried, row.failures = len(every), list(seen.failures)
    row.survived = max(0, row.tried - len(seen.failures))
    if timed:
        row.count(p95(every) < P95, f"p95 {p95(every):.2f} s")
    row.note = ", ".join(f"{kind} p95 {p95(values):.2f} s" for kind, values in sorted(seen.seconds.items()))
    return row


def _soak(server: Server, places: list[tuple[str, str]], seconds: float, timed: bool) -> Row:
    """Interactions without a pause: memory must settle. The first third fills the caches and is not compared."""
    row, seen, marks = Row("load: memory over many interactions"), Seen(), []

    async def soak() -> None:
        async def watch() -> None:
            await asyncio.sleep(seconds / 3)
            marks.append(server.memory)

        alignment = [place for place in places if not place[0]]
        await asyncio.gather(watch(), _all(server, alignment, seconds, 0.0, seen))
        marks.append(server.memory)

    _finished(soak())
    row.tried = sum(map(len, seen.seconds.values()))
    row.survived, row.failures = row.tried - len(seen.failures), list(seen.failures)
    if timed:  # in a short one caches are still filling
        row.count(marks[1] < marks[0] * GROWTH, f"memory grew from {marks[0] >> 20} to {marks[1] >> 20} MB")
    row.note = f"{marks[0] >> 20} MB after a third, {marks[1] >> 20} MB at the end"
    return row


def _loaded_once(server: Server) -> Row:
    row = Row("load: each model loaded once")
    count = server.log.read_bytes().count(b"Loading weights: 100%")
    models = 2 if any(page == "distributions" for page, _ in _places()) else 0
    row.count(count == models, f"{count} loads of {models} models")
    row.note = f"{count} loads of {models} models"
    return row
