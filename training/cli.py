"""The `fusescope` command.

fusescope app                                             # the app, on localhost
fusescope tokenizers                                      # samples, and every way to name a tokenizer
fusescope align qwen deepseek --text "naïve café 🙂"       # how two tokenizers line up
fusescope map qwen deepseek --kind soft -o mapping.parquet
fusescope fidelity gemma-3-270m smollm2-135m --file LICENSE --top-k 64 --method byte-exact --method fusellm-hard
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from fusion_core.errors import FusionError
from training.console import Format, print_frame, print_json, print_table, progress

cli = typer.Typer(
    name="fusescope",
    help="See and measure what happens when one model's predictions are carried over to another model's tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_NAMES = "A sample's name, a hub id, a folder or a file; see 'fusescope tokenizers'."
Source = Annotated[str, typer.Argument(help=f"The source tokenizer. {_NAMES}", show_default=False)]
Target = Annotated[str, typer.Argument(help="The target tokenizer, named the same way.", show_default=False)]
OutputFormat = Annotated[Format, typer.Option("--format", help="A table for people or JSON for programs.")]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="A UTF-8 text file; may be repeated.", show_default=False),
]


def _fail(reason: str) -> NoReturn:
    typer.echo(f"fusescope: {' '.join(reason.split())}", err=True)
    raise typer.Exit(2)


def _read(path: Path) -> str:
    from fusion_core.errors import TextError

    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 (byte {error.start}); convert it first, e.g. with iconv") from error


def _text(text: str | None, files: list[Path] | None) -> str:
    if text is not None and files:
        _fail("give --text or --file, not both")
    if text is not None:
        return text
    if files:
        return "".join(_read(path) for path in files)
    if not sys.stdin.isatty():
        data = sys.stdin.buffer.read()
        if data:
            return data.decode("utf-8", "replace")
    _fail("no text: give --text, --file, or pipe one in")


@cli.command()
def app(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the app listens.")] = 8501,
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

    raise typer.Exit(launch(port=port, address=address, allow=allow or [], browser=browser))


@cli.command()
def tokenizers(output: OutputFormat = Format.table) -> None:
    """List the sample tokenizers and every form that a tokenizer's name can take."""
    from fusion_core.tokenizers import NAME_FORMS, SAMPLES

    samples = [
        {"name": s.name, "kind": s.kind, "size": s.size, "installed": s.installed, "about": s.about}
        for s in SAMPLES.values()
    ]
    if output is Format.json:
        print_json({"samples": samples, "forms": NAME_FORMS})
        return
    print_table(
        "Samples",
        ["name", "kind", "size", "installed", "about"],
        [[s.name, s.kind, s.size, "yes" if s.installed else f"no: {s.install}", s.about] for s in SAMPLES.values()],
    )
    print_table("A tokenizer is named by", ["form", "example"], [[form, name] for form, name in NAME_FORMS.items()])


@cli.command()
def align(
    source: Source,
    target: Target,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The text to align on.", show_default=False)] = None,
    file: Files = None,
    method: Annotated[str, typer.Option(help="span, dtw or exact.")] = "span",
    cost: Annotated[str, typer.Option(help="For dtw: edit (FuseLLM) or containment (FuseChat).")] = "edit",
    compare: Annotated[str, typer.Option(help="For dtw: bytes, or pieces as FuseLLM does.")] = "bytes",
    output: OutputFormat = Format.table,
    limit: Annotated[int, typer.Option(min=0, help="Groups to print in the table; 0 for all.")] = 50,
) -> None:
    """Align the tokens of two tokenizers on a text."""
    from fusion_core import align as align_tokens
    from fusion_core import load_tokenizer

    content = _text(text, file)
    alignment = align_tokens(
        load_tokenizer(source), load_tokenizer(target), text=content, method=method, cost=cost, compare=compare
    )
    if output is Format.json:
        print_json(alignment.to_dict())
        return
    groups = alignment.group_frame()
    shown = groups if limit == 0 else groups.head(limit)
    print_frame(f"{source} → {target}, method {method}", shown)
    if len(shown) < len(groups):
        typer.echo(f"{len(groups) - len(shown)} more groups; --limit 0 shows all")
    quality = alignment.quality
    rows: list[list[Any]] = [
        ["target positions with a shared boundary", f"{quality.shared_boundaries:.1%}"],
        ["target tokens linked one to one and equal", f"{quality.equal_one_to_one:.1%}"],
        ["target tokens linked at all", f"{quality.linked:.1%}"],
        ["bytes in groups larger than 1:1", f"{quality.bytes_beyond_one_to_one:.1%}"],
        [
            "tokens per byte, source and target",
            f"{quality.source_tokens_per_byte:.3f}, {quality.target_tokens_per_byte:.3f}",
        ],
        ["tokens without an exact span", f"{quality.inexact:.1%}"],
    ]
    if method == "dtw":
        rows.append(["cost of the path", f"{alignment.cost:g}"])
    print_table("Quality", ["figure", "value"], rows)


@cli.command("map")
def map_(
    source: Source,
    target: Target,
    kind: Annotated[str, typer.Option(help="hard, soft, cooccurrence, statistical or first-token.")] = "soft",
    form: Annotated[str, typer.Option(help="bytes, or pieces as FuseLLM compares them.")] = "bytes",
    file: Files = None,
    by: Annotated[str, typer.Option(help="Break the figures down by all, script, length or special.")] = "script",
    save: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the mapping there (Parquet).", show_default=False)
    ] = None,
    output: OutputFormat = Format.table,
    limit: Annotated[int, typer.Option(min=0, help="Entries to list, those without a good target first.")] = 20,
    cache: Annotated[bool, typer.Option(help="Use and fill the workspace's cache.")] = True,
) -> None:
    """Map one vocabulary onto another: what maps exactly, softly, or not at all.

    With --file the figures are weighted by how often an entry occurs there; cooccurrence and statistical learn from it.
    """
    from fusion_core import load_tokenizer, map_vocabulary, save_mapping
    from fusion_core.mapping import BREAKDOWNS, breakdown, occurrences

    if by not in BREAKDOWNS:
        _fail(f"unknown breakdown {by!r}; choose one of {', '.join(BREAKDOWNS)}")
    a, b = load_tokenizer(source), load_tokenizer(target)
    texts = [_read(path) for path in file or ()]
    with progress(f"mapping {source} onto {target}") as update:
        mapping = map_vocabulary(a, b, kind=kind, form=form, texts=texts, progress=update, cache=cache)
    counts = occurrences(a, "".join(texts)) if texts else None
    figures = breakdown(mapping, a, by, counts)
    if save is not None:
        save_mapping(mapping, save)
    frame = mapping.to_frame(a, b)
    if counts is not None:
        frame["occurrences"] = counts[frame["id"].to_numpy()]
        frame = frame[frame["occurrences"] > 0]
    worst = frame.sort_values(["lost", "distance", "id"], ascending=[False, False, True]).head(limit)
    if output is Format.json:
        print_json(
            {
                "source": source,
                "target": target,
                "kind": kind,
                "form": form,
                "source_fingerprint": a.fingerprint,
                "target_fingerprint": b.fingerprint,
                "figures": figures.reset_index().to_dict("records"),
                "entries": worst.astype({"outcome": str}).to_dict("records"),
                "saved": str(save) if save else None,
            }
        )
        return
    unit = "occurrences in the text" if counts is not None else "entries"
    print_frame(f"{source} → {target}, {kind}: {unit} by {by}", figures, index=True)
    columns = ["id", "piece", "text", "target_id", "target_piece", "distance", "ties", "lost"]
    print_frame("The entries that fare worst", worst[columns])
    if save is not None:
        typer.echo(f"saved to {save}")


@cli.command()
def fidelity(
    source: Annotated[
        str, typer.Argument(help="The source model: smollm2-135m, gemma-3-270m, a hub id, a folder or a .gguf.")
    ],
    target: Annotated[str, typer.Argument(help="The target model, named the same way.")],
    text: Annotated[
        str | None, typer.Option("--text", "-t", help="The text to measure on.", show_default=False)
    ] = None,
    file: Files = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A transfer method; may be repeated. All of them by default.", show_default=False),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Entries kept of each distribution; 0 for the full softmax.")] = 0,
    against_marginal: Annotated[
        int,
        typer.Option(min=0, help="Compare with the exact marginal at so many random positions (extra forward passes)."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the positions for --against-marginal.")] = 0,
    output: OutputFormat = Format.table,
) -> None:
    """Measure what carrying a source model's predictions over to a target's tokens keeps.

    The source seen through a method is a predictor of the text in the target's tokens: its bits per byte by the
    source's own is the method's ratio, and 1.00 is perfect.
    """
    from fusion_core.fidelity import fidelity as measure
    from fusion_core.transfer import LEDGER, METHODS
    from training.fidelity import predict_pair, sample_marginal

    chosen = method or list(METHODS)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        _fail(f"unknown transfer method {unknown[0]!r}; choose one of {', '.join(METHODS)}")
    content = _text(text, file)
    pair = predict_pair(source, target, content, top_k)
    reference = sample_marginal(pair, against_marginal, seed) if against_marginal else None
    found = measure(
        pair.source,
        pair.own,
        pair.index,
        chosen,
        reference=reference.transfer if reference else None,
        reference_positions=reference.positions if reference else None,
    )
    if output is Format.json:
        print_json(found.to_dict())
        return
    frame = found.to_frame().rename(columns={"name": "method"})
    figures = ["method", "coverage", "top1", "nll", "bpb", "ratio", "seconds"]
    print_frame(f"{source} seen through each method as a predictor of {target}'s tokens", frame[figures])
    print_frame("Where the probability went", frame[["method", *LEDGER]].round(4))
    if reference:
        renamed = frame.rename(columns={"kl": "KL, nats", "agreement": "same top-1"})
        print_frame("Against the marginal", renamed[["method", "KL, nats", "same top-1"]])
    typer.echo(
        f"{found.bytes:,} bytes, {found.positions:,} target positions; bits per byte: "
        f"the source's own {found.source_bpb:.4f}, the target's own {found.target_bpb:.4f}"
    )
    if reference:
        typer.echo(f"marginal: {len(reference.positions)} positions in {reference.seconds:.1f} s")


@cli.command()
def samples() -> None:
    """Put the sample models together in the workspace and say what they are ('make samples' runs this)."""
    from training.samples import assemble, models

    assemble()
    print_table(
        "Sample models",
        ["name", "size", "terms", "where"],
        [[m.name, f"{m.size_mb} MB", m.terms, str(m.path or "not installed: make samples")] for m in models()],
    )


def main() -> None:
    """Run the command; a mistake of the user's ends with exit code 2 and one line."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
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
    typer.echo(f"fusescope: {reason}", err=True)
    sys.exit(code)
