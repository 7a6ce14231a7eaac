"""Where the stages run: in this process, in several, or on a Ray cluster; the same function on the same batches."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa

from fusion_core.errors import ConfigError, DistributionError

# What a stage does to one batch. For another process it must be picklable: see training.stages.jobs.
Job = Callable[[pa.RecordBatch], pa.RecordBatch]

ENGINES = ("local", "ray")
# Batches that are given to a Ray cluster at once, so that it holds no more of the corpus than that.
_RAY_GROUP = 64
_SHARD = "__shard"


class Engine(Protocol):
    """Applies a job to batches and gives the results in their order, holding only some of them at a time."""

    def map(self, job: Job, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One result per batch; what the job raises comes out here."""


def engine(name: str = "local", workers: int = 1) -> Engine:
    """An engine by name; raises `ConfigError` for an unknown one, or where Ray is not installed."""
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, got {workers}")
    if name == "ray":
        return RayData(workers)
    return Processes(workers) if workers > 1 else InProcess()


class InProcess:
    """One batch after the other."""

    def map(self, job: Job, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """See `Engine`."""
        yield from map(job, batches)


def _begin_worker(workers: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would keep its model in memory for good, waiting for batches."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(job: Job, batch: pa.RecordBatch) -> pa.RecordBatch:
    return job(batch)


@dataclass(frozen=True)
class Processes:
    """Several processes of this machine, each with its share of the cores."""

    workers: int

    def map(self, job: Job, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """See `Engine`; raises `DistributionError` where a process was killed."""
        # Forked processes would share locks of torch and numba in whatever state they are.
        context = multiprocessing.get_context("spawn")
        waiting: deque[Future[pa.RecordBatch]] = deque()
        with ProcessPoolExecutor(self.workers, context, _begin_worker, (self.workers,)) as pool:
            try:
                for batch in batches:
                    waiting.append(pool.submit(_call, job, batch))
                    if len(waiting) > 2 * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BrokenProcessPool as error:
                raise DistributionError(
                    f"a worker process died, probably for want of memory; try fewer than {self.workers} workers"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class RayData:
    """Ray Data: a cluster that runs already (RAY_ADDRESS), or one of this machine alone."""

    workers: int = 1

    def map(self, job: Job, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """See `Engine`; raises `ConfigError` where Ray is not installed."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ConfigError("the engine ray needs Ray: pip install 'fusescope[ray]'") from error
        # A cluster is asked for when there is work: where all shards are there already, none is started.
        source = iter(batches)
        while group := list(islice(source, _RAY_GROUP)):
            if not ray.is_initialized():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
                ray.data.DataContext.get_current().enable_progress_bars = False
            yield from self._map(ray.data, job, group)

    def _map(self, data: Any, job: Job, group: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = [_numbered(batch, n) for n, batch in enumerate(group)]
        # Blocks need not come back whole or in order: each row says whose it is.
        done = data.from_arrow(tables).map_batches(
            _OnTables,
            fn_constructor_args=(job,),
            batch_format="pyarrow",
            batch_size=None,
            compute=data.ActorPoolStrategy(size=self.workers),
        )
        parts: dict[int, list[pa.Table]] = {n: [] for n in range(len(group))}
        for table in done.iter_batches(batch_format="pyarrow", batch_size=None):
            for n in table.column(_SHARD).unique().to_pylist():
                parts[n].append(table.filter(pa.compute.equal(table.column(_SHARD), n)).drop_columns(_SHARD))
        for n in range(len(group)):
            yield _one_batch(pa.concat_tables(parts[n]))


def _numbered(batch: pa.RecordBatch, number: int) -> pa.Table:
    numbers = pa.array([number] * batch.num_rows, pa.int64())
    return pa.Table.from_batches([batch]).append_column(_SHARD, numbers)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


class _OnTables:
    """A job in a Ray actor: what it loads stays there."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, table: pa.Table) -> pa.Table:
        numbers = table.column(_SHARD).to_pylist()
        inner = table.drop_columns(_SHARD)
        made = []
        for n in dict.fromkeys(numbers):
            own = inner.filter(pa.compute.equal(table.column(_SHARD), n))
            made.append(_numbered(self._job(_one_batch(own)), n))
        return pa.concat_tables(made)
