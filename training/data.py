"""From a config to the examples that training reads: teach, transfer, fuse, pack, each only where it is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from fusion_core import Tokenizer, load_tokenizer
from fusion_core.errors import DistributionError, TrainingError
from fusion_core.models import load_model
from fusion_core.workspace import digest
from training.config import Config
from training.console import progress
from training.corpus import Document
from training.engines import Engine, InProcess, Job
from training.progress import Meter, Standing, Tell
from training.shards import Outcome, is_shards, read_manifest, read_shards, run_stage
from training.splits import Documents
from training.stages import carry, jobs, teach

# Called with a line about what is being done or was done.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One stage of a config, with all that it needs worked out only when it runs.

    Attributes:
        title: what is told of it, such as `teach gemma-3-270m`.
        stage: such as `teach`.
        folder: of its shards.
        settings: what decides its shards besides the input; of what comes before it, the manifests are read.
        known: the same where it can be known before anything has run, else None.
        inputs: what it works on.
        job: what it does; with a progress callback where it is long.
    """

    title: str
    stage: str
    folder: Path
    settings: Callable[[], Mapping[str, Any]]
    known: Callable[[], Mapping[str, Any] | None]
    inputs: Callable[[], Iterator[pa.RecordBatch]]
    job: Callable[[Callable[[int, int], None] | None], Job]

    @property
    def cached(self) -> bool:
        """Whether a run would find all of its shards, as far as manifests tell; the stages before it count for
        themselves, and checksums are only compared when it runs."""
        try:
            manifest = read_manifest(self.folder)
            settings = self.known()
        except DistributionError:
            return False
        same = settings is not None and json.loads(json.dumps(dict(settings))) == manifest.settings
        return same and manifest.complete and all((self.folder / s.name).is_file() for s in manifest.shards)


def plan(config: Config, train: Iterable[Document]) -> list[Step]:
    """The steps from documents to examples, in their order; the last one's folder holds the examples."""
    root = config.data or config.output / "data"
    # A run of its own may raise its limit and keep what it has; runs that share data may differ in theirs.
    own = config.data is None
    corpus = digest(
        config.corpus.model_dump_json(exclude={"limit"} if own else set()),
        *([] if own else [str(path.absolute()) for path in config.corpus.files]),
    )

    def folder(stage: str, label: str, *parts: Any) -> Path:
        slug = re.sub(r"[^A-Za-z0-9.-]+", "-", label)[-40:].strip("-.")
        key = digest(stage, label, corpus, json.dumps(parts, default=str))[:8]
        return root / f"{stage}{'-' * bool(slug)}{slug}-{key}"

    def batches() -> Iterator[pa.RecordBatch]:
        return teach.batches(train)

    if config.sources:
        steps = _distributions(config, batches, folder)
    else:
        name = config.target
        settings = _once(lambda: {"tokenizer": load_tokenizer(name).fingerprint, "revision": carry.REVISION})
        steps = [
            Step(
                "plain",
                "plain",
                folder("plain", name),
                settings,
                settings,
                batches,
                lambda _: jobs.Plain(name),
            )
        ]
    last = steps[-1]
    packed = _upstream({"from": last.folder}, {"max_length": config.max_length})
    at = folder("examples", last.folder.name, config.max_length)
    pack = jobs.Pack(config.max_length)
    return [*steps, Step("pack", "pack", at, packed, packed, lambda: read_shards(last.folder), lambda _: pack)]


def _once(make: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    held: list[Mapping[str, Any]] = []

    def settings() -> Mapping[str, Any]:
        if not held:
            held.append(make())
        return held[0]

    return settings


def _upstream(folders: Mapping[str, Path], own: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
    """Settings that hold those of what the stage reads."""
    return lambda: {**{side: dict(read_manifest(path).settings) for side, path in folders.items()}, **own}


def _distributions(
    config: Config, batches: Callable[[], Iterator[pa.RecordBatch]], folder: Callable[..., Path]
) -> list[Step]:
    asked, top_k = config.teach, config.teach.top_k
    names = list(dict.fromkeys([config.target, *(source.model for source in config.sources)]))
    folders = {name: folder("teach", name, asked.model_dump()) for name in names}
    steps = [teaching(name, folders[name], batches, **asked.model_dump()) for name in names]
    carried = []
    wanted = [(source.model, source.method) for source in config.sources]
    if config.fusion.with_target:
        wanted.append((config.target, "byte-exact"))
    for name, method in wanted:
        sides = {"source": folders[name], "target": folders[config.target]}
        settings = _upstream(sides, {"method": method, "top_k": top_k, "revision": carry.REVISION})
        at = folder("transfer", name, method, *map(str, sides.values()))

        def job(_: Any, name: str = name, sides: Mapping[str, Path] = sides, method: str = method) -> Job:
            taught = {side: dict(read_manifest(path).settings) for side, path in sides.items()}
            return jobs.Carry(name, config.target, taught, method, top_k)

        steps.append(
            Step(f"transfer {name} ({method})", "transfer", at, settings, settings, _reader(sides), job),
        )
        carried.append(at)
    if len(carried) == 1:
        return steps
    fusion = config.fusion
    parts = {str(n): path for n, path in enumerate(carried)}
    chosen = fusion.model_dump(exclude={"with_target"})
    settings = _upstream(parts, chosen)
    size = _once(lambda: {"size": load_tokenizer(config.target).size})

    def merge(_: Any) -> Job:
        return jobs.Merge(tuple(parts), size()["size"], fusion.rule, fusion.level, fusion.temperature, top_k)

    at = folder("fused", fusion.rule, fusion.level, fusion.temperature, *map(str, carried))
    title = f"fuse {len(carried)} ({fusion.rule}, {fusion.level})"
    return [*steps, Step(title, "fuse", at, settings, settings, _reader(parts), merge)]


def teaching(
    name: str,
    folder: Path,
    batches: Callable[[], Iterator[pa.RecordBatch]],
    *,
    top_k: int,
    device: str | None = None,
    dtype: str | None = None,
    keep: str = "text",
) -> Step:
    """The step in which the model `name` reads documents; arguments as for `Model.predict_all` and `load_model`."""

    def known() -> Mapping[str, Any] | None:
        return teach.known_settings(folder, name, load_tokenizer(name), top_k, device, dtype, keep)

    def settings() -> Mapping[str, Any]:
        # The model is loaded only where shards made with it are not there.
        return known() or teach.settings(jobs.asked(name, device, dtype), top_k, keep)

    def job(update: Callable[[int, int], None] | None) -> Job:
        return jobs.Teach(name, int(settings()["top_k"]), device, dtype, keep, update)

    return Step(f"teach {name}", "teach", folder, settings, known, batches, job)


def _reader(sides: Mapping[str, Path]) -> Callable[[], Iterator[pa.RecordBatch]]:
    def joined() -> Iterator[pa.RecordBatch]:
        for batches in zip(*(read_shards(folder) for folder in sides.values()), strict=True):
            yield carry.join(dict(zip(sides, batches, strict=True)))

    return joined


@contextmanager
def sharing(config: Config, say: Say) -> Iterator[None]:
    """Keep other runs out of a data folder that is shared, from the first stage until the examples are open: one on
    changed texts would otherwise make its own of what this one has half done."""
    if config.data is None:
        yield
        return
    try:
        config.data.mkdir(parents=True, exist_ok=True)
        lock = FileLock(config.data / ".data-lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another run makes its data in {config.data}; waiting for it ...")
            lock.acquire()
    except OSError as error:
        raise TrainingError(f"cannot write to {config.data}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def prepare(
    config: Config, train: Documents, say: Say, engine: Engine | None = None, tell: Tell | None = None, more: int = 0
) -> Path:
    """The folder of training examples, made by whatever stages are missing; `more` stages are to follow."""
    steps = plan(config, train)
    for number, step in enumerate(steps, 1):
        first = Standing(step.title, number, len(steps) + more, 0.0, float(len(train)))
        run(step, say, engine or InProcess(), first, tell)
    return steps[-1].folder


def run(step: Step, say: Say, engine: Engine, first: Standing | None = None, tell: Tell | None = None) -> Outcome:
    """One step, with a progress bar; `tell` hears how far it is, beginning with `first`."""
    first = first or Standing(step.title, 1, 1, 0.0, None)
    with progress(step.title) as show:

        def update(documents: float) -> None:
            show(documents, first.total)
            if tell is not None:
                tell(replace(first, done=documents))

        meter = Meter(update)
        update(0.0)
        here = isinstance(engine, InProcess)  # else batches are drawn long before they are worked on
        made = run_stage(
            step.folder,
            step.stage,
            step.settings(),
            meter.drawn(step.inputs()) if here else step.inputs(),
            step.job(meter.within if here else None),
            engine=engine,
            done=None if here else meter.finished,
        )
    jobs.asked.cache_clear()  # the next model needs the memory
    say(f"{step.title}: {made.made} shards made, {made.kept} kept, {made.rows:,} rows in {step.folder}")
    return made


def online_chain(config: Config) -> tuple[Job, Tokenizer]:
    """All steps of a config as one function from documents to examples, and the target's tokenizer.

    Its models stay loaded; what it gives is what `prepare` keeps on disk.
    """
    asked, target = config.teach, load_tokenizer(config.target)
    if not config.sources:
        plain, pack = jobs.Plain(config.target), jobs.Pack(config.max_length)
        return (lambda batch: pack(plain(batch))), target
    names = list(dict.fromkeys([config.target, *(source.model for source in config.sources)]))
    models = {name: load_model(name, device=asked.device, dtype=asked.dtype) for name in names}
    settings = {name: teach.settings(model, asked.top_k) for name, model in models.items()}
    wanted = [(source.model, source.method) for source in config.sources]
    if config.fusion.with_target:
        wanted.append((config.target, "byte-exact"))
    fusion = config.fusion
    sides = tuple(str(n) for n in range(len(wanted)))
    merge = jobs.Merge(sides, target.size, fusion.rule, fusion.level, fusion.temperature, asked.top_k)
    pack = jobs.Pack(config.max_length)
    carries = [
        jobs.Carry(name, config.target, {"source": settings[name], "target": settings[config.target]}, way, asked.top_k)
        for name, way in wanted
    ]

    def chain(batch: pa.RecordBatch) -> pa.RecordBatch:
        taught = {name: teach.teach(batch, model, settings[name]["top_k"]) for name, model in models.items()}
        own = taught[config.target]
        carried = [
            job(carry.join({"source": taught[name], "target": own}))
            for job, (name, _) in zip(carries, wanted, strict=True)
        ]
        fused = carried[0] if len(carried) == 1 else merge(carry.join(dict(zip(sides, carried, strict=True))))
        return pack(fused)

    return chain, target


def taught_folders(config: Config) -> list[Path]:
    """The folders of a run's taught shards, the target's first; those that are there."""
    return [s.folder for s in plan(config, ()) if s.stage == "teach" and is_shards(s.folder)]
