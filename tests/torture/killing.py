"""Processes killed at random moments: nothing half-written is read, and a rerun ends as an unbroken run does."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fusion_core import load_mapping, load_tokenizer, map_vocabulary
from fusion_core.errors import FusionError
from fusion_core.sealed import read_json, read_table
from fusion_core.tokenizers import _cache, _gguf
from tests.support import tiny
from tests.torture.outcome import Row
from training import config as configs
from training.shards import is_shards, read_shards

_WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "naps", "and", "hill", "runs"]
# What all of them import, once.
_PRELOAD = ["torch", "transformers", "training.train", "training.data", "app.texts", "tests.torture.killing"]


def made_up_config(folder: Path) -> Path:
    """Two tiny models, forty lines, a few steps of training; returns the YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        tiny.save_model(folder / name, kind, n)
        for n, (name, kind) in enumerate((("a", "byte-bpe"), ("b", "metaspace-bpe")))
    ]
    rng = random.Random(0)
    text = folder / "lines.txt"
    text.write_text("\n".join(" ".join(rng.choices(_WORDS, k=12 + n % 5)) for n in range(40)), encoding="utf-8")
    value = {
        "target": str(models[1]),
        "sources": [{"model": str(models[0])}],
        "corpus": {"files": [str(text)], "paragraphs": True, "split": "order", "validation": 0.1, "held_out": 0.1},
        "teach": {"top_k": 12, "device": "cpu"},
        "fusion": {"with_target": True},
        "loss": {"lam": 0.5},
        "max_length": 24,
        "training": {
            "num_train_epochs": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "logging_steps": 2,
            "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 3,
        },
        "output": str(folder / "run"),
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(configs.dump(configs.parse(value)), encoding="utf-8")
    return path


def _quiet(line: str) -> None:
    """Says nothing."""


def settle(workspace: Path) -> None:
    """One thread, nothing on the terminal, a workspace."""
    import torch

    os.environ |= {"FUSESCOPE_WORKSPACE": str(workspace), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def run_step(path: Path, number: int, began: Connection | None) -> None:
    """The step `number` of a config, in small shards."""
    from training.data import plan, run
    from training.engines import InProcess
    from training.splits import split_corpus
    from training.stages import teach

    settle(path.parent / "workspace")
    if not isinstance(teach.batches, functools.partial):
        teach.batches = functools.partial(teach.batches, size=100)  # type: ignore[assignment]
    chosen = configs.load(path)
    step = plan(chosen, split_corpus(chosen).train)[number]
    if began is not None:
        began.send(str(step.folder))
    run(step, _quiet, InProcess())
    if began is not None:
        began.send("done")


def run_training(path: Path, began: Connection | None) -> None:
    """A whole run, or what is left of one."""
    from training.checkpoints import latest
    from training.train import train

    settle(path.parent / "workspace")
    chosen = configs.load(path)
    resume = latest(chosen.output / "checkpoints") is not None
    if began is not None:
        began.send("")
    train(chosen, resume=resume, say=_quiet)
    if began is not None:
        began.send("done")


def write_workspace(path: Path, began: Connection | None) -> None:
    """What the app writes: texts, vocabularies, mappings, the fields of GGUF files, over and over."""
    from app import texts
    from tests.support.gguf_file import write_gguf

    settle(path.parent / "workspace")
    home = path.parent
    a, b = home / "a" / "tokenizer.json", home / "b" / "tokenizer.json"
    rng = random.Random(os.getpid())
    tree = json.loads(a.read_text(encoding="utf-8"))
    own = home / f"own-{os.getpid()}"
    own.mkdir()
    if began is not None:
        began.send("")
    for n in range(10_000):
        texts.remember("".join(rng.choices("abc 東", k=3000)))
        tree["added_tokens"].append({**tree["added_tokens"][0], "id": 400 + n, "content": f"<{rng.random()}>"})
        (own / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
        load_tokenizer(own / "tokenizer.json")
        map_vocabulary(
            load_tokenizer(a), load_tokenizer(b), kind="statistical", texts=["".join(rng.choices("the fox ", k=90))]
        )
        load_tokenizer(write_gguf(own / f"{n}.gguf", "llama"))


def check_workspace(folder: Path) -> None:
    """Every file that may be read is whole."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".part-")):
        kind = path.relative_to(folder).parts[0:2]
        if kind == ("cache", "mapping"):
            load_mapping(path)
        elif kind == ("cache", "vocabulary"):
            read_table(path, _cache.FORMAT, _cache.VERSION)
        elif kind == ("cache", "gguf"):
            read_json(path, _gguf.FORMAT, _gguf.VERSION)
        elif kind[0] == "texts":
            assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] == path.stem
        else:
            raise AssertionError(f"what is {path}?")


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """Manifest and shards by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".json")}


def figures(run: Path) -> list[dict[str, Any]]:
    """A run's metrics without what depends on the clock."""
    clock = ("seconds", "per_second", "waiting", "runtime")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {k: v for k, v in row.items() if not any(word in k for word in clock) and k != "total_flos"} for row in rows
    ]


class Nursery:
    """Where processes are begun: each is forked from one that has imported everything and done nothing."""

    def __init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def begin(self, work: Callable[..., None], *args: Any) -> tuple[Any, Connection]:
        """The process, and the end of a pipe whose other end `work` has as its last argument."""
        here, there = self._context.Pipe()
        process = self._context.Process(target=work, args=(*args, there))
        process.start()
        there.close()
        return process, here

    def run(self, work: Callable[..., None], *args: Any) -> float:
        """To its end; returns the seconds since it began to work."""
        process, here = self.begin(work, *args)
        here.recv()
        start = time.perf_counter()
        process.join()
        if process.exitcode:
            raise AssertionError(f"{work.__name__} failed unkilled ({process.exitcode})")
        return time.perf_counter() - start

    def kill(self, work: Callable[..., None], *args: Any, after: float) -> bool:
        """Killed so many seconds after it began to work; returns whether it had not ended by itself."""
        process, here = self.begin(work, *args)
        here.recv()
        time.sleep(after)
        process.kill()
        process.join()
        return process.exitcode == -9


def stages(folder: Path, kills: int) -> list[Row]:
    """Each stage of a run killed `kills` times; every tenth time it is run to its end and compared."""
    from training.data import plan
    from training.splits import split_corpus

    nursery = Nursery()
    path = made_up_config(folder)
    chosen = configs.load(path)
    steps = plan(chosen, split_corpus(chosen).train)
    rng, rows = random.Random(1), []
    for number, step in enumerate(steps):
        row = Row(f"killed: {step.title.replace(str(folder) + '/', '')}")
        seconds = nursery.run(run_step, path, number)
        expected = shard_bytes(step.folder)
        for n in range(kills):
            if n % 2 == 0:
                shutil.rmtree(step.folder, ignore_errors=True)
            else:  # some are there, some are not
                for victim in sorted(step.folder.glob("*.parquet"))[rng.randrange(2) :: 2]:
                    victim.unlink()
            nursery.kill(run_step, path, number, after=rng.uniform(0, seconds * 0.9))
            try:
                if is_shards(step.folder):
                    for _ in read_shards(step.folder):
                        pass
                row.count(True)
            except FusionError as error:
                # Those that were taken away above are missing, and nothing else may be wrong.
                row.count("is missing" in str(error), f"{step.title}, kill {n}: {error}")
            if n % 10 == 9 or n == kills - 1:
                nursery.run(run_step, path, number)
                same = shard_bytes(step.folder) == expected
                row.count(same, f"{step.title}, rerun after kill {n}: other bytes")
        row.note = f"{len(expected) - 1} shards, {seconds:.2f} s unbroken"
        rows.append(row)
    return rows


def training(folder: Path, kills: int) -> Row:
    """A training run killed and gone on with, again and again; each time that it ends it is compared."""
    nursery = Nursery()
    path = made_up_config(folder)
    output = configs.load(path).output
    seconds = nursery.run(run_training, path)
    expected, weights = figures(output), (output / "model" / "model.safetensors").read_bytes()
    row, rng, ended, attempts = Row("killed: training run"), random.Random(2), 0, 0

    def compare() -> None:
        nonlocal ended
        ended += 1
        found = figures(output)
        same = found == expected and (output / "model" / "model.safetensors").read_bytes() == weights
        other = [(a, b) for a, b in zip(found, expected, strict=False) if a != b][:1]
        row.count(same, f"a run killed {attempts} times ended otherwise: {len(found)} rows of {len(expected)}, {other}")

    for _ in range(kills):
        if (output / "run.json").exists():
            compare()
            shutil.rmtree(output)
            attempts = 0
        killed = nursery.kill(run_training, path, after=rng.uniform(0, seconds * 0.9))
        attempts += killed
        whole = not (output / "run.json").exists() or (output / "model" / "model.safetensors").read_bytes() == weights
        row.count(whole, "a result without its model")
    while not (output / "run.json").exists():
        nursery.run(run_training, path)
    compare()
    row.note = f"{seconds:.1f} s unbroken; {ended} runs compared, losses and weights"
    return row


def app_workspace(folder: Path, kills: int) -> Row:
    """The app's files killed while they are written."""
    workspace, nursery = folder / "workspace", Nursery()
    path = made_up_config(folder)
    row, rng, left = Row("killed: the app's workspace"), random.Random(3), 0
    for n in range(kills):
        nursery.kill(write_workspace, path, after=rng.uniform(0.05, 1.5))
        left = len(list(workspace.rglob(".part-*")))
        try:
            check_workspace(workspace)
            row.count(True)
        except Exception as error:
            row.count(False, f"kill {n}: {type(error).__name__}: {error}")
    files = sum(1 for p in workspace.rglob("*") if p.is_file())
    row.note = f"{files} files checked, {left} parts left behind"
    return row
