"""The workspace folder: where caches live, and how a file gets there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

VARIABLE = "FUSESCOPE_WORKSPACE"


def workspace() -> Path:
    """The workspace folder: `$FUSESCOPE_WORKSPACE`, else the platform's per-user data folder."""
    named = os.environ.get(VARIABLE)
    return expanded(named) if named else platformdirs.user_data_path("fusescope", appauthor=False)


def expanded(name: str | Path) -> Path:
    """`name` as a path, `~` being a home folder; where there is no such home it stays as it is written."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def cache_path(kind: str, key: str, suffix: str) -> Path:
    """Where the cache entry `key` of `kind` is kept, whether or not it is there."""
    return workspace() / "cache" / kind / f"{key}{suffix}"


def digest(*parts: bytes | str) -> str:
    """SHA-256 over `parts`, each preceded by its length so that no two lists collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def clear_parts(older_than: float = 86_400.0) -> int:
    """Remove what killed processes left half-written in the workspace, once it is so many seconds old; returns how many
    files and folders that were."""
    removed = 0
    for path in (*workspace().glob("*/.part-*"), *workspace().glob("*/*/.part-*")):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".part-{secrets.token_hex(8)}{path.suffix}"
    # With the rights that any new file has here; tempfile's are for its owner alone.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which must not be there yet or be empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".part-{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
