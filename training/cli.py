"""The `fusescope` command.

fusescope app                                             # the app, on localhost
fusescope tokenizers                                      # samples, and every way to name a tokenizer
fusescope align qwen deepseek --text "naïve café 🙂"       # how two tokenizers line up
fusescope map qwen deepseek --kind soft -o mapping.parquet
fusescope config --example > config.yaml                  # what to train on what
fusescope train config.yaml
fusescope evaluate runs/docstrings --before
fusescope teach gemma-3-270m --corpus stdlib-docstrings --limit 20 -o taught/gemma
fusescope fidelity gemma-3-270m smollm2-135m --file LICENSE --top-k 64 --method byte-exact --method fusellm-hard
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from fusion_core.errors import FusionError
from training.commands import evaluation, predictions, runs, vocabularies

# What writing to stdout fails with.
_OUTPUT = (errno.ENOSPC, errno.EPIPE, errno.EIO)

cli = typer.Typer(
    name="fusescope",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _help(command: Callable[..., None]) -> str:
    """Its docstring with every paragraph on one line: the terminal's width breaks it, not ours."""
    paragraphs = inspect.getdoc(command) or ""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs.split("\n\n"))


for command in (
    vocabularies.tokenizers, vocabularies.align, predictions.teach, predictions.fidelity, runs.config, runs.train,
    runs.sweep, evaluation.evaluate, predictions.samples,
):  # fmt: skip
    cli.command(help=_help(command))(command)
cli.command("map", help=_help(vocabularies.map_))(vocabularies.map_)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fusescope {version('fusescope')}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """See and measure what happens when one model's predictions are carried over to another model's tokens."""


@cli.command()
def app(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where the app listens: the first free port from 8501 on unless given."),
    ] = None,
    address: Annotated[str, typer.Option(help="The interface to listen on. Keep it local: there is no login.")] = (
        "localhost"
    ),
    allow: Annotated[
        list[Path] | None,
        typer.Option(help="A folder from which the app may read tokenizers, besides the workspace and this folder."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Open the app."""
    from app.launch import launch
    from training.samples import assemble

    try:
        assemble()  # in a workspace that is new, though the sample models are installed
    except FusionError as error:
        typer.echo(f"fusescope: {error}; the app opens without it", err=True)
    raise typer.Exit(launch(port=port, address=address, allow=allow or [], browser=browser))


def main() -> None:
    """Run the command; a mistake of the user's ends with exit code 2 and one line."""
    try:
        code = cli(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(code)
    except FusionError as error:
        reason, code = " ".join(str(error).split()), 2
    except TyperException as error:
        # No arguments at all print the help, and then raise without a message.
        message = getattr(error, "format_message", lambda: "")()
        if not message:
            sys.exit(2)
        reason, code = f"{message} (see --help)", 2
    except (KeyboardInterrupt, typer.Abort):
        reason, code = "stopped", 130
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT:
            raise
        # A closed or full stdout; what is left in it is not to fail once more on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason, code = f"cannot write the result: {error.strerror}", 1
    typer.echo(f"fusescope: {reason}", err=True)
    sys.exit(code)
