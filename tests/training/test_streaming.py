"""A corpus streams through the stages: eight times the text takes no more memory."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import tiny

_CHILD = textwrap.dedent("""
    import re, resource, sys
    from training.config import load
    from training.data import prepare
    from training.splits import split_corpus
    from pathlib import Path
    config = load(Path(sys.argv[1]), training=False)
    folder = prepare(config, split_corpus(config).train, lambda line: None)
    import torch
    from training.dataset import Examples
    examples = Examples(folder)
    total = sum(len(examples[n]["tokens"]) for n in range(len(examples)))
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says begins at the peak of the process that started this one
        peak = int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1])
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(total, peak // 1024)
""")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tokenizer = tiny.train("byte-bpe", tmp_path)
    line = json.dumps({"text": "the quick brown fox jumps over the lazy dog while numbers 123 nap. " * 60})
    found = []
    for size in (1, 8):
        corpus = tmp_path / f"{size}.jsonl"
        corpus.write_text(f"{line}\n" * (400 * size), encoding="utf-8")
        path = tmp_path / f"{size}.yaml"
        path.write_text(
            json.dumps(
                {
                    "target": str(tokenizer),
                    "corpus": {"files": [str(corpus)], "validation": 0, "held_out": 0},
                    "output": str(tmp_path / f"run{size}"),
                }
            ),
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=True)
        found.append(tuple(map(int, done.stdout.split())))
    (tokens, peak), (more_tokens, more_peak) = found
    assert more_tokens == 8 * tokens
    # Held in memory, the longer corpus alone would take more than that: 12 MB of text, and its tokens.
    assert more_peak < peak + 24, (peak, more_peak)
