"""Decoders, sound, FFmpeg and face detectors: a clip is written here and now, and read back.

For: what goes wrong between a file and its frames. Not for: a recording of the user's, which
`hicmae shards build` or `hicmae predict` names with its cause.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hicmae.diagnosis.finding import Finding

CLIP_FRAMES = 8
_RATE = 16000  # of the clip's sound, Hz


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
    """Frames that decord decodes."""
    import decord

    return int(decord.VideoReader(str(path)).get_batch(range(CLIP_FRAMES)).shape[0])


def _by_av(path: Path) -> int:
    """Frames that PyAV decodes."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _sound(path: Path) -> int:
    """Milliseconds of sound that can be read."""
    from hicmae.media.sound import read_sound

    sound = read_sound(path)
    return 1000 * len(sound.samples) // sound.sample_rate


def _wav(path: Path) -> int:
    """Samples that soundfile writes and reads."""
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
