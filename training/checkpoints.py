"""A run's checkpoints and metrics after an interruption: what is whole is kept, what is not is as if it never was."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fusion_core.errors import TrainingError
from fusion_core.workspace import atomic_path

# What the Trainer writes last into a checkpoint.
_STATE = "trainer_state.json"


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit() and _whole(path)]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.partition("-")[2])


def _whole(checkpoint: Path) -> bool:
    """Whether everything was written, and no file has been cut since."""
    try:
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, framework="np"):
                pass
        archives = [*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth")]
        return all(map(zipfile.is_zipfile, archives)) and isinstance(
            json.loads((checkpoint / _STATE).read_text(encoding="utf-8")), dict
        )
    except (OSError, ValueError, SafetensorError):
        return False


def rewind(run: Path) -> tuple[int, float]:
    """Make a run's folder what it was when its newest whole checkpoint was saved.

    Checkpoints that were being written are removed, and the rows of metrics.jsonl that came later.

    Returns:
        Tokens and seconds that the run had taken by then.

    Raises:
        TrainingError: there is no whole checkpoint, or it has no optimizer's state, or the folder cannot be written.
    """
    checkpoints = run / "checkpoints"
    newest = latest(checkpoints)
    if newest is None:
        raise TrainingError(f"{run} holds no checkpoint to resume from; run without --resume")
    if not any(newest.glob("optimizer*")) and not (newest / f"global_step{step_of(newest)}").exists():
        raise TrainingError(
            f"{newest} holds no optimizer state (training.save_only_model), so that going on would be another run; "
            "run without --resume"
        )
    try:
        for path in checkpoints.glob("checkpoint-*"):
            if not _whole(path):
                shutil.rmtree(path)
        return _rewind_metrics(run / "metrics.jsonl", step_of(newest))
    except OSError as error:
        raise TrainingError(f"cannot write to {run}: {error.strerror or error}") from error


def _rewind_metrics(path: Path, step: int) -> tuple[int, float]:
    """Keep the rows up to `step`, but for those with which an interrupted run took its leave."""
    kept, tokens, seconds = [], 0, 0.0
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # it was being written
            break
        if row["step"] > step or "train_runtime" in row:
            break
        kept.append(line if line.endswith("\n") else line + "\n")
        tokens, seconds = row.get("tokens", tokens), row.get("seconds", seconds)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return tokens, seconds
