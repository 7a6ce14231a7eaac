"""The stages as values: what each needs, by name, so that another process can do it too.

A job loads what it needs on its first batch and keeps it for the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from fusion_core import Tokenizer, load_tokenizer
from fusion_core.models import Model, load_model
from fusion_core.transfer import TransferIndex, build_index
from training.stages import carry, examples, teach


@lru_cache(maxsize=8)
def asked(model: str, device: str | None, dtype: str | None) -> Model:
    """A loaded model; who is done with it clears the cache, so that the next one finds its memory."""
    return load_model(model, device=device, dtype=dtype)


@lru_cache(maxsize=8)
def _tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(name)


@lru_cache(maxsize=4)
def _index(source: str, target: str) -> TransferIndex:
    return build_index(_tokenizer(source), _tokenizer(target))


@dataclass(frozen=True)
class Teach:
    """See `training.stages.teach`."""

    model: str
    top_k: int
    device: str | None = None
    dtype: str | None = None
    keep: str = "text"
    progress: Callable[[int, int], None] | None = None  # only within this process

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        model = asked(self.model, self.device, self.dtype)
        return teach.teach(batch, model, self.top_k, self.keep, self.progress)


@dataclass(frozen=True)
class Carry:
    """See `training.stages.carry.carry`; `settings` of the sides `source` and `target`."""

    source: str
    target: str
    settings: Mapping[str, Mapping[str, Any]]
    method: str
    top_k: int

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return carry.carry(batch, self.settings, _index(self.source, self.target), self.method, self.top_k)


@dataclass(frozen=True)
class Merge:
    """See `training.stages.carry.merge`."""

    sides: tuple[str, ...]
    size: int
    rule: str
    level: str
    temperature: float
    top_k: int

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return carry.merge(batch, self.sides, self.size, self.rule, self.level, self.temperature, self.top_k)


@dataclass(frozen=True)
class Pack:
    """See `training.stages.examples.pack`."""

    max_length: int

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return examples.pack(batch, self.max_length)


@dataclass(frozen=True)
class Plain:
    """See `training.stages.examples.plain`."""

    tokenizer: str

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return examples.plain(batch, _tokenizer(self.tokenizer))
