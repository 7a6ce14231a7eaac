"""Training runs as processes of their own: started, watched, stopped and resumed by whoever looks at their folders."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusion_core.errors import ConfigError, TrainingError
from fusion_core.sealed import SealError, read_json
from fusion_core.tokenizers import SAMPLES
from fusion_core.workspace import atomic_path, expanded, workspace
from training.checkpoints import latest
from training.config import Config, apply_change, dump, load, parse
from training.processes import FORMAT, VERSION, alone, of_pid, read_process, write_process
from training.progress import PROGRESS, Standing, read_standing

# There once a run has finished.
RESULT = "run.json"
# There once one has begun.
VERSIONS = "versions.json"
CONFIG = "config.yaml"
_METRICS = "metrics.jsonl"
# What a run was launched with by the app.
_LAUNCH = "launch.yaml"
# Seconds after which nothing new from another machine means that its process has ended.
_SILENCE = 600.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_LOG_BYTES = 65_536


def runs_folder() -> Path:
    """Where the app keeps its runs."""
    return workspace() / "runs"


def run_folder(name: str) -> Path:
    """The folder of the run `name`; raises `ConfigError` for a name that could lead elsewhere."""
    if not _NAME.match(name):
        raise ConfigError(f"{name[:80]!r} is no name for a run: letters, digits, '.', '_' and '-', at most 64")
    return runs_folder() / name


def is_launched(folder: Path) -> bool:
    """Whether the app keeps the run in `folder` as one that it started."""
    return (
        bool(_NAME.match(folder.name))
        and (folder / _LAUNCH).is_file()
        and folder.parent.resolve() == runs_folder().resolve()
    )


@dataclass(frozen=True)
class Run:
    """One run as its folder shows it.

    Attributes:
        name: its folder's, or where it lies in the folder that was searched.
        state: `running`, `finished`, `stopped` (by request, can be resumed), `failed`, or `unreadable` (its run.json is
            damaged, or of another version).
        metrics: rows of metrics.jsonl, each with its `step`.
        result: what run.json holds, empty before the end.
        standing: how far it is, or was when it ended.
    """

    name: str
    folder: Path
    state: str
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    standing: Standing | None = None

    @property
    def launched(self) -> bool:
        """Whether the app started it, and may stop, resume and remove it."""
        return is_launched(self.folder)

    @property
    def resumable(self) -> bool:
        """Whether it can go on: from its last checkpoint, or, before there is one, with the shards that are there."""
        return self.launched and self.state in ("stopped", "failed")

    def config(self) -> Config:
        """What it was begun with; raises `ConfigError` where its folder does not tell."""
        return load(self.folder / _LAUNCH) if self.launched else read_config(self.folder)

    def written(self) -> Config:
        """The same with the names that it was begun with, by which its distributions are kept; raises `ConfigError`."""
        found = load(self.folder / (_LAUNCH if self.launched else CONFIG), training=False)
        data = found.data and self.config().data
        return found.model_copy(update={"output": self.folder, "data": data})

    def log(self) -> str:
        """The end of what the process printed, progress bars in their last state."""
        try:
            with (self.folder / "log.txt").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
        return "\n".join(line for line in lines[-40:] if line.strip())


def launch(name: str, config: Config, *, resume: bool = False) -> Run:
    """Start `python -m training train` on `config` as a process that outlives this one.

    Raises:
        ConfigError: the name is no run's name.
        TrainingError: a run of that name is there already, runs, or cannot be started.
    """
    folder = run_folder(name)
    if resume and not (folder.exists() and read_run(folder).resumable):
        raise TrainingError(f"the run {name!r} cannot be resumed: it runs or has finished, or there is none")
    if not resume and folder.exists():
        raise TrainingError(f"there is a run {name!r} already; choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=resume)
        if not (resume and config == read_run(folder).config()):  # as it was, it goes on as it is written there
            with atomic_path(folder / _LAUNCH) as temporary:
                temporary.write_text(dump(_absolute(config, folder)), encoding="utf-8")
        saved = resume and latest(folder / "checkpoints") is not None
        command = [sys.executable, "-m", "training", "train", str(folder / _LAUNCH), *(["--resume"] * saved)]
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # a list, never a shell
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=_begun_in(folder)
            )
        write_process(folder, of_pid(process.pid))
    except OSError as error:
        raise TrainingError(f"cannot start the run {name!r}: {error.strerror or error}") from error
    return read_run(folder)


def stop(run: Run) -> bool:
    """Ask a running process to end: in training it saves first, before that there is nothing to save. Whether one was
    asked: those of other machines cannot be."""
    process = read_process(run.folder)
    if process is not None and process.runs:
        with suppress(OSError):  # a full disk is no reason to go on
            write_process(run.folder, replace(process, told=True))
        os.kill(process.pid, signal.SIGTERM)
        return True
    return False


def remove(run: Run) -> None:
    """Remove the folder of a run of the app's that was stopped or has failed.

    Raises:
        TrainingError: it runs or has finished, was not launched by the app, or its folder cannot be removed.
    """
    state = read_run(run.folder).state
    if not is_launched(run.folder):
        raise TrainingError(f"the run in {run.folder} was not started by the app, which does not remove it")
    if state not in ("stopped", "failed"):
        raise TrainingError(f"the run {run.name!r} is {state}; only those that were stopped or failed are removed here")
    try:
        with alone(run.folder):  # it may have begun to go on just now
            shutil.rmtree(run.folder)
    except OSError as error:
        raise TrainingError(f"cannot remove {run.folder}: {error.strerror or error}") from error


def read_run(folder: Path, name: str = "") -> Run:
    """A run as its folder shows it now, called `name`, or else as its folder is."""
    metrics = _metrics(folder / _METRICS)
    result: dict[str, Any] = {}
    process = read_process(folder)
    ended = any("train_runtime" in row for row in metrics[-3:])  # the Trainer came to its own end
    state = "stopped" if ended or (process is not None and process.told) else "failed"
    if (folder / RESULT).is_file():
        try:
            result, state = read_result(folder), "finished"
        except TrainingError:
            state = "unreadable"
    elif process is not None and not process.here and not ended and process.born and _is_fresh(folder):
        state = "running"
    state = "running" if process is not None and process.runs else state
    return Run(name or folder.name, folder, state, metrics, result, read_standing(folder))


def _is_fresh(folder: Path) -> bool:
    """Whether something was written down of the run lately."""
    times = [path.stat().st_mtime for path in (folder / PROGRESS, folder / _METRICS) if path.exists()]
    return max(times, default=0.0) > time.time() - _SILENCE


def read_result(folder: Path) -> dict[str, Any]:
    """What run.json holds; raises `TrainingError` where the run has not finished, or the file cannot be used."""
    path = folder / RESULT
    try:
        return read_json(path, FORMAT, VERSION)
    except FileNotFoundError as error:
        raise TrainingError(f"{folder} is no finished run: there is no {RESULT} in it") from error
    except (OSError, SealError) as error:
        raise TrainingError(f"{folder} holds a run that cannot be used: {error}") from error


def read_config(folder: Path, changes: Sequence[str] = ()) -> Config:
    """The config of a run with `changes` made to it, `folder` its output: its relative paths are from where the run was
    begun, which versions.json tells, those of `changes` from here. Raises `ConfigError`."""
    value = json.loads(load(folder / CONFIG, training=False).model_dump_json())
    value["output"] = str(folder)
    if (began := _begun_in(folder)) is not None:
        _anchor(value, began)
    for change in changes:
        apply_change(value, change)
    return parse(value, str(folder / CONFIG), training=False)


def _begun_in(folder: Path) -> Path | None:
    """The folder that the run's relative paths are from, if it has begun and that is there."""
    try:
        began = Path(read_json(folder / VERSIONS, FORMAT, VERSION)["folder"])
        return began if began.is_dir() else None
    except (OSError, SealError, KeyError, TypeError, ValueError):
        return None


def _anchor(value: dict[str, Any], began: Path) -> None:
    """Make the paths of a config's values absolute that are from the folder `began`."""

    def found(name: str) -> str:
        path = began / expanded(name)
        return str(path) if name not in SAMPLES and path.exists() else name

    value["target"] = found(value["target"])
    for source in value["sources"]:
        source["model"] = found(source["model"])
    corpus = value["corpus"]
    corpus["files"] = [found(name) for name in corpus["files"]]
    if corpus["hub"]:
        corpus["hub"]["name"] = found(corpus["hub"]["name"])
    if value["data"]:
        value["data"] = str(began / expanded(value["data"]))  # it may not be there yet


def _absolute(config: Config, output: Path) -> Config:
    """The same wherever it is read from, so that a run can be resumed by an app that was started elsewhere."""
    value = json.loads(config.model_dump_json())
    _anchor(value, Path.cwd())
    return parse({**value, "output": str(output)}, training=False)


def began_with(folder: Path, what: str) -> dict[str, str]:
    """What told a run from others when it was begun; empty where that is not known.

    Args:
        what: `texts`, by split (`Splits.identities`), or by the names of its models `models` (their weights),
            `configs` or `tokenizers` (fingerprints).
    """
    try:
        return dict(read_json(folder / VERSIONS, FORMAT, VERSION)[what])
    except (OSError, SealError, KeyError, TypeError, ValueError):
        return {}


def target_tokenizer(folder: Path) -> str | None:
    """The fingerprint of its target's tokenizer when a run was begun; None where that is not known."""
    try:
        return began_with(folder, "tokenizers").get(load(folder / CONFIG, training=False).target)
    except ConfigError:
        return None


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The rows that are whole: numbers by name, each with its step."""
    try:
        state = path.stat()
        return list(_rows(path, state.st_mtime_ns, state.st_size))
    except OSError:
        return []


@functools.lru_cache(maxsize=256)
def _rows(path: Path, _changed: int, _size: int) -> tuple[dict[str, Any], ...]:
    """Those of a file in one state of it: whoever watches many runs asks for them every other second."""
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last line is being written
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and 0 <= row["step"] < 1 << 53:
            rows.append({name: value for name, value in row.items() if _is_figure(value)})
    return tuple(rows)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1 << 53  # false for NaN too


def list_runs() -> list[Run]:
    """All of the app's runs, the newest first."""
    try:
        named = [path for path in runs_folder().iterdir() if _NAME.match(path.name)]
        times = [((path / _LAUNCH).stat().st_mtime, path) for path in named if (path / _LAUNCH).is_file()]
    except OSError:
        return []
    return [read_run(path) for _, path in sorted(times, reverse=True)]
