"""Each method's best setting on validation, and what has been trained to find it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_core.errors import DivergedError, TrainingError
from fusion_core.models import weights_identity
from fusion_core.sealed import SealError, read_json, write_json
from fusion_core.workspace import digest
from training.config import Config, parse
from training.corpus import Document
from training.data import Say
from training.evaluate import Score
from training.scores import kept_scores, run_scores
from training.splits import split_corpus
from training.sweep.plan import Sweep, settings_of, value_of

_TRIALS = "trials.json"
# Of trials.json and results.json.
FORMAT = "fusescope-sweep"
VERSION = 1


@dataclass(frozen=True)
class Chosen:
    """A method's best setting: the run that was trained in it, and what that run's training says."""

    setting: Mapping[str, Any]
    config: Config
    trial: Mapping[str, Any]


class Search:
    """The trials of a sweep; raises `TrainingError` where those on disk cannot be read."""

    def __init__(self, sweep: Sweep, held_out: Sequence[Document], say: Say) -> None:
        self._sweep, self._held_out, self._say = sweep, held_out, say
        self._path = sweep.root / _TRIALS
        self._settled: dict[str, Mapping[str, Any]] = {}  # by method, with the first seed
        self._trials = read_trials(self._path) if self._path.is_file() else {}

    def best(self, method: str, seed: int) -> Chosen:
        """The method in the setting that is best on validation; the models of its other settings are removed.

        Settings are searched with the first seed; further seeds train the best one alone.
        """
        settings = settings_of(self._sweep, method)
        if seed != self._sweep.seeds[0]:
            if method not in self._settled:
                self.best(method, self._sweep.seeds[0])
            settings = [dict(self._settled[method])]
        found: tuple[float, Chosen] | None = None
        for setting in settings:
            made = self._trained(method, setting, seed)
            bits = made.trial["validation_after"]
            if bits is not None and (found is None or bits < found[0]):
                if found is not None:
                    _forget(found[1])
                found = (bits, made)
            else:
                _forget(made)
        if found is None:
            raise TrainingError(f"every setting of {method!r} diverged; try a lower learning rate")
        chosen = found[1]
        if not self._can_be_judged(
            chosen
        ):  # it lost to a setting that the grid no longer has, or its model was removed
            chosen = self._trained(method, chosen.setting, seed, anew=True)
        if seed == self._sweep.seeds[0]:
            self._settled[method] = chosen.setting
        return chosen

    def scores(self, chosen: Chosen) -> list[Score]:
        """How it does on the held-out documents: as was measured before, where its model was removed since."""
        return self._kept(chosen) or run_scores(chosen.config.output, chosen.config, self._held_out)

    def forget(self, chosen: Chosen) -> None:
        """Remove its model, whose scores are kept by what tells it from others."""
        key = str(chosen.config.output.relative_to(self._sweep.root))
        if "weights" not in self._trials[key]:  # of an older version
            self._trials[key]["weights"] = weights_identity(str(chosen.config.output / "model"))
            write_json(self._path, FORMAT, VERSION, {"trials": self._trials})
        _forget(chosen)

    def _can_be_judged(self, chosen: Chosen) -> bool:
        there = chosen.config.kind == "ensemble" or (chosen.config.output / "model").is_dir()
        return there or self._kept(chosen) is not None

    def _kept(self, chosen: Chosen) -> list[Score] | None:
        weights = chosen.trial.get("weights")
        if not isinstance(weights, str):
            return None
        return kept_scores(chosen.config.output, chosen.config, self._held_out, weights)

    def _trained(self, method: str, setting: Mapping[str, Any], seed: int, *, anew: bool = False) -> Chosen:
        from training.train import train

        value = value_of(self._sweep, method, setting, seed)
        config = parse(value)
        key = str(config.output.relative_to(self._sweep.root))
        asked = digest(json.dumps({**value, "output": "", "data": ""}, sort_keys=True), *_read_by(config))
        if anew or self._trials.get(key, {}).get("config") != asked:
            self._say(f"{key} ...")
            shutil.rmtree(config.output, ignore_errors=True)  # what an interrupted run left
            try:
                made = train(config, say=lambda _: None)
            except DivergedError as error:  # a setting that diverges loses
                self._say(f"{key}: {error}")
                made = {"validation_after": None, "finished": True}
            if not made["finished"]:
                raise TrainingError(f"stopped in {key}; the same command makes that run anew and goes on from there")
            weights = weights_identity(
                str(config.output / "model")
            )  # for when the model is gone and its scores are not
            self._trials[key] = {**made, "config": asked, "weights": weights}
            write_json(self._path, FORMAT, VERSION, {"trials": self._trials})
        shutil.rmtree(config.output / "checkpoints", ignore_errors=True)
        bits = self._trials[key]["validation_after"]
        self._say(f"{key}: {'diverged' if bits is None else f'{bits:.4f} bits per byte on validation'}")
        return Chosen(setting, config, self._trials[key])


def read_trials(path: Path) -> dict[str, dict[str, Any]]:
    """The trials that were made, by their folders' names; raises `TrainingError`."""
    try:
        return dict(read_json(path, FORMAT, VERSION)["trials"])
    except (OSError, SealError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"cannot go on with {path.parent}: {error}; remove it, or give another output") from error


def _forget(one: Chosen) -> None:
    """Remove its model, which takes room."""
    shutil.rmtree(one.config.output / "model", ignore_errors=True)


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
