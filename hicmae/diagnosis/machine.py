"""What the machine has: cores, memory, GPUs, number formats, disk, cluster, W&B.

For: the parts that a run leans on besides libraries. Not for: media (``media.py``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from hicmae.diagnosis.finding import Finding
from hicmae.wandb_mode import wandb_mode

_GIB = 2**30
# Below these something is said; a build of a small corpus and its checkpoints fit in the first.
_DISK_BYTES = 10 * _GIB
_SHARED_BYTES = 1 * _GIB


def check_devices() -> list[Finding]:
    """CPU cores, memory, CUDA devices, and the number format that ``precision: auto`` picks."""
    import torch

    from hicmae.precision import resolve_precision

    # What this process may use: a container or a batch system gives fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings = [Finding(topic="CPU cores", found=str(cores)), *_memory()]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / _GIB:.0f} GiB"
        findings.append(Finding(topic=f"CUDA {index}", found=f"{device.name}, {memory}"))
    if not torch.cuda.is_available():
        findings.append(_no_cuda(torch.version.cuda))
    precision = resolve_precision("auto")
    fast = precision == "bf16-mixed"
    findings.append(
        Finding(
            topic="bf16",
            state="ok" if fast else "note",
            found="computed by the hardware" if fast else "not computed by the hardware",
            remedy="" if fast else "nothing to do: precision auto takes fp32, which is slower",
        )
    )
    findings.append(Finding(topic="precision auto", found=precision))
    return findings


def check_storage() -> list[Finding]:
    """Free space where one is, in the cache and for temporary files; shared memory."""
    places = {
        "disk here": Path.cwd(),
        "disk of the cache": Path(platformdirs.user_cache_dir("hicmae")),
        "disk of temporary files": Path(tempfile.gettempdir()),
    }
    findings = [_disk(topic, folder) for topic, folder in places.items()]
    shared = Path("/dev/shm")
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        small = total < _SHARED_BYTES
        findings.append(
            Finding(
                topic="shared memory",
                state="note" if small else "ok",
                found=f"{total / _GIB:.2g} GiB in {shared}",
                remedy="loader processes may be killed (bus error): docker run --shm-size=8g, or "
                "--data.workers 0"
                if small
                else "",
            )
        )
    return findings


def check_services() -> list[Finding]:
    """Weights & Biases, and SLURM."""
    mode = wandb_mode("auto")
    online = mode == "online"
    findings = [
        Finding(
            topic="W&B",
            state="ok" if online else "note",
            found=f"{mode}: " + ("logged in" if online else "runs are logged into their folders"),
            remedy="" if online else "wandb login sends them; wandb sync RUN/wandb/… does so later",
        )
    ]
    version = _first_line("sbatch", "--version")
    job = os.environ.get("SLURM_JOB_ID")
    if version is None:
        findings.append(
            Finding(
                topic="SLURM",
                state="note",
                found="no sbatch on this machine",
                remedy="needed on a cluster only; elsewhere torchrun or --hardware.devices",
            )
        )
    else:
        findings.append(Finding(topic="SLURM", found=version + (f", in job {job}" if job else "")))
    return findings


def _memory() -> list[Finding]:
    """Main memory, where the system tells it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return []
    return [Finding(topic="memory", found=f"{total / _GIB:.0f} GiB")]


def _no_cuda(built_for: str | None) -> Finding:
    """Why there is no GPU, as far as can be seen."""
    driver = _first_line("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if driver is None:
        remedy = "nothing for prediction and small runs; pretraining wants an NVIDIA GPU"
        return Finding(topic="CUDA", state="note", found="no GPU: the CPU does it", remedy=remedy)
    remedy = (
        "install a build of torch with CUDA"
        if built_for is None
        else f"update the driver to one that knows CUDA {built_for}, or see CUDA_VISIBLE_DEVICES"
    )
    found = f"{driver} is there, and torch cannot use it"
    return Finding(topic="CUDA", state="broken", found=found, remedy=remedy)


def _disk(topic: str, folder: Path) -> Finding:
    """Free space of the disk that holds a folder, and whether it may be written to."""
    nearest = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(nearest).free
    found = f"{free / _GIB:.0f} GiB free in {folder}"
    if not os.access(nearest, os.W_OK):
        remedy = "run from a folder of yours, or set XDG_CACHE_HOME and TMPDIR"
        return Finding(topic=topic, state="note", found=f"{found}, not writable", remedy=remedy)
    if free < _DISK_BYTES:
        remedy = "shards, checkpoints and caches need room: make some, or set XDG_CACHE_HOME"
        return Finding(topic=topic, state="note", found=found, remedy=remedy)
    return Finding(topic=topic, found=found)


def _first_line(*command: str) -> str | None:
    """The first line that a program prints; nothing where it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.splitlines() or [""])[0].strip()
