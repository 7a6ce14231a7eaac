"""What stands around a run: what libraries raise is told as an error of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from fusion_core.errors import TrainingError

# What the system says when a file could not be written.
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
# In what torch says when a file could not be written whole.
_WRITING = ("inline_container", "PytorchStreamWriter", "Parent directory", "basic_ios", "iostream error")


@contextmanager
def failures_told(folder: Path) -> Iterator[None]:
    """Turn a disk that is full, or memory that does not suffice, into a `TrainingError` that says how to go on."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "memory does not suffice for this step; try a lower per_device_train_batch_size (with "
            "gradient_accumulation_steps), a lower max_length, gradient_checkpointing, or lora"
        ) from error
    except SafetensorError as error:
        raise TrainingError(_cannot_write(folder, error)) from error
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise TrainingError(f"the run in {folder} failed: {' '.join(str(error).split())[:300]}") from error
        raise TrainingError(_cannot_write(folder, error)) from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _WRITING):
            raise
        raise TrainingError(_cannot_write(folder, error)) from error


@contextmanager
def refusals_told() -> Iterator[None]:
    """Turn what the Trainer, or a library that it asks for, refuses in its arguments into a `TrainingError`."""
    try:
        yield
    except (TypeError, ValueError, ImportError, AttributeError, KeyError, AssertionError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise TrainingError(f"the Trainer refuses what 'training' says: {reason}") from error


def _cannot_write(folder: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"cannot write to {folder} ({reason}); make room for it, then go on with --resume if it has a checkpoint"
