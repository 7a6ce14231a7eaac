"""How fast the kernels are, each beside the textbook formulation on the same input in the same run: `make bench`.

The first calls, which compile, are timed apart. Texts of the shared corpora are used where they lie beside the
repository, and the bundled examples repeated where they do not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import editdistance
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from app.texts import EXAMPLES
from fusion_core import Tokenizer, load_tokenizer, map_vocabulary
from fusion_core.alignment import align, dtw, warp_strings
from tests.oracles.dtw import dtw as textbook

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
MB = 1 << 20


def _text(name: str, example: str, least: int) -> str:
    path = CORPORA / name
    text = path.read_text(encoding="utf-8") if path.is_file() else EXAMPLES[example]
    return text * (1 + least // len(text.encode()))


def _best(run: Callable[[], Any], times: int = 3) -> float:
    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return min(once() for _ in range(times))


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Yields a list that then holds the resident memory added at the peak, in MB."""
    process, found, stop = psutil.Process(), [0.0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(0.002):
            found[0] = max(found[0], (process.memory_info().rss - before) / MB)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()


def _strings(a: Tokenizer, b: Tokenizer, text: str, tokens: int) -> tuple[list[str], list[str]]:
    """What `dtw` compares, of the start of `text` that is `tokens` long on the side that needs more of them."""
    sides = a.encode(text[: tokens * 12]), b.encode(text[: tokens * 12])
    assert min(map(len, sides)) >= tokens, "the text is too short for this length"
    end = min(int(side.ends[tokens - 1]) for side in sides)
    piece = sides[0].data[:end].decode("utf-8", "ignore")
    source, target = (warp_strings(side.encode(piece), "pieces") for side in (a, b))
    return source, target


def bench_dtw(a: Tokenizer, b: Tokenizer, texts: dict[str, str]) -> list[list[str]]:
    """512 and 2,048 tokens against the recurrence over `editdistance.eval`."""
    rows = []
    for name, text in texts.items():
        for tokens in (512, 2048):
            source, target = _strings(a, b, text, tokens)
            expected: list[Any] = []
            slow = _best(lambda s=source, t=target, e=expected: e.append(textbook(s, t)), 3 if tokens == 512 else 1)
            fast = _best(lambda s=source, t=target: dtw(s, t), 300 if tokens == 512 else 50)
            edges, cost = dtw(source, target)
            assert edges.tolist() == [list(edge) for edge in expected[0][0]] and cost == expected[0][1]
            label = f"dtw, {tokens} tokens, {name}"
            rows.append([label, f"{fast * 1e3:.2f} ms", f"{slow:.2f} s", f"{slow / fast:,.0f}x", ""])
    return rows


def bench_long(pairs: dict[str, tuple[Tokenizer, Tokenizer, str]]) -> list[list[str]]:
    """32,768 tokens: time and memory."""
    rows = []
    for name, (a, b, text) in pairs.items():
        source, target = _strings(a, b, text, 32768)
        with _peak() as peak:
            seconds = _best(lambda s=source, t=target: dtw(s, t), 3)
        rows.append([f"dtw, 32,768 tokens, {name}", f"{seconds:.2f} s", "", "", f"{peak[0]:.0f} MB"])
    return rows


def bench_span(a: Tokenizer, b: Tokenizer, text: str) -> list[list[str]]:
    """Tokens of both sides linked per second, the encoding not counted."""
    source, target = a.encode(text[:8_000_000]), b.encode(text[:8_000_000])
    tokens = len(source) + len(target)
    seconds = _best(lambda: align(source, target), 3)
    return [[f"span, {tokens:,} tokens", f"{seconds * 1e3:.0f} ms", "", f"{tokens / seconds / 1e6:.0f} M tokens/s", ""]]


def bench_soft(a: Tokenizer, b: Tokenizer) -> list[list[str]]:
    """A whole soft mapping against `editdistance` over all targets, extrapolated from a sample of the same run."""
    with _peak() as peak:
        cold = time.perf_counter()
        mapping = map_vocabulary(a, b, kind="soft", cache=False)
        cold = time.perf_counter() - cold
    warm = _best(lambda: map_vocabulary(a, b, kind="soft", cache=False), 3)
    rng = random.Random(0)
    queries = [i for i in np.flatnonzero(mapping.distance > 0).tolist() if a.vocabulary.spells[i]]
    targets = [b.vocabulary.texts[j] for j in np.flatnonzero(b.vocabulary.spells).tolist()]
    chosen = rng.sample(queries, 24)
    start = time.perf_counter()
    for i in chosen:
        text = a.vocabulary.texts[i]
        assert min(editdistance.eval(text, target) for target in targets) == mapping.distance[i]
    slow = (time.perf_counter() - start) / len(chosen) * len(queries)
    label = f"soft mapping, {a.name} ({a.size:,}) onto {b.name} ({b.size:,})"
    rows = [
        [label, f"{warm:.1f} s", f"{slow / 3600:.1f} h (extrapolated)", f"{slow / warm:,.0f}x", f"{peak[0]:.0f} MB"]
    ]
    return [*rows, ["  the same, first call of the process", f"{cold:.1f} s", "", "", ""]]


def main() -> None:
    """Print one table."""
    qwen, deepseek, mistral = map(load_tokenizer, ("qwen", "deepseek", "mistral"))
    prose = _text("shakespeare.txt", "Prose", 900_000)
    code = _text("code.py.txt", "Code", 900_000)
    chinese = _text("udhr/zh.txt", "Chinese", 900_000)
    start = time.perf_counter()
    for cost in ("edit", "containment"):
        dtw(["a", "b"], ["a"], cost)
    align(qwen, deepseek, text="a b")
    first = time.perf_counter() - start
    rows = [["first calls (compile, or read the cache on disk)", f"{first:.1f} s", "", "", ""]]
    rows += bench_dtw(qwen, deepseek, {"prose": prose, "code": code})
    rows += bench_long(
        {
            "prose, qwen and deepseek": (qwen, deepseek, prose),
            "code, qwen and mistral": (qwen, mistral, code),
            "Chinese, mistral and qwen": (mistral, qwen, chinese),
        }
    )
    rows += bench_span(qwen, deepseek, prose)
    rows += bench_soft(qwen, deepseek)
    table = Table(title="warm, best of several runs", title_justify="left")
    for column in ("what", "time", "textbook", "ratio", "extra memory"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
