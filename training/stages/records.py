"""The rows that stages hand on: documents, and what a model predicts on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fusion_core import Tokenizer
from fusion_core.errors import DistributionError
from fusion_core.packing import unpack
from fusion_core.transfer import Predictions

DOCUMENTS = pa.schema([("name", pa.string()), ("domain", pa.string()), ("text", pa.string())])
TAUGHT = pa.schema(
    [
        *DOCUMENTS,
        ("tokens", pa.list_(pa.int32())),  # n token ids
        ("ids", pa.list_(pa.int32())),  # k for each of n + 1 rows, or n if the model predicts no first token
        ("steps", pa.list_(pa.uint16())),  # see fusion_core.packing
    ]
)


def as_lists(values: Sequence[Any], kind: pa.DataType) -> pa.ListArray:
    """Arrays of any length as one Arrow column of lists of `kind`."""
    offsets = np.concatenate(([0], np.cumsum([len(v) for v in values]))).astype(np.int32)
    flat = pa.array(np.concatenate(values) if values else np.zeros(0, np.int32), type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind)


def predictions_of(batch: pa.RecordBatch, settings: Mapping[str, Any], tokenizer: Tokenizer) -> list[Predictions]:
    """The predictions in `TAUGHT` rows.

    Args:
        settings: those of the shards' manifest.

    Raises:
        DistributionError: the rows belong to another tokenizer, or are damaged.
    """
    model = str(settings["model"])
    if tokenizer.fingerprint != settings["tokenizer"]:
        raise DistributionError(
            f"{model} was taught with another tokenizer than {tokenizer.name!r}; was the model changed since?"
        )
    k, width, has_start = int(settings["top_k"]), int(settings["width"]), bool(settings["has_start"])
    found = []
    for n in range(batch.num_rows):
        encoding = tokenizer.encode(batch.column("text")[n].as_py())
        tokens, ids, steps = (batch.column(name)[n].values.to_numpy() for name in ("tokens", "ids", "steps"))
        if not np.array_equal(tokens, encoding.ids):
            raise DistributionError(f"{batch.column('name')[n].as_py()}: these are not the tokens of its text")
        top = unpack(ids, steps, k, width)
        found.append(Predictions(encoding, top if has_start else top.with_empty_row(), has_start, model))
    return found
