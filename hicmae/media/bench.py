"""``hicmae bench speaking``: how often the face that speaks is found among others.

Clips of one talking face each are put side by side, with the sound of one of them, and go the way
of any recording: encoded, decoded, faces found, followed and held against the sound.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from hicmae.bench import write_figures
from hicmae.media.crops import decode_jpeg, encode_jpeg
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.image_folder import walk
from hicmae.media.recording import Recording, open_pictures, shared_detector
from hicmae.media.sound import read_sound
from hicmae.media.speaking import LEAST_SECONDS, Speakers, verdict

_FPS, _RATE, _HOP_SECONDS, _HEIGHT = 25, 16000, 0.64, 288
_WIDEST = 4 / 3  # of a panel: more is cut off on both sides
_SHIFT_SECONDS, _RESAMPLINGS = 0.4, 2000
_CONFIG = FaceConfig(fps=_FPS, face_choice="speaking")


@dataclass(frozen=True)
class _Clip:
    """One talking face: T pictures as JPEG, and its sound (n,) int16."""

    name: str
    pictures: list[bytes]
    sound: np.ndarray
    speakers: Speakers


def bench_speaking(
    *, media: Path, seed: int = 0, offline: bool = False, json: Path | None = None
) -> dict[str, Any]:
    """Measure how often the face that speaks is found, on clips put side by side.

    Every 0.64 s of each clip begins a window of 2.56 s, which is set beside windows of one and of
    two other clips drawn at random; the sound is that of the first. Everybody talks. Also counted:
    how many whole clips are flagged (as in the receipt of a build) with their own sound, with that
    of another clip, and with their own 0.4 s late and early.

    Args:
        media: Folder of clips; those with one face throughout, sound, and 2.56 s or more count.
        seed: Of the draw.
        offline: Never fetch the face detector's file.
        json: File for the figures.

    Returns: The figures: of two and of three faces, and of both, the share that was right with its
        95 % interval (resampling clips), and ``flagged`` shares.

    Raises:
        ValueError: fewer than three clips that count.
    """
    if not media.is_dir():
        raise ValueError(f"{media}: no such folder of clips")
    shared_detector("yunet", offline=offline)
    clips = [clip for path, _ in walk(media) if (clip := _read(path)) is not None]
    if len(clips) < 3:
        raise ValueError(f"{media}: {len(clips)} clips of one talking face (3 or more are needed)")
    rng, length = np.random.default_rng(seed), round(LEAST_SECONDS * _FPS)
    hits: dict[int, list[list[bool]]] = {2: [], 3: []}
    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as scratch:
        for first in range(len(clips)):
            begins = range(0, len(clips[first].pictures) - length + 1, round(_HOP_SECONDS * _FPS))
            for num_faces, found in hits.items():
                found.append([])
                for begin in begins:
                    others = rng.permutation([n for n in range(len(clips)) if n != first])
                    parts = [(clips[first], begin)] + [
                        (clip, int(rng.integers(len(clip.pictures) - length + 1)))
                        for clip in (clips[n] for n in others[: num_faces - 1])
                    ]
                    order = rng.permutation(num_faces)
                    path = Path(scratch) / "beside.mp4"
                    edges = _write(path, [parts[n] for n in order], parts[0], length)
                    where = int(np.flatnonzero(order == 0)[0])
                    found[-1].append(_is_right(path, edges[where], edges[where + 1]))
    figures: dict[str, Any] = {
        "clips": [clip.name for clip in clips],
        "seed": seed,
        "two": _share(hits[2]),
        "three": _share(hits[3]),
        "both": _share([[*two, *three] for two, three in zip(hits[2], hits[3], strict=True)]),
        "flagged": _flagged(clips),
    }
    table = Table("faces", "windows", "right", "95 % (by clip)", title="Who is speaking")
    for name in ("two", "three", "both"):
        line = figures[name]
        interval = f"{line['low']:.1%} to {line['high']:.1%}"
        table.add_row(name, str(line["num"]), f"{line['right']:.1%}", interval)
    console = Console()
    console.print(table)
    for name, share in figures["flagged"].items():
        console.print(f"flagged, {name}: {share:.1%} of {len(clips)} clips", highlight=False)
    write_figures(figures, json)
    return figures


def _read(path: Path) -> _Clip | None:
    """A clip; None of what does not count."""
    try:
        sound = read_sound(path, sample_rate=_RATE)
        picture = open_pictures(path)[0]
        with Recording(path, picture, _CONFIG, fps=_FPS, min_seconds=LEAST_SECONDS) as recording:
            tracks = recording.follow(shared_detector("yunet", offline=True))
            num_frames = len(recording.indices)
            if len(tracks) != 1 or len(tracks[0].boxes) < num_frames:
                return None
            pictures = [
                encode_jpeg(_panel(frame), quality=95, chroma="444")
                for frame in recording.frames(np.arange(num_frames))
            ]
            samples, _ = sound.span(recording.start, round(recording.seconds * _RATE))
            speakers = Speakers(recording, tracks)
    except MediaError:
        return None
    return _Clip(path.name, pictures, samples, speakers)


def _panel(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    cut = max(0, round((width - _WIDEST * height) / 2))
    frame = frame[:, cut : width - cut]
    wide = round(frame.shape[1] * _HEIGHT / height / 2) * 2
    return np.asarray(cv2.resize(frame, (wide, _HEIGHT), interpolation=cv2.INTER_AREA))


def _write(
    path: Path, parts: Sequence[tuple[_Clip, int]], heard: tuple[_Clip, int], length: int
) -> list[int]:
    """Write clips side by side; returns where the panels begin, and the width, pixels."""
    frames = [
        np.hstack([decode_jpeg(clip.pictures[begin + number]) for clip, begin in parts])
        for number in range(length)
    ]
    size, first = round(length / _FPS * _RATE), round(heard[1] / _FPS * _RATE)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=_FPS, options={"crf": "20", "preset": "veryfast"})
        picture.height, picture.width = frames[0].shape[:2]
        picture.pix_fmt = "yuv420p"
        voice = out.add_stream("aac", rate=_RATE, layout="mono")
        for frame in frames:
            out.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(picture.encode(None))
        samples = np.zeros((1, size), dtype=np.float32)
        cut = heard[0].sound[first : first + size]
        samples[0, : len(cut)] = cut / np.float32(32768)
        for begin in range(0, size, 1024):
            block = np.ascontiguousarray(samples[:, begin : begin + 1024])
            sound = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            sound.sample_rate, sound.time_base, sound.pts = _RATE, Fraction(1, _RATE), begin
            out.mux(voice.encode(sound))
        out.mux(voice.encode(None))
    widths = [decode_jpeg(clip.pictures[0]).shape[1] for clip, _ in parts]
    return [0, *np.cumsum(widths).tolist()]


def _is_right(path: Path, left: int, right: int) -> bool:
    """Whether the face that is taken for the one that speaks is in this part of the picture."""
    sound = read_sound(path, sample_rate=_RATE)
    with Recording(path, open_pictures(path)[0], _CONFIG, fps=_FPS) as recording:
        tracks = recording.follow(shared_detector("yunet", offline=True))

        samples, _ = sound.span(recording.start - 1, round((recording.seconds + 2) * _RATE))
        cut = _cutter(samples, _RATE)
        speaker = Speakers(recording, tracks).hear(cut, _RATE).speaker(0, len(recording.indices))
    if speaker is None:
        return False
    box = tracks[speaker].boxes.mean(axis=0)
    return bool(left <= (box[0] + box[2]) / 2 < right)


def _cutter(samples: np.ndarray, first: int) -> Callable[[int, int], np.ndarray]:
    """Cuts samples that are counted from ``first`` on."""
    return lambda begin, count: samples[first + begin :][:count]


def _share(hits: Sequence[Sequence[bool]]) -> dict[str, float]:
    """The share that is right of all windows, and 95 % of what other draws of clips give."""
    rng = np.random.default_rng(0)
    right, num = (np.array([count(clip) for clip in hits]) for count in (sum, len))
    draws = rng.integers(len(hits), size=(_RESAMPLINGS, len(hits)))
    low, high = np.quantile(right[draws].sum(axis=1) / num[draws].sum(axis=1), (0.025, 0.975))
    share = float(right.sum() / num.sum())
    return {"num": int(num.sum()), "right": share, "low": float(low), "high": float(high)}


def _flagged(clips: Sequence[_Clip]) -> dict[str, float]:
    """Shares of whole clips that a receipt would name, by the sound they are given."""

    def share(sound_of: Callable[[int], tuple[np.ndarray, float]]) -> float:
        flags = []
        for number, clip in enumerate(clips):
            samples, late = sound_of(number)
            padded = np.pad(samples, (_RATE, len(clip.pictures) * _RATE // _FPS + _RATE))
            speakers = clip.speakers.hear(_cutter(padded, _RATE - round(late * _RATE)), _RATE)
            num_frames = min(len(clip.pictures), int(len(samples) / _RATE * _FPS))
            flags.append(verdict(speakers.agreement(0, 0, num_frames), num_frames / _FPS) != "")
        return float(np.mean(flags))

    return {
        "own sound": share(lambda n: (clips[n].sound, 0.0)),
        "sound of the next clip": share(lambda n: (clips[(n + 1) % len(clips)].sound, 0.0)),
        "own sound late": share(lambda n: (clips[n].sound, _SHIFT_SECONDS)),
        "own sound early": share(lambda n: (clips[n].sound, -_SHIFT_SECONDS)),
    }
