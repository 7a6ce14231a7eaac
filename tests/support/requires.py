"""Inputs that may be absent: the test is skipped with the reason, or fails where skips are not allowed."""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from fusion_core import SAMPLES, Tokenizer, load_tokenizer
from training.samples import assemble

_SHARED = Path(__file__).parents[3] / "shared" / "corpora"


def _absent(reason: str) -> NoReturn:
    if os.environ.get("FUSESCOPE_NO_SKIP"):
        pytest.fail(f"{reason} (FUSESCOPE_NO_SKIP is set, so this is not skipped)")
    pytest.skip(reason)


@cache
def _loaded(name: str) -> Tokenizer:
    return load_tokenizer(name)


def sample(name: str) -> Tokenizer:
    """A bundled sample tokenizer."""
    if name == "gemma-3-270m":
        assemble()  # its file is put together in the workspace, which is the run's own
    if not SAMPLES[name].installed:
        _absent(f"the sample tokenizer {name!r} is not installed: {SAMPLES[name].install}")
    return _loaded(name)


def corpus(name: str) -> str:
    """A text of the shared corpora, such as `shakespeare.txt` or `udhr/zh.txt`; these live beside the repository."""
    path = _SHARED / name
    if not path.is_file():
        # The texts are no part of the project, so that their absence is never a failure.
        pytest.skip(f"the shared corpora are not beside the repository ({path})")
    return path.read_text(encoding="utf-8")


def chromium() -> str:
    """The path of a Chromium that can be driven headless."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        _absent("no Chromium on this machine: apt-get install chromium")
    return found


def harness() -> None:
    """lm-eval."""
    if find_spec("lm_eval") is None:
        _absent("lm-eval is not installed: pip install 'fusescope[lm-eval]'")
