"""What is compiled at installation is what real input needs: no first look compiles anything more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.requires import sample

ROOT = Path(__file__).parents[1]
# In a process of its own: what other tests compiled would hide what is missing.
SCRIPT = """
import gc

from numba.core.dispatcher import Dispatcher

from app.texts import EXAMPLES
from fusion_core import load_tokenizer
from fusion_core.alignment import METHODS, align
from fusion_core.distributions import TopK
from fusion_core.mapping._nearest import all_nearest
from fusion_core.precompile import precompile
from fusion_core.transfer import METHODS as TRANSFERS
from fusion_core.transfer import Predictions, build_index, transfer
from tests.support.predictions import random_predictions


def compiled():
    return {
        (one.py_func.__module__, one.py_func.__name__, str(signature))
        for one in gc.get_objects()
        if isinstance(one, Dispatcher) and one.py_func.__module__.startswith("fusion_core")
        for signature in one.overloads
    }


precompile()
before = compiled()
assert any(name == "transfer" for _, name, _ in before), before
text = next(iter(EXAMPLES.values()))[:400]
names = ("minilm", "mistral", "deepseek")
for name, other in zip(names, names[1:] + names[:1]):
    source, target = load_tokenizer(name), load_tokenizer(other)
    for method in METHODS:
        for cost in ("edit", "containment"):
            for compare in ("bytes", "pieces"):
                align(source, target, text=text, method=method, cost=cost, compare=compare)
    index, encoding = build_index(source, target), target.encode(text)
    for k in (0, 10):
        predictions = random_predictions(source, text, 0, top_k=k)
        own = random_predictions(target, text, 1, top_k=k)
        for method in TRANSFERS:
            if method not in ("ot", "ot-argmax", "marginal"):  # which compile nothing
                transfer(predictions, encoding, index, method=method, own=own).best_first(10)
    transfer(predictions, encoding, index, method="byte-exact")
all_nearest(["no such entry"], target.vocabulary.texts[:1000])
try:
    import torch
except ImportError:
    pass
else:
    from fusion_core.models._selection import Selection

    encoding = source.encode(text)
    for kind in (torch.float32, torch.bfloat16):
        Selection(source).keep(torch.randn(len(encoding), source.size).to(kind), 10, encoding, 0)
for one in sorted(compiled() - before):
    print(*one)
"""


def test_a_first_look_compiles_nothing() -> None:
    for name in ("minilm", "mistral", "deepseek"):
        sample(name)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "compiled besides what precompile knows"
