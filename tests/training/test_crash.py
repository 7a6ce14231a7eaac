"""Whatever happens while shards are written, nothing half-written is read, and a rerun ends with the same bytes."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fusion_core import DistributionError
from tests.support import tiny
from tests.training.test_engines import InProcess, _files, _run
from training.shards import MANIFEST, is_shards, read_shards

# How often a run is killed; FUSESCOPE_KILLS asks for more.
KILLS = int(os.environ.get("FUSESCOPE_KILLS", "10"))
# A run that says when it begins to work.
_CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from tests.training.test_engines import InProcess, _run
    print("ready", flush=True)
    while True:
        _run(Path(sys.argv[1]), InProcess(), sys.argv[2], int(sys.argv[3]))
        sys.argv[3] = str(20 + (int(sys.argv[3]) + 37) % 300)
""")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.train("byte-bpe", tmp_path_factory.mktemp("t")))


def test_a_killed_stage_leaves_nothing_that_a_rerun_would_trust(tmp_path: Path, tokenizer: str) -> None:
    _run(tmp_path / "unbroken", InProcess(), tokenizer)
    rng = random.Random(0)
    folder = tmp_path / "killed"
    for n in range(KILLS):
        command = [sys.executable, "-c", _CHILD, str(folder), tokenizer, str(60 + 20 * n)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.25))
        child.kill()
        child.wait()
        if is_shards(folder):
            assert sum(batch.num_rows for batch in read_shards(folder)) > 0  # with checksums
    _run(folder, InProcess(), tokenizer)
    assert _files(folder) == _files(tmp_path / "unbroken")
    assert {path.suffix for path in folder.iterdir() if path.name != ".lock"} == {".parquet", ".json"}


def test_a_disk_that_is_full_is_told_and_leaves_no_part(tmp_path: Path, tokenizer: str) -> None:
    _run(tmp_path / "whole", InProcess(), tokenizer)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    smallest = min(path.stat().st_size for path in (tmp_path / "whole").glob("*.parquet"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (smallest // 2, limits[1]))
    try:
        with pytest.raises(DistributionError, match="cannot write shards"):
            _run(tmp_path / "full", InProcess(), tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in (tmp_path / "full").iterdir() if path.name not in (".lock", MANIFEST)]
    _run(tmp_path / "full", InProcess(), tokenizer)
    assert _files(tmp_path / "full") == _files(tmp_path / "whole")
