"""Several methods on the same data, each with its own best setting on validation, compared on held-out documents."""

from __future__ import annotations

from typing import Any

from fusion_core.errors import ConfigError
from fusion_core.models import load_model
from fusion_core.sealed import write_json
from training.config import Config, parse
from training.data import Say
from training.evaluate import DTYPE, Score, score
from training.processes import alone
from training.splits import Splits, identity_of, split_corpus
from training.sweep import judge
from training.sweep.plan import BEFORE, Sweep, read_sweep, settings_of, value_of
from training.sweep.search import FORMAT, VERSION, Search

__all__ = ["Sweep", "read_sweep", "run"]


def run(sweep: Sweep, say: Say) -> dict[str, list[dict[str, Any]]]:
    """Train every method in every setting, then judge each one's best. What has been trained already, with the same
    config, is not again.

    Returns:
        What results.json holds. `rows`: per method and seed the held-out bits per byte, its interval, the difference to
        the first method paired over documents, the setting, steps, epochs, seconds. `over_seeds`, where there are
        several: per method the bits per byte of all its seeds, with intervals over seeds and documents.

    Raises:
        ConfigError: there are no validation or no held-out documents, or a method would be chosen or judged on others
            than the first.
        TrainingError: a run was stopped (it is no trial, and is made anew next time), a method always diverged, or
            another process is at this sweep.
    """
    with alone(sweep.root):
        named = next(iter(sweep.methods))
        first = parse(value_of(sweep, named, settings_of(sweep, named)[0], sweep.seeds[0]))
        splits = split_corpus(first)
        if not splits.validation or not splits.held_out:
            raise ConfigError(
                f"a sweep chooses on validation documents and judges on held-out ones, and there are "
                f"{len(splits.validation)} and {len(splits.held_out)}; see corpus.validation and corpus.held_out"
            )
        _check_corpora(sweep, first, splits)
        search = Search(sweep, splits.held_out, say)
        found: dict[str, list[dict[str, Any]]] = {"rows": [], "over_seeds": []}
        read: list[judge.Scores] = []
        before: list[Score] = []
        for seed in sweep.seeds:
            chosen = {method: search.best(method, seed) for method in sweep.methods}
            before = before or score(load_model(first.target, dtype=DTYPE), splits.held_out)
            read.append({**{method: search.scores(one) for method, one in chosen.items()}, BEFORE: before})
            if not sweep.keep_models:
                for one in chosen.values():
                    search.forget(one)
            found["rows"] += judge.rows(read[-1], chosen, seed, say)
            if len(read) > 1:
                found["over_seeds"] = judge.rows_over(read, sweep.seeds[: len(read)], say)
            write_json(sweep.root / "results.json", FORMAT, VERSION, found)
        return found


def _check_corpora(sweep: Sweep, first: Config, splits: Splits) -> None:
    """Raise `ConfigError` where what a method or a setting says of the corpus moves the documents that all are chosen
    and judged on."""
    seen = [first.corpus]
    for method in sweep.methods:
        for setting in settings_of(sweep, method):
            config = parse(value_of(sweep, method, setting, sweep.seeds[0]))
            if config.corpus in seen:
                continue
            seen.append(config.corpus)
            other = split_corpus(config)  # which trains on no document that it holds out
            for name in ("validation", "held_out"):
                if identity_of(getattr(other, name)) != identity_of(getattr(splits, name)):
                    raise ConfigError(
                        f"{method} {dict(setting)} has other {name} documents than the first method, and cannot be "
                        "compared with it; give all methods one corpus"
                    )
