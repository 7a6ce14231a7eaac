"""How fast the kernels are, each beside the textbook formulation on the same input in the same run: `make bench`.

The first calls, which compile, are timed apart. Texts of the shared corpora are used where they lie beside the
repository, and the bundled examples repeated where they do not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import editdistance
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from app.texts import EXAMPLES
from fusion_core import Tokenizer, load_tokenizer, map_vocabulary
from fusion_core.alignment import align, dtw, warp_strings
from fusion_core.compat.fusellm import transform_step_logits
from fusion_core.loss import SparseTarget, fusion_loss
from fusion_core.models import load_model
from fusion_core.packing import pack
from fusion_core.transfer import Predictions, build_index, transfer
from fusion_core.transfer._mapped import boundary
from tests.oracles.dtw import dtw as textbook
from tests.oracles.fusellm import transform as published
from tests.support.memory import peak_added
from tests.support.predictions import random_predictions
from training.stages import carry
from training.stages.records import TAUGHT

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"


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
            slow = _best(lambda s=source, t=target, e=expected: e.append(textbook(s, t)))
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
        with peak_added() as peak:
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
    with peak_added() as peak:
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


def bench_compatible(target: Tokenizer, text: str, k: int = 64) -> list[list[str]]:
    """2,048 tokens: the compatible mode beside the published loops, on what a real model predicts."""
    size, model = 2048, load_model("smollm2-135m")
    source = model.tokenizer
    sides = [side.encode(text[: size * 12]) for side in (source, target)]
    piece = sides[0].data[: min(int(side.ends[size - 1]) for side in sides)].decode("utf-8", "ignore")
    found = model.predict(piece, top_k=k)
    case = {
        "source_pieces": found.encoding.pieces,
        "target_pieces": target.encode(piece).pieces,
        "topk_ids": found.top.ids[1:],
        "topk_logits": found.top.logprobs[1:].astype(np.float64),
        "source_vocab": dict(enumerate(source.vocabulary.pieces)),
        "target_vocab": target.vocabulary.by_piece,
    }
    markers = (source.space_marker, target.space_marker)
    options = {"source_marker": markers[0], "target_marker": markers[1], "kind": "hard"}
    lists = {**case, "topk_ids": case["topk_ids"].tolist(), "topk_logits": case["topk_logits"].tolist()}
    expected: list[Any] = []
    slow = _best(lambda: expected.append(published(**lists, markers=markers, soft=None)))
    assert transform_step_logits(**case, **options) == expected[0]
    fast = _best(lambda: transform_step_logits(**case, **options), 20)
    label = f"compatible mode, {len(case['target_pieces']):,} tokens, k = {k}, smollm2 to {target.name}"
    return [[label, f"{fast * 1e3:.1f} ms", f"{slow:.2f} s", f"{slow / fast:,.0f}x", ""]]


def bench_transfer(a: Tokenizer, b: Tokenizer, text: str) -> list[list[str]]:
    """Positions a second, alignment included, on made-up predictions with k = 64."""
    rows = []
    piece = text[:9000]
    source, own = (random_predictions(side, piece, 0, top_k=64) for side in (a, b))
    index, mapping = build_index(a, b), map_vocabulary(a, b, kind="first-token")
    count = len(own.encoding) - 1
    for name, run in (
        ("boundary", lambda: boundary(source, own.encoding, mapping)),
        ("byte-exact", lambda: transfer(source, own.encoding, index, own=own)),
        ("ot", lambda: transfer(source, own.encoding, index, method="ot", own=own)),
    ):
        run()  # compiles, or reads the cache on disk
        seconds = _best(run, 3)
        rows.append(
            [f"{name}, {count:,} positions, k = 64", f"{seconds * 1e3:.1f} ms", "", f"{count / seconds:,.0f}/s", ""]
        )
    return rows


def _taught(predictions: Predictions, text: str) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """Predictions as `teach` keeps them, with the settings of their manifest."""
    top, tokenizer = predictions.top, predictions.encoding.tokenizer
    settings = {
        "model": tokenizer.name, "tokenizer": tokenizer.fingerprint, "top_k": top.k, "width": top.width,
        "has_start": True,
    }  # fmt: skip
    ids, steps = pack(top)
    row = {"name": "a", "domain": "b", "text": text, "tokens": predictions.encoding.ids, "ids": ids, "steps": steps}
    return pa.RecordBatch.from_pylist([row], schema=TAUGHT), settings


def bench_stages(a: Tokenizer, b: Tokenizer, text: str) -> list[list[str]]:
    """Target tokens a second through the stages `transfer` and `fuse`, reading their input included, k = 64."""
    piece = text[:9000]
    sides = {
        side: _taught(random_predictions(tokenizer, piece, n, top_k=64), piece)
        for n, (side, tokenizer) in enumerate((("source", a), ("target", b)))
    }
    settings = {side: value[1] for side, value in sides.items()}
    joined, index = carry.join({side: value[0] for side, value in sides.items()}), build_index(a, b)
    run = lambda: carry.carry(joined, settings, index, "byte-exact", 64)  # noqa: E731
    carried = run()
    count = len(carried.column("covered").flatten())
    pair = carry.join({"0": carried, "1": carried})
    rows = []
    for name, work in (
        ("stage transfer, byte-exact", run),
        ("stage fuse, two sources", lambda: carry.merge(pair, ["0", "1"], b.size, "min_ce", "sequence", 1.0, 64)),
    ):
        seconds = _best(work, 3)
        rows.append([f"{name}, {count:,} tokens, k = 64", f"{seconds:.2f} s", "", f"{count / seconds:,.0f}/s", ""])
    return rows


def _dense_loss(logits: Any, gold: Any, target: SparseTarget) -> Any:
    """As FuseLLM's trainer: a dense target distribution, filled in position by position."""
    import torch

    dense = torch.zeros_like(logits)
    for i in range(len(logits)):
        for c in range(target.ids.shape[1]):
            dense[i, target.ids[i, c]] += target.probs[i, c]
    clm = torch.nn.functional.cross_entropy(logits, gold)
    return 0.9 * clm + 0.1 * torch.nn.functional.cross_entropy(logits, dense)


def bench_loss() -> list[list[str]]:
    """n = 512, V = 151,646, k = 64: forward, and forward with backward, beside the dense formulation."""
    import torch

    torch.manual_seed(0)
    n, width = 512, 151_646
    logits = torch.randn(n, width, requires_grad=True)
    gold = torch.randint(width, (n,))
    target = SparseTarget(
        torch.stack([torch.randperm(width)[:64] for _ in range(n)]), torch.full((n, 64), 1 / 65), torch.ones(n).bool()
    )

    def both(loss: Callable[[], Any]) -> None:
        logits.grad = None
        loss().backward()

    rows = []
    ours: Callable[[], Any] = lambda: fusion_loss(logits, gold, target).total  # noqa: E731
    dense: Callable[[], Any] = lambda: _dense_loss(logits, gold, target)  # noqa: E731
    for name, run in (("forward", lambda loss: loss()), ("forward and backward", both)):
        with peak_added() as peak:
            fast = _best(lambda r=run: r(ours), 3)
        with peak_added() as slow_peak:
            slow = _best(lambda r=run: r(dense), 1)
        memory = f"{peak[0]:.0f} MB (dense {slow_peak[0]:.0f})"
        rows.append(
            [f"loss, n = 512, V = 151,646, {name}", f"{fast:.2f} s", f"{slow:.2f} s", f"{slow / fast:.1f}x", memory]
        )
    return rows


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
    rows += bench_compatible(mistral, prose)
    rows += bench_transfer(qwen, deepseek, prose)
    rows += bench_stages(qwen, deepseek, prose)
    rows += bench_loss()
    table = Table(title="warm, best of several runs", title_justify="left")
    for column in ("what", "time", "textbook", "ratio", "extra memory"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
