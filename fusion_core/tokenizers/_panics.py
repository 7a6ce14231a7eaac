"""Libraries written in Rust panic with an exception that `except Exception` does not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fusion_core.errors import TokenizerError


@contextmanager
def panics_told(what: str) -> Iterator[None]:
    """Turn a panic inside the block into a `TokenizerError` that begins with `what`."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise TokenizerError(f"{what}: its library gave up ({' '.join(str(error).split())[:200]})") from error
