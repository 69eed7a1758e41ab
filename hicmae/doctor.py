"""What this machine offers: versions, devices, number format, decoders, face detector, W&B.

For: the first question when something does not work. Not for: measuring speed (``hicmae bench``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

import hicmae
from hicmae.config import config_root

# Imported, not only looked up: a mismatch of torch and its companions shows at import.
_IMPORTED = ("torch", "torchaudio", "torchvision")
_INSTALLED = (
    "pytorch-lightning",
    "deepspeed",
    "webdataset",
    "timm",
    "opencv-python-headless",
    "jsonargparse",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table.

    Args:
        topic: What was looked at.
        state: ``ok``; ``note``: works, with less; ``broken``: a command will fail.
        found: What there is.
        remedy: What to do about it.
    """

    topic: str
    state: Literal["ok", "note", "broken"] = "ok"
    found: str
    remedy: str = ""


def doctor(*, json: Path | None = None) -> int:
    """Say what this machine has and what is missing.

    Args:
        json: File for the same as JSON.

    Returns: 0, or 1 when something needed is broken.
    """
    findings = [finding for check in _CHECKS for finding in check()]
    table = Table("", "found", "state", "remedy", title="hicmae doctor")
    styles = {"ok": "green", "note": "yellow", "broken": "bold red"}
    for finding in findings:
        state = f"[{styles[finding.state]}]{finding.state}[/]"
        table.add_row(finding.topic, finding.found, state, finding.remedy)
    Console().print(table)
    if json is not None:
        text = dumps([asdict(finding) for finding in findings], indent=1)
        json.write_text(text + "\n", encoding="utf-8")
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def _versions() -> list[Finding]:
    """Python, this package and the libraries a bug report should name."""
    configs = config_root()
    num_configs = len(list(configs.rglob("*.yaml")))
    findings = [
        Finding(topic="python", found=f"{platform.python_version()} on {platform.platform()}"),
        Finding(
            topic="hicmae",
            found=f"{hicmae.__version__}, {num_configs} configurations in {configs}",
            state="ok" if num_configs else "broken",
            remedy="" if num_configs else "install again: pip install .",
        ),
    ]
    for name in _IMPORTED:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            findings.append(
                Finding(
                    topic=name,
                    state="broken",
                    found=f"does not import: {str(error).splitlines()[0]}",
                    remedy="install the three of one release: torch, torchaudio, torchvision",
                )
            )
        else:
            findings.append(Finding(topic=name, found=module.__version__))
    for name in _INSTALLED:
        try:
            findings.append(Finding(topic=name, found=importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(
                    topic=name, state="broken", found="not installed", remedy=f"pip install {name}"
                )
            )
    return findings


def _devices() -> list[Finding]:
    """CPU cores, CUDA devices, and the number format that ``precision: auto`` picks."""
    import torch

    from hicmae.precision import resolve_precision

    # What this process may use: a container or a batch system gives fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings = [Finding(topic="CPU cores", found=str(cores))]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        findings.append(Finding(topic=f"CUDA {index}", found=f"{device.name}, {memory}"))
    if not torch.cuda.is_available():
        findings.append(Finding(topic="CUDA", state="note", found="none: training runs on the CPU"))
    findings.append(Finding(topic="precision auto", found=resolve_precision("auto")))
    return findings


def _decoders() -> list[Finding]:
    """Whether each video decoder reads a clip written here and now."""
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        try:
            _write_clip(clip)
        except Exception as error:  # whatever a broken codec library raises is the finding
            found = f"cannot write a clip: {error}"
            return [
                Finding(topic="PyAV", state="broken", found=found, remedy="pip install --force av")
            ]
        readers: dict[str, Callable[[Path], int]] = {"decord": _by_decord, "av": _by_av}
        for name, read in readers.items():
            try:
                count = read(clip)
                found = f"{importlib.metadata.version(name)}, read {count} of {_CLIP_FRAMES} frames"
                state: Literal["ok", "broken"] = "ok" if count == _CLIP_FRAMES else "broken"
            except Exception as error:  # likewise
                found, state = f"cannot read a clip: {error}", "broken"
            remedy = "" if state == "ok" else f"pip install --force-reinstall {name}"
            findings.append(
                Finding(topic=f"decoder {name}", state=state, found=found, remedy=remedy)
            )
    return findings


def _wandb() -> list[Finding]:
    """Whether Weights & Biases is installed and would log online."""
    try:
        version = importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError:
        return [Finding(topic="wandb", state="broken", found="not installed")]
    mode = os.environ.get("WANDB_MODE")
    how = f"WANDB_MODE={mode}" if mode else "offline unless asked for"
    return [Finding(topic="wandb", found=f"{version}, {how}")]


def _faces() -> list[Finding]:
    """Whether the default face detector can be opened, or the bundled one must do."""
    from hicmae.media.faces import FaceConfig, open_detector
    from hicmae.media.yunet import find_yunet

    findings = []
    names: tuple[Literal["yunet", "cascade"], ...] = ("yunet", "cascade")
    for name in names:
        try:
            open_detector(FaceConfig(detector=name, offline=True))  # looks, and fetches nothing
            found = str(find_yunet()) if name == "yunet" else "bundled with OpenCV"
            findings.append(Finding(topic=f"faces {name}", found=found))
        except (OSError, ValueError) as error:
            message, _, remedy = str(error).partition("; ")
            findings.append(
                Finding(topic=f"faces {name}", state="note", found=message, remedy=remedy)
            )
    return findings


_CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _versions,
    _devices,
    _decoders,
    _faces,
    _wandb,
)
_CLIP_FRAMES = 8


def _write_clip(path: Path) -> None:
    """Encode a few grey frames."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for value in range(_CLIP_FRAMES):
            frame = np.full((64, 64, 3), 20 * value, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _by_decord(path: Path) -> int:
    """Decode every frame with decord."""
    import decord

    return int(decord.VideoReader(str(path)).get_batch(range(_CLIP_FRAMES)).shape[0])


def _by_av(path: Path) -> int:
    """Decode every frame with PyAV."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
