"""Checkpoints of random weights that carry what a fine-tuned one does, and talking squares whose
boxes are known.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.settings import ModelConfig
from shards.settings import BuildConfig
from tests.support.media_files import write_recording

CLASSES = ("low", "middle", "high")
FPS = 25


def write_checkpoint(
    folder: Path,
    sizes: ModelConfig,
    *,
    build: BuildConfig | None = None,
    modalities: Any = "audio-video",
    names: Sequence[str] = CLASSES,
    seed: int = 0,
    **carried: Any,
) -> Path:
    """A fine-tuned checkpoint of random weights whose outputs differ from clip to clip."""
    torch.manual_seed(seed)
    network = EmotionModel(sizes, EmotionConfig(num_outputs=len(names), modalities=modalities))
    torch.nn.init.normal_(network.head.weight, std=0.5)
    network.carried = {"labels": {"task": "classification", "names": list(names)}} | carried
    if build is not None:
        network.carried |= {"data": {"build": build.recorded()}}
    network.save_pretrained(folder)
    return folder


def real_values(*names: str, mean: float = 0.0, std: float = 1.0) -> dict[str, Any]:
    """The labels of a regression, with the same scale for each."""
    count = len(names)
    return {"task": "regression", "names": names, "mean": [mean] * count, "std": [std] * count}


def moving_frames(count: int, *, faces: Sequence[int] = (60,), side: int = 40) -> np.ndarray:
    """Frames (count, 96, 192, 3) with a textured square that moves around each of the columns."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (side // 4, side // 4, 3)).repeat(4, 0).repeat(4, 1)
    frames = np.full((count, 96, 192, 3), 90, dtype=np.uint8)
    for number in range(count):
        for face in faces:
            x, y = corner(number, face)
            frames[number, y : y + side, x : x + side] = texture
            frames[number, y + 28 : y + 30 + number % 8, x + 10 : x + 30] = 20
    return frames


def corner(number: int, face: int) -> tuple[int, int]:
    """Upper left corner of a square in a frame."""
    return face - 20 + round(10 * np.sin(number / 9)), 25 + round(8 * np.cos(number / 13))


def write_boxes(
    path: Path, spans: Mapping[str, tuple[int, int, int]], *, side: int = 40, every: int = 5
) -> Path:
    """A CSV of boxes: of each name, its column and the first and last frame it is seen in."""
    rows = ["frame,track,x0,y0,x1,y1"]
    for name, (face, first, last) in spans.items():
        for number in sorted({*range(first, last, every), last}):
            x, y = corner(number, face)
            rows.append(f"{number},{name},{x},{y},{x + side},{y + side}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def talk(seconds: float, rate: int = 48000) -> np.ndarray:
    """A tone that rises, in -1..1 (n,)."""
    clock = np.arange(round(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * (200 + 150 * clock) * clock) * (0.6 + 0.4 * np.sin(9 * clock))


def write_talking(
    path: Path, seconds: float = 3.0, *, sound: bool = True, faces: Sequence[int] = (60,)
) -> Path:
    """A video of talking squares, with their boxes in a CSV beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_talking(path.suffix, seconds, sound, tuple(faces)))
    last = round(seconds * FPS) - 1
    spans = {f"f{number}": (face, 0, last) for number, face in enumerate(faces)}
    write_boxes(path.with_suffix(".csv"), spans)
    return path


@functools.cache
def _talking(suffix: str, seconds: float, sound: bool, faces: tuple[int, ...]) -> bytes:
    """The bytes of a recording, encoded once."""
    count = round(seconds * FPS)
    with tempfile.TemporaryDirectory() as folder:
        path = write_recording(
            Path(folder, f"a{suffix}"),
            moving_frames(count, faces=faces),
            np.arange(count) / FPS,
            sound=talk(seconds) if sound else None,
        )
        return path.read_bytes()
