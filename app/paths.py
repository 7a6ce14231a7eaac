"""Which files the app may read: what is typed into a browser must not open any file of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from fusion_core.errors import DistributionError, TokenizerError
from fusion_core.tokenizers import BESIDE, SAMPLES
from fusion_core.workspace import digest, expanded, workspace
from training.config import Config
from training.shards import MANIFEST, read_manifest

# Folders that the app may read, besides the workspace; `fusescope app` sets it.
VARIABLE = "FUSESCOPE_ALLOW"


def roots() -> list[Path]:
    """The folders that a typed path may lie in."""
    named = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return [root.expanduser().resolve() for root in (workspace(), *named)]


def permitted(name: str) -> str:
    """`name` if the app may load it: a sample, a tiktoken encoding, a hub id, or a path inside one of `roots`.

    Raises:
        TokenizerError: the path, symlinks followed, lies elsewhere.
    """
    name = name.strip()
    if name in SAMPLES or name.startswith("tiktoken:") or "\0" in name:
        return name
    path = expanded(name)
    try:
        real = path.resolve()
        looks_like_path = path.is_absolute() or name.startswith(("~", ".")) or path.exists()
    except (OSError, RuntimeError, ValueError):
        raise TokenizerError(f"{name[:80]!r} is no usable path") from None
    if looks_like_path and not any(real.is_relative_to(root) for root in roots()):
        raise TokenizerError(
            f"{name!r} lies outside the folders that this app may read; copy it into the workspace folder, "
            "or start the app with: fusescope app --allow FOLDER"
        )
    return name


def state_of(name: str) -> str:
    """What tells one state of the local file or folder `name` from another: names, sizes and times; empty for names of
    another kind. What is kept of a file is only good as long as it, and what is said of it beside it, stay as they
    were."""
    try:
        path = expanded(name.strip())
        if path.is_file():
            files = [path, *(other for part in BESIDE if (other := path.parent / part).is_file())]
        else:
            files = sorted(file for file in path.iterdir() if file.is_file())
        stats = [(file.name, file.stat()) for file in files]
    except (OSError, RuntimeError, ValueError):
        return ""
    return digest(*(f"{file}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in stats))


def permitted_folder(name: str) -> Path:
    """The folder `name` if it lies, symlinks followed, inside one of `roots`.

    Raises:
        DistributionError: it lies elsewhere, or is no usable path.
    """
    try:
        real = expanded(name.strip()).resolve()
    except (OSError, RuntimeError, ValueError):
        raise DistributionError(f"{name[:80]!r} is no usable path") from None
    if not any(real.is_relative_to(root) for root in roots()):
        raise DistributionError(
            f"{name!r} lies outside the folders that this app may read; copy it into the workspace folder, "
            "or start the app with: fusescope app --allow FOLDER"
        )
    return real


def permitted_config(config: Config) -> Config:
    """`config` if the app may read every model, text and folder that it names.

    Raises:
        TokenizerError, DistributionError: one of them lies elsewhere.
    """
    for name in (config.target, *(source.model for source in config.sources)):
        permitted(name)
    for file in (*config.corpus.files, *([config.data] if config.data else [])):
        permitted_folder(str(file))
    if config.corpus.hub:
        permitted(config.corpus.hub.name)
    return config


def shard_folders(limit: int = 50) -> list[str]:
    """Folders of taught shards at most four levels below `roots`: those of a run lie so deep."""
    found: dict[str, None] = {}
    for root in roots():
        for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
            for path in root.glob(f"{depth}/{MANIFEST}"):
                if len(found) < limit and _is_taught(path.parent):
                    found[str(path.parent)] = None
    return list(found)


def _is_taught(folder: Path) -> bool:
    try:
        return read_manifest(folder).stage == "teach"
    except DistributionError:
        return False
