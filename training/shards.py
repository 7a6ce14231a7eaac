"""A folder of shards: Parquet files written whole or not at all, and a manifest of what they hold.

A rerun does what is missing or changed and nothing else: a shard's name holds the hash of its settings and of its
input, and only what the manifest lists with its checksum is trusted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from fusion_core.errors import DistributionError
from fusion_core.sealed import SealError, read_json, write_json
from fusion_core.workspace import atomic_path, digest
from training.engines import Engine, InProcess, Job

FORMAT = "fusescope-shards"
VERSION = 2
MANIFEST = "manifest.json"

_LOCK = ".lock"


@dataclass(frozen=True)
class Shard:
    """One file: its name, rows, checksum, and the hash of the input that it was made from."""

    name: str
    rows: int
    sha256: str
    input: str


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes:
        stage: such as `teach`.
        settings: all that decides what the stage makes of an input, as plain JSON values.
        shards: in the order of the corpus.
        complete: whether the whole input was worked through.
    """

    stage: str
    settings: Mapping[str, Any]
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)


@dataclass
class Outcome:
    """What a run did: shards made anew and shards found in place."""

    made: int = 0
    kept: int = 0
    rows: int = 0
    removed: list[str] = field(default_factory=list)


def writing(folder: Path) -> FileLock:
    """What everyone holds who writes into a folder of shards: a context manager."""
    return FileLock(folder / _LOCK)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`; raises `DistributionError` where there is none that this program reads."""
    path = folder / MANIFEST
    try:
        value = read_json(path, FORMAT, VERSION)
        shards = tuple(Shard(**shard) for shard in value["shards"])
        return Manifest(value["stage"], value["settings"], shards, bool(value["complete"]))
    except FileNotFoundError as error:
        raise DistributionError(
            f"{folder} holds no shards: there is no {MANIFEST}; 'fusescope teach' makes one"
        ) from error
    except SealError as error:
        raise DistributionError(f"{error}; remove {folder} and run the stage again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DistributionError(
            f"{path} cannot be read ({type(error).__name__}: {error}); run the stage again"
        ) from error


def is_shards(folder: Path) -> bool:
    """Whether `folder` is a folder of shards."""
    try:
        return (folder / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    value = {
        "stage": manifest.stage,
        "settings": dict(manifest.settings),
        "rows": manifest.rows,
        "complete": manifest.complete,
        "shards": [shard.__dict__ for shard in manifest.shards],
    }
    write_json(folder / MANIFEST, FORMAT, VERSION, value)


def _input_hash(batch: pa.RecordBatch) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return digest(sink.getvalue().to_pybytes())


def run_stage(
    folder: Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Iterable[pa.RecordBatch],
    job: Job,
    *,
    engine: Engine | None = None,
    done: Callable[[int, bool], None] | None = None,
) -> Outcome:
    """Turn every batch of `inputs` into a shard of `folder`; shards that are there already are kept.

    Of two runs on one folder the second waits, and then finds what the first has made.

    Args:
        settings: what decides the result besides the input; other settings give other shards.
        engine: where `job` runs, by default here.
        done: called after each shard with its input's rows and whether it was made anew.

    Raises:
        DistributionError: the folder holds another stage's shards, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder):
            return _run_locked(folder, stage, settings, inputs, job, engine or InProcess(), done)
    except OSError as error:
        raise DistributionError(f"cannot write shards to {folder}: {error.strerror or error}") from error


_SHARD = re.compile(r"[0-9]{5,}-[0-9a-f]{16}\.parquet")


def _suffix(settings: str, source: str) -> str:
    """The end of a shard's name, from the hashes of its settings and of its input."""
    return f"-{digest(settings, source)[:16]}.parquet"


@dataclass(frozen=True)
class _Place:
    """Where a batch of the input goes: the shard's name, the hash of the input, its rows, and the shard if there."""

    name: str
    source: str
    rows: int
    kept: Shard | None


def _run_locked(
    folder: Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Iterable[pa.RecordBatch],
    job: Job,
    engine: Engine,
    done: Callable[[int, bool], None] | None,
) -> Outcome:
    settings = json.loads(json.dumps(dict(settings)))
    for part in folder.glob(".part-*"):  # of a run that was killed: no other one writes here now
        part.unlink(missing_ok=True)
    known: dict[str, Shard] = {}
    if is_shards(folder):
        before = read_manifest(folder)
        if before.stage != stage:
            raise DistributionError(f"{folder} holds shards of the stage {before.stage!r}; give another folder")
        known = {shard.name: shard for shard in before.shards}
    outcome, shards = Outcome(), {}
    key = digest(stage, json.dumps(settings, sort_keys=True))
    waiting: deque[_Place] = deque()

    def missing() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(inputs):
            source = _input_hash(batch)
            name = f"{number:05d}{_suffix(key, source)}"
            found = known.get(name)
            path = folder / name
            kept = found is not None and path.is_file() and checksum(path) == found.sha256
            waiting.append(_Place(name, source, batch.num_rows, found if kept else None))
            if not kept:
                yield batch

    def take(place: _Place, shard: Shard) -> None:
        shards[place.name] = shard
        outcome.made += place.kept is None
        outcome.kept += place.kept is not None
        outcome.rows += shard.rows
        if done is not None:
            done(place.rows, place.kept is None)

    def take_kept() -> None:
        while waiting and waiting[0].kept is not None:
            place = waiting.popleft()
            assert place.kept is not None  # noqa: S101  # the condition above
            take(place, place.kept)

    for result in engine.map(job, missing()):
        take_kept()
        place = waiting.popleft()
        take(place, _write_shard(folder, place, result))
        # Shards further on stay listed, so that they are found again; those of other settings do not: what is listed
        # is read by these.
        later = [shard for name, shard in known.items() if name not in shards and _suffix(key, shard.input) in name]
        _write_manifest(folder, Manifest(stage, settings, (*shards.values(), *later)))
    take_kept()
    _write_manifest(folder, Manifest(stage, settings, tuple(shards.values()), complete=True))
    for path in folder.glob("[0-9]*.parquet"):
        # Also what a process that was killed had written and not listed; not the tables of others.
        if path.name not in shards and _SHARD.fullmatch(path.name):
            path.unlink()
            outcome.removed.append(path.name)
    return outcome


def _write_shard(folder: Path, place: _Place, result: pa.RecordBatch) -> Shard:
    with atomic_path(folder / place.name) as temporary:
        pq.write_table(
            pa.Table.from_batches([result]), temporary, compression="zstd", compression_level=9,
            dictionary_pagesize_limit=1 << 24,
        )  # fmt: skip
        made = checksum(temporary)
    return Shard(place.name, result.num_rows, made, place.source)


def read_shards(folder: Path, columns: list[str] | None = None, *, check: bool = True) -> Iterator[pa.RecordBatch]:
    """The shards of `folder` in order, one batch each.

    Raises:
        DistributionError: a shard is missing, cannot be read, or its checksum is not the manifest's.
    """
    for shard in read_manifest(folder).shards:
        yield read_shard(folder, shard, columns, check=check)


def read_shard(folder: Path, shard: Shard, columns: list[str] | None = None, *, check: bool = True) -> pa.RecordBatch:
    """One shard; raises as `read_shards`."""
    path = folder / shard.name
    if path.parent != folder or not path.is_file():
        raise DistributionError(f"{folder} is incomplete: {shard.name} is missing; run the stage again")
    try:
        if check and checksum(path) != shard.sha256:
            raise DistributionError(f"{path} is damaged: its checksum is not the manifest's; run the stage again")
        table = pq.read_table(path, columns=columns).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise DistributionError(f"{path} cannot be read: {error}") from error
    if table.num_rows != shard.rows:
        raise DistributionError(f"{path} has {table.num_rows} rows, the manifest says {shard.rows}")
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
