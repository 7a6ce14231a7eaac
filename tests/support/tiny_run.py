"""A training run of seconds: its texts, its config, and what it wrote down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from training.config import Config, parse

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "naps", "and", "hill", "runs"]
LINES = [" ".join(np.random.default_rng(n).choice(WORDS, 12 + n % 5)) for n in range(24)]


def tiny_config(folder: Path, models: tuple[str, str], **changes: object) -> Config:
    text = folder / "lines.txt"
    text.write_text("\n".join(LINES), encoding="utf-8")
    value = {
        "target": models[1],
        "sources": [{"model": models[0]}],
        "corpus": {"files": [str(text)], "paragraphs": True, "split": "order", "validation": 0.15, "held_out": 0.25},
        "teach": {"top_k": 12, "device": "cpu"},
        "loss": {"lam": 0.5},
        "max_length": 24,
        "training": {
            "num_train_epochs": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "logging_steps": 1,
            "use_cpu": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 3,
        },
        "output": str(folder / "run"),
    }  # fmt: skip
    return parse({**value, **changes})


def quiet(_: str) -> None:
    pass


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}
