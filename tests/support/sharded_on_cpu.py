"""`python -m tests.support.sharded_on_cpu` is `python -m training` where FSDP works without a GPU.

torch shards weights on CPU as well; accelerate only looks whether it is asked to once it sees several GPUs.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType

_init = PartialState.__init__


def _as_if_on_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = _as_if_on_gpus

if __name__ == "__main__":
    import runpy

    runpy.run_module("training", run_name="__main__", alter_sys=True)
