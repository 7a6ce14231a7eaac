"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, workspace_folder: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    return str(tiny.save_model(root / "a", "byte-bpe", 1)), str(tiny.save_model(root / "b", "metaspace-bpe", 2))
