"""Vocabularies on disk: canonical bytes are worked out once per tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from fusion_core.sealed import SealError, read_table, write_table
from fusion_core.tokenizers._vocabulary import Vocabulary
from fusion_core.workspace import cache_path

# Of the form, and of what is computed: raised whenever the same tokenizer would give another vocabulary.
VERSION = 2
_REVISION = 1
FORMAT = "fusescope-vocabulary"


def vocabulary(fingerprint: str, compute: Callable[[], Vocabulary]) -> Vocabulary:
    """The vocabulary of the tokenizer with this fingerprint, from disk or else from `compute`.

    A cache file that is damaged, or that cannot be written, is never an error: the vocabulary is computed again.
    """
    path = cache_path("vocabulary", f"{fingerprint[:32]}-v{VERSION}.{_REVISION}", ".parquet")
    if path.exists():
        try:
            return _from_table(*read_table(path, FORMAT, VERSION), fingerprint)
        except (SealError, ValueError, KeyError):
            pass
    result = compute()
    with suppress(OSError):
        header = {"fingerprint": fingerprint, "roles": dict(result.roles)}
        write_table(_to_table(result), path, FORMAT, VERSION, header)
    return result


def _to_table(vocabulary: Vocabulary) -> pa.Table:
    columns = {
        "piece": pa.array([piece.encode("utf-8", "surrogatepass") for piece in vocabulary.pieces], pa.binary()),
        "bytes": pa.array(vocabulary.canonical, pa.binary()),
        "kind": pa.array(vocabulary.kinds, pa.uint8()),
    }
    return pa.table(columns)


def _from_table(table: pa.Table, header: Mapping[str, Any], fingerprint: str) -> Vocabulary:
    if header["fingerprint"] != fingerprint:
        raise ValueError("the cache file belongs to another tokenizer")
    pieces = [piece.decode("utf-8", "surrogatepass") for piece in table["piece"].to_pylist()]
    kinds = np.asarray(table["kind"].to_numpy(), dtype=np.uint8)
    return Vocabulary.build(pieces, table["bytes"].to_pylist(), kinds, header["roles"])
