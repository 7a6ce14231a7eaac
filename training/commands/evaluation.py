"""Trained models side by side: `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.options import Changes, OutputFormat, fail
from training.console import Format, print_json, print_table, progress

if TYPE_CHECKING:
    import pandas as pd


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
    from training.evaluate import FEWEST
    from training.harness import Harness
    from training.judging import judge, short_names

    if plot is not None and not (plot.absolute().parent.is_dir() and not plot.is_dir()):
        fail(f"--plot {plot} names no file that could be written")
    harness = Harness(tasks, tasks_folder) if tasks else None
    judged = judge(
        runs, lambda line: typer.echo(line, err=True), progress, split=split, changes=changes or (),
        over_seeds=over_seeds, before=before,
    )  # fmt: skip
    frame = judged.frame
    if plot is not None:
        from training.comparison import figure, save

        save(figure(frame, judged.scores), plot)
    marks = harness.run([run for run in runs if (run / "model").is_dir()]) if harness else []
    if output is Format.json:
        print_json({"runs": frame.to_dict("records"), "tasks": marks} if harness else frame.to_dict("records"))
        return
    _print(f"{split}, {judged.documents} documents", frame, short_names(runs))
    if frame["documents"].min() < FEWEST:
        typer.echo(f"Of fewer than {FEWEST} documents no interval is given: they say nothing of others.")
    if marks:
        print_table("lm-eval", ["run", "task", "metric", "value"], [list(row.values()) for row in marks])


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
