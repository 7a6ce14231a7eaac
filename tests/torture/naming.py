"""Errors about a file must name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusion_core.errors import FusionError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever error of ours leaves the block must say which file it is about."""
    try:
        yield
    except FusionError as error:
        if path.name not in str(error):
            raise AssertionError(f"the error does not name {path.name}: {error}") from error
        raise
