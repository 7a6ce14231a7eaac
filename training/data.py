"""From a config to the shards that training reads: teach, transfer, fuse, pack, each only where it is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from fusion_core import load_tokenizer
from fusion_core.errors import ConfigError
from fusion_core.models import load_model
from fusion_core.transfer import build_index
from training.config import Config
from training.console import progress
from training.corpus import Document, documents
from training.shards import Outcome, read_manifest, read_shards, run_stage
from training.stages import carry, examples, teach

SPLITS = ("train", "validation", "held_out")
# Called with a line about what is being done or was done.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Splits:
    """The documents of a corpus, kept apart."""

    train: list[Document]
    validation: list[Document]
    held_out: list[Document]


def split_corpus(config: Config) -> Splits:
    """All documents of the config's corpus by split; raises `ConfigError` where none is left to train on."""
    corpus = config.corpus
    found: Iterable[Document] = documents(corpus.name, corpus.files)
    if corpus.paragraphs:
        found = _paragraphs(found)
    chosen = list(islice(found, corpus.limit or None))
    parts: dict[str, list[Document]] = {name: [] for name in SPLITS}
    by_domain: dict[str, list[Document]] = {}
    for document in chosen:
        by_domain.setdefault(document.domain, []).append(document)
    for group in by_domain.values():
        for n, document in enumerate(group):
            # A document in parts (`name#2`) goes where its name goes.
            key = hashlib.sha256(document.name.split("#")[0].encode("utf-8", "surrogatepass")).digest()
            at = n / len(group) if corpus.split == "order" else int.from_bytes(key[:8], "big") / 2**64
            train = 1 - corpus.validation - corpus.held_out
            parts["train" if at < train else "validation" if at < train + corpus.validation else "held_out"].append(
                document
            )
    if not parts["train"]:
        raise ConfigError(f"none of the {len(chosen)} documents is left to train on; raise corpus.limit or the split")
    return Splits(**parts)


def _paragraphs(found: Iterable[Document]) -> Iterator[Document]:
    for document in found:
        pieces = [piece.strip() for piece in document.text.splitlines() if piece.strip()]
        for n, piece in enumerate(pieces):
            yield replace(document, name=f"{document.name}:{n}", text=piece)


def prepare(config: Config, train: list[Document], say: Say) -> Path:
    """The folder of training examples, made by whatever stages are missing."""
    root = config.output / "data"
    batches = list(teach.batches(train))
    target = load_tokenizer(config.target)
    if not config.sources:
        made = run_stage(
            root / "plain", "plain", {"tokenizer": target.fingerprint}, batches, lambda b: examples.plain(b, target)
        )
        _tell(say, "plain", root / "plain", made)
        last = root / "plain"
    else:
        last = _distributions(config, batches, say)
    folder = root / "examples"
    settings = {"max_length": config.max_length, "from": read_manifest(last).settings}
    made = run_stage(folder, "pack", settings, read_shards(last), lambda b: examples.pack(b, config.max_length))
    _tell(say, "pack", folder, made)
    return folder


def _tell(say: Say, stage: str, folder: Path, outcome: Outcome) -> None:
    say(f"{stage}: {outcome.made} shards made, {outcome.kept} kept, {outcome.rows:,} rows in {folder}")


def _teach(config: Config, name: str, folder: Path, batches: list[pa.RecordBatch], say: Say) -> None:
    """One model's shards; the model is gone when this returns, before the next one needs its memory."""
    model = load_model(name, device=config.teach.device, dtype=config.teach.dtype)
    chosen = teach.settings(model, config.teach.top_k)
    with progress(f"{name} reads {sum(batch.num_rows for batch in batches)} documents") as update:
        made = run_stage(
            folder, "teach", chosen, batches, lambda batch: teach.teach(batch, model, chosen["top_k"], progress=update)
        )
    _tell(say, f"teach {name}", folder, made)


def _distributions(config: Config, batches: list[pa.RecordBatch], say: Say) -> Path:
    root, top_k = config.output / "data", config.teach.top_k
    names = list(dict.fromkeys([config.target, *(source.model for source in config.sources)]))
    folders = {name: root / f"teach-{n}" for n, name in enumerate(names)}
    for name, folder in folders.items():
        _teach(config, name, folder, batches, say)
    carried = []
    wanted = [(source.model, source.method) for source in config.sources]
    if config.fusion.with_target:
        wanted.append((config.target, "byte-exact"))
    tokenizers = {name: load_tokenizer(name) for name in names}
    for n, (name, method) in enumerate(wanted):
        sides = {"source": folders[name], "target": folders[config.target]}
        settings: dict[str, Any] = {side: dict(read_manifest(path).settings) for side, path in sides.items()}
        index = build_index(tokenizers[name], tokenizers[config.target])

        def work(batch: pa.RecordBatch, s: Any = settings, i: Any = index, m: str = method) -> pa.RecordBatch:
            return carry.carry(batch, s, i, m, top_k)

        folder = root / f"transfer-{n}"
        made = run_stage(folder, "transfer", {**settings, "method": method, "top_k": top_k}, _joined(sides), work)
        _tell(say, f"transfer {name} ({method})", folder, made)
        carried.append(folder)
    if len(carried) == 1:
        return carried[0]
    sides = {str(n): folder for n, folder in enumerate(carried)}
    fusion, size = config.fusion, tokenizers[config.target].size
    settings = {
        "sources": [dict(read_manifest(folder).settings) for folder in carried],
        **fusion.model_dump(exclude={"with_target"}),
    }
    made = run_stage(
        root / "fused", "fuse", settings, _joined(sides),
        lambda b: carry.merge(b, list(sides), size, fusion.rule, fusion.level, fusion.temperature, top_k),
    )  # fmt: skip
    _tell(say, f"fuse {len(carried)} ({fusion.rule}, {fusion.level})", root / "fused", made)
    return root / "fused"


def _joined(sides: dict[str, Path]) -> Iterator[pa.RecordBatch]:
    for batches in zip(*(read_shards(folder) for folder in sides.values()), strict=True):
        yield carry.join(dict(zip(sides, batches, strict=True)))
