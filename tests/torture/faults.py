"""A disk that is full, a workspace that cannot be written, two processes at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fusion_core import align, load_mapping, load_tokenizer, map_vocabulary, save_mapping
from fusion_core.distributions import load_distributions, save_distributions
from fusion_core.errors import FusionError
from tests.support import formats
from tests.torture.killing import (
    Nursery,
    check_workspace,
    figures,
    made_up_config,
    run_step,
    run_training,
    settle,
    shard_bytes,
)
from tests.torture.outcome import Row
from training import config as configs


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A small file system in memory at `place`; gives a function that mounts it anew with other options.

    Raises:
        OSError: this process may not mount anything.
    """
    place.mkdir(parents=True, exist_ok=True)

    def mount(options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            raise OSError(done.stderr.strip())

    mount(f"size={size}")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def attempt(work: Callable[..., None], workspace: Path, *args: Any) -> None:
    """In a process of its own: what `work` raises is sent to the last argument, a pipe."""
    *given, answer = args
    settle(workspace)
    try:
        work(*given, None)
        answer.send(("done", ""))
    except FusionError as error:
        answer.send(("refused", str(error)))
    except BaseException as error:
        answer.send(("lost", f"{type(error).__name__}: {error}"))


def _steps(path: Path) -> list[Any]:
    from training.data import plan
    from training.splits import split_corpus

    chosen = configs.load(path)
    return plan(chosen, split_corpus(chosen).train)


def every_step(path: Path, _: Connection | None) -> None:
    """All steps from documents to examples."""
    for number in range(len(_steps(path))):
        run_step(path, number, None)


def _moved(path: Path, output: Path) -> Path:
    """The same config with another output."""
    moved = path.with_name(f"{output.name}.yaml")
    moved.write_text(configs.dump(configs.load(path, [f"output={output}"])), encoding="utf-8")
    return moved


def _outcome(nursery: Nursery, work: Callable[..., None], workspace: Path, *args: Any) -> tuple[str, str]:
    process, answer = nursery.begin(attempt, work, workspace, *args)
    try:
        found: tuple[str, str] = answer.recv()
    except EOFError:
        found = ("lost", "the process died")
    process.join()
    return found


def _all_shards(path: Path) -> list[dict[str, bytes]]:
    return [shard_bytes(step.folder) for step in _steps(path)]


def _nothing_half_written(folder: Path) -> list[str]:
    """Parts that a process left that was not killed."""
    return [str(path) for path in folder.rglob(".part-*")]


def full_disk(folder: Path) -> Row:
    """Every writer on disks of growing size until one suffices; then it must end as on a large one."""
    row, nursery = Row("full disk: stages, training, mappings, distributions, texts"), Nursery()
    path = made_up_config(folder)
    nursery.run(run_training, path)
    expected_run, expected_shards = figures(configs.load(path).output), None
    place = folder / "disk"
    try:
        with mounted(place, "64k") as again:
            moved = _moved(path, place / "run")
            refusals = 0
            for size in ("64k", "96k", "128k", "192k", "256k", "512k", "1m", "1500k", "2m", "3m", "4m", "6m", "64m"):
                again(f"size={size}")
                how, says = _outcome(nursery, run_training, folder / "workspace", moved)
                refusals += how == "refused"
                good = how == "done" or (how == "refused" and ("space" in says or "write" in says or "disk" in says))
                row.count(good and not _nothing_half_written(place / "run" / "data"), f"{size}: {how}, {says[:300]}")
            row.count(figures(place / "run") == expected_run, "a run on a disk that was full ended otherwise")
            row.count(refusals >= 3, "the disk was never full")
            shutil.rmtree(place / "run")
            again("size=16k")
            for name, write in _writers(place, folder).items():
                (place / "filler").write_bytes(b"\0" * _room(place))
                try:
                    write()
                    row.count(name in _MAY_DO_WITHOUT, f"{name}: no error on a full disk")
                except FusionError as error:
                    row.count("space" in str(error) or "write" in str(error), f"{name}: {error}")
                except Exception as error:
                    row.count(False, f"{name}: {type(error).__name__}: {error}")
                (place / "filler").unlink()
                row.count(not _nothing_half_written(place), f"{name}: left a part behind")
    except OSError as error:
        row.skipped = f"nothing can be mounted here ({error})"
    row.note = f"{expected_shards or ''}"
    return row


_MAY_DO_WITHOUT = ("mapping with its cache", "tokenizer with its cache")


def _room(place: Path) -> int:
    stat = os.statvfs(place)
    return stat.f_bavail * stat.f_frsize


def _writers(place: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    from app import texts
    from training import runs

    a, b = (str(folder / name / "tokenizer.json") for name in "ab")

    def inside(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            before = os.environ.get("FUSESCOPE_WORKSPACE")
            os.environ["FUSESCOPE_WORKSPACE"] = str(place / "workspace")
            try:
                return call()
            finally:
                os.environ.pop("FUSESCOPE_WORKSPACE")
                if before is not None:
                    os.environ["FUSESCOPE_WORKSPACE"] = before

        return run

    return {
        "save_mapping": lambda: save_mapping(formats.mapping(), place / "m.parquet"),
        "save_distributions": lambda: save_distributions(formats.distributions(), place / "d.parquet", {}),
        "mapping with its cache": inside(lambda: map_vocabulary(load_tokenizer(a), load_tokenizer(b), kind="hard")),
        "tokenizer with its cache": inside(lambda: align(load_tokenizer(a), load_tokenizer(b), text="the fox")),
        "a text of the app": inside(lambda: texts.remember("x" * 5000)),
        "a run launched from the app": inside(lambda: runs.launch("r", configs.parse(formats.config_value()))),
        "a tokenizer saved": lambda: load_tokenizer(a).save(place / "saved"),
    }


def read_only(folder: Path) -> Row:
    """A workspace that cannot be written: what needs no file works, what needs one is an error of ours."""
    row, nursery = Row("read-only workspace"), Nursery()
    path = made_up_config(folder)
    place = folder / "disk"
    try:
        with mounted(place, "1m") as again:
            again("ro")
            moved = _moved(path, place / "run")
            for work in (every_step, run_training):
                how, says = _outcome(nursery, work, place / "workspace", moved)
                row.count(how == "refused" and "ead-only" in says, f"{work.__name__}: {how}, {says[:200]}")
            for name, write in _writers(place, folder).items():
                try:
                    write()
                    row.count(name in _MAY_DO_WITHOUT, f"{name}: no error without a place to write to")
                except FusionError as error:
                    row.count("ead-only" in str(error), f"{name}: {error}")
                except Exception as error:
                    row.count(False, f"{name}: {type(error).__name__}: {error}")
    except OSError as error:
        row.skipped = f"nothing can be mounted here ({error})"
    return row


def two_at_once(folder: Path, times: int) -> Row:
    """Two processes with one workspace and one folder: the second waits, is refused, or finds what the first made."""
    row, nursery = Row("two processes at once"), Nursery()
    path = made_up_config(folder)
    nursery.run(run_training, path)
    output = configs.load(path).output
    expected = figures(output), _all_shards(path)
    for n in range(times):
        shutil.rmtree(output)
        shutil.rmtree(folder / "workspace", ignore_errors=True)
        begun = [nursery.begin(attempt, run_training, folder / "workspace", path) for _ in range(2)]
        found = sorted(answer.recv() for _, answer in begun)
        for process, _ in begun:
            process.join()
        kinds = [how for how, _ in found]
        row.count(kinds == ["done", "refused"] or kinds == ["done", "done"], f"round {n}: {found}")
        row.count(
            (figures(output), _all_shards(path)) == expected, f"round {n}: the run ended otherwise than one alone"
        )
        try:
            check_workspace(folder / "workspace")
            row.count(True)
        except Exception as error:
            row.count(False, f"round {n}: {type(error).__name__}: {error}")
    a, b = (load_tokenizer(folder / name / "tokenizer.json") for name in "ab")
    mapping = map_vocabulary(a, b, kind="soft")
    target = folder / "both.parquet"
    for n in range(times * 5):
        begun = [nursery.begin(attempt, _save_over, folder / "workspace", target) for _ in range(2)]
        found = [answer.recv() for _, answer in begun]
        for process, _ in begun:
            process.join()
        row.count(all(how == "done" for how, _ in found) and bool(load_mapping(target)), f"save {n}: {found}")
    row.count(mapping.source_size == a.size)
    return row


def _save_over(target: Path, _: Connection | None) -> None:
    for _n in range(20):
        save_mapping(formats.mapping(), target)
        load_mapping(target)
        save_distributions(formats.distributions(), target.with_name("d.parquet"), {})
        load_distributions(target.with_name("d.parquet"))
