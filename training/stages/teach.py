"""`teach`: what a model predicts on every document of a corpus, kept for transfer, fusion and the app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fusion_core import Tokenizer
from fusion_core.errors import DistributionError
from fusion_core.models import Model, default_dtype, weights_identity
from fusion_core.packing import pack
from fusion_core.transfer import Predictions
from training.corpus import Document
from training.shards import Manifest, Shard, is_shards, read_manifest, read_shard
from training.stages.records import DOCUMENTS, TAUGHT, as_lists, predictions_of

# Raised with every change of the code after which the same model and text would give other shards.
REVISION = 2
# Text of one shard at most, unless a single document is longer.
SHARD_BYTES = 131_072


def batches(documents: Iterable[Document], size: int = SHARD_BYTES) -> Iterator[pa.RecordBatch]:
    """Documents in batches of about `size` bytes of text, of the schema `DOCUMENTS`."""
    held: list[Document] = []
    held_bytes = 0
    for document in documents:
        count = len(document.text.encode("utf-8", "surrogatepass"))
        if held and held_bytes + count > size:
            yield _batch(held)
            held, held_bytes = [], 0
        held.append(document)
        held_bytes += count
    if held:
        yield _batch(held)


def _batch(held: list[Document]) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pylist([document.__dict__ for document in held], schema=DOCUMENTS)
    except UnicodeEncodeError as error:
        raise DistributionError(f"a text holds a lone surrogate and is no UTF-8: {error}") from error


def teach(
    batch: pa.RecordBatch,
    model: Model,
    top_k: int,
    keep: str = "text",
    progress: Callable[[int, int], None] | None = None,
) -> pa.RecordBatch:
    """The stage itself: `DOCUMENTS` in, `TAUGHT` out; `keep` as for `Model.predict_all`."""
    found = model.predict_all(batch.column("text").to_pylist(), top_k=top_k, keep=keep, progress=progress)
    lists: dict[str, list[Any]] = {"tokens": [], "ids": [], "steps": []}
    for one in found:
        top = one.top.rows(slice(0 if one.has_start else 1, None))
        packed = pack(top.with_ids())  # of a small vocabulary top_k may be all of it
        lists["tokens"].append(one.encoding.ids.astype(np.int32))
        lists["ids"].append(packed[0])
        lists["steps"].append(packed[1])
    columns = [*batch.columns, *(as_lists(values, TAUGHT.field(name).type) for name, values in lists.items())]
    return pa.RecordBatch.from_arrays(columns, schema=TAUGHT)


def settings(model: Model, top_k: int, keep: str = "text") -> dict[str, Any]:
    """What decides the shards besides the documents."""
    network = model.network
    width = int(network.get_output_embeddings().weight.shape[0])
    return {
        "model": model.name,
        "weights": weights_identity(model.name),
        "tokenizer": model.tokenizer.fingerprint,
        "top_k": min(top_k, model.tokenizer.size, width),
        "keep": keep,
        "revision": REVISION,
        "adds_bos": model.tokenizer.adds_bos,
        "width": width,
        "has_start": model.start is not None,
        "dtype": str(network.dtype).removeprefix("torch."),
        "window": model.window,
    }


def known_settings(
    folder: Path,
    name: str,
    tokenizer: Tokenizer,
    top_k: int,
    device: str | None = None,
    dtype: str | None = None,
    keep: str = "text",
) -> dict[str, Any] | None:
    """The settings of shards in `folder` that this very model would make again, so that it need not be loaded."""
    try:
        held = dict(read_manifest(folder).settings) if is_shards(folder) else {}
        wanted = {
            "model": name,
            "weights": weights_identity(name),
            "tokenizer": tokenizer.fingerprint,
            "keep": keep,
            "revision": REVISION,
            "adds_bos": tokenizer.adds_bos,
            "dtype": default_dtype(device) if dtype is None else dtype,
            "top_k": min(top_k, tokenizer.size, int(held.get("width", 0))),
        }
    except (DistributionError, ValueError):
        return None
    return held if all(held.get(key) == value for key, value in wanted.items()) else None


@dataclass(frozen=True)
class Taught:
    """A folder of taught shards: a model's predictions without the model."""

    folder: Path
    manifest: Manifest

    @property
    def model(self) -> str:
        """The name of the model that was asked."""
        return str(self.manifest.settings["model"])

    @property
    def top_k(self) -> int:
        """Entries kept of each distribution."""
        return int(self.manifest.settings["top_k"])

    def listing(self) -> list[tuple[Document, Shard, int]]:
        """Every document with the shard and the row where its predictions are."""
        found = []
        for shard in self.manifest.shards:
            batch = read_shard(self.folder, shard, ["name", "domain", "text"])
            found += [(Document(**row), shard, r) for r, row in enumerate(batch.to_pylist())]
        return found

    def predictions(self, tokenizer: Tokenizer, shard: Shard, row: int) -> Predictions:
        """One document's predictions; raises as `predictions_of`."""
        batch = read_shard(self.folder, shard).slice(row, 1)
        return predictions_of(batch, self.manifest.settings, tokenizer)[0]


def open_taught(folder: Path) -> Taught:
    """The taught shards in `folder`; raises `DistributionError` if it holds none."""
    manifest = read_manifest(folder)
    if manifest.stage != "teach":
        raise DistributionError(f"{folder} holds shards of the stage {manifest.stage!r}, not of 'teach'")
    return Taught(folder, manifest)
