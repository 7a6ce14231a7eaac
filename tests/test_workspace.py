"""The workspace folder: files whole or not at all, and nothing left lying about."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fusion_core.workspace import atomic_folder, atomic_path, clear_parts, expanded


def test_a_file_appears_when_the_block_ends_well_and_not_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.json"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_when_the_block_ends_well_and_not_otherwise(tmp_path: Path) -> None:
    for name, fails in (("good", False), ("bad", True)):
        with suppress(ZeroDivisionError), atomic_folder(tmp_path / "below" / name) as temporary:
            (temporary / "a").write_text("new")
            assert not (tmp_path / "below" / name).exists()
            if fails:
                raise ZeroDivisionError
    good = tmp_path / "below" / "good"
    assert list(good.parent.iterdir()) == [good] and (good / "a").read_text() == "new"
    (tmp_path / "plain").mkdir()
    assert good.stat().st_mode == (tmp_path / "plain").stat().st_mode  # no one's private folder


def test_old_parts_are_removed_and_young_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSESCOPE_WORKSPACE", str(tmp_path))
    old = [
        tmp_path / "cache" / "mapping" / ".part-1.parquet",
        tmp_path / "models" / ".part-2",
        tmp_path / "texts" / ".part-3",
    ]
    kept = [tmp_path / "texts" / ".part-4", tmp_path / "texts" / "a.txt"]
    for path in (*old, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.mkdir if path.name == ".part-2" else path.touch)()
    (old[1] / "model.safetensors").touch()
    for path in (*old, kept[1]):
        os.utime(path, (0, time.time() - 100_000))
    assert clear_parts() == 3
    assert not any(path.exists() for path in old) and all(path.exists() for path in kept)


def test_a_home_that_there_is_none_of_is_left_as_written() -> None:
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("~/x") == Path.home() / "x"
