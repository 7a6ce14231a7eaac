"""One workspace folder for the run, away from the user's own, and no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fusion_core import Tokenizer, load_tokenizer
from tests.support import tiny

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core to itself
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def workspace_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace")
    if "PYTEST_XDIST_WORKER" in os.environ:  # the sample models, which take a minute to convert, are for all
        for name in ("models", "samples"):
            shared = tmp_path_factory.getbasetemp().parent / "shared" / name
            shared.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(shared)
    before = os.environ.get("FUSESCOPE_WORKSPACE")
    os.environ["FUSESCOPE_WORKSPACE"] = str(folder)
    yield folder
    os.environ.pop("FUSESCOPE_WORKSPACE")
    if before is not None:
        os.environ["FUSESCOPE_WORKSPACE"] = before


@pytest.fixture(scope="session")
def tinies(workspace_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """Gives the trained tokenizer of a kind in `tiny.KINDS`."""

    @cache
    def trained(kind: str) -> Tokenizer:
        return load_tokenizer(tiny.train(kind, tmp_path_factory.mktemp(kind)))

    return trained
