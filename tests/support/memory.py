"""How much memory a piece of work takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

MB = 1 << 20


@contextmanager
def peak_added() -> Iterator[list[float]]:
    """Yields a list that then holds the resident memory added at the peak, in MB."""
    process, found, stop = psutil.Process(), [0.0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(0.002):
            found[0] = max(found[0], (process.memory_info().rss - before) / MB)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()
