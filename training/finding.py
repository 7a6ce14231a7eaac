"""Runs that were begun on the command line, or on another machine, and lie somewhere below some folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from training.runs import CONFIG, VERSIONS, is_launched

# Below a folder that is searched: a sweep's runs lie this deep in the folder in which it was started.
_DEPTH = 5
# Folders that are looked into at most, the nearest first: somebody may start the app at home.
_FOLDERS = 4_000
# What holds many files and no run.
_PASSED = {"data", "checkpoints", "model", "node_modules", "__pycache__"}


def find_runs(roots: Sequence[Path], most: int = 50) -> dict[str, Path]:
    """Folders of runs below `roots`, the newest first, by where they lie there; those that the app launched are not
    among them, nor those behind links."""
    found: dict[Path, tuple[float, str]] = {}
    seen: set[Path] = set()
    for root in roots:
        level = [root]
        for _ in range(_DEPTH):
            below: list[Path] = []
            for folder in level:
                if folder in seen or len(seen) >= _FOLDERS:
                    continue
                seen.add(folder)
                with suppress(OSError):
                    names = {entry.name: entry for entry in os.scandir(folder)}
                    if CONFIG in names and VERSIONS in names:
                        if not is_launched(folder):
                            found[folder] = (names[VERSIONS].stat().st_mtime, _name(folder, root))
                        continue
                    below += [folder / name for name, entry in names.items() if _may_hold_runs(entry)]
            level = below
    newest = sorted(found.items(), key=lambda item: item[1][0], reverse=True)
    named: dict[str, Path] = {}
    for folder, (_, name) in newest[:most]:
        named[name if name not in named else str(folder)] = folder
    return named


def _name(folder: Path, root: Path) -> str:
    """With a slash, which the names of the app's own runs have not."""
    if folder == root:
        return str(folder)
    within = str(folder.relative_to(root))
    return within if os.sep in within else f".{os.sep}{within}"


def _may_hold_runs(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _PASSED
