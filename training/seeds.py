"""Runs that differ only by their seed, as one method's."""

from __future__ import annotations

import json
from collections.abc import Mapping

from training.config import Config

# Where a run lies says nothing of what it is.
_FREE = ("output", "data")
_SEEDS = ("seed", "data_seed")


def by_method(configs: Mapping[str, Config]) -> list[list[str]]:
    """The names of `configs`, those together whose configs differ only by their seed, in the order of the seeds; the
    groups as their first ones come."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name, config in configs.items():
        value = json.loads(config.model_dump_json(exclude=set(_FREE)))
        seed = int(value["training"].get("seed", 0))
        value["training"] = {key: one for key, one in value["training"].items() if key not in _SEEDS}
        found.setdefault(json.dumps(value, sort_keys=True), []).append((seed, name))
    return [[name for _, name in sorted(group)] for group in found.values()]
