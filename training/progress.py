"""How far a run is, kept in its folder for whoever looks in, such as the app."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from fusion_core.sealed import SealError, read_json, write_json

FORMAT = "fusescope-progress"
VERSION = 1
PROGRESS = "progress.json"

# Seconds between two writes, so that short steps do not spend their time on it.
_PAUSE = 0.5


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        stage: such as `teach gemma-3-270m` or `train`.
        number, of: which one it is of all of them, from 1.
        done, total: documents, or steps in training; the total may not be known.
        unit: what is counted.
    """

    stage: str
    number: int
    of: int
    done: float
    total: float | None
    unit: str = "documents"


# Called whenever a run has come a little further.
Tell = Callable[[Standing], None]


class Journal:
    """Keeps the newest standing in `folder`; a disk without room for it stops no run."""

    def __init__(self, folder: Path) -> None:
        self._path, self._stage, self._last = folder / PROGRESS, "", 0.0

    def __call__(self, standing: Standing) -> None:
        now = time.monotonic()
        if standing.stage == self._stage and standing.done != standing.total and now < self._last + _PAUSE:
            return
        self._stage, self._last = standing.stage, now
        with suppress(OSError):
            write_json(self._path, FORMAT, VERSION, asdict(standing))


def read_standing(folder: Path) -> Standing | None:
    """The newest standing of the run in `folder`, None where there is none."""
    try:
        return TypeAdapter(Standing).validate_python(read_json(folder / PROGRESS, FORMAT, VERSION))
    except (OSError, SealError, ValueError):
        return None


class Meter:
    """Counts the documents of a stage as its batches are drawn and finished.

    Args:
        update: called with documents done, which within a batch may be a fraction.
    """

    def __init__(self, update: Callable[[float], None]) -> None:
        self._update, self._before, self._batch = update, 0, 0

    def drawn(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """`batches`; where one is worked through before the next is drawn, what was drawn before is done."""
        for batch in batches:
            self._before += self._batch
            self._batch = batch.num_rows
            self._update(self._before)
            yield batch
        self._update(self._before + self._batch)

    def within(self, done: int, total: int) -> None:
        """So much of the batch drawn last is done."""
        self._update(self._before + self._batch * done / max(1, total))

    def finished(self, rows: int, _made: Any = None) -> None:
        """A batch of so many documents came back, wherever it was worked on."""
        self._before += rows
        self._update(self._before)
