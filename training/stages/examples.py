"""`pack`: documents cut into training examples, each with the distributions that predict its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fusion_core import Tokenizer
from training.stages.carry import CARRIED
from training.stages.records import as_lists

# Row t of `counts` and `covered` is what predicts token t of the example; no example reaches over a document's end.
EXAMPLES = pa.schema(
    [
        ("name", pa.string()),
        ("domain", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("counts", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float16())),
        ("covered", pa.list_(pa.bool_())),
    ]
)


def pack(batch: pa.RecordBatch, max_length: int) -> pa.RecordBatch:
    """The stage itself: `CARRIED` rows in, `EXAMPLES` of at most `max_length` tokens out."""
    columns: dict[str, list[Any]] = {field.name: [] for field in EXAMPLES}
    for n in range(batch.num_rows):
        row = {
            name: batch.column(name)[n].values.to_numpy(zero_copy_only=False)
            for name in ("tokens", "counts", "ids", "logprobs", "covered")
        }
        # A document's first token has no distribution: position i predicts token i + 1.
        counts = np.concatenate(([0], row["counts"])).astype(np.int32)
        covered = np.concatenate(([False], row["covered"])).astype(np.bool_)
        bounds = np.concatenate(([0], np.cumsum(counts)))
        for low, high in windows(len(row["tokens"]), max_length):
            columns["name"].append(batch.column("name")[n].as_py())
            columns["domain"].append(batch.column("domain")[n].as_py())
            columns["tokens"].append(row["tokens"][low:high])
            columns["counts"].append(counts[low:high])
            columns["covered"].append(covered[low:high])
            for name in ("ids", "logprobs"):
                columns[name].append(row[name][bounds[low] : bounds[high]])
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in ("name", "domain")
        else as_lists(columns[field.name], field.type)
        for field in EXAMPLES
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=EXAMPLES)


def windows(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of nearly equal length, none of a single token where that can be helped."""
    parts = max(1, -(-length // size))
    bounds = np.linspace(0, length, parts + 1).astype(int).tolist()
    for low, high in pairwise(bounds):
        if high - low >= 2:
            yield low, high


def plain(batch: pa.RecordBatch, tokenizer: Tokenizer) -> pa.RecordBatch:
    """Documents in, `CARRIED` rows without any distribution out: training on the text alone."""
    tokens = [tokenizer.encode(text.as_py()).ids for text in batch.column("text")]
    empty: Sequence[NDArray[Any]] = [np.zeros(0)] * len(tokens)
    positions = [np.zeros(max(0, len(t) - 1)) for t in tokens]
    columns = {
        **{name: batch.column(name) for name in ("name", "domain", "text")},
        "tokens": as_lists(tokens, CARRIED.field("tokens").type),
        "counts": as_lists([p.astype(np.int32) for p in positions], CARRIED.field("counts").type),
        "ids": as_lists([e.astype(np.int32) for e in empty], CARRIED.field("ids").type),
        "logprobs": as_lists([e.astype(np.float16) for e in empty], CARRIED.field("logprobs").type),
        "covered": as_lists([p.astype(np.bool_) for p in positions], CARRIED.field("covered").type),
        "nats_per_byte": pa.array([float("nan")] * len(tokens), pa.float64()),
        "ledger": as_lists([np.zeros(5, np.float32)] * len(tokens), CARRIED.field("ledger").type),
    }
    return pa.RecordBatch.from_arrays([columns[field.name] for field in CARRIED], schema=CARRIED)
