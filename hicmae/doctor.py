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
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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


@dataclass(frozen=True)
class Finding:
    """What one check found: a line of the table.

    Args:
        state: ``ok``; ``note``: works, with less; ``broken``: a command will fail.
    """

    topic: str
    state: Literal["ok", "note", "broken"]
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
    python = f"{platform.python_version()} on {platform.platform()}"
    about = [Finding("python", "ok", python), _package()]
    return [*about, *map(_imported, IMPORTED), *_installed()]


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


def _package() -> Finding:
    configs = config_root()
    num_configs = len(list(configs.rglob("*.yaml")))
    found = f"{hicmae.__version__}, {num_configs} configurations in {configs}"
    if not num_configs:
        return Finding("hicmae", "broken", found, "install again: pip install .")
    return Finding("hicmae", "ok", found)


def _imported(name: str) -> Finding:
    """A library that is imported to be sure."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        remedy = "install torch, torchaudio and torchvision anew, together: pip install ."
        return Finding(name, "broken", f"does not import: {str(error).splitlines()[0]}", remedy)
    return Finding(name, "ok", module.__version__)


def _installed() -> Iterator[Finding]:
    wanted = requirements()
    if not wanted:
        found = "the bounds of their versions are not known here"
        yield Finding("libraries", "note", found, "pip install .")
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
        yield Finding("other libraries", "ok", f"{num_good}, each in the range asked for")


def _asked_by(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds here with an extra, or without any."""
    if requirement.marker is None:
        return not extra
    return requirement.marker.evaluate({"extra": extra}) and not (
        extra and requirement.marker.evaluate({"extra": ""})
    )


def _against_bounds(requirement: Requirement, extra: str | None) -> Finding:
    """One library: its version, or what is wrong with it."""
    name, wanted = requirement.name, requirement.specifier
    remedy = f"pip install '{name}{wanted}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if extra is None:
            return Finding(name, "broken", "not installed", remedy)
        found = f"not installed; {_EXTRAS[extra]} needs it"
        return Finding(name, "note", found, f"pip install 'hicmae[{extra}]'")
    if not wanted.contains(version, prereleases=True):
        found = f"{version}, not in the range {wanted}"
        return Finding(name, "note" if extra else "broken", found, remedy)
    return Finding(name, "ok", version)


def check_devices() -> Iterator[Finding]:
    """CPU cores, memory, CUDA devices, and the number format that ``precision: auto`` picks."""
    import torch

    # A container or a batch system gives fewer cores than the machine has.
    yield Finding("CPU cores", "ok", str(num_cores()))
    yield from _memory()
    yield from _cuda()
    usable = torch.cuda.is_available() and cuda_problem() is None
    precision = resolve_precision("auto", torch.device("cuda" if usable else "cpu"))
    if precision == "bf16-mixed":
        yield Finding("bf16", "ok", "computed by the hardware")
    else:
        remedy = "nothing to do: precision auto takes fp32, which is slower"
        yield Finding("bf16", "note", "not computed by the hardware", remedy)
    yield Finding("precision auto", "ok", precision)


def check_storage() -> Iterator[Finding]:
    """Free space where one is, in the cache and for temporary files; shared memory."""
    places = {
        "disk here": Path.cwd(),
        "disk of the cache": Path(platformdirs.user_cache_dir("hicmae")),
        "disk of temporary files": Path(tempfile.gettempdir()),
    }
    for topic, folder in places.items():
        yield _disk(topic, folder)
    shared = Path("/dev/shm")
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        room = f"room for {total // _clip_bytes()} clips that are read ahead"
        small = total < _SHARED_BYTES
        remedy = (
            "loader processes may be killed (bus error): docker run --shm-size=8g, or "
            "--workers 0; hicmae pretrain --dry_run says what a run needs"
        )
        found = f"{total / _GIB:.2g} GiB in {shared}: {room}"
        yield Finding("shared memory", "note" if small else "ok", found, remedy if small else "")


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
        return Finding("W&B", "broken", found, remedy)
    if mode == "disabled":
        remedy = "unset WANDB_MODE to log runs; metrics.csv has their numbers all the same"
        return Finding("W&B", "note", "disabled: no run is logged", remedy)
    if mode == "offline":
        remedy = "wandb login sends them; wandb sync RUN/wandb/… does so later"
        return Finding("W&B", "note", "offline: runs are logged into their folders", remedy)
    return Finding("W&B", "ok", f"{mode}: logged in")


def check_services() -> Iterator[Finding]:
    """Weights & Biases, and SLURM."""
    yield _wandb()
    version = first_line("sbatch", "--version", seconds=_ANSWER_SECONDS)
    job = os.environ.get("SLURM_JOB_ID")
    if version is None and shutil.which("sbatch"):
        remedy = (
            "see what `sbatch --version` waits for or says: it needs the cluster's configuration "
            "(SLURM_CONF)"
        )
        yield Finding("SLURM", "note", "sbatch is here and does not say its version", remedy)
    elif version is None:
        remedy = "needed on a cluster only; elsewhere torchrun or --hardware.devices"
        yield Finding("SLURM", "note", "no sbatch on this machine", remedy)
    else:
        yield Finding("SLURM", "ok", version + (f", in job {job}" if job else ""))


def _memory() -> Iterator[Finding]:
    """Main memory, where the system tells it."""
    with suppress(AttributeError, ValueError, OSError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", "ok", f"{total / _GIB:.0f} GiB")


def _cuda() -> Iterator[Finding]:
    """The GPUs, or why there is none as far as can be seen."""
    import torch

    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / _GIB:.0f} GiB"
        found = f"{device.name}, {memory}, compute capability {device.major}.{device.minor}"
        yield Finding(f"CUDA {index}", "ok", found)
    if problem := cuda_problem():
        found, _, remedy = problem.rpartition("; ")
        yield Finding("CUDA", "broken", found, remedy)
    elif not torch.cuda.is_available():
        remedy = "nothing for prediction and small runs; pretraining wants an NVIDIA GPU"
        yield Finding("CUDA", "note", "no GPU: the CPU does it", remedy)


def _disk(topic: str, folder: Path) -> Finding:
    """Free space of the disk that holds a folder, and whether it may be written to."""
    nearest = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(nearest).free
    found = f"{free / _GIB:.0f} GiB free in {folder}"
    if not os.access(nearest, os.W_OK):
        remedy = "run from a folder of yours, or set XDG_CACHE_HOME and TMPDIR"
        return Finding(topic, "note", f"{found}, not writable", remedy)
    if free < _DISK_BYTES:
        remedy = "shards, checkpoints and caches need room: make some, or set XDG_CACHE_HOME"
        return Finding(topic, "note", found, remedy)
    return Finding(topic, "ok", found)


def check_decoders() -> Iterator[Finding]:
    """Whether each decoder of video reads the clip, and its sound can be read."""
    with tempfile.TemporaryDirectory(prefix="hicmae-doctor-") as folder:
        clip = Path(folder) / "clip.mp4"
        try:
            _write_clip(clip)
        except Exception as error:  # whatever a broken codec library raises is the finding
            remedy = "pip install --force-reinstall av"
            yield Finding("PyAV", "broken", f"cannot write a clip: {error}", remedy)
            return
        for name, (package, read, wanted) in _READERS.items():
            if importlib.util.find_spec(package) is None and package == "decord":
                found = "not installed: PyAV alone reads videos"
                remedy = "nothing: decord is faster, and has no wheels for ARM and macOS"
                yield Finding(name, "note", found, remedy)
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
            yield Finding(name, "ok" if good else "broken", found, remedy)
    yield _ffmpeg()


def check_faces() -> Iterator[Finding]:
    """Whether the default face detector can be opened, or the bundled one must do."""
    from hicmae.media.faces import open_detector
    from hicmae.media.yunet import find_yunet

    names: tuple[Literal["yunet", "cascade"], ...] = ("yunet", "cascade")
    for name in names:
        try:
            open_detector(name, offline=True)  # looks, and fetches nothing
            found = str(find_yunet()) if name == "yunet" else "bundled with OpenCV"
        except (OSError, ValueError) as error:
            found, _, remedy = str(error).partition("; ")
            yield Finding(f"faces {name}", "note", found, remedy)
        else:
            yield Finding(f"faces {name}", "ok", found)


def _ffmpeg() -> Finding:
    """The program, which nothing here needs."""
    path = shutil.which("ffmpeg")
    if path is None:
        found = "no program of that name; not needed, the decoders bring their own libraries"
        return Finding(
            "FFmpeg", "note", found, "to mend or convert recordings: apt-get install ffmpeg"
        )
    return Finding("FFmpeg", "ok", path)


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
    "sound by PyAV (ms, whole packets)": ("av", _sound, 1000 * CLIP_FRAMES // 25),
    "sound by soundfile (samples)": ("soundfile", _wav, _RATE),
}


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_versions,
    check_devices,
    check_decoders,
    check_faces,
    check_storage,
    check_services,
)
