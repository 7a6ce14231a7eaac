"""The precision a run trains in, and where the machine cannot do what the config asks for."""

from __future__ import annotations

from typing import Any

# Of torch.cpu.get_capabilities(): instructions that multiply bfloat16, on x86 and on ARM. Without them it is emulated.
_MULTIPLY = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")

FULL = "fp16: true needs a GPU; the run trains in float32."
INSTEAD = "This processor has no bfloat16 (bf16: true), only an emulation many times slower; the run trains in float32."


def trains_on_cpu(training: dict[str, Any]) -> bool:
    """Whether a config's `training` section asks for the CPU or the machine has nothing else."""
    import torch

    return bool(training.get("use_cpu")) or not torch.cuda.is_available()


def lacks_bfloat16(training: dict[str, Any]) -> bool:
    """Whether `training` asks for bfloat16 on a processor that only emulates it; such a run trains in float32."""
    if not training.get("bf16") or not trains_on_cpu(training):
        return False
    import torch

    has = torch.cpu.get_capabilities()
    return not any(has.get(name) for name in _MULTIPLY)


def notice(training: dict[str, Any]) -> str:
    """What to say of a run that does not train in the precision that `training` asks for; empty where it does."""
    if lacks_bfloat16(training):
        return INSTEAD
    return FULL if training.get("fp16") and trains_on_cpu(training) else ""
