"""Many generated cases in a process of its own, watched: none may hang, eat memory, or take the process down."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fusion_core.errors import FusionError
from tests.torture.mutation import Random
from tests.torture.outcome import Row

# What a case may take at most; and a process before its first one, to load and compile what all of them use.
SECONDS = 10.0
START_SECONDS = 90.0
MEMORY = 2 << 30
# Cases after which a worker's folder is emptied: every tokenizer that loads leaves a cache file.
_SWEEP = 400


def _work(module: str, name: str, start: int, stop: int, shared: Any, failures: Any, folder: str) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # what panicking libraries print
    os.environ |= {
        "FUSESCOPE_WORKSPACE": f"{folder}/workspace",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    case = getattr(importlib.import_module(module), name)(Path(folder))
    shared[1] = time.time()
    with suppress(Exception):
        case(Random(name, start))  # tried again below, with the time that a case has
    shared[1], shared[4] = 0.0, 1.0
    for n in range(start, stop):
        shared[0], shared[1] = n, time.time()
        try:
            case(Random(name, n))
            shared[2] += 1
        except FusionError:
            shared[3] += 1
        except BaseException as error:  # a panic of a Rust library is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.put((n, _told(error)))
        shared[1] = 0.0
        if n % _SWEEP == _SWEEP - 1:
            shutil.rmtree(f"{folder}/workspace", ignore_errors=True)
    shared[0] = stop
    failures.close()
    failures.join_thread()


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename][-1]
    return f"{type(error).__name__}: {str(error)[:160]!r} at {Path(ours.filename).name}:{ours.lineno}"


def run(module: str, name: str, cases: int, *, start: int = 0, seconds: float = SECONDS) -> Row:
    """Run cases `start` to `start + cases` of the family `name` in `module`; the case n of a family is always the same.

    A family is a function from a folder to a function of a random generator, which tries one thing. It may end, or
    raise an error of ours; whatever else happens is lost.
    """
    context = multiprocessing.get_context("spawn")
    row, n, stop = Row(f"bad input: {name.replace('_', ' ')}"), start, start + cases
    right = refused = 0
    most, began = 0, time.perf_counter()
    while n < stop:
        folder = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        shared, failures = context.Array("d", [float(n), 0.0, 0.0, 0.0, 0.0], lock=False), context.Queue()
        worker = context.Process(target=_work, args=(module, name, n, stop, shared, failures, folder), daemon=True)
        worker.start()
        watched = psutil.Process(worker.pid)
        cause = ""
        while worker.is_alive() and not cause:
            worker.join(0.1)
            while not failures.empty():
                row.failures.append("{} case {}: {}".format(name, *failures.get()))
            try:
                memory = watched.memory_info().rss
            except psutil.Error:
                continue
            most = max(most, memory)
            allowed = seconds if shared[4] else max(seconds, START_SECONDS)
            if shared[1] and time.time() - shared[1] > allowed:
                cause = f"took more than {allowed:.0f} s"
            elif memory > MEMORY:
                cause = f"took {memory >> 20} MB"
        if cause:
            worker.kill()
        worker.join()
        while not failures.empty():
            row.failures.append("{} case {}: {}".format(name, *failures.get()))
        shutil.rmtree(folder, ignore_errors=True)
        right, refused = right + int(shared[2]), refused + int(shared[3])
        if int(shared[0]) >= stop:
            break
        reason = cause or f"took the process down ({worker.exitcode})"
        if not shared[1]:
            row.failures.append(f"{name} could not begin: {reason}")
            break
        n = int(shared[0]) + 1
        if (
            "more than" in reason
            and cases > 1
            and not (again := run(module, name, 1, start=n - 1, seconds=seconds)).lost
        ):
            right += again.survived  # the machine was busy with something else
        else:
            row.failures.append(f"{name} case {n - 1}: {reason}")
    row.tried, row.survived = cases, right + refused
    speed = cases / (time.perf_counter() - began)
    row.note = f"{right:,} right, {refused:,} refused; {speed:,.0f}/s, {most >> 20} MB"
    return row
