"""The best of each method on held-out documents, as rows of results.json."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from training.data import Say
from training.evaluate import Score, table
from training.sweep.plan import BEFORE
from training.sweep.search import Chosen

# Of one seed, by method.
Scores: TypeAlias = Mapping[str, Sequence[Score]]


def rows(scores: Scores, chosen: Mapping[str, Chosen], seed: int, say: Say) -> list[dict[str, Any]]:
    """One row for each method, with its setting and what training it took, and one for the target before training."""
    found = []
    for method, figures in _figures({name: [one] for name, one in scores.items()}, say).items():
        one = chosen.get(method)
        trial = one.trial if one else {}
        found.append(
            {
                "method": method,
                "seed": seed,
                "setting": dict(one.setting) if one else {},
                "validation_bits_per_byte": trial.get("validation_after"),
                "held_out": figures,
                **{field: trial.get(field) for field in ("steps", "epochs", "tokens", "seconds")},
                "machine": f"{platform.machine()}",
            }
        )
    return found


def rows_over(scores: Sequence[Scores], seeds: Sequence[int], say: Say) -> list[dict[str, Any]]:
    """One row for each method of all its seeds together, its intervals over seeds and documents."""
    runs = {method: [one[method] for one in scores] for method in scores[0]}
    runs[BEFORE] = runs[BEFORE][:1]
    return [
        {"method": method, "seeds": list(seeds) if method != BEFORE else [], "held_out": figures}
        for method, figures in _figures(runs, say).items()
    ]


def _figures(runs: Mapping[str, Sequence[Sequence[Score]]], say: Say) -> dict[str, dict[str, Any]]:
    """By method and domain what the table of `runs` says."""
    frame = table(runs)
    say(frame.to_string())
    found: dict[str, dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        found.setdefault(str(row["model"]), {})[str(row["domain"])] = {
            "bits_per_byte": round(row["bits per byte"], 5),
            "interval": [_rounded(row["low"]), _rounded(row["high"])],
            "difference": round(row["difference"], 5),
            "difference_interval": [_rounded(row["difference low"]), _rounded(row["difference high"])],
            "documents": row["documents"],
        }
    return found


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)
