"""Mappings on disk: one Parquet file with the provenance in its metadata."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from fusion_core.errors import MappingError
from fusion_core.mapping._mapping import Provenance, VocabularyMapping
from fusion_core.sealed import SealError, read_table, write_table
from fusion_core.tokenizers import Tokenizer

FORMAT = "fusescope-mapping"
VERSION = 2


def save(mapping: VocabularyMapping, path: str | Path) -> None:
    """Write `mapping` whole or not at all; raises `MappingError` if the place cannot be written."""
    offsets = pa.array(mapping.indptr.astype(np.int32))
    columns = {
        "target_ids": pa.ListArray.from_arrays(offsets, pa.array(mapping.target_ids)),
        "weights": pa.ListArray.from_arrays(offsets, pa.array(mapping.weights)),
        "distance": pa.array(mapping.distance),
        "ties": pa.array(mapping.ties),
    }
    header = {"target_size": mapping.target_size, "provenance": asdict(mapping.provenance)}
    try:
        write_table(pa.table(columns), Path(path), FORMAT, VERSION, header)
    except OSError as error:
        raise MappingError(f"cannot write the mapping to {path}: {error.strerror or error}") from error


def load(path: str | Path, source: Tokenizer | None = None, target: Tokenizer | None = None) -> VocabularyMapping:
    """Read a mapping, and check it against the tokenizers if they are given.

    Raises:
        MappingError: the file cannot be read, is damaged or of another version, or belongs to other tokenizers.
    """
    try:
        table, header = read_table(Path(path), FORMAT, VERSION)
        ids, weights = table["target_ids"].combine_chunks(), table["weights"].combine_chunks()
        mapping = VocabularyMapping(
            Provenance(**header["provenance"]),
            ids.offsets.to_numpy().astype(np.int64),
            ids.values.to_numpy().astype(np.int32),
            weights.values.to_numpy().astype(np.float32),
            table["distance"].to_numpy().astype(np.int32),
            table["ties"].to_numpy().astype(np.int32),
            int(header["target_size"]),
        )
    except SealError as error:
        raise MappingError(f"not a readable mapping: {error}; compute it again") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise MappingError(f"{path} is not a readable mapping ({type(error).__name__}: {error})") from error
    _check_values(mapping, path)
    if source is not None and target is not None:
        mapping.check_tokenizers(source, target)
    return mapping


def _check_values(mapping: VocabularyMapping, path: str | Path) -> None:
    ids, weights = mapping.target_ids, mapping.weights
    sound = (
        len(ids) == len(weights) == mapping.indptr[-1]
        and (len(ids) == 0 or (ids.min() >= 0 and ids.max() < mapping.target_size))
        and bool(np.isfinite(weights).all())
        and (len(weights) == 0 or weights.min() >= 0)
        and (mapping.source_size == 0 or mapping.row_mass.max() <= 1 + 1e-4)
    )
    if not sound:
        raise MappingError(f"{path} is damaged: its ids or weights are out of range; compute the mapping again")
