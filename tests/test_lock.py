"""The lock file names every package that the app needs, in versions that pyproject.toml and the constraints admit."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def _pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if re.match(r"[A-Za-z0-9]", line)]
    return {canonicalize_name(package): version for package, version in found}


def test_the_lock_file_fits_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked, constrained = _pinned("requirements-app.txt"), _pinned("constraints.txt")
    for text in [*project["dependencies"], *project["optional-dependencies"]["samples"]]:
        needed = Requirement(text)
        assert locked[canonicalize_name(needed.name)] in needed.specifier, text
    for name in locked.keys() & constrained.keys():
        assert locked[name] == constrained[name]
