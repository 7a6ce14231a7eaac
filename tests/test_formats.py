"""Every file format written here: an old file reads as it did, another version or a changed bit is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fusion_core import load_mapping
from fusion_core.distributions import load_distributions
from fusion_core.errors import FusionError
from fusion_core.sealed import SealError, read_json, read_table
from fusion_core.tokenizers import _cache, _gguf
from tests.support import formats
from tests.support.formats import GOLDEN
from training import config, progress, runs, shards
from training.sweep import search


def _vocabulary(path: Path) -> Any:
    return _cache._from_table(*read_table(path, _cache.FORMAT, _cache.VERSION), "f")


def _gguf_fields(path: Path) -> Any:
    return read_json(path, _gguf.FORMAT, _gguf.VERSION)["fields"]


def _run(path: Path) -> Any:
    return runs.read_result(path.parent)


def _shards(path: Path) -> Any:
    manifest = shards.read_manifest(path.parent)
    # Another version of Arrow writes the same values as other bytes, with another checksum of the file.
    manifest = replace(manifest, shards=tuple(replace(shard, sha256="") for shard in manifest.shards))
    return manifest, [batch.to_pylist() for batch in shards.read_shards(path.parent)]


READERS: dict[str, Callable[[Path], Any]] = {
    "mapping.parquet": load_mapping,
    "distributions.parquet": load_distributions,
    "vocabulary.parquet": _vocabulary,
    "gguf.json": _gguf_fields,
    "shards/manifest.json": _shards,
    "run.json": _run,
    "process.json": lambda path: read_json(path, runs.FORMAT, runs.VERSION),
    "progress.json": lambda path: read_json(path, progress.FORMAT, progress.VERSION),
    "trials.json": search.read_trials,
    "config.yaml": config.load,
}
SEALED = [name for name in READERS if name != "config.yaml"]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "formats"))


def test_every_golden_file_is_read_here() -> None:
    files = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("shards/0")} == set(READERS)


def test_golden_files_hold_what_they_held() -> None:
    mapping, expected = load_mapping(GOLDEN / "mapping.parquet"), formats.mapping()
    assert mapping.provenance == expected.provenance and mapping.target_size == 5
    for name in ("indptr", "target_ids", "weights", "distance", "ties"):
        assert np.array_equal(getattr(mapping, name), getattr(expected, name)), name
    top, identity = load_distributions(GOLDEN / "distributions.parquet")
    assert identity == {"model": "m", "tokenizer": "t"} and top.width == 6
    assert np.array_equal(top.ids, formats.distributions().ids)
    assert np.array_equal(top.logprobs, formats.distributions().logprobs)
    vocabulary, made = _vocabulary(GOLDEN / "vocabulary.parquet"), formats.vocabulary()
    assert vocabulary.pieces == made.pieces and vocabulary.canonical == made.canonical
    assert vocabulary.kinds.tolist() == made.kinds.tolist() and vocabulary.roles == made.roles
    assert _gguf_fields(GOLDEN / "gguf.json")["tokens"] == ["a", "é"]
    manifest, rows = _shards(GOLDEN / "shards" / "manifest.json")
    assert manifest.settings == {"how": "as it is"} and manifest.complete
    assert rows == [[{"name": "d", "domain": "x", "text": "naïve"}]]
    assert _run(GOLDEN / "run.json") == formats.RESULT
    assert progress.read_standing(GOLDEN) == formats.STANDING
    assert search.read_trials(GOLDEN / "trials.json") == {"clm/only,seed=0": formats.RESULT}
    assert config.load(GOLDEN / "config.yaml") == config.parse(formats.config_value())


def test_what_is_written_today_reads_the_same(tmp_path: Path) -> None:
    formats.write(tmp_path)
    for name, read in READERS.items():
        assert repr(read(tmp_path / name)) == repr(read(GOLDEN / name)), name


@pytest.mark.parametrize("name", READERS)
def test_another_version_is_refused_and_says_which(copies: Path, name: str) -> None:
    path = copies / name
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        metadata = {k: v.replace(b'"version": ', b'"version": 9', 1) for k, v in table.schema.metadata.items()}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    elif path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(value | {"version": int(f"9{value['version']}")}), encoding="utf-8")
    else:
        path.write_text(path.read_text(encoding="utf-8").replace("version: ", "version: 9"), encoding="utf-8")
    with pytest.raises(FusionError, match=r"version 9\d .*this program reads \d"):
        READERS[name](path)


@pytest.mark.parametrize("name", SEALED)
def test_a_changed_bit_is_refused_or_changes_nothing(copies: Path, name: str) -> None:
    """The bits of the padding, and of a Parquet file's statistics and own format, say nothing about the values."""
    path, expected = copies / name, repr(READERS[name](GOLDEN / name))
    data, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = repr(READERS[name](path))
        except FusionError as error:
            refused += 1
            assert str(path) in str(error) or str(path.parent) in str(error)
        else:
            assert found == expected
    assert refused > 100


def test_another_format_is_refused() -> None:
    with pytest.raises(SealError, match="no file of the format fusescope-gguf"):
        read_json(GOLDEN / "run.json", _gguf.FORMAT, _gguf.VERSION)
    with pytest.raises(SealError, match="cannot be read as fusescope-vocabulary"):
        read_table(GOLDEN / "mapping.parquet", _cache.FORMAT, _cache.VERSION)
