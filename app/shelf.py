"""Results that a server keeps: the most recent ones, within a number and within a number of bytes."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from fusion_core.models import Model
from fusion_core.tokenizers import Tokenizer

T = TypeVar("T")
# Entries of a long list that are looked at when it is measured.
_SAMPLED = 256
Key = tuple[Hashable, ...]


@dataclass
class _Asked:
    """A result that sessions ask for just now: one at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: int = 0


class Shelf:
    """One session computes, others that ask for the same wait; the least recently used go first.

    Args:
        entries: results at most.
        size: bytes at most, as `footprint` counts them; what was stored last stays, however large.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._entries, self._size = entries, size
        self._values: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._asked: dict[Key, _Asked] = {}
        self._guard = threading.Lock()
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of all results."""
        return self._held

    def __len__(self) -> int:
        return len(self._values)

    def has(self, key: Key) -> bool:
        """Whether the result is there."""
        with self._guard:
            return key in self._values

    def get(self, key: Key, compute: Callable[[], T]) -> T:
        """The result of that key, computed if it is not there; what `compute` raises is not kept."""
        with self._guard:
            asked = self._asked.setdefault(key, _Asked())
            asked.sessions += 1
        try:
            with asked.lock:
                with self._guard:
                    if key in self._values:
                        self._values.move_to_end(key)
                        found: T = self._values[key][0]
                        return found
                value = compute()
                self._keep(key, value, footprint(value))
                return value
        finally:
            with self._guard:
                asked.sessions -= 1
                if not asked.sessions:
                    self._asked.pop(key, None)

    def _keep(self, key: Key, value: Any, size: int) -> None:
        with self._guard:
            self._values[key] = (value, size)
            self._held += size
            while len(self._values) > 1 and (len(self._values) > self._entries or self._held > self._size):
                _, (_, freed) = self._values.popitem(last=False)
                self._held -= freed


def footprint(value: Any) -> int:
    """Bytes that a result takes, without the tokenizers and models that it refers to and others share."""
    return _count(value, set())


def _count(value: Any, seen: set[int]) -> int:
    if id(value) in seen or isinstance(value, Tokenizer | Model | type) or callable(value):
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, pd.DataFrame):
        return int(value.memory_usage(deep=True).sum())
    size = sys.getsizeof(value)
    if isinstance(value, str | bytes | int | float):
        return size
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        # Long lists hold things of one kind: some of them tell how large the others are.
        some = list(value) if len(value) <= _SAMPLED else list(islice(value, 0, None, len(value) // _SAMPLED))
        return size + sum(_count(one, seen) for one in some) * len(value) // max(1, len(some))
    return size + (_count(vars(value), seen) if hasattr(value, "__dict__") else 0)
