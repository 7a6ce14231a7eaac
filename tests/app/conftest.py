"""Pages run here as scripts, and leave no trace of that."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit's AppTest puts the page in the place of `__main__`, which a process started later would run again."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before
