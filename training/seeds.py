"""Runs that differ only by their seed, as one method's."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fusion_core.errors import ConfigError
from training.config import DEFAULTS, Config

# Where a run lies says nothing of what it is.
_FREE = ("output", "data")
_SEEDS = ("seed", "data_seed")


def by_method(configs: Mapping[str, Config]) -> list[list[str]]:
    """The names of `configs`, those together whose configs differ only by their seed, in the order of the seeds; the
    groups as their first ones come.

    Raises:
        ConfigError: two of them have one seed too: they are one run made twice, which says nothing of other seeds.
    """
    found: dict[str, dict[tuple[int, int], str]] = {}
    for name, config in configs.items():
        value = json.loads(config.model_dump_json(exclude=set(_FREE)))
        seed, order = (value["training"].get(key) for key in _SEEDS)
        seed = int(DEFAULTS["seed"] if seed is None else seed)
        seeds = seed, int(seed if order is None else order)
        value["training"] = {key: one for key, one in value["training"].items() if key not in _SEEDS}
        group = found.setdefault(json.dumps(value, sort_keys=True), {})
        if seeds in group:
            raise ConfigError(f"{group[seeds]} and {name} are one method with one seed ({seed}); name one of them")
        group[seeds] = name
    return [[name for _, name in sorted(group.items())] for group in found.values()]
