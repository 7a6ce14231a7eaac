"""Training examples as the Trainer reads them: from shards on disk, or made while it trains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fusion_core.errors import DistributionError
from fusion_core.models import check_ids
from fusion_core.workspace import atomic_path, digest
from training.config import Config
from training.corpus import Document
from training.data import online_chain
from training.shards import checksum, read_manifest, read_shards, writing
from training.stages.examples import windows
from training.stages.records import DOCUMENTS

_COLUMNS = ("tokens", "counts", "ids", "logprobs", "covered")


def example(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    """One row of `EXAMPLES` as arrays, with its document's `name`."""
    values = {n: batch.column(n)[row].values.to_numpy(zero_copy_only=False) for n in _COLUMNS}
    return {**values, "name": batch.column("name")[row].as_py()}


def _in_one_file(folder: Path) -> Path:
    """All shards of `folder` behind each other, written where they are not yet, or are not as they were written."""
    path = folder / f"examples-{digest(*(shard.sha256 for shard in read_manifest(folder).shards))[:16]}.arrow"
    seal = path.with_suffix(".sha256")
    if not (path.is_file() and seal.is_file() and seal.read_text(encoding="utf-8") == checksum(path)):
        with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            batches = read_shards(folder)
            first = next(batches)
            with pa.ipc.new_file(sink, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
        with atomic_path(seal) as temporary:
            temporary.write_text(checksum(path), encoding="utf-8")
        for old in folder.glob("examples-*.*"):
            if old not in (path, seal):
                old.unlink(missing_ok=True)
    return path


class Examples(torch.utils.data.Dataset):  # type: ignore[misc]
    """The packed examples of a folder of shards, in a file that the system maps into memory as far as it is read."""

    def __init__(self, folder: Path) -> None:
        try:
            with writing(folder):
                self._open(_in_one_file(folder))
        except OSError as error:
            raise DistributionError(f"cannot write to {folder}: {error.strerror or error}") from error

    def _open(self, path: Path) -> None:
        self._path, file = path, pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(n) for n in range(file.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])

    def __getstate__(self) -> Path:  # for a process that is not forked: the file, not what it holds
        return self._path

    def __setstate__(self, path: Path) -> None:
        self._open(path)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[at - 1]) if at else 0
        return example(self._batches[at], index - before)


class OnlineExamples(torch.utils.data.Dataset):  # type: ignore[misc]
    """The same examples, made when they are asked for by models that stay loaded; nothing is kept on disk.

    The target's own distributions are those of a copy that does not learn, as they are in taught shards.
    """

    # Documents whose examples are kept: those of a batch that is cut into several.
    _KEPT = 256

    def __init__(self, config: Config, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._chain, tokenizer = online_chain(config)
        self._held: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._counts = [
            sum(1 for _ in windows(len(tokenizer.encode(document.text)), config.max_length)) for document in documents
        ]
        self._places = [(n, part) for n, count in enumerate(self._counts) for part in range(count)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The examples of a batch, their documents read together."""
        wanted = dict.fromkeys(self._places[i][0] for i in indices)
        missing = [n for n in wanted if n not in self._held]
        if missing:
            rows = [self._documents[n].__dict__ for n in missing]
            made = self._chain(pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS))
            begin = 0
            for n in missing:
                self._held[n] = made.slice(begin, self._counts[n])
                begin += self._counts[n]
        found = [example(self._held[self._places[i][0]], self._places[i][1]) for i in indices]
        while len(self._held) > self._KEPT:
            self._held.popitem(last=False)
        return found


class Collator:
    """Examples to tensors; distributions stay sparse: [rows, k] of ids and probabilities.

    Rows are padded; or, with `packing`, laid one behind the other in a single row without padding, the position ids
    of each beginning at 0, from which the model tells them apart.

    Raises:
        ModelError: a row holds an id that is none of the `entries` that the model reads.
        DistributionError: a distribution of a row does, or holds what is no log-probability.
    """

    def __init__(self, start: int | None, *, packing: bool = False, entries: int | None = None) -> None:
        self._lead = [] if start is None else [start]
        self._packing, self._entries = packing, entries

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lead = len(self._lead)
        lengths = [len(row["tokens"]) + lead for row in rows]
        k = max(1, max(int(row["counts"].max(initial=0)) for row in rows))
        shape = (1, sum(lengths)) if self._packing else (len(rows), max(lengths))
        tokens, mask, places = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        labels = np.full(shape, -100, np.int64)
        ids, probs = np.zeros((*shape, k), np.int32), np.zeros((*shape, k), np.float32)
        covered = np.zeros(shape, np.bool_)
        begin = 0
        for r, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            line, at = (0, begin) if self._packing else (r, 0)
            begin += length
            n = len(row["tokens"])
            check_ids(row["tokens"], self._entries, "the target")
            _check_distributions(row, self._entries)
            tokens[line, at : at + length] = [*self._lead, *row["tokens"]]
            mask[line, at : at + length] = 1
            places[line, at : at + length] = np.arange(length)
            # Logits at place p predict the token at place p + 1, which is the example's token p + 1 - lead.
            first = 1 - lead
            labels[line, at : at + n - first] = row["tokens"][first:]
            covered[line, at : at + n - first] = row["covered"][first:]
            counts = row["counts"]
            skipped = int(counts[:first].sum())
            held = np.arange(k) < counts[first:, None]
            ids[line, at : at + n - first][held] = row["ids"][skipped:]
            probs[line, at : at + n - first][held] = np.exp(row["logprobs"][skipped:].astype(np.float32))
        # Rounding may bring a row above 1.
        probs /= np.maximum(probs.sum(axis=2, keepdims=True), 1.0)
        arrays = {
            "input_ids": tokens, "labels": labels, "target_ids": ids, "target_probs": probs, "covered": covered,
            **({"position_ids": places} if self._packing else {"attention_mask": mask}),
        }  # fmt: skip
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _check_distributions(row: dict[str, Any], entries: int | None) -> None:
    """Here, since a GPU would have to be waited for, and an id out of range would end its process."""
    ids, logprobs = row["ids"], row["logprobs"]
    bad = len(ids) > 0 and (
        int(ids.min()) < 0 or (entries is not None and int(ids.max()) >= entries) or not bool((logprobs <= 0.01).all())
    )
    if bad:  # a comparison with NaN is false
        raise DistributionError(
            f"an example of {row['name']!r} holds ids that the target does not have, or no log-probabilities; remove "
            "the data of the run, which are made anew"
        )


def check_packing(network: Any) -> bool:
    """Whether the model keeps documents apart by their position ids alone: a document's logits do not depend on what is
    packed before it."""
    generator = torch.Generator().manual_seed(0)
    size = min(1000, int(network.config.get_text_config().vocab_size))
    one, two = (torch.randint(0, size, (1, n), generator=generator) for n in (7, 5))
    device = next(network.parameters()).device
    together = torch.cat([one, two], dim=1).to(device)
    places = torch.cat([torch.arange(7), torch.arange(5)])[None].to(device)
    was = network.training
    network.eval()
    with torch.no_grad():
        packed = network(input_ids=together, position_ids=places, use_cache=False).logits[0, 7:].float()
        alone = network(input_ids=two.to(device), use_cache=False).logits[0].float()
    network.train(was)
    return bool(torch.allclose(packed, alone, atol=1e-2, rtol=1e-2))
