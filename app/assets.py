"""The scripts and styles of this app's own components."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def asset(name: str) -> str:
    """The text of a file in `static`."""
    return files("app").joinpath("static", name).read_text(encoding="utf-8")
