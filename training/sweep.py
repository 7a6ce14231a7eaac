"""Several methods on the same data, each with its own best setting on validation, compared on held-out documents."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fusion_core import load_tokenizer
from fusion_core.errors import ConfigError, DivergedError, TrainingError
from fusion_core.models import load_model, weights_identity
from fusion_core.sealed import SealError, read_json, write_json
from fusion_core.workspace import digest
from training import yaml_text
from training.config import Config, apply_change, parse
from training.data import Say
from training.evaluate import Score, score, table
from training.guards import alone
from training.splits import split_corpus

_TRIALS = "trials.json"
# Of trials.json and results.json.
FORMAT = "fusescope-sweep"
VERSION = 1
# What the results call the target as it was.
BEFORE = "before training"
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
    """

    config: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    grid: dict[str, list[Any]]
    fixed: dict[str, list[str]]
    seeds: list[int]


def read_sweep(path: Path, changes: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file; `changes` are made to its config. Raises `ConfigError`."""
    try:
        value = yaml_text.read(path.read_text(encoding="utf-8"))
        config, methods = dict(value["config"]), dict(value["methods"])
        grid = {name: list(values) for name, values in (value.get("grid") or {}).items()}
        fixed = {name: list(fields) for name, fields in (value.get("fixed") or {}).items()}
        seeds = [int(seed) for seed in value.get("seeds", [0])]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is no sweep: it needs 'config' (a config's fields) and 'methods' (changes by name): {error}"
        ) from error
    for change in changes:
        apply_change(config, change)
    # Each is the name of a folder in the output, which is removed where a run in it was interrupted.
    if bad := [name for name in map(str, methods) if not _NAME.fullmatch(name) or name == BEFORE]:
        raise ConfigError(f"{path}: {bad[0]!r} cannot name a method; take letters, digits and any of . _ + -")
    if not methods or not seeds:
        raise ConfigError(f"{path}: a sweep needs at least one method and one seed")
    sweep = Sweep(config, {str(name): dict(made or {}) for name, made in methods.items()}, grid, fixed, seeds)
    for name in sweep.methods:  # all of them are looked at before the first one runs
        for setting in settings_of(sweep, name):
            parse(value_of(sweep, name, setting, seeds[0]), f"{path}, {name}")
    return sweep


def settings_of(sweep: Sweep, method: str) -> list[dict[str, Any]]:
    """Every setting of the grid that differs for this method."""
    fields = {n: v for n, v in sweep.grid.items() if n not in sweep.fixed.get(method, [])}
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def value_of(sweep: Sweep, method: str, setting: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run's config as values: data shared by all, an output of its own."""
    value: dict[str, Any] = json.loads(json.dumps(sweep.config))
    root = Path(str(value.get("output", "sweep")))
    for name, new in {**sweep.methods[method], **setting, "training.seed": seed}.items():
        apply_change(value, f"{name}={json.dumps(new)}")
    label = ",".join(f"{name.rsplit('.', 1)[-1]}={_plain(new)}" for name, new in setting.items()) or "only"
    return {**value, "data": str(root / "data"), "output": str(root / method / f"{label},seed={seed}")}


def _plain(value: Any) -> str:
    """A value as a part of a folder's name; one that is not plain, such as a path, with what tells it from others."""
    text = str(value)
    made = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    return text if made == text else f"{made[:40]}-{digest(text)[:6]}"


def run(sweep: Sweep, say: Say) -> list[dict[str, Any]]:
    """Train every method in every setting, then judge each one's best. What has been trained already, with the same
    config, is not again.

    Returns:
        The rows of results.json: per method and seed the held-out bits per byte, its interval, the difference to the
        first method paired over documents, the setting, steps, epochs, seconds.

    Raises:
        ConfigError: there are no validation or no held-out documents.
        TrainingError: a run was stopped (it is no trial, and is made anew next time), a method always diverged, or
            another process is at this sweep.
    """
    root = Path(str(sweep.config.get("output", "sweep")))
    with alone(root):
        return _run(sweep, root, say)


def _run(sweep: Sweep, root: Path, say: Say) -> list[dict[str, Any]]:
    splits = split_corpus(parse(value_of(sweep, next(iter(sweep.methods)), {}, sweep.seeds[0])))
    if not splits.validation or not splits.held_out:
        raise ConfigError(
            f"a sweep chooses on validation documents and judges on held-out ones, and there are "
            f"{len(splits.validation)} and {len(splits.held_out)}; see corpus.validation and corpus.held_out"
        )
    trials: dict[str, dict[str, Any]] = {}
    if (root / _TRIALS).is_file():
        trials = _read(root / _TRIALS)
    results = []
    for seed in sweep.seeds:
        chosen = {method: _best(sweep, method, seed, root, trials, say) for method in sweep.methods}
        results += _judge(sweep, chosen, seed, say)
        write_json(root / "results.json", FORMAT, VERSION, {"rows": results})
    return results


def _best(
    sweep: Sweep, method: str, seed: int, root: Path, trials: dict[str, dict[str, Any]], say: Say
) -> tuple[dict[str, Any], Path]:
    """The setting that is best on validation, and the run's folder; the models of the others are removed.

    Settings are searched with the first seed; further seeds train the best one alone.
    """
    from training.train import train

    settings = settings_of(sweep, method)
    if seed != sweep.seeds[0]:
        settings = [_best(sweep, method, sweep.seeds[0], root, trials, say)[0]]

    def trained(setting: dict[str, Any], *, anew: bool = False) -> tuple[float | None, Path]:
        value = value_of(sweep, method, setting, seed)
        config = parse(value)
        key = str(config.output.relative_to(root))
        asked = digest(json.dumps({**value, "output": "", "data": ""}, sort_keys=True), *_read_by(config))
        if anew or trials.get(key, {}).get("config") != asked:
            say(f"{key} ...")
            shutil.rmtree(config.output, ignore_errors=True)  # what an interrupted run left
            try:
                found = train(config, say=lambda _: None)
            except DivergedError as error:  # a setting that diverges loses
                say(f"{key}: {error}")
                found = {"validation_after": None, "finished": True}
            if not found["finished"]:
                raise TrainingError(f"stopped in {key}; the same command makes that run anew and goes on from there")
            trials[key] = {**found, "config": asked}
            write_json(root / _TRIALS, FORMAT, VERSION, {"trials": trials})
        shutil.rmtree(config.output / "checkpoints", ignore_errors=True)
        bits = trials[key]["validation_after"]
        say(f"{key}: {'diverged' if bits is None else f'{bits:.4f} bits per byte on validation'}")
        return bits, config.output

    best: tuple[float, dict[str, Any], Path] | None = None
    for setting in settings:
        bits, folder = trained(setting)
        if bits is not None and (best is None or bits < best[0]):
            if best is not None:
                shutil.rmtree(best[2] / "model", ignore_errors=True)
            best = (bits, setting, folder)
        else:
            shutil.rmtree(folder / "model", ignore_errors=True)
    if best is None:
        raise TrainingError(f"every setting of {method!r} diverged; try a lower learning rate")
    if not (best[2] / "model").is_dir():  # it lost to a setting that the grid no longer has
        trained(best[1], anew=True)
    return best[1], best[2]


def _read_by(config: Config) -> list[str]:
    """What tells whether a run would read the same: its models' weights and its documents."""
    texts = hashlib.sha256()
    splits = split_corpus(config)
    for part in (splits.train, splits.validation, splits.held_out):
        for document in part:
            texts.update(digest(document.text).encode())
        texts.update(b"|")
    models = (config.target, *(source.model for source in config.sources))
    return [*map(weights_identity, models), texts.hexdigest()]


def _judge(
    sweep: Sweep, chosen: Mapping[str, tuple[dict[str, Any], Path]], seed: int, say: Say
) -> list[dict[str, Any]]:
    target = str(sweep.config["target"])
    held_out = split_corpus(parse(value_of(sweep, next(iter(chosen)), {}, seed))).held_out
    scores: dict[str, list[Score]] = {}
    for method, (setting, folder) in chosen.items():
        own = load_tokenizer(parse(value_of(sweep, method, setting, seed)).target)
        scores[method] = score(load_model(str(folder / "model"), tokenizer=own), held_out)
    scores[BEFORE] = score(load_model(target), held_out)
    frame = table(scores)
    say(frame.to_string())
    root = Path(str(sweep.config.get("output", "sweep")))
    trials = _read(root / _TRIALS)
    rows: list[dict[str, Any]] = []
    for label, part in frame.groupby("model", sort=False):
        name = str(label)
        setting = chosen[name][0] if name in chosen else {}
        trial = trials[str(chosen[name][1].relative_to(root))] if name in chosen else {}
        rows.append(
            {
                "method": name,
                "seed": seed,
                "setting": setting,
                "validation_bits_per_byte": trial.get("validation_after"),
                "held_out": {str(row["domain"]): _figures(row) for _, row in part.iterrows()},
                **{field: trial.get(field) for field in ("steps", "epochs", "tokens", "seconds")},
                "machine": f"{platform.machine()}",
            }
        )
    return rows


def _figures(row: pd.Series[Any]) -> dict[str, Any]:
    return {
        "bits_per_byte": round(float(row["bits per byte"]), 5),
        "interval": [_rounded(row["low"]), _rounded(row["high"])],
        "difference": round(float(row["difference"]), 5),
        "difference_interval": [_rounded(row["difference low"]), _rounded(row["difference high"])],
        "documents": int(row["documents"]),
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The trials that were made; raises `TrainingError`."""
    try:
        return dict(read_json(path, FORMAT, VERSION)["trials"])
    except (OSError, SealError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"cannot go on with {path.parent}: {error}; remove it, or give another output") from error
