"""How the command line speaks: tables and JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


class Format(StrEnum):
    """What a command prints."""

    table = "table"
    json = "json"


def print_json(value: Any) -> None:
    """One JSON document on stdout; numbers that JSON has no word for, such as NaN, are null, and characters that the
    terminal has none for are escaped."""
    utf = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(_plain(value), ensure_ascii=not utf, indent=2, allow_nan=False)
    sys.stdout.write(text.encode("utf-8", "replace").decode() + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on stdout; every cell is data and is never read as markup."""
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    Console().print(table)


def print_frame(title: str, frame: pd.DataFrame, *, index: bool = False) -> None:
    """A data frame as a table."""
    if index:
        frame = frame.reset_index()
    print_table(title, [str(c) for c in frame.columns], frame.astype(object).to_numpy().tolist())


@contextmanager
def progress(label: str) -> Iterator[Callable[[float, float | None], None]]:
    """A progress bar on stderr that vanishes when done; yields `update(done, total)`."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(escape(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
