"""What models predict, and what carrying it over keeps: `teach`, `fidelity`, `samples`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from training.commands.options import EngineName, Files, OutputFormat, Workers, fail, read_texts
from training.console import Format, print_frame, print_json, print_table, progress
from training.corpus import Document, documents
from training.engines import engine as make_engine
from training.shards import is_shards, read_shards


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
    keep: Annotated[
        str,
        typer.Option(
            help="Which: best, the most probable; or text, half of them so and the rest what a transfer along the text "
            "asks for, the text's own tokens first."
        ),
    ] = "text",
    limit: Annotated[int, typer.Option(min=0, help="Documents to read at most; 0 for all.")] = 0,
    workers: Workers = 1,
    engine: EngineName = "local",
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

    from fusion_core.models import KEEP
    from training.data import run, teaching
    from training.progress import Standing
    from training.stages.teach import batches

    if keep not in KEEP:
        fail(f"--keep takes {' or '.join(KEEP)}, got {keep!r}")

    def texts() -> Iterator[Document]:
        return islice(documents(corpus, file or ()), limit or None)

    count = sum(1 for _ in texts())
    if not count:
        fail("the texts are all empty")
    options: dict[str, Any] = {"top_k": top_k, "device": device, "dtype": dtype, "keep": keep}
    step = teaching(model, output, lambda: batches(texts()), **options)
    outcome = run(step, lambda _: None, make_engine(engine, workers), Standing(step.title, 1, 1, 0.0, float(count)))
    size = sum(path.stat().st_size for path in output.glob("*.parquet"))
    tokens = sum(len(batch.column("tokens").flatten()) for batch in read_shards(output, ["tokens"], check=False))
    typer.echo(
        f"{outcome.rows:,} documents, {tokens:,} tokens in {output}: {outcome.made} shards made, {outcome.kept} kept"
        f"{f', {len(outcome.removed)} out of date removed' if outcome.removed else ''}; "
        f"{size / 1e6:.1f} MB, {size / max(1, tokens):.0f} bytes a token"
    )


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
    passes: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="With --against-marginal: also what so many levels of forward passes reach, and their price; may be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the positions for --against-marginal.")] = 0,
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
    from training.fidelity import compare, prepare, sample_marginal

    chosen = method or list(METHODS)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        fail(f"unknown transfer method {unknown[0]!r}; choose one of {', '.join(METHODS)}")
    content = None if is_shards(Path(source)) and text is None and not file else read_texts(text, file)
    names = [source, *(also or [])]
    setting = prepare(names, target, content, top_k)
    if passes and not against_marginal:
        fail("--passes is a comparison: say at how many positions with --against-marginal")
    reference = sample_marginal(setting, against_marginal, seed) if against_marginal else None
    partly = [sample_marginal(setting, against_marginal, seed, levels) for levels in passes or []]
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
        if reference and partly:
            value["passes"] = [
                {"passes": n, **asdict(row)} for n, row in zip(passes or [], compare(reference, partly), strict=True)
            ]
        print_json(value)
        return
    frame = found.to_frame().rename(columns={"name": "method"})
    figures = ["method", "coverage", "top1", "nll", "bpb", "ratio", "seconds"]
    print_frame(f"{source} seen through each method as a predictor of {target}'s tokens", frame[figures])
    print_frame("Where the probability went", frame[["method", *LEDGER]].round(4))
    if reference:
        renamed = frame.rename(columns={"kl": "KL, nats", "agreement": "same top-1"})
        shown = renamed[["method", "KL, nats", "same top-1", "seconds"]].values.tolist()
        for levels, row in zip(passes or [], compare(reference, partly), strict=True):
            name = f"marginal, {levels} level{'s' * (levels > 1)} of passes"
            shown.append([name, row.kl, row.agreement, row.seconds])
        print_table("Against the marginal", ["method", "KL, nats", "same top-1", "seconds"], shown)
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


def samples() -> None:
    """Make the sample models ready in the workspace and say what they are ('make samples' runs this)."""
    from training.samples import models, prepare

    for step in prepare():
        typer.echo(f"{step} ...", err=True)
    print_table(
        "Sample models",
        ["name", "size", "terms", "where"],
        [[m.name, f"{m.size_mb} MB", m.terms, str(m.path or "not installed: make samples")] for m in models()],
    )
