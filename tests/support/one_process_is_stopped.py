"""`python -m training`, where the second process alone gets a SIGTERM, in the second step."""

from __future__ import annotations

import os
import runpy
import signal
from typing import Any

from training.trainer import FusionTrainer

if __name__ == "__main__":
    read = FusionTrainer.get_batch_samples

    def signalled(trainer: FusionTrainer, *args: Any, **options: Any) -> Any:
        if trainer.state.global_step == 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return read(trainer, *args, **options)

    FusionTrainer.get_batch_samples = signalled
    runpy.run_module("training", run_name="__main__", alter_sys=True)
