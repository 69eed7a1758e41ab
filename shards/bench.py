"""What the benches of reading and building read: videos at hand, or shards of synthetic faces."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import soundfile

from hicmae.media.crops import encode_jpeg
from shards.building.writer import ShardWriter
from shards.index import write_index
from shards.schema import Digests, FaceInfo, SampleInfo, SourceFile

if TYPE_CHECKING:
    pass

_SAMPLE_SECONDS = 8.0
_FPS, _SIDE, _RATE = 25, 160, 16000
_REPOSITORY = Path(__file__).resolve().parent.parent


def write_bench_shards(folder: Path, num_samples: int = 48) -> None:
    """Write shards of noisy synthetic faces, 8 s a sample.

    An image takes 4.98 KB and about as long to decode as those that ``hicmae shards build`` makes
    of VoxCeleb2's videos, 4.87 KB on average of 830: 120 and 116 µs, measured by turns.

    Args:
        folder: Made here.
        num_samples: Samples, 16 a shard.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    # Encoding takes longest; the cost of reading is in bytes and blocks, not in new faces.
    jpegs = [
        encode_jpeg(_face(rng, phase), quality=90, chroma="420")
        for phase in np.linspace(0, 2 * np.pi, 50, endpoint=False)
    ]
    num_frames = round(_SAMPLE_SECONDS * _FPS)
    with ShardWriter(folder, samples_per_shard=16) as writer:
        for number in range(num_samples):
            images = [jpegs[(number + frame) % len(jpegs)] for frame in range(num_frames)]
            mjpg, wav = b"".join(images), _wav(rng)
            info = SampleInfo(
                key=f"bench/{number:05d}",
                source=SourceFile(path="synthetic", sha256="0" * 64, bytes=0),
                start_seconds=0.0,
                end_seconds=_SAMPLE_SECONDS,
                fps=float(_FPS),
                num_frames=num_frames,
                frame_offsets=tuple(np.cumsum([0, *map(len, images)]).tolist()),
                face_size=_SIDE,
                sound="present",
                num_samples=round(_SAMPLE_SECONDS * _RATE),
                padded_samples=0,
                sample_rate=_RATE,
                faces=FaceInfo(
                    policy="none", detector="none", coverage=1.0, found_by=(("given", num_frames),)
                ),
                digests=Digests(
                    mjpg=hashlib.sha256(mjpg).hexdigest(), wav=hashlib.sha256(wav).hexdigest()
                ),
            )
            writer.add(info, mjpg, wav)
    write_index(folder, writer.rows, {"config": {}, "shards": writer.shards})


def raw_files(media: Path | None) -> list[Path]:
    """The videos to compare with.

    Args:
        media: A file or a folder; None: the talking VoxCeleb-style clips of
            ``HICMAE_CLIPS_DIR`` (by default ``../shared/clips`` beside the repository), if there.

    Raises:
        FileNotFoundError: ``media`` does not exist.
        ValueError: It is a folder without mp4 files.
    """
    if media is None:
        clips = Path(os.environ.get("HICMAE_CLIPS_DIR") or _REPOSITORY.parent / "shared/clips")
        return sorted(clips.glob("talking/vox_*.mp4"))
    if not media.exists():
        raise FileNotFoundError(f"{media}: no such video or folder of videos")
    files = sorted(media.glob("*.mp4")) if media.is_dir() else [media]
    if not files:
        raise ValueError(f"{media}: no mp4 file in this folder")
    return files


def _face(rng: np.random.Generator, phase: float) -> np.ndarray:
    """A head with eyes and a moving mouth before a textured wall, uint8 RGB."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32) / _SIDE
    wall = 90 + 40 * np.sin(9 * columns + 4 * rows) + 20 * np.cos(17 * rows)
    image = np.stack([wall, wall * 0.9 + 10, wall * 0.8 + 30], axis=-1).astype(np.float32)
    centre = (80 + round(3 * np.sin(phase)), 84)
    cv2.ellipse(image, centre, (50, 66), 0, 0, 360, (205, 160, 135), -1, cv2.LINE_AA)
    for side in (-20, 20):
        eye = (centre[0] + side, 68)
        cv2.ellipse(image, eye, (9, 5), 0, 0, 360, (240, 240, 240), -1, cv2.LINE_AA)
        cv2.circle(image, eye, 4, (50, 35, 30), -1, cv2.LINE_AA)
        cv2.line(image, (eye[0] - 9, 55), (eye[0] + 9, 54), (70, 45, 30), 3, cv2.LINE_AA)
    mouth = (centre[0], 116)
    opening = 4 + round(5 * (1 + np.sin(3 * phase)))
    cv2.ellipse(image, mouth, (18, opening), 0, 0, 360, (120, 40, 50), -1, cv2.LINE_AA)
    image *= (1.15 - 0.4 * columns)[..., None]  # light from the left
    image = cv2.GaussianBlur(image, (0, 0), 0.6)  # as sharp as a video that was compressed
    grain = cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), 1.2)
    return np.clip(image + 7 * grain, 0, 255).astype(np.uint8)


def _wav(rng: np.random.Generator) -> bytes:
    """A buzz with noise, 16-bit mono."""
    times = np.arange(round(_SAMPLE_SECONDS * _RATE)) / _RATE
    voice = np.sin(2 * np.pi * 130 * times) + 0.5 * np.sin(2 * np.pi * 1040 * times)
    file = io.BytesIO()
    soundfile.write(
        file, 0.2 * voice + 0.02 * rng.normal(size=len(times)), _RATE, "PCM_16", format="WAV"
    )
    return file.getvalue()
