"""Two tokenizers side by side: `tokenizers`, `align`, `map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from training.commands.options import Files, OutputFormat, Source, Target, fail, read_texts
from training.console import Format, print_frame, print_json, print_table, progress
from training.corpus import read_text


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

    content = read_texts(text, file)
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
        fail(f"unknown breakdown {by!r}; choose one of {', '.join(BREAKDOWNS)}")
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
    shown = {
        "entry": [a.vocabulary.shown(i) for i in worst["id"]],
        "target": [b.vocabulary.shown(j) if j >= 0 else "" for j in worst["target_id"]],
    }
    columns = ["id", "entry", "target_id", "target", "distance", "ties", "lost"]
    print_frame("The entries that fare worst", worst.assign(**shown)[columns])
    if save is not None:
        typer.echo(f"saved to {save}")
