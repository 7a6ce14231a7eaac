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

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from fusion_core.errors import FusionError
from training.console import Format, print_frame, print_json, print_table, progress
from training.corpus import documents, read_text
from training.shards import is_shards, read_shards

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


def _text(text: str | None, files: list[Path] | None) -> str:
    if text is not None and files:
        _fail("give --text or --file, not both")
    if text is not None:
        return text
    if files:
        return "".join(read_text(path) for path in files)
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
    texts = [read_text(path) for path in file or ()]
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
def teach(
    model: Annotated[str, typer.Argument(help="The model: smollm2-135m, gemma-3-270m, a hub id, a folder or a .gguf.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the shards.", show_default=False)],
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            help="A text file, or .jsonl or .parquet with a column 'text'; may be repeated.",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="A corpus that is always there: stdlib-docstrings or stdlib-code.", show_default=False),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Entries kept of each distribution.")] = 64,
    limit: Annotated[int, typer.Option(min=0, help="Documents to read at most; 0 for all.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; CUDA where there is one by default.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 (the default on CUDA) or float16.", show_default=False),
    ] = None,
) -> None:
    """Keep what a model predicts on a corpus: the top-k distribution at every position, in shards.

    Each shard is written whole or not at all. Run the same command again after an interruption, or with more texts:
    what is there already is kept. Long texts are read in windows that overlap by half.
    """
    from itertools import islice

    from fusion_core.models import load_model
    from training.stages import teach as stage

    found = list(islice(documents(corpus, file or ()), limit or None))
    if not found:
        _fail("the texts are all empty")
    total = sum(len(document.text.encode("utf-8", "surrogatepass")) for document in found)
    with progress(f"loading {model}"):
        loaded = load_model(model, device=device, dtype=dtype)
    read = 0
    with progress(f"{model} reads {total:,} bytes") as update:

        def done(batch: Any, made: bool) -> None:
            nonlocal read
            read += sum(len(text.as_py().encode()) for text in batch.column("text"))
            update(read, total)

        outcome = stage.run(output, loaded, found, top_k, done=done)
    size = sum(path.stat().st_size for path in output.glob("*.parquet"))
    tokens = sum(len(batch.column("tokens").flatten()) for batch in read_shards(output, ["tokens"], check=False))
    typer.echo(
        f"{outcome.rows:,} documents, {tokens:,} tokens in {output}: {outcome.made} shards made, {outcome.kept} kept"
        f"{f', {len(outcome.removed)} out of date removed' if outcome.removed else ''}; "
        f"{size / 1e6:.1f} MB, {size / max(1, tokens):.0f} bytes a token"
    )


@cli.command()
def fidelity(
    source: Annotated[
        str,
        typer.Argument(
            help="The source model: smollm2-135m, gemma-3-270m, a hub id, a folder or a .gguf; or what it was taught."
        ),
    ],
    target: Annotated[str, typer.Argument(help="The target model, named the same way.")],
    text: Annotated[
        str | None, typer.Option("--text", "-t", help="The text to measure on.", show_default=False)
    ] = None,
    file: Files = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="A further source to fuse with the first, such as the target itself; may be repeated.",
            show_default=False,
        ),
    ] = None,
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
    source's own is the method's ratio, and 1.00 is perfect. SOURCE and TARGET are models, or folders of 'fusescope
    teach', which need no text. With --also, the sources are fused through the first method chosen by every rule.
    """
    from fusion_core.fidelity import fidelity as measure
    from fusion_core.fidelity import fused_fidelity
    from fusion_core.transfer import LEDGER, METHODS
    from training.fidelity import prepare, sample_marginal

    chosen = method or list(METHODS)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        _fail(f"unknown transfer method {unknown[0]!r}; choose one of {', '.join(METHODS)}")
    content = None if is_shards(Path(source)) and text is None and not file else _text(text, file)
    names = [source, *(also or [])]
    setting = prepare(names, target, content, top_k)
    reference = sample_marginal(setting, against_marginal, seed) if against_marginal else None
    with progress("measuring") as update:
        found = measure(
            setting.sources[0],
            setting.own,
            setting.indices[0],
            chosen,
            reference=reference.transfer if reference else None,
            reference_positions=reference.positions if reference else None,
            progress=update,
        )
    singles, fused = fused_fidelity(setting.sources, setting.own, setting.indices, chosen[0]) if also else ([], [])
    if output is Format.json:
        value = found.to_dict()
        if also:
            value["sources"] = [{"name": n, "bpb": bpb} for n, bpb in zip(names, singles, strict=True)]
            value["fused"] = [asdict(row) for row in fused]
        print_json(value)
        return
    frame = found.to_frame().rename(columns={"name": "method"})
    figures = ["method", "coverage", "top1", "nll", "bpb", "ratio", "seconds"]
    print_frame(f"{source} seen through each method as a predictor of {target}'s tokens", frame[figures])
    print_frame("Where the probability went", frame[["method", *LEDGER]].round(4))
    if reference:
        renamed = frame.rename(columns={"kl": "KL, nats", "agreement": "same top-1"})
        print_frame("Against the marginal", renamed[["method", "KL, nats", "same top-1"]])
    if also:
        rows = [[name, "", bpb, "", ""] for name, bpb in zip(names, singles, strict=True)]
        rows += [
            [row.rule, row.level, row.bpb, f"{row.gain:+.4f}", " ".join(f"{w:.2f}" for w in row.weights)]
            for row in fused
        ]
        print_table(
            f"Each source through {chosen[0]}, and all of them fused",
            ["source or rule", "level", "bits per byte", "below the best source", "mean weights"],
            rows,
        )
        typer.echo("At the level 'token' the gold token itself chooses the weights: a bound, not a prediction.")
    typer.echo(
        f"{found.bytes:,} bytes, {found.positions:,} target positions; bits per byte: "
        f"the source's own {found.source_bpb:.4f}, the target's own {found.target_bpb:.4f}"
    )
    if reference:
        typer.echo(f"marginal: {len(reference.positions)} positions in {reference.seconds:.1f} s")


ConfigFile = Annotated[Path, typer.Argument(help="The YAML file; 'fusescope config --example' prints one.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field of the config, such as loss.lam=0.5; may be repeated.", metavar="A.B=C"),
]


@cli.command()
def config(
    example: Annotated[bool, typer.Option("--example", help="Print a config with comments.")] = False,
    check: Annotated[
        Path | None, typer.Option(help="Say what is wrong with a config, or print it in full.", show_default=False)
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, for editors.")] = False,
    changes: Changes = None,
) -> None:
    """Write and check the file that says what to train on what."""
    from training.config import EXAMPLE, dump, json_schema, load

    if [example, check is not None, schema].count(True) != 1:
        _fail("say one of --example, --check FILE and --schema")
    if example:
        typer.echo(EXAMPLE, nl=False)
    elif schema:
        print_json(json_schema())
    elif check is not None:
        typer.echo(dump(load(check, changes or ())), nl=False)


@cli.command()
def train(
    config: ConfigFile,
    changes: Changes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    data_only: Annotated[bool, typer.Option("--data-only", help="Make the distributions, and stop.")] = False,
) -> None:
    """Train the target on a corpus and on what its sources say about it.

    The stages teach, transfer, fuse and pack run first, each only where it is missing. The results go into the run's
    folder: config, versions, metrics.jsonl, checkpoints, run.json, and the model. SIGTERM saves and stops.
    """
    from training.config import load

    chosen = load(config, changes or ())

    def say(line: str) -> None:
        typer.echo(line, err=True)

    if data_only:
        from training.data import prepare, split_corpus

        typer.echo(str(prepare(chosen, split_corpus(chosen).train, say)))
        return
    from training.train import train as run

    with redirect_stdout(sys.stderr):  # the Trainer prints its figures; stdout is for the result
        result = run(chosen, resume=resume, say=say)
    print_json(result)


@cli.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs; the first is what others differ from.")],
    split: Annotated[str, typer.Option(help="train, validation or held_out.")] = "held_out",
    before: Annotated[bool, typer.Option(help="Begin with the first run's target as it was before training.")] = False,
    output: OutputFormat = Format.table,
) -> None:
    """Bits per byte of trained models on documents that they have not seen, by domain, side by side.

    Intervals of 95 % are over documents; differences are paired to the first model, and below 0 is better.
    """
    from fusion_core import load_tokenizer
    from fusion_core.models import load_model
    from training.config import load
    from training.data import SPLITS, split_corpus
    from training.evaluate import score, table

    if split not in SPLITS:
        _fail(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    for run in runs:
        if not (run / "run.json").is_file():
            _fail(f"{run} is no finished run: there is no run.json in it")
    chosen = load(runs[0] / "config.yaml", training=False)
    texts = getattr(split_corpus(chosen), split)
    if not texts:
        _fail(f"the split {split!r} is empty; see corpus.{split} in the config")
    scores = {}
    tokenizer = load_tokenizer(chosen.target)
    for label in [*([chosen.target] if before else []), *map(str, runs)]:
        with progress(f"{label} reads {len(texts)} documents") as update:
            name = chosen.target if label == chosen.target else str(Path(label) / "model")
            scores[label] = score(load_model(name, tokenizer=tokenizer), texts, update)
    frame = table(scores)
    if output is Format.json:
        print_json(frame.to_dict("records"))
        return
    print_frame(f"{split}, {len(texts)} documents: bits per byte", frame)


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
