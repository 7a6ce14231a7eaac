"""Tasks of EleutherAI's lm-evaluation-harness on trained models, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusion_core.errors import ConfigError


def run_tasks(runs: Sequence[Path], tasks: str, include: Path | None = None) -> list[dict[str, Any]]:
    """One row per run, task and metric.

    Args:
        tasks: names with commas between them.
        include: a folder with tasks of one's own.

    Raises:
        ConfigError: the harness is not installed, or does not know a task.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError("--tasks needs the harness: pip install 'fusescope[lm-eval]'") from error
    manager = TaskManager(include_path=str(include) if include else None)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise ConfigError(f"lm-eval knows no task {unknown[0]!r}")
    rows = []
    for run in runs:
        found = lm_eval.simple_evaluate(
            model="hf", model_args={"pretrained": str(run / "model")}, tasks=names, task_manager=manager
        )
        for task, metrics in found["results"].items():
            for metric, value in metrics.items():
                if isinstance(value, float):
                    rows.append({"run": str(run), "task": task, "metric": metric.removesuffix(",none"), "value": value})
    return rows
