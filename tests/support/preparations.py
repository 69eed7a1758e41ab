"""Folders of shards that differ in one known thing (moving pictures, noise), for receipts."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shards.schema import FaceInfo, Label, SampleInfo, SourceFile
from tests.support.shard_fixtures import Sample, describe, wav_bytes, write_shards

FPS = 25.0
RATE = 16000
CONFIG: dict[str, Any] = {"face_size": 32, "fps": 25.0, "jpeg_quality": 90, "min_coverage": 0.1}


def moving_sample(
    number: int,
    *,
    num_frames: int = 40,
    side: int = 32,
    quality: int = 90,
    picture_later: int = 0,
    sound_later: int = 0,
    sound: bool = True,
    zoom: float = 1.0,
    coverage: float = 1.0,
    face_pixels: float | None = 100.0,
    labels: dict[str, Label] | None = None,
) -> Sample:
    """A sample of a blob that jumps at random times, with noise for sound.

    Args:
        number: Everything that is random follows from it.
        num_frames: Its length.
        side: Of the images, pixels.
        quality: Of the JPEGs.
        picture_later: Frames by which everything in the picture happens later.
        sound_later: Samples by which everything in the sound happens later.
        sound: Whether there is any.
        zoom: How much of the surroundings is cut off.
        coverage: Said of the face; the middle third was not found if it is less than 1.
        face_pixels: Likewise.
        labels: Of the manifest.
    """
    random = np.random.default_rng(number)
    reach = 50
    jumps = random.random(num_frames + 2 * reach) < 0.3
    places = np.cumsum(jumps[:, None] * random.uniform(-5, 5, (len(jumps), 2)), axis=0)
    noise = random.normal(0, 2000, round((num_frames + 2 * reach) / FPS * RATE))
    jpegs = []
    for frame in range(num_frames):
        x, y = 32 + 20 * np.tanh(places[reach + frame - picture_later] / 20)
        image = np.full((64, 64, 3), (40, 90, 60 + 5 * (number % 20)), dtype=np.uint8)
        cv2.circle(image, (round(float(x)), round(float(y))), 9, (200, 220, 240), -1, cv2.LINE_AA)
        edge = round(32 * (1 - 1 / zoom))
        cut = image[edge : 64 - edge, edge : 64 - edge]
        image = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
        jpegs.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    num_samples = round(num_frames / FPS * RATE) if sound else 0
    start = round(reach / FPS * RATE) - sound_later
    third = num_frames // 3
    found_by = [("detected", num_frames)]
    if coverage < 1:
        found_by = [("detected", third), ("missing", third), ("detected", num_frames - 2 * third)]
    return describe(
        f"id{number % 3:02d}/{number:05d}",
        jpegs,
        wav_bytes(noise[start : start + num_samples].astype(np.int16)) if sound else None,
        source=SourceFile(path=f"in/{number}.mp4", sha256=f"{number:064x}", bytes=1),
        face_size=side,
        loudness_db=-24.3 if sound else None,
        faces=FaceInfo(
            policy="largest" if face_pixels else "none",
            detector="yunet" if face_pixels else "none",
            coverage=coverage,
            found_by=tuple(found_by),
            face_pixels=face_pixels,
        ),
        labels=labels if labels is not None else {"emotion": ("joy", "fear")[number % 2]},
    )


def write_preparation(
    folder: Path,
    samples: Sequence[Sample],
    *,
    config: dict[str, Any] | None = None,
    refused: Sequence[tuple[str, str]] = (),
    samples_per_shard: int = 4,
) -> Path:
    """Write shards, their index and the list of refused recordings (path, cause)."""
    causes = Counter(sorted(cause for _, cause in refused))
    write_shards(
        folder, samples, samples_per_shard, config=CONFIG | (config or {}), refused=dict(causes)
    )
    lines = [
        json.dumps({"path": path, "cause": cause, "message": f"{path}: {cause}"})
        for path, cause in refused
    ]
    (folder / "refused.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def changed(sample: Sample, change: Callable[[SampleInfo], dict[str, Any]]) -> Sample:
    """A sample whose description has other values; its members are the same."""
    info, mjpg, wav = sample
    return dataclasses.replace(info, **change(info)), mjpg, wav
