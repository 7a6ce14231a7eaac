"""Files that say what they are and prove that they are whole: a format, a version, and a checksum of all values.

Parquet's own checks leave gaps (a flipped bit in the footer, or in a page without a checksum, can give another number),
so the header carries a SHA-256 of every value and of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusion_core.errors import FusionError
from fusion_core.workspace import atomic_path, digest

_SEAL = "sha256"


class SealError(FusionError):
    """A file is not of the expected format and version, or is damaged."""


def write_table(table: pa.Table, path: Path, form: str, version: int, header: Mapping[str, Any]) -> None:
    """Write a table with its header, whole or not at all.

    Args:
        form: the format's name; under it the header lies in the file's metadata.
        header: JSON values.

    Raises:
        OSError: the place cannot be written.
    """
    head = {"format": form, "version": version, **header}
    head[_SEAL] = _seal(head, table)
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata({form: json.dumps(head)}), temporary, compression="zstd")


def read_table(path: Path, form: str, version: int) -> tuple[pa.Table, dict[str, Any]]:
    """What `write_table` wrote.

    Raises:
        SealError: there is no such file, it is of another format or version, or damaged.
    """
    try:
        table = pq.read_table(path, memory_map=False)
        head = json.loads((table.schema.metadata or {})[form.encode()])
        _check(head, form, version, str(path))
        seal = head.pop(_SEAL, None)
        if seal != _seal(head, table):
            raise SealError(f"{path} is damaged: its checksum is not that of its values")
        return table.replace_schema_metadata(None), head
    except SealError as error:
        raise (error if str(path) in str(error) else SealError(f"{path} is damaged: {error}")) from error
    # Of a damaged file anything may be asked: more memory than there is, names that are no UTF-8.
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise SealError(f"{path} cannot be read as {form} ({type(error).__name__}: {str(error)[:200]})") from error


def write_json(path: Path, form: str, version: int, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON with format, version and a checksum, whole or not at all; raises `OSError`."""
    head = {"format": form, "version": version, **value}
    text = json.dumps({**head, _SEAL: _seal(head)}, indent=1, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # a lone surrogate as JSON writes it


def read_json(path: Path, form: str, version: int) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        OSError: the file is not there, or cannot be opened.
        SealError: it is of another format or version, or damaged.
    """
    data = path.read_bytes()
    try:
        head = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SealError(f"{path} cannot be read: it is no JSON ({str(error)[:200]})") from error
    _check(head, form, version, str(path))
    if head.pop(_SEAL, None) != _seal(head):
        raise SealError(f"{path} is damaged: its checksum is not that of its values")
    del head["format"], head["version"]
    return dict(head)


def _check(head: Any, form: str, version: int, origin: str) -> None:
    if not isinstance(head, dict) or head.get("format") != form:
        raise SealError(f"{origin} is no file of the format {form}")
    if head.get("version") != version:
        raise SealError(
            f"{origin} has version {head.get('version')!r} of the format {form}; this program reads {version}"
        )


def _seal(head: Mapping[str, Any], table: pa.Table | None = None) -> str:
    parts: list[bytes | str] = [json.dumps(head, sort_keys=True)]
    if table is not None:
        for name in table.column_names:
            state = hashlib.sha256()
            _feed(state, table[name].combine_chunks())
            parts += [name, state.digest()]
    return digest(*parts)


def _feed(state: hashlib._Hash, array: Any) -> None:
    """The values of an Arrow array, however it is laid out in memory."""
    if array.null_count:
        raise SealError("a column has gaps, which none of these formats has")
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        _feed(state, array.flatten())
    elif pa.types.is_list(kind):
        state.update(np.ascontiguousarray(pc.list_value_length(array).to_numpy(zero_copy_only=False)).data)
        _feed(state, array.flatten())
    elif pa.types.is_binary(kind):
        state.update(np.ascontiguousarray(pc.binary_length(array).to_numpy(zero_copy_only=False)).data)
        state.update(b"".join(array.to_pylist()))
    else:
        state.update(str(kind).encode())
        state.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).data)
