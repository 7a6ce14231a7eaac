"""Runs that were begun on the command line, or on another machine, and lie somewhere below some folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.runs import CONFIG, VERSIONS, is_launched

# Below a folder that is searched: a sweep's runs lie this deep in the folder in which it was started.
_DEPTH = 5
# Folders that are looked into at most below each, the nearest first: somebody may start the app at home.
_FOLDERS = 4_000
# What holds many files and no run.
_PASSED = {"node_modules", "__pycache__"}


def find_runs(roots: Sequence[Path]) -> dict[str, Path]:
    """Folders of runs below `roots`, the newest first, by where they lie there; those that the app launched are not
    among them, nor those behind links. Of two that lie alike the one below the later root goes by its whole path."""
    found: dict[str, tuple[float, Path]] = {}
    seen: set[Path] = set()
    for root in roots:
        for folder, begun in _below(root, seen):
            name = _name(folder, root)
            found[name if name not in found else str(folder)] = (begun, folder)
    newest = sorted(found.items(), key=lambda item: item[1][0], reverse=True)
    return {name: folder for name, (_, folder) in newest}


def _below(root: Path, seen: set[Path]) -> Iterator[tuple[Path, float]]:
    """Runs' folders and when they were begun, the nearest first; folders in `seen` are passed over."""
    level, left = [root], _FOLDERS
    for _ in range(_DEPTH):
        below: list[Path] = []
        for folder in level:
            if folder in seen or not left:
                continue
            seen.add(folder)
            left -= 1
            try:
                with os.scandir(folder) as entries:
                    names = {entry.name: entry for entry in entries}
                run = CONFIG in names and VERSIONS in names
                begun = names[VERSIONS].stat().st_mtime if run else 0.0
            except OSError:
                continue
            if not run:
                below += [folder / name for name, entry in names.items() if _may_hold_runs(entry)]
            elif not is_launched(folder):
                yield folder, begun
        level = below


def _name(folder: Path, root: Path) -> str:
    """With a slash, which the names of the app's own runs have not."""
    if folder == root:
        return str(folder)
    within = str(folder.relative_to(root))
    return within if os.sep in within else f".{os.sep}{within}"


def _may_hold_runs(entry: os.DirEntry[str]) -> bool:
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:  # no page could show it
        return False
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _PASSED
