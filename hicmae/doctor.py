"""``hicmae doctor``: what this machine has, what is missing, and what to do about it.

A clip is written here and now and read back by every decoder; nothing is timed (``hicmae bench``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Literal

import platformdirs
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import hicmae
from hicmae.config import config_root
from hicmae.devices import cuda_problem, first_line, resolve_precision
from hicmae.files import write_text
from hicmae.processes import num_cores
from hicmae.run_logging import wandb_mode
from hicmae.settings import InputConfig

# Imported, not only looked up: a mismatch of torch and its companions shows at import.
IMPORTED = ("torch", "torchaudio", "torchvision")
# Shown one by one, for bug reports; of the others only what is wrong is.
_NAMED = ("pytorch-lightning", "deepspeed", "webdataset", "timm", "jsonargparse")
# What the libraries of an extra are for.
_EXTRAS = {"export": "hicmae checkpoint export --format onnx"}
_STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}
_GIB = 2**30
# Below these something is said; a build of a small corpus and its checkpoints fit in the first.
_DISK_BYTES = 10 * _GIB
_SHARED_BYTES = 1 * _GIB
_ANSWER_SECONDS = 3  # of sbatch, which asks nobody for its version
CLIP_FRAMES = 8
_RATE = 16000  # of the clip's sound, Hz


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found: a line of the table.

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
    """Say what this machine has, what is missing, and what to do about it.

    Looks at versions (against the ranges asked for), GPU, bf16, decoders (a clip is written and
    read), FFmpeg, face detectors, disk, shared memory, W&B and SLURM. `note`: works, with less;
    `broken`: a command will fail.

    Args:
        json: File for the same as JSON.

    Returns: 0, or 1 when something needed is broken.
    """
    findings = [finding for check in CHECKS for finding in check()]
    table = Table(title="hicmae doctor")
    for head in ("", "found", "state", "what to do"):
        table.add_column(head, overflow="fold")  # a path is of no use when it is cut
    for finding in findings:
        state = f"[{_STYLES[finding.state]}]{finding.state}[/]"
        table.add_row(escape(finding.topic), escape(finding.found), state, escape(finding.remedy))
    console = Console()
    console.print(table)
    counts = {state: sum(item.state == state for item in findings) for state in _STYLES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if json is not None:
        text = dumps([asdict(finding) for finding in findings], indent=1)
        write_text(json, text + "\n")
    return 1 if counts["broken"] else 0


def check_versions() -> list[Finding]:
    """Python, hicmae, torch and its companions, and all other libraries against their bounds."""
    return [_python(), _package(), *map(_imported, IMPORTED), *_installed()]


def requirements() -> list[Requirement]:
    """What this package asks for: from its installation, or the pyproject.toml of the clone.

    Returns: nothing where neither can be read.
    """
    try:
        lines = importlib.metadata.requires("hicmae") or []
    except importlib.metadata.PackageNotFoundError:
        lines = list(_of_the_clone(Path(hicmae.__file__).parents[1] / "pyproject.toml"))
    return [Requirement(line) for line in lines]


def _of_the_clone(file: Path) -> Iterator[str]:
    """Requirements in a pyproject.toml, those of extras marked as an installation marks them."""
    if not file.is_file():
        return
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    yield from project["dependencies"]
    for extra, lines in project["optional-dependencies"].items():
        yield from (f'{line} ; extra == "{extra}"' for line in lines)


def _python() -> Finding:
    return Finding(topic="python", found=f"{platform.python_version()} on {platform.platform()}")


def _package() -> Finding:
    configs = config_root()
    num_configs = len(list(configs.rglob("*.yaml")))
    return Finding(
        topic="hicmae",
        found=f"{hicmae.__version__}, {num_configs} configurations in {configs}",
        state="ok" if num_configs else "broken",
        remedy="" if num_configs else "install again: pip install .",
    )


def _imported(name: str) -> Finding:
    """A library that is imported to be sure."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(
            topic=name,
            state="broken",
            found=f"does not import: {str(error).splitlines()[0]}",
            remedy="install torch, torchaudio and torchvision anew, together: pip install .",
        )
    return Finding(topic=name, found=module.__version__)


def _installed() -> Iterator[Finding]:
    wanted = requirements()
    if not wanted:
        yield Finding(
            topic="libraries",
            state="note",
            found="the bounds of their versions are not known here",
            remedy="pip install .",
        )
    num_good = 0
    for requirement in wanted:
        extra = next((name for name in _EXTRAS if _asked_by(requirement, name)), None)
        if extra is None and not _asked_by(requirement, ""):
            continue  # for developers, or for another system
        finding = _against_bounds(requirement, extra)
        if finding.state != "ok" or requirement.name in _NAMED:
            yield finding
        else:
            num_good += 1
    if num_good:
        yield Finding(topic="other libraries", found=f"{num_good}, each in the range asked for")


def _asked_by(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds here with an extra, or without any."""
    if requirement.marker is None:
        return not extra
    return requirement.marker.evaluate({"extra": extra}) and not (
        extra and requirement.marker.evaluate({"extra": ""})
    )


def _against_bounds(requirement: Requirement, extra: str | None) -> Finding:
    """One library: its version, or what is wrong with it."""
    bounds = f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            topic=requirement.name,
            state="note" if extra else "broken",
            found=f"not installed; {_EXTRAS[extra]} needs it" if extra else "not installed",
            remedy=f"pip install 'hicmae[{extra}]'" if extra else f"pip install '{bounds}'",
        )
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(
            topic=requirement.name,
            state="note" if extra else "broken",
            found=f"{version}, not in the range {requirement.specifier}",
            remedy=f"pip install '{bounds}'",
        )
    return Finding(topic=requirement.name, found=version)


def check_devices() -> list[Finding]:
    """CPU cores, memory, CUDA devices, and the number format that ``precision: auto`` picks."""
    import torch

    # A container or a batch system gives fewer cores than the machine has.
    findings = [Finding(topic="CPU cores", found=str(num_cores())), *_memory(), *_cuda()]
    usable = torch.cuda.is_available() and cuda_problem() is None
    precision = resolve_precision("auto", torch.device("cuda" if usable else "cpu"))
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
                found=f"{total / _GIB:.2g} GiB in {shared}: room for {total // _clip_bytes()} "
                "clips that are read ahead",
                remedy="loader processes may be killed (bus error): docker run --shm-size=8g, or "
                "--workers 0; hicmae pretrain --dry_run says what a run needs"
                if small
                else "",
            )
        )
    return findings


def _clip_bytes() -> int:
    """Of a clip of the default size between processes: frames as bytes, sound as int16."""
    clip = InputConfig()
    return 3 * clip.num_frames * clip.image_size**2 + 2 * clip.clip_samples


def _wandb() -> Finding:
    """Where runs of Weights & Biases go."""
    try:
        mode = wandb_mode("auto")
    except ValueError as error:
        found, _, remedy = str(error).partition("; ")
        return Finding(topic="W&B", state="broken", found=found, remedy=remedy)
    if mode == "disabled":
        remedy = "unset WANDB_MODE to log runs; metrics.csv has their numbers all the same"
        return Finding(topic="W&B", state="note", found="disabled: no run is logged", remedy=remedy)
    if mode == "offline":
        remedy = "wandb login sends them; wandb sync RUN/wandb/… does so later"
        found = "offline: runs are logged into their folders"
        return Finding(topic="W&B", state="note", found=found, remedy=remedy)
    return Finding(topic="W&B", found=f"{mode}: logged in")


def check_services() -> list[Finding]:
    """Weights & Biases, and SLURM."""
    findings = [_wandb()]
    version = first_line("sbatch", "--version", seconds=_ANSWER_SECONDS)
    job = os.environ.get("SLURM_JOB_ID")
    if version is None and shutil.which("sbatch"):
        findings.append(
            Finding(
                topic="SLURM",
                state="note",
                found="sbatch is here and does not say its version",
                remedy="see what `sbatch --version` waits for or says: it needs the cluster's "
                "configuration (SLURM_CONF)",
            )
        )
    elif version is None:
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


def _cuda() -> list[Finding]:
    """The GPUs, or why there is none as far as can be seen."""
    import torch

    findings = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / _GIB:.0f} GiB"
        found = f"{device.name}, {memory}, compute capability {device.major}.{device.minor}"
        findings.append(Finding(topic=f"CUDA {index}", found=found))
    if problem := cuda_problem():
        found, _, remedy = problem.rpartition("; ")
        findings.append(Finding(topic="CUDA", state="broken", found=found, remedy=remedy))
    elif not torch.cuda.is_available():
        remedy = "nothing for prediction and small runs; pretraining wants an NVIDIA GPU"
        found = "no GPU: the CPU does it"
        findings.append(Finding(topic="CUDA", state="note", found=found, remedy=remedy))
    return findings


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


def check_decoders() -> list[Finding]:
    """Whether each decoder of video reads the clip, and its sound can be read."""
    findings = []
    with tempfile.TemporaryDirectory(prefix="hicmae-doctor-") as folder:
        clip = Path(folder) / "clip.mp4"
        try:
            _write_clip(clip)
        except Exception as error:  # whatever a broken codec library raises is the finding
            found = f"cannot write a clip: {error}"
            remedy = "pip install --force-reinstall av"
            return [Finding(topic="PyAV", state="broken", found=found, remedy=remedy)]
        for name, (package, read, wanted) in _READERS.items():
            if importlib.util.find_spec(package) is None and package == "decord":
                found = "not installed: PyAV alone reads videos"
                remedy = "nothing: decord is faster, and has no wheels for ARM and macOS"
                findings.append(Finding(topic=name, state="note", found=found, remedy=remedy))
                continue
            try:
                count = read(clip)
            except Exception as error:  # likewise
                found, good = f"cannot read a clip: {error}", False
            else:
                good = count >= wanted
                version = importlib.metadata.version(package)
                found = f"{version}, read {count} of {wanted}"
            remedy = "" if good else f"pip install --force-reinstall {package}"
            findings.append(
                Finding(topic=name, state="ok" if good else "broken", found=found, remedy=remedy)
            )
    return [*findings, _ffmpeg()]


def check_faces() -> list[Finding]:
    """Whether the default face detector can be opened, or the bundled one must do."""
    from hicmae.media.faces import open_detector
    from hicmae.media.yunet import find_yunet

    findings = []
    names: tuple[Literal["yunet", "cascade"], ...] = ("yunet", "cascade")
    for name in names:
        try:
            open_detector(name, offline=True)  # looks, and fetches nothing
            found = str(find_yunet()) if name == "yunet" else "bundled with OpenCV"
            findings.append(Finding(topic=f"faces {name}", found=found))
        except (OSError, ValueError) as error:
            message, _, remedy = str(error).partition("; ")
            findings.append(
                Finding(topic=f"faces {name}", state="note", found=message, remedy=remedy)
            )
    return findings


def _ffmpeg() -> Finding:
    """The program, which nothing here needs."""
    path = shutil.which("ffmpeg")
    if path is None:
        return Finding(
            topic="FFmpeg",
            state="note",
            found="no program of that name; not needed, the decoders bring their own libraries",
            remedy="to mend or convert recordings: apt-get install ffmpeg",
        )
    return Finding(topic="FFmpeg", found=path)


def _write_clip(path: Path) -> None:
    """Encode a few grey frames, and a tone as long as they are."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=_RATE)
        sound.layout = "mono"
        for value in range(CLIP_FRAMES):
            image = np.full((64, 64, 3), 20 * value, dtype=np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        seconds = np.arange(CLIP_FRAMES * _RATE // 25, dtype=np.float32) / _RATE
        tone = 0.1 * np.sin(2 * np.pi * 440 * seconds)[None]
        piece = av.AudioFrame.from_ndarray(tone.astype(np.float32), format="fltp", layout="mono")
        piece.rate = _RATE
        container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
        container.mux(picture.encode(None))


def _by_decord(path: Path) -> int:
    import decord

    return int(decord.VideoReader(str(path)).get_batch(range(CLIP_FRAMES)).shape[0])


def _by_av(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _sound(path: Path) -> int:
    """Milliseconds of sound that can be read."""
    from hicmae.media.sound import read_sound

    sound = read_sound(path)
    return 1000 * len(sound.samples) // sound.sample_rate


def _wav(path: Path) -> int:
    import numpy as np
    import soundfile

    file = path.with_suffix(".wav")
    soundfile.write(file, np.zeros(_RATE, dtype=np.int16), _RATE)
    return len(soundfile.read(file)[0])


# Topic -> package, what reads the clip, and how much of it there is.
_READERS: dict[str, tuple[str, Callable[[Path], int], int]] = {
    "decoder decord (frames)": ("decord", _by_decord, CLIP_FRAMES),
    "decoder PyAV (frames)": ("av", _by_av, CLIP_FRAMES),
    "sound by PyAV (ms)": ("av", _sound, 1000 * CLIP_FRAMES // 25),
    "sound by soundfile (samples)": ("soundfile", _wav, _RATE),
}


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_versions,
    check_devices,
    check_decoders,
    check_faces,
    check_storage,
    check_services,
)
