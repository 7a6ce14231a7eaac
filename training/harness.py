"""Tasks of EleutherAI's lm-evaluation-harness on trained models, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusion_core.errors import ConfigError, TrainingError


class Harness:
    """The tasks to run, known to exist before any model is read.

    Args:
        tasks: names with commas between them.
        folder: with tasks of one's own, as the harness's YAML files.

    Raises:
        ConfigError: the harness is not installed, does not know a task, or there is no such folder.
    """

    def __init__(self, tasks: str, folder: Path | None = None) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise ConfigError("--tasks needs the harness: pip install 'fusescope[lm-eval]'") from error
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"there is no folder {folder} with tasks")
        self._manager = TaskManager(include_path=str(folder) if folder else None)
        self._names = [name.strip() for name in tasks.split(",") if name.strip()]
        if unknown := [name for name in self._names if name not in self._manager.all_tasks]:
            raise ConfigError(f"lm-eval knows no task {unknown[0]!r}; its own are listed by: lm-eval ls tasks")

    def run(self, runs: Sequence[Path]) -> list[dict[str, Any]]:
        """One row per run, task and metric: `run`, `task`, `metric`, `value`.

        Raises:
            TrainingError: a task fails, such as one whose data cannot be downloaded.
        """
        import lm_eval
        import torch

        on_gpu = torch.cuda.is_available()
        rows = []
        for run in runs:
            try:
                found = lm_eval.simple_evaluate(
                    model="hf",
                    model_args={"pretrained": str(run / "model")},
                    tasks=self._names,
                    task_manager=self._manager,
                    device="cuda" if on_gpu else "cpu",
                    batch_size="auto" if on_gpu else 1,
                )
            except Exception as error:  # tasks are code and data from anywhere
                raise TrainingError(f"lm-eval cannot run {', '.join(self._names)} on {run}: {error}") from error
            for task, metrics in found["results"].items():
                for metric, value in metrics.items():
                    if isinstance(value, float):
                        name = metric.removesuffix(",none")
                        rows.append({"run": str(run), "task": task, "metric": name, "value": value})
        return rows
