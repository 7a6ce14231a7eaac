"""Finished runs judged on the same documents, side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fusion_core.errors import ConfigError, FusionError, TrainingError
from fusion_core.models import load_model
from training.config import Config
from training.corpus import Document
from training.data import Say
from training.evaluate import DTYPE, Score, score, table
from training.runs import began_with, read_config, read_result
from training.scores import run_scores
from training.seeds import by_method
from training.splits import SPLITS, identity_of, split_corpus

# By what is done, a context that shows how far it is.
Watch = Callable[[str], AbstractContextManager[Callable[[float, int], None]]]


@dataclass(frozen=True)
class Judged:
    """`frame` as `evaluate.table` gives it, and the scores that it is from, by run or by the first of those that differ
    only by their seed; `documents`: how many they were asked about."""

    frame: pd.DataFrame
    scores: dict[str, list[list[Score]]]
    documents: int


def judge(
    runs: Sequence[Path],
    say: Say,
    watch: Watch,
    *,
    split: str = "held_out",
    changes: Sequence[str] = (),
    over_seeds: bool = False,
    before: bool = False,
) -> Judged:
    """Bits per byte of finished runs on documents of the first one's corpus, differences paired to the first.

    Args:
        runs: their folders.
        say: told where a run has seen the documents that it is judged by, or may have.
        split: train, validation or held_out.
        changes: made to the config of the first run, whose corpus is read.
        over_seeds: take runs that differ only by their seed as one.
        before: begin with the first run's target as it was before training.

    Raises:
        ConfigError: an unknown or an empty split, or a run that is named twice.
        TrainingError: a run has not finished, or its folder cannot be used.
        ModelError, TokenizerError, TextError: a model, a tokenizer or the texts cannot be read.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is named twice: there is no difference to itself")
    for run in runs:
        read_result(run)
    chosen = read_config(runs[0], changes)
    made = {str(run): read_config(run) for run in runs}
    if gone := [
        run for run, config in made.items() if config.kind != "ensemble" and not (Path(run) / "model").is_dir()
    ]:
        raise TrainingError(f"{', '.join(gone)} has no model any more: a sweep removes those that it need not keep")
    groups = by_method(made) if over_seeds else [[label] for label in made]
    texts = list(getattr(split_corpus(chosen), split))
    if not texts:
        raise ConfigError(f"the split {split!r} is empty; see corpus.{split} in the config")
    scores: dict[str, list[list[Score]]] = {}
    if before:
        with watch(f"{chosen.target} reads {len(texts)} documents") as update:
            scores[chosen.target] = [score(load_model(chosen.target, dtype=DTYPE), texts, update)]
    read = {}
    for label, config in made.items():
        if split != "train" and (told := _seen(label, config, chosen, texts)):
            say(told)
        with watch(f"{label} reads {len(texts)} documents") as update:
            read[label] = run_scores(Path(label), config, texts, update)
    for group in groups:
        scores[group[0]] = [read[label] for label in group]
    return Judged(table(scores), scores, len(texts))


def _seen(run: str, config: Config, chosen: Config, texts: Sequence[Document]) -> str:
    """What to say where a run was trained on documents that it is to be judged by, or may have been."""
    if config.corpus == chosen.corpus:
        known = began_with(Path(run), "texts")
        if not known:
            return f"{run} is of a version that kept nothing to tell its texts by; it may have seen these documents"
        if identity_of(texts) in known.values():
            return ""
        return f"{run}: the corpus has changed since it was trained; it may have seen these documents"
    try:
        count = split_corpus(config).trained_on(texts)
    except FusionError as error:
        return f"{run} was trained on texts that are not there now ({error}); it may have seen these documents"
    if count:
        return f"{run} was trained on {count} of these {len(texts)} documents"
    apart = config.corpus.paragraphs == chosen.corpus.paragraphs
    return "" if apart else f"{run} was trained on documents cut otherwise; it may have seen these"


def short_names(runs: Sequence[Path]) -> dict[str, str]:
    """By run its name in a table: what is said of all of them left out."""
    if len(runs) < 2:
        return {}
    shared = os.path.commonpath([run.absolute() for run in runs])
    return {str(run): os.path.relpath(run, shared) for run in runs}
