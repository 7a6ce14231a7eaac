"""What a sweep's file says, and the config and folder of each of its runs."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusion_core.errors import ConfigError
from fusion_core.workspace import digest, expanded
from training import yaml_text
from training.config import apply_change, parse

# What the results call the target as it was.
BEFORE = "before training"
_FIELDS = {"config", "methods", "grid", "fixed", "seeds", "keep_models"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        config: what all runs share, as a config's values; its output is the sweep's folder.
        methods: by name the changes that make it, such as `{"sources": []}`; the first is what others differ from.
        grid: by field the values to choose from on validation.
        fixed: by method the fields of the grid that say nothing for it, such as lam for CLM alone.
        seeds: each is a run of its own of every method's best setting.
        keep_models: whether the models of the best settings stay once they have been judged.
    """

    config: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    grid: dict[str, list[Any]]
    fixed: dict[str, list[str]]
    seeds: list[int]
    keep_models: bool = True

    @property
    def root(self) -> Path:
        """The sweep's folder."""
        return expanded(str(self.config.get("output", "sweep")))


def read_sweep(path: Path, changes: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file; `changes` are made to its config. Raises `ConfigError`."""
    try:
        value = yaml_text.read(path.read_text(encoding="utf-8"))
        config = dict(value["config"])
        methods = {str(name): dict(changes or {}) for name, changes in dict(value["methods"]).items()}
        grid = {str(name): list(values) for name, values in (value.get("grid") or {}).items()}
        fixed = {str(name): list(fields) for name, fields in (value.get("fixed") or {}).items()}
        seeds = value.get("seeds")
        seeds = None if seeds is None else [int(seed) for seed in seeds]
        keep_models = value.get("keep_models", True)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is no sweep: it needs 'config' (a config's fields) and 'methods' (by name the changes, such as "
            f"{{loss.lam: 0.5}}): {error}"
        ) from error
    for change in changes:
        apply_change(config, change)
    if seeds is None:  # the config's own
        training = config.get("training")
        seeds = [(training.get("seed") if isinstance(training, dict) else None) or 0]
    # Each is the name of a folder in the output, which is removed where a run in it was interrupted.
    if bad := [name for name in methods if not _NAME.fullmatch(name) or name == BEFORE]:
        raise ConfigError(f"{path}: {bad[0]!r} cannot name a method; take letters, digits and any of . _ + -")
    if not methods or not seeds:
        raise ConfigError(f"{path}: a sweep needs at least one method and one seed")
    if not isinstance(keep_models, bool):
        raise ConfigError(f"{path}: keep_models is true or false, not {keep_models!r}")
    if unknown := sorted(map(str, value.keys() - _FIELDS)):
        near = difflib.get_close_matches(unknown[0], _FIELDS, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{path}: a sweep has no field {unknown[0]!r}{hint}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: a seed is named twice in {seeds}")
    if empty := [name for name, values in grid.items() if not values]:
        raise ConfigError(f"{path}: the grid has no value for {empty[0]}")
    for name, fields in fixed.items():
        if name not in methods or not set(fields) <= grid.keys():
            raise ConfigError(
                f"{path}: 'fixed' holds {name}: {fields}, and is of methods ({', '.join(methods)}) and of fields of "
                f"the grid ({', '.join(grid) or 'none'})"
            )
    sweep = Sweep(config, methods, grid, fixed, seeds, keep_models)
    for name in sweep.methods:  # all of them are looked at before the first one runs
        for setting in settings_of(sweep, name):
            for seed in {min(seeds), max(seeds)}:
                parse(value_of(sweep, name, setting, seed), f"{path}, {name}")
    return sweep


def settings_of(sweep: Sweep, method: str) -> list[dict[str, Any]]:
    """Every setting of the grid that differs for this method."""
    fields = {n: v for n, v in sweep.grid.items() if n not in sweep.fixed.get(method, [])}
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def value_of(sweep: Sweep, method: str, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run's config as values: data shared by all, an output of its own."""
    value: dict[str, Any] = json.loads(json.dumps(sweep.config))
    for name, new in {**sweep.methods[method], **setting, "training.seed": seed}.items():
        apply_change(value, f"{name}={json.dumps(new, ensure_ascii=False)}")
    label = ",".join(f"{name.rsplit('.', 1)[-1]}={_plain(new)}" for name, new in setting.items()) or "only"
    return {
        **value,
        "data": value.get("data") or str(sweep.root / "data"),
        "output": str(sweep.root / method / f"{label},seed={seed}"),
    }


def _plain(value: Any) -> str:
    """A value as a part of a folder's name; one that is not plain, such as a path, with what tells it from others."""
    text = str(value)
    made = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    return text if made == text else f"{made[:40]}-{digest(text)[:6]}"
