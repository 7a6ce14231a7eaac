"""Trained models side by side: `evaluate`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion_core.errors import FusionError
from training.commands.options import Changes, OutputFormat, fail
from training.console import Format, print_json, print_table, progress

if TYPE_CHECKING:
    import pandas as pd

    from training.config import Config
    from training.corpus import Document

_BITS = ("bits per byte", "low", "high")
_GAIN = ("difference", "difference low", "difference high")


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs; the first is what others differ from.")],
    split: Annotated[str, typer.Option(help="train, validation or held_out.")] = "held_out",
    changes: Changes = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also an HTML file with both as pictures.", show_default=False)
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Also these tasks of lm-eval, with commas between them (extra lm-eval).", show_default=False),
    ] = None,
    tasks_folder: Annotated[
        Path | None, typer.Option(help="A folder with lm-eval tasks of your own (YAML).", show_default=False)
    ] = None,
    over_seeds: Annotated[
        bool, typer.Option(help="Take runs that differ only by their seed as one, with intervals over seeds too.")
    ] = False,
    before: Annotated[bool, typer.Option(help="Begin with the first run's target as it was before training.")] = False,
    output: OutputFormat = Format.table,
) -> None:
    """Bits per byte of trained models on documents that they have not seen, by domain, side by side.

    Intervals of 95 % are over documents; differences are paired to the first model, and below 0 is better. What one
    run gives, the next seed gives otherwise: train with three seeds or more, and take them together by --over-seeds.

    What a run scored is kept in its folder (scores/), so that the same question again takes seconds.
    """
    from fusion_core.models import load_model
    from training.evaluate import DTYPE, FEWEST, score, table
    from training.harness import Harness
    from training.runs import read_config, read_result
    from training.scores import run_scores
    from training.seeds import by_method
    from training.splits import SPLITS, split_corpus

    if split not in SPLITS:
        fail(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if len({run.resolve() for run in runs}) < len(runs):
        fail("a run is named twice: there is no difference to itself")
    if plot is not None and not (plot.absolute().parent.is_dir() and not plot.is_dir()):
        fail(f"--plot {plot} names no file that could be written")
    for run in runs:
        read_result(run)
    harness = Harness(tasks, tasks_folder) if tasks else None
    chosen = read_config(runs[0], changes or ())
    made = {str(run): read_config(run) for run in runs}
    groups = by_method(made) if over_seeds else [[label] for label in made]
    texts = list(getattr(split_corpus(chosen), split))
    if not texts:
        fail(f"the split {split!r} is empty; see corpus.{split} in the config")
    scores = {}
    if before:
        with progress(f"{chosen.target} reads {len(texts)} documents") as update:
            scores[chosen.target] = [score(load_model(chosen.target, dtype=DTYPE), texts, update)]
    read = {}
    for label, config in made.items():
        if split != "train" and (told := _seen(label, config, chosen, texts)):
            typer.echo(told, err=True)
        with progress(f"{label} reads {len(texts)} documents") as update:
            read[label] = run_scores(Path(label), config, texts, update)
    for group in groups:
        scores[group[0]] = [read[label] for label in group]
    frame = table(scores)
    if plot is not None:
        from training.comparison import figure, save

        save(figure(frame, scores), plot)
    marks = harness.run([run for run in runs if (run / "model").is_dir()]) if harness else []
    if output is Format.json:
        print_json({"runs": frame.to_dict("records"), "tasks": marks} if harness else frame.to_dict("records"))
        return
    _print(f"{split}, {len(texts)} documents", frame, _short(made))
    if frame["documents"].min() < FEWEST:
        typer.echo(f"Of fewer than {FEWEST} documents no interval is given: they say nothing of others.")
    if marks:
        print_table("lm-eval", ["run", "task", "metric", "value"], [list(row.values()) for row in marks])


def _seen(run: str, config: Config, chosen: Config, texts: Sequence[Document]) -> str:
    """What to say where a run was trained on documents that it is to be judged by, or may have been."""
    from training.runs import texts_of
    from training.splits import identity_of, split_corpus

    if config.corpus == chosen.corpus:
        known = texts_of(Path(run))
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


def _short(runs: Mapping[str, Any]) -> dict[str, str]:
    """By run its name in a table: what is said of all of them left out."""
    if len(runs) < 2:
        return {}
    shared = os.path.commonpath([Path(run).absolute() for run in runs])
    return {run: os.path.relpath(run, shared) for run in runs}


def _print(title: str, frame: pd.DataFrame, names: Mapping[str, str]) -> None:
    """The figures as a table, without the columns that say one thing of all rows."""
    columns = {"run": [names.get(name, name) for name in frame["model"]]}
    if frame["seeds"].max() > 1:
        columns["seeds"] = list(frame["seeds"])
    if frame["domain"].nunique() > 1:
        columns |= {"domain": list(frame["domain"]), "texts": list(frame["documents"])}
    columns["bits per byte"] = [f"{bits:.4f}{_interval(low, high)}" for bits, low, high in _figures(frame, _BITS)]
    own = frame["model"].iloc[0]
    columns["difference"] = [
        "" if model == own else f"{gain:+.4f}{_interval(low, high, '+')}"
        for model, (gain, low, high) in zip(frame["model"], _figures(frame, _GAIN), strict=True)
    ]
    columns |= {"top-1": list(frame["top-1"]), "ECE": list(frame["calibration error"])}
    print_table(
        f"{title}; 95 % intervals below the figures; ECE is the expected calibration error",
        list(columns),
        [list(row) for row in zip(*columns.values(), strict=True)],
    )


def _figures(frame: pd.DataFrame, names: tuple[str, str, str]) -> Iterator[tuple[float, float, float]]:
    return zip(*(frame[name] for name in names), strict=True)


def _interval(low: float, high: float, sign: str = "") -> str:
    return "" if math.isnan(low) else f"\n{low:{sign}.3f} to {high:{sign}.3f}"
