"""Arguments that several commands take, and how a mistake in them is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from training.console import Format
from training.corpus import read_text

_NAMES = "A sample's name, a hub id, a folder or a file; see 'fusescope tokenizers'."
Source = Annotated[str, typer.Argument(help=f"The source tokenizer. {_NAMES}", show_default=False)]
Target = Annotated[str, typer.Argument(help="The target tokenizer, named the same way.", show_default=False)]
Workers = Annotated[int, typer.Option(min=1, help="Processes that the stages run in.")]
EngineName = Annotated[
    str, typer.Option(help="Where the stages run: local, or ray (a cluster at RAY_ADDRESS, or this machine).")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="A table for people or JSON for programs.")]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="A UTF-8 text file; may be repeated.", show_default=False),
]

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field of the config, such as loss.lam=0.5; may be repeated.", metavar="A.B=C"),
]


def fail(reason: str) -> NoReturn:
    """One line on stderr and exit code 2: a mistake of the user's."""
    typer.echo(f"fusescope: {' '.join(reason.split())}", err=True)
    raise typer.Exit(2)


def read_texts(text: str | None, files: list[Path] | None) -> str:
    """The text that --text, --file or a pipe gives; exactly one of them."""
    if text is not None and files:
        fail("give --text or --file, not both")
    if text is not None:
        return text
    if files:
        return "".join(read_text(path) for path in files)
    if not sys.stdin.isatty():
        data = sys.stdin.buffer.read()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            fail(f"what was piped in is not UTF-8 (byte {error.start}); convert it first, e.g. with iconv")
        if text:
            return text
    fail("no text: give --text, --file, or pipe one in")
