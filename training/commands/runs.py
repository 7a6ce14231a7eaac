"""Training: `config`, `train`, `sweep`."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from training.commands.options import Changes, EngineName, OutputFormat, Workers, fail
from training.console import Format, print_json, print_table
from training.engines import engine as make_engine

if TYPE_CHECKING:
    from training.config import Config

ConfigFile = Annotated[Path, typer.Argument(help="The YAML file; 'fusescope config --example' prints one.")]


def config(
    example: Annotated[bool, typer.Option("--example", help="Print a config with comments.")] = False,
    check: Annotated[
        Path | None, typer.Option(help="Say what is wrong with a config, or print it in full.", show_default=False)
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, for editors.")] = False,
    changes: Changes = None,
) -> None:
    """Write and check the file that says what to train on what."""
    from fusion_core.models import require_torch
    from training.config import EXAMPLE, dump, load
    from training.schema import json_schema

    if [example, check is not None, schema].count(True) != 1:
        fail("say one of --example, --check FILE and --schema")
    if example:
        typer.echo(EXAMPLE, nl=False)
    elif schema:
        print_json(json_schema())
    elif check is not None:
        chosen = load(check, changes or ())
        if chosen.kind == "train":
            require_torch()
            from training.arguments import arguments_of

            arguments_of(chosen, chosen.corpus.validation > 0)
        typer.echo(dump(chosen), nl=False)


def train(
    config: ConfigFile,
    changes: Changes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and what disk and memory it takes, and stop.")
    ] = False,
    data_only: Annotated[bool, typer.Option("--data-only", help="Make the distributions, and stop.")] = False,
    workers: Workers = 1,
    engine: EngineName = "local",
) -> None:
    """Train the target on a corpus and on what its sources say about it.

    The stages teach, transfer, fuse and pack run first, each only where it is missing. The results go into the run's
    folder: config, versions, metrics.jsonl, checkpoints, run.json, and the model. SIGTERM saves and stops.
    """
    from fusion_core.models import require_torch
    from training.config import load

    chosen = load(config, changes or ())

    def say(line: str) -> None:
        typer.echo(line, err=True)

    where = make_engine(engine, workers)
    if dry_run:
        _tell(chosen)
        return
    if data_only and chosen.kind != "train":
        fail(f"kind: {chosen.kind} needs no distributions that could be made first")
    if data_only:
        from training.data import prepare, sharing
        from training.splits import split_corpus

        with sharing(chosen, say):
            typer.echo(str(prepare(chosen, split_corpus(chosen).train, say, where)))
        return
    require_torch()
    from accelerate import PartialState

    from training.train import train as run

    with redirect_stdout(sys.stderr):  # the Trainer prints its figures; stdout is for the result
        result = run(chosen, resume=resume, say=say, engine=where)
    # Of several processes none is to leave while another still speaks to it.
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
    if state.is_main_process:
        print_json(result)
    if state.num_processes > 1:
        # All is written. On the way out the interpreter takes threads of gloo and DeepSpeed down in no order, which now
        # and then ends in SIGABRT, and the launcher would call the whole run failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _tell(config: Config) -> None:
    """What a run of `config` would do."""
    from training.estimate import estimate
    from training.splits import split_corpus

    found = estimate(config, split_corpus(config))
    train, validation, held_out = found.documents
    typer.echo(
        f"{train:,} documents to train on (about {found.tokens:,} tokens), {validation:,} for validation, "
        f"{held_out:,} held out; about {found.steps:,} steps.\n"
        f"Disk, about: {decimal(found.distributions)} of distributions, {decimal(found.checkpoints)} of checkpoints "
        "and model."
    )
    print_table("Stages", ["stage", "", "memory, about"], [list(row) for row in found.table])
    for line in filter(None, (found.notice, found.shortage)):
        typer.echo(line)


def sweep(
    file: Annotated[Path, typer.Argument(help="The YAML file; training/recipes holds some.")],
    changes: Changes = None,
    output: OutputFormat = Format.table,
) -> None:
    """Train several methods on the same data, each in every setting of a grid, and compare each one's best.

    FILE holds 'config' (what all share), 'methods' (by name the changes that make it, as for --set), 'grid' (by field
    the values to choose from), 'seeds', and 'keep_models' (false removes each that has been judged). Each method's
    best setting is chosen on validation and judged on held-out documents, paired with the first method. What is trained
    already is not trained again; results.json holds all.
    """
    from fusion_core.models import require_torch
    from training.sweep import read_sweep, run

    require_torch()
    chosen = read_sweep(file, changes or ())
    with redirect_stdout(sys.stderr):
        found = run(chosen, lambda line: typer.echo(line, err=True))
    if output is Format.json:
        print_json(found)
        return
    first = next(iter(chosen.methods))
    print_table(
        "Held-out bits per byte, each method in its best setting",
        ["method", "seed", "setting", "bits per byte", "difference to the first, 95 %"],
        [
            [
                row["method"],
                row["seed"],
                ", ".join(f"{name.rsplit('.', 1)[-1]} {value}" for name, value in row["setting"].items()),
                *_total(row, first),
            ]
            for row in found["rows"]
        ],
    )
    if found["over_seeds"]:
        print_table(
            f"All {len(chosen.seeds)} seeds together, intervals over seeds and documents",
            ["method", "bits per byte", "difference to the first, 95 %"],
            [[row["method"], *_total(row, first)] for row in found["over_seeds"]],
        )


def _total(row: dict[str, Any], first: str) -> tuple[float, str]:
    """Bits per byte over all domains, and the difference to the first method."""
    total = row["held_out"].get("all") or next(iter(row["held_out"].values()))
    low, high = total["difference_interval"]
    between = f"\n{low:+.4f} to {high:+.4f}" if low is not None else ""
    return total["bits_per_byte"], "" if row["method"] == first else f"{total['difference']:+.4f}{between}"
