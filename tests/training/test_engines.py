"""Wherever the stages run, the shards are the same; two runs on one folder do not disturb each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from fusion_core import ConfigError, DistributionError
from tests.support import tiny
from training.corpus import Document
from training.engines import Engine, InProcess, Processes, RayData, engine
from training.shards import read_manifest, read_shards, run_stage
from training.stages import jobs, teach

TEXTS = [f"the quick brown fox jumps over {n} lazy dogs; naïve café 東京" * (1 + n % 3) for n in range(20)]
DOCUMENTS = [Document(f"d{n}", "x", text) for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.train("byte-bpe", tmp_path_factory.mktemp("t")))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".json")}


def _run(folder: Path, where: Engine, tokenizer: str, size: int = 200) -> tuple[int, int]:
    batches = teach.batches(DOCUMENTS, size)
    outcome = run_stage(folder, "plain", {"tokenizer": "t"}, batches, jobs.Plain(tokenizer), engine=where)
    return outcome.made, outcome.kept


def test_several_processes_make_the_same_shards(tmp_path: Path, tokenizer: str) -> None:
    made, _ = _run(tmp_path / "one", InProcess(), tokenizer)
    assert _run(tmp_path / "two", Processes(2), tokenizer) == (made, 0)
    assert made > 5 and _files(tmp_path / "one") == _files(tmp_path / "two")
    # Some in the middle are missing: only these are made.
    victims = sorted(path for path in (tmp_path / "two").glob("*.parquet"))[2:6:2]
    for path in victims:
        path.unlink()
    assert _run(tmp_path / "two", Processes(2), tokenizer) == (2, made - 2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_shards(tmp_path: Path, tokenizer: str) -> None:
    ray = pytest.importorskip("ray")
    made, _ = _run(tmp_path / "one", InProcess(), tokenizer)
    try:
        assert _run(tmp_path / "ray", RayData(), tokenizer) == (made, 0)
        assert ray.is_initialized() and _files(tmp_path / "one") == _files(tmp_path / "ray")
        with pytest.raises(Exception, match="no-such-tokenizer"):
            run_stage(tmp_path / "bad", "plain", {}, teach.batches(DOCUMENTS), jobs.Plain("no-such-tokenizer.json"),
                      engine=RayData())  # fmt: skip
    finally:
        ray.shutdown()


def test_what_a_worker_raises_comes_out_whole(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no-such"):
        run_stage(tmp_path, "plain", {}, teach.batches(DOCUMENTS), jobs.Plain("no-such.json"), engine=Processes(2))
    # Nothing was made, and nothing is taken for made.
    with pytest.raises(DistributionError, match="holds no shards"):
        read_manifest(tmp_path)


def _die(batch: pa.RecordBatch) -> pa.RecordBatch:
    os._exit(9)


def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    with pytest.raises(DistributionError, match="a worker process died"):
        run_stage(tmp_path, "plain", {}, teach.batches(DOCUMENTS), _die, engine=Processes(2))


def _sleep(batch: pa.RecordBatch) -> pa.RecordBatch:
    Path(os.environ["TEST_PIDS"], str(os.getpid())).touch()
    time.sleep(300)
    return batch


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes under /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_they_work_for(tmp_path: Path, sent: int) -> None:
    code = textwrap.dedent("""
        from tests.training.test_engines import DOCUMENTS, Processes, _sleep, teach
        list(Processes(2).map(_sleep, teach.batches(DOCUMENTS, 200)))
    """)
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TEST_PIDS": str(tmp_path)})
    deadline = time.time() + 60
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.time() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2 and all(map(_runs, pids))
    parent.send_signal(sent)
    parent.wait(60)
    while any(map(_runs, pids)) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(map(_runs, pids))


def test_only_a_few_batches_are_held(tokenizer: str) -> None:
    taken = given = 0
    most = 0

    def source() -> Iterator[pa.RecordBatch]:
        nonlocal given
        for batch in teach.batches(DOCUMENTS, 50):
            given += 1
            yield batch

    for _ in Processes(2).map(jobs.Plain(tokenizer), source()):
        taken += 1
        most = max(most, given - taken)
    assert taken == given == 20 and most <= 5


@pytest.mark.parametrize(("name", "workers", "says"), [("spark", 1, "local, ray"), ("local", 0, "1 or more")])
def test_a_wrong_engine_is_named(name: str, workers: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        engine(name, workers)


def test_two_runs_at_once_leave_one_whole_folder(tmp_path: Path, tokenizer: str) -> None:
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.training.test_engines import InProcess, _run
        print(_run(Path(sys.argv[1]), InProcess(), sys.argv[2], 60))
    """)
    command = [sys.executable, "-c", code, str(tmp_path / "both"), tokenizer]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = sorted(tuple(map(int, one.communicate(timeout=120)[0].strip("()\n").split(","))) for one in running)
    made, _ = _run(tmp_path / "alone", InProcess(), tokenizer, 60)
    assert found == [(0, made), (made, 0)]
    assert _files(tmp_path / "both") == _files(tmp_path / "alone")
    assert sum(batch.num_rows for batch in read_shards(tmp_path / "both")) == len(DOCUMENTS)
