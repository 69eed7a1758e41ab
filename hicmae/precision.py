"""Which number format a machine trains in.

For: turning ``auto`` into the precision that Lightning's trainer is given, for pretraining and
fine-tuning alike. Not for: casting inside the network, which autocast does.

Deviation: the published runs used fp16; here bf16 where the machine computes in it, else fp32.
"""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed"]


def resolve_precision(precision: str, *, accelerator: str = "auto") -> str:
    """Name the trainer's precision; ``auto`` is bf16 where the machine computes in it.

    On a CPU that is AVX-512 BF16 or AMX (bf16 was seen 2-8 times as fast as fp32 in matrix
    products there, and slower than fp32 on CPUs that only emulate it); on CUDA what PyTorch
    reports without emulation.

    Args:
        precision: ``auto`` or one of Lightning's names, which is handed through.
        accelerator: ``cpu``, ``gpu``, ``cuda`` or ``auto`` (CUDA when there is one).

    Returns: ``bf16-mixed``, ``32-true``, or what was asked for.
    Raises: ValueError: an unknown name.
    """
    if precision not in get_args(Precision):
        allowed = ", ".join(get_args(Precision))
        raise ValueError(f"precision: '{precision}' is unknown (allowed: {allowed})")
    if precision != "auto":
        return precision
    on_cuda = accelerator in ("gpu", "cuda") or (accelerator == "auto" and _has_cuda())
    fast = _cuda_has_bf16() if on_cuda else _cpu_has_bf16()
    return "bf16-mixed" if fast else "32-true"


# PyTorch is imported where it is asked, so that `--help` of a verb with a precision needs none.
def _has_cuda() -> bool:
    """Whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


def _cuda_has_bf16() -> bool:
    """Whether the current CUDA device computes bf16 natively."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (x86: AVX-512 BF16, AMX)."""
    import torch

    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
