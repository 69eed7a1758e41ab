"""On what a network computes, in which number format, and how much memory that took.

One spelling of the options everywhere: ``--device`` (auto, cpu, cuda, cuda:1) and ``--precision``.
PyTorch is imported where it is asked, so that the help of a verb needs none.

Deviation: the published runs used fp16; here bf16 where the machine computes in it, else fp32.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

# The oldest driver for Linux of each CUDA release. Source: CUDA Toolkit release notes, table of
# minor version compatibility.
_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580"}

Precision = Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed"]


def choose_device(name: str) -> torch.device:
    """The device of the option ``device``.

    Args: name: ``auto`` (CUDA where it can be used, which a line says where a GPU is there and
        cannot), ``cpu``, ``cuda`` (of several processes each takes the one of its ``LOCAL_RANK``)
        or ``cuda:N``.
    Raises: ValueError: another name, or no such device here that this build of torch can use.
    """
    import torch

    if name != "auto" and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device = {name} (allowed: auto, cpu, cuda, cuda:0, …)")
    if name == "cpu":
        return torch.device("cpu")
    number = int(name.partition(":")[2]) if ":" in name else None
    problem = cuda_problem(number)
    if name == "auto" and (problem is not None or not torch.cuda.is_available()):
        if problem is not None:
            print(f"device = auto: the CPU is used: {problem}", file=sys.stderr)
        return torch.device("cpu")
    if problem is not None:
        raise ValueError(f"device = {name}: {problem}; or use cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"device = {name}: no CUDA device found; use cpu or auto")
    if number is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if number >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ValueError(f"device = {name}: there is none of that number (cuda:0 to cuda:{last})")
    return torch.device(name)


def cuda_problem(number: int | None = None) -> str | None:
    """Why an NVIDIA GPU that is there cannot be used, and the remedy; None: it can, or none is.

    Args: number: Of the one that is asked about; None: any.
    """
    import torch

    if torch.cuda.is_available():
        count, built = torch.cuda.device_count(), torch.cuda.get_arch_list()
        for index in range(count):
            major, minor = torch.cuda.get_device_capability(index)
            if number in (None, index) and not _compiled_for(major, minor, built):
                problem = _wrong_capability(
                    torch.cuda.get_device_name(index), f"{major}.{minor}", built
                )
                others = ", or hide it with CUDA_VISIBLE_DEVICES, which names the others"
                return problem + others * (count > 1)
        return None
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):
        return None  # hidden on purpose
    # It lists the GPUs that a container or a job may use, whatever torch can.
    found = _nvidia_smi("name,driver_version,compute_cap") or _nvidia_smi("name,driver_version")
    if not found:
        return None
    name, driver, *capability = (word.strip() for word in found.split(","))
    release = torch.version.cuda
    if release is None:
        return (
            f"{name} is there, and torch {torch.__version__} was built without CUDA; install a "
            "build with CUDA"
        )
    flags = torch._C._cuda_getArchFlags() if hasattr(torch._C, "_cuda_getArchFlags") else None
    architectures = flags.split() if flags else []
    if capability and re.fullmatch(r"\d+\.\d+", capability[0]):
        major, minor = map(int, capability[0].split("."))
        if architectures and not _compiled_for(major, minor, architectures):
            return _wrong_capability(name, capability[0], architectures)
    needed = _DRIVERS.get(int(release.split(".")[0]))
    wanted = f"driver {needed} or newer" if needed else "a newer driver"
    return (
        f"{name} is there with driver {driver}, and torch {torch.__version__}, built for CUDA "
        f"{release}, cannot use it (needs {wanted}); update the driver, or install a build of "
        "torch for an older CUDA"
    )


def resolve_precision(precision: str, device: torch.device) -> str:
    """Name the precision as Lightning does; ``auto`` is bf16 where the device computes in it.

    On a CPU that is AVX-512 BF16 or AMX (bf16 was seen 2-8 times as fast as fp32 in matrix
    products there, and slower than fp32 on CPUs that only emulate it); on CUDA what PyTorch
    reports without emulation.

    Args: precision: ``auto`` or one of Lightning's names, which is handed through.
    Returns: ``bf16-mixed``, ``32-true``, or what was asked for.
    Raises: ValueError: an unknown name.
    """
    if precision not in get_args(Precision):
        allowed = ", ".join(get_args(Precision))
        raise ValueError(f"precision: '{precision}' is unknown (allowed: {allowed})")
    if precision != "auto":
        return precision
    import torch

    if device.type == "cuda":
        usable = torch.cuda.is_available()
        fast = usable and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        fast = bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return "bf16-mixed" if fast else "32-true"


def inference_precision(precision: str, device: torch.device) -> str:
    """The same for a network that only predicts.

    Returns: ``bf16-mixed`` or ``32-true``.
    Raises: ValueError: another one was asked for.
    """
    resolved = resolve_precision(precision, device)
    if resolved not in ("32-true", "bf16-mixed"):
        raise ValueError(f"precision = {precision} (allowed: auto, 32-true, bf16-mixed)")
    return resolved


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The number format of a network's arithmetic outside a trainer.

    Args: precision: ``32-true`` or ``bf16-mixed``.
    """
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def device_name(device: torch.device) -> str:
    """What to call a device in a table."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Small numbers to a device, for which nobody waits: what is not pinned is staged first."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """Most memory used so far: of a CUDA device's allocator, else resident of this process.

    ``getrusage`` would count the process that started this one, whose memory it was for a moment.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    except OSError:
        found = None
    if found is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return int(found[1]) * 1024


def resident_memory_bytes() -> int:
    """Memory of this process that is in RAM now; a number that only grows is a leak."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def first_line(*command: str, seconds: float = 20) -> str | None:
    """The first line that a program prints within some seconds; nothing where it is absent, fails
    or takes longer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.splitlines() or [""])[0].strip()


def _compiled_for(major: int, minor: int, architectures: list[str]) -> bool:
    """Whether a build has code for a compute capability.

    Machine code (``sm_80``) serves later minor versions of its major one, PTX (``compute_80``) all
    later ones. Source: CUDA C++ programming guide, binary and PTX compatibility.
    """
    for architecture in architectures:
        kind, _, version = architecture.partition("_")
        digits = re.match(r"\d+", version)
        if digits is None:
            continue
        has = divmod(int(digits[0]), 10)
        if kind == "sm" and has[0] == major and has[1] <= minor:
            return True
        if kind == "compute" and has <= (major, minor):
            return True
    return not architectures  # a build that does not say


def _wrong_capability(name: str, capability: str, architectures: list[str]) -> str:
    import torch

    built = ", ".join(architectures)
    return (
        f"{name} has compute capability {capability}, and torch {torch.__version__} (CUDA "
        f"{torch.version.cuda}) is built for {built}; install a build of torch that has it"
    )


def _nvidia_smi(fields: str) -> str | None:
    """These fields of the first GPU; nothing where there is none or no such program."""
    return first_line("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
