"""Bits per byte side by side: differences, intervals, and what they are over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusion_core import TextError
from training.calibration import Reliability

pytest.importorskip("torch")
from training.evaluate import Score, table


def _score(place: int, bits: float, size: int, whole: str = "") -> Score:
    name = f"n{place}"
    return Score(place, name, whole or name, "d", bits, size, 4, 2, Reliability.of(np.ones(1), np.ones(1, np.bool_)))


def test_a_difference_is_one_of_bits_per_byte_over_what_all_models_scored() -> None:
    """The second model's first token takes more of each text, and it has nothing to predict in the last one."""
    ours = [_score(n, 10.0 + n, 8) for n in range(6)]
    theirs = [_score(n, 20.0 + n, 5) for n in range(5)]
    first, second = table({"a": ours, "b": theirs}).to_dict("records")
    assert first["documents"] == second["documents"] == 5
    assert first["bits per byte"] == pytest.approx(60 / 40) and second["bits per byte"] == pytest.approx(110 / 25)
    assert second["difference"] == pytest.approx(110 / 25 - 60 / 40)
    assert second["difference low"] <= second["difference"] <= second["difference high"]
    with pytest.raises(TextError, match="nothing to compare"):
        table({"a": ours[5:], "b": theirs})


def test_a_few_documents_give_no_interval() -> None:
    (row,) = table({"a": [_score(n, 10.0 + n, 8) for n in range(4)]}).to_dict("records")
    assert row["bits per byte"] == pytest.approx(46 / 32)
    assert all(np.isnan(row[name]) for name in ("low", "high", "difference low", "difference high"))


def test_the_parts_of_a_document_are_resampled_together() -> None:
    """Six documents of many parts: they cannot tell well how texts differ, and their parts must not pretend to."""
    parts = [_score(n, 10.0 if n < 60 else 30.0, 10, f"document {n // 20}") for n in range(120)]
    (row,) = table({"a": parts}).to_dict("records")
    assert row["documents"] == 6 and row["high"] - row["low"] > 1.2
    (alone,) = table({"a": [replace(part, whole=part.name) for part in parts]}).to_dict("records")
    assert alone["high"] - alone["low"] < 0.4
