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
from hicmae.media.images import walk
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


def bench_speaking(
    *, media: Path, seed: int = 0, offline: bool = False, json: Path | None = None
) -> dict[str, Any]:
    """Measure how often the face that speaks is found, on clips put side by side.

    Each clip is set beside one and beside two others, drawn at random, which run forth and back
    for as long as it lasts; the sound is its own, and everybody talks. Who speaks is asked of each
    window of 2.56 s, every 0.64 s. Also counted: how many whole clips are flagged (as in the
    receipt of a build) with their own sound, with another clip's, and with their own 0.4 s late and
    early. They are encoded again for all of this, 288 pixels high.

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
    shared_detector(_CONFIG, offline=offline)
    clips = [clip for path, _ in walk(media) if (clip := _read(path)) is not None]
    if len(clips) < 3:
        raise ValueError(f"{media}: {len(clips)} clips of one talking face (3 or more are needed)")
    rng = np.random.default_rng(seed)
    hits: dict[int, list[list[bool]]] = {2: [], 3: []}
    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as scratch:
        path = Path(scratch) / "beside.mp4"
        for first in range(len(clips)):
            for num_faces, found in hits.items():
                others = rng.permutation([n for n in range(len(clips)) if n != first])
                parts = [first, *others[: num_faces - 1].tolist()]
                shift = [0, *rng.integers(100, size=num_faces - 1).tolist()]
                order = rng.permutation(num_faces)
                edges = _write(path, [(clips[parts[n]], shift[n]) for n in order], clips[first])
                speakers = _speakers(path)
                sound = read_sound(path, sample_rate=_RATE)
                samples, _ = sound.span(0.0, len(clips[first].sound))
                speakers.hear(_cutter(samples, 0), _RATE)
                where = int(np.flatnonzero(order == 0)[0])
                found.append(_right(speakers, len(clips[first].pictures), *edges[where:][:2]))
        flagged = _flagged(clips, path)
    figures: dict[str, Any] = {
        "clips": [clip.name for clip in clips],
        "seed": seed,
        "two": _share(hits[2]),
        "three": _share(hits[3]),
        "both": _share([[*two, *three] for two, three in zip(hits[2], hits[3], strict=True)]),
        "flagged": flagged,
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
            tracks = recording.follow(shared_detector(_CONFIG, offline=True))
            num_frames = len(recording.indices)
            if len(tracks) != 1 or len(tracks[0].boxes) < num_frames:
                return None
            pictures = [
                encode_jpeg(_panel(frame), quality=95, chroma="444")
                for frame in recording.frames(np.arange(num_frames))
            ]
            samples, _ = sound.span(recording.start, round(recording.seconds * _RATE))
    except MediaError:
        return None
    return _Clip(path.name, pictures, samples)


def _panel(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    cut = max(0, round((width - _WIDEST * height) / 2))
    frame = frame[:, cut : width - cut]
    wide = round(frame.shape[1] * _HEIGHT / height / 2) * 2
    return np.asarray(cv2.resize(frame, (wide, _HEIGHT), interpolation=cv2.INTER_AREA))


def _write(path: Path, parts: Sequence[tuple[_Clip, int]], heard: _Clip) -> list[int]:
    """Write clips side by side for as long as one of them, whose sound is heard, lasts.

    Returns: where the panels begin, and the width, pixels.
    """
    length, widths = len(heard.pictures), [0]
    panels = []
    for clip, shift in parts:
        count = len(clip.pictures)
        # Forth and back; the one that is heard is not shifted and as long as itself.
        turn = (np.arange(length) + shift) % (2 * count)
        places = np.minimum(turn, 2 * count - 1 - turn)
        panels.append([clip.pictures[place] for place in places.tolist()])
        widths.append(widths[-1] + decode_jpeg(clip.pictures[0]).shape[1])
    size = round(length / _FPS * _RATE)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=_FPS, options={"crf": "20", "preset": "superfast"})
        picture.height, picture.width = _HEIGHT, widths[-1]
        picture.pix_fmt = "yuv420p"
        voice = out.add_stream("aac", rate=_RATE, layout="mono")
        for images in zip(*panels, strict=True):
            frame = np.hstack([decode_jpeg(image) for image in images])
            out.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(picture.encode(None))
        samples = np.zeros((1, size), dtype=np.float32)
        cut = heard.sound[:size]
        samples[0, : len(cut)] = cut / np.float32(32768)
        for begin in range(0, size, 1024):
            block = np.ascontiguousarray(samples[:, begin : begin + 1024])
            sound = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            sound.sample_rate, sound.time_base, sound.pts = _RATE, Fraction(1, _RATE), begin
            out.mux(voice.encode(sound))
        out.mux(voice.encode(None))
    return widths


def _speakers(path: Path) -> Speakers:
    with Recording(path, open_pictures(path)[0], _CONFIG, fps=_FPS) as recording:
        return Speakers(recording, recording.follow(shared_detector(_CONFIG, offline=True)))


def _right(speakers: Speakers, num_frames: int, left: int, right: int) -> list[bool]:
    """Whether the face that is taken for the one that speaks is in this part of the picture."""
    size, found = round(LEAST_SECONDS * _FPS), []
    for begin in range(0, num_frames - size + 1, round(_HOP_SECONDS * _FPS)):
        speaker = speakers.speaker(begin, begin + size)
        x = -1.0 if speaker is None else float(speakers.tracks[speaker].boxes[:, ::2].mean())
        found.append(left <= x < right)
    return found


def _cutter(samples: np.ndarray, first: int) -> Callable[[int, int], np.ndarray]:
    """Cuts samples that are counted from ``first`` on, with silence about them."""

    def cut(begin: int, count: int) -> np.ndarray:
        found = np.zeros(count, samples.dtype)
        low, high = np.clip((first + begin, first + begin + count), 0, len(samples))
        found[low - first - begin :][: high - low] = samples[low:high]
        return found

    return cut


def _share(hits: Sequence[Sequence[bool]]) -> dict[str, float]:
    """The share that is right of all windows, and 95 % of what other draws of clips give."""
    rng = np.random.default_rng(0)
    right, num = (np.array([count(clip) for clip in hits]) for count in (sum, len))
    draws = rng.integers(len(hits), size=(_RESAMPLINGS, len(hits)))
    low, high = np.quantile(right[draws].sum(axis=1) / num[draws].sum(axis=1), (0.025, 0.975))
    share = float(right.sum() / num.sum())
    return {"num": int(num.sum()), "right": share, "low": float(low), "high": float(high)}


def _flagged(clips: Sequence[_Clip], path: Path) -> dict[str, float]:
    """Shares of whole clips that a receipt would name, by the sound they are given."""
    flags: dict[str, list[bool]] = {}
    for number, clip in enumerate(clips):
        _write(path, [(clip, 0)], clip)
        speakers, other = _speakers(path), clips[(number + 1) % len(clips)]
        shift = round(_SHIFT_SECONDS * _RATE)
        for name, samples, first in (
            ("own sound", clip.sound, 0),
            ("sound of the next clip", other.sound, 0),
            ("own sound 0.4 s late", clip.sound, -shift),
            ("own sound 0.4 s early", clip.sound, shift),
        ):
            speakers.hear(_cutter(samples, first), _RATE)
            num_frames = min(len(clip.pictures), round(len(samples) / _RATE * _FPS))
            said = verdict(speakers.agreement(0, 0, num_frames), num_frames / _FPS)
            flags.setdefault(name, []).append(said != "")
    return {name: float(np.mean(flagged)) for name, flagged in flags.items()}
