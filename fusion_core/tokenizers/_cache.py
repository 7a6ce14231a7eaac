"""Vocabularies on disk: canonical bytes are worked out once per tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion_core.tokenizers._vocabulary import Vocabulary
from fusion_core.workspace import atomic_path, cache_path

# Part of the key: raise it whenever the same file would give another vocabulary.
_VERSION = 1


def vocabulary(fingerprint: str, compute: Callable[[], Vocabulary]) -> Vocabulary:
    """The vocabulary of the tokenizer with this fingerprint, from disk or else from `compute`.

    A cache file that is damaged, or that cannot be written, is never an error: the vocabulary is computed again.
    """
    path = cache_path("vocabulary", f"{fingerprint[:32]}-v{_VERSION}", ".parquet")
    if path.exists():
        try:
            return _from_table(pq.read_table(path, memory_map=False), fingerprint)
        except (pa.ArrowException, OSError, ValueError, KeyError):
            pass
    result = compute()
    try:
        with atomic_path(path) as temporary:
            pq.write_table(_to_table(result, fingerprint), temporary, compression="zstd")
    except OSError:
        pass
    return result


def _to_table(vocabulary: Vocabulary, fingerprint: str) -> pa.Table:
    columns = {
        "piece": pa.array([piece.encode("utf-8", "surrogatepass") for piece in vocabulary.pieces], pa.binary()),
        "bytes": pa.array(vocabulary.canonical, pa.binary()),
        "kind": pa.array(vocabulary.kinds, pa.uint8()),
    }
    metadata = {"fingerprint": fingerprint, "roles": json.dumps(dict(vocabulary.roles)), "size": str(vocabulary.size)}
    return pa.table(columns).replace_schema_metadata(metadata)


def _from_table(table: pa.Table, fingerprint: str) -> Vocabulary:
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata["fingerprint"] != fingerprint or int(metadata["size"]) != table.num_rows:
        raise ValueError("the cache file belongs to another tokenizer")
    pieces = [piece.decode("utf-8", "surrogatepass") for piece in table["piece"].to_pylist()]
    kinds = np.asarray(table["kind"].to_numpy(), dtype=np.uint8)
    return Vocabulary.build(pieces, table["bytes"].to_pylist(), kinds, json.loads(metadata["roles"]))
