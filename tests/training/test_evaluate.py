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
    first, second = table({"a": [ours], "b": [theirs]}).to_dict("records")
    assert first["documents"] == second["documents"] == 5
    assert first["bits per byte"] == pytest.approx(60 / 40) and second["bits per byte"] == pytest.approx(110 / 25)
    assert second["difference"] == pytest.approx(110 / 25 - 60 / 40)
    assert second["difference low"] <= second["difference"] <= second["difference high"]
    with pytest.raises(TextError, match="nothing to compare"):
        table({"a": [ours[5:]], "b": [theirs]})


def test_a_few_documents_give_no_interval() -> None:
    (row,) = table({"a": [[_score(n, 10.0 + n, 8) for n in range(4)]]}).to_dict("records")
    assert row["bits per byte"] == pytest.approx(46 / 32)
    assert all(np.isnan(row[name]) for name in ("low", "high", "difference low", "difference high"))


def test_the_parts_of_a_document_are_resampled_together() -> None:
    """Six documents of many parts: they cannot tell well how texts differ, and their parts must not pretend to."""
    parts = [_score(n, 10.0 if n < 60 else 30.0, 10, f"document {n // 20}") for n in range(120)]
    (row,) = table({"a": [parts]}).to_dict("records")
    assert row["documents"] == 6 and row["high"] - row["low"] > 1.2
    (alone,) = table({"a": [[replace(part, whole=part.name) for part in parts]]}).to_dict("records")
    assert alone["high"] - alone["low"] < 0.4


def _run(shift: float, count: int = 12) -> list[Score]:
    """Documents of about one bit a byte, some harder, all of them harder by `shift`."""
    return [_score(n, 100.0 * (1 + 0.1 * (n % 3) + shift), 100) for n in range(count)]


def test_an_interval_over_seeds_is_one_of_what_seeds_differ_in() -> None:
    """Two methods that are one document for document but for their seeds: of one seed the difference looks sure."""
    ours, theirs = [_run(0.0), _run(0.1), _run(0.2)], [_run(0.05), _run(0.12), _run(0.1)]
    _, alone = table({"a": ours[:1], "b": theirs[:1]}).to_dict("records")
    assert alone["difference low"] == pytest.approx(0.05) == alone["difference high"] and alone["seeds"] == 1
    _, row = table({"a": ours, "b": theirs}).to_dict("records")
    assert row["seeds"] == 3 and row["documents"] == 12
    assert row["difference"] == pytest.approx((0.05 + 0.02 - 0.1) / 3)
    # The lowest and the highest difference of a seed, each drawn three times over by more than one resample in forty.
    assert row["difference low"] == pytest.approx(-0.1) and row["difference high"] == pytest.approx(0.05)


def test_seeds_that_agree_leave_the_interval_over_documents() -> None:
    (one,) = table({"a": [_run(0.0)]}).to_dict("records")
    (three,) = table({"a": [_run(0.0)] * 3}).to_dict("records")
    assert {name: three[name] for name in ("bits per byte", "low", "high")} == pytest.approx(
        {name: one[name] for name in ("bits per byte", "low", "high")}
    )
    assert one["low"] < one["bits per byte"] < one["high"]


def test_a_model_of_one_seed_is_compared_with_one_of_several() -> None:
    """As the target before training is: its own figure moves with documents, the other's with seeds too."""
    several, one = table({"a": [_run(0.0), _run(0.1), _run(0.2)], "b": [_run(0.5)]}).to_dict("records")
    assert one["difference"] == pytest.approx(0.4) and several["difference"] == 0.0
    assert one["difference low"] == pytest.approx(0.3) and one["difference high"] == pytest.approx(0.5)
