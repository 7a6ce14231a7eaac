"""A short run of everything that `make torture` tries."""

from __future__ import annotations

import pytest

from tests.support.requires import sample
from tests.torture import load
from tests.torture.plan import FAMILIES, SECTIONS

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("section", ["input", "crashes", "faults", "load"])
def test_nothing_is_lost(section: str) -> None:
    for name in ("qwen", "deepseek", "mistral", "minilm"):
        sample(name)
    rows = SECTIONS[section](0.02)
    lost = [failure for row in rows for failure in row.failures]
    assert not lost, lost[:10]
    # What no machine offers is said and not counted: such as mounting a small disk.
    assert all(row.tried or row.skipped for row in rows) and sum(row.tried for row in rows) >= 10


def test_a_whole_run_generates_more_than_a_hundred_thousand_cases() -> None:
    assert sum(count for families in FAMILIES.values() for count in families.values()) >= 100_000


def test_the_words_of_the_sessions_are_told_apart() -> None:
    assert len(set(load.WORDS)) == 20
    assert not any(a != b and a in b for a in load.WORDS for b in load.WORDS)
