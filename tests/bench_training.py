"""What distributions cost in training: one model and the same batches through the plain Trainer of transformers (the
loss of the model itself) and through ours, with CLM alone and with distributions of 64 entries:
`python -m tests.bench_training --help`.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import Trainer, TrainerCallback, TrainingArguments

from fusion_core.errors import ModelError
from fusion_core.models import load_model, weights_folder
from tests.support.memory import MB, peak_added
from training.arguments import arguments_of
from training.config import LossSection, parse
from training.dataset import Collator
from training.trainer import FusionTrainer

K = 64


class Rows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Random tokens, each with a random distribution, as packed examples hold them; made anew for every row."""

    def __init__(self, count: int, length: int, size: int) -> None:
        self._count, self._length, self._size = count, length, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = np.random.default_rng(index)
        n = self._length
        starts = generator.integers(0, self._size - K, n)
        logs = np.log(1.0 / (2.0 + np.arange(K)) ** 1.5).astype(np.float16)
        return {
            "name": str(index),
            "tokens": generator.integers(0, self._size, n, dtype=np.int32),
            "counts": np.full(n, K, np.int32),
            "ids": (starts[:, None] + np.arange(K)).astype(np.int32).ravel(),
            "logprobs": np.tile(logs, n),
            "covered": np.ones(n, np.bool_),
        }


class Plain(Collator):
    """The same batches for a Trainer that knows nothing of distributions: its model moves the labels by itself."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(np.stack([row["tokens"] for row in rows]).astype(np.int64))
        return {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of the steps after the first `warm` ones."""

    def __init__(self, warm: int) -> None:
        self._warm, self.seconds, self._began = warm, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (self._warm, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.seconds, self._began = now - self._began, now


@contextmanager
def _peak() -> Iterator[list[float]]:
    """The peak of memory in MB: all that tensors hold on the GPU, or what is added to the process on a CPU."""
    if not torch.cuda.is_available():
        with peak_added() as found:
            yield found
        return
    found = [0.0]
    torch.cuda.reset_peak_memory_stats()
    yield found
    found[0] = torch.cuda.max_memory_allocated() / MB


def _run(way: str, asked: argparse.Namespace, folder: Path) -> tuple[float, float, float]:
    """Seconds a step, peak memory in MB, share of the time spent waiting for data."""
    gc.collect()  # of the run before
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch.manual_seed(0)
    target = load_model(asked.model, dtype="float32")
    value = {
        "target": asked.model, "sources": [], "corpus": {"files": [str(folder / "none.txt")]}, "output": str(folder),
        "training": {
            "max_steps": asked.steps, "per_device_train_batch_size": asked.rows, "bf16": asked.bf16,
            "disable_tqdm": True, "save_strategy": "no", "logging_steps": asked.steps,
            "gradient_checkpointing": asked.checkpointing,
        },
    }  # fmt: skip
    arguments: TrainingArguments = arguments_of(parse(value), False)
    rows = Rows(asked.rows * asked.steps, asked.length, target.entries or 0)
    shared = {"model": target.network, "args": arguments, "train_dataset": rows}
    clock, waited = Clock(asked.steps // 4), 0.0
    trainer: Trainer
    if way == "transformers":
        trainer = Trainer(**shared, data_collator=Plain(None), callbacks=[clock])
    else:
        trainer = FusionTrainer(
            **shared, data_collator=Collator(None, entries=target.entries), callbacks=[clock], model_of=target,
            loss=LossSection(lam=1.0 if way == "CLM alone" else 0.9), validation=[], folder=folder,
        )  # fmt: skip
    with _peak() as peak:
        trainer.train()
    for row in trainer.state.log_history:
        waited = row.get("waiting", waited)
    return clock.seconds / (asked.steps - asked.steps // 4), peak[0], waited


def main() -> None:
    """Print one table."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=16 if on_gpu else 4, help="of a batch")
    parser.add_argument("--length", type=int, default=1024 if on_gpu else 128, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=40 if on_gpu else 8, help="the first quarter is not timed")
    parser.add_argument("--times", type=int, default=3, help="runs of each, in turn; the median counts")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=on_gpu)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU, dense bfloat16 (H100 SXM)")
    asked = parser.parse_args()
    if asked.steps < 4:
        parser.error("--steps: a quarter of them warms up, so that 4 are needed")
    try:
        weights_folder(asked.model)
    except ModelError as error:
        parser.error(str(error))
    ways = ("transformers", "CLM alone", f"distributions, k = {K}")
    with tempfile.TemporaryDirectory() as folder:
        found = [
            {way: _run(way, asked, Path(folder)) for way in (*ways[n % 3 :], *ways[: n % 3])}
            for n in range(asked.times)
        ]
    network = load_model(asked.model, dtype="float32").network
    config = network.config
    # Of forward and backward (Chowdhery et al. 2022, PaLM, appendix B); tied embeddings are counted once, as the head.
    weights = sum(one.numel() for one in network.parameters())
    work = 6 * weights + 12 * config.num_hidden_layers * config.hidden_size * asked.length
    tokens = asked.rows * asked.length
    place = torch.cuda.get_device_name() if on_gpu else "CPU"
    table = Table(title=f"{asked.model}, {asked.rows} rows of {asked.length} tokens, bf16 {asked.bf16}, {place}")
    for column in ("", "ms a step", "to transformers", "tokens/s", "MFU", "peak MB", "to transformers", "waiting"):
        table.add_column(column, justify="right" if column else "left")
    first = [statistics.median(one[ways[0]][n] for one in found) for n in (0, 1)]
    for way in ways:
        seconds, peak, waited = (statistics.median(one[way][n] for one in found) for n in range(3))
        rate = tokens / seconds
        share = f"{rate * work / asked.peak_tflops / 1e12:.1%}" if on_gpu else ""
        table.add_row(
            way, f"{seconds * 1e3:.1f}", f"{seconds / first[0]:.3f}", f"{rate:,.0f}", share, f"{peak:,.0f}",
            f"{peak / first[1]:.3f}", "" if way == ways[0] else f"{waited:.1%}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
