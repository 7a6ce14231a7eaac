"""Which process is at work in a run's folder, alone, and whether it still runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from fusion_core.errors import TrainingError
from fusion_core.sealed import SealError, read_json, write_json

# Of what a run's folder holds: run.json, versions.json and process.json.
FORMAT = "fusescope-run"
VERSION = 1
PROCESS = "process.json"


@dataclass(frozen=True)
class Process:
    """What process.json says of the last process of a run; `told`: whether it was asked to end; `host`: the machine."""

    pid: int
    born: str | None
    told: bool = False
    host: str = field(default_factory=platform.node)

    @property
    def here(self) -> bool:
        """Whether it is one of this machine's."""
        return self.host == platform.node()

    @property
    def runs(self) -> bool:
        """Whether it is still there, on this machine, and no other that was given its number."""
        # Numbers of 0 and below stand for groups of processes.
        return self.here and 0 < self.pid < 1 << 31 and bool(self.born) and _born(self.pid) == self.born


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`; of several processes of one run the first one does.

    Raises:
        TrainingError: another process has it, or it cannot be written to.
    """
    if _is_a_further_one():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(f"another process is training in {folder}; wait for it, or give another output") from error
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Within it this process is the one at work in `folder`, for whoever looks there; of several processes of one run
    the first one is. Raises `OSError`."""
    if _is_a_further_one():
        yield
        return
    mine, named = of_pid(os.getpid()), read_process(folder)
    if named is None or replace(named, told=False) != mine:  # else who started it has named it, and may have told it
        write_process(folder, mine)
    try:
        yield
    finally:
        # It may go on elsewhere: a sweep makes many runs.
        if (named := read_process(folder)) is not None and replace(named, told=False) == mine:
            with suppress(OSError):
                write_process(folder, replace(named, born=None))


def _is_a_further_one() -> bool:
    """Whether another of the processes of one run stands for all of them."""
    return bool(int(os.environ.get("RANK", "0")))


def of_pid(pid: int) -> Process:
    """The process of that number, as it is now."""
    return Process(pid, _born(pid))


def read_process(folder: Path) -> Process | None:
    """The last process of the run in `folder`; None where nothing that can be read tells."""
    try:
        value = read_json(folder / PROCESS, FORMAT, VERSION)
        host = value.get("host", platform.node())  # files of older runs name none
        return Process(int(value["pid"]), value["born"], bool(value.get("told")), str(host))
    except (OSError, SealError, ValueError, ArithmeticError, KeyError, TypeError):
        return None


def write_process(folder: Path, process: Process) -> None:
    """Keep it for `read_process`; raises `OSError`."""
    write_json(folder / PROCESS, FORMAT, VERSION, asdict(process))


def _born(pid: int) -> str | None:
    """When a process started, as the system counts it; None if it does not run (a zombie has ended too)."""
    with suppress(OSError):
        os.waitpid(pid, os.WNOHANG)  # a child of this process that has ended goes away
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return None if after_name[0] == "Z" else after_name[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # systems without /proc: that the number is in use must do
        os.kill(pid, 0)
    except OSError:
        return None
    return "unknown"
