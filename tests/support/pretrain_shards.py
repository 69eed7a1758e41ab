"""Small shards that a network can learn from (moving colours, tones), and quick runs on them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import to_dict
from hicmae.run_logging import WandbConfig
from hicmae.settings import ModelConfig
from pretrain.run import pretrain
from pretrain.settings import DataConfig, LogConfig, OptimizerConfig
from tests.support.shard_fixtures import Sample, describe, wav_bytes, write_shards

SIDE = 32

Train = Callable[..., int]  # the fixture ``train``


def moving_sample(number: int, *, num_frames: int = 24, sound: bool = True) -> Sample:
    """A pattern of its own that slides over the frames, and a tone of its own."""
    rng = np.random.default_rng(number)
    pattern = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    picture = cv2.resize(pattern, (2 * SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    jpegs = []
    for frame in range(num_frames):
        view = np.ascontiguousarray(np.roll(picture, frame, axis=1)[:, :SIDE])
        jpegs.append(cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    time = np.arange(num_frames * 640) / 16000
    tone = np.sin(2 * np.pi * (300 + 150 * number) * time) * (0.3 + 0.2 * np.sin(9 * time))
    wav = wav_bytes((8000 * tone).astype(np.int16)) if sound else None
    return describe(f"id{number % 5:02d}/{number:05d}", jpegs, wav)


def moving_shards(folder: Path, num_samples: int = 8, *, silent: tuple[int, ...] = ()) -> Path:
    """Shards of such samples, four a shard; those numbered in ``silent`` have no sound."""
    samples = [moving_sample(number, sound=number not in silent) for number in range(num_samples)]
    return write_shards(folder, samples)


def run_pretraining(shards: Path, out: Path, sizes: ModelConfig, **changes: Any) -> int:
    """``pretrain`` with settings that make it quick; ``changes`` replace any of its arguments."""
    arguments: dict[str, Any] = {
        "data": DataConfig(shards=shards, batch_size=4, shuffle_shards=0),
        "out": out,
        "model": to_dict(sizes),
        "optimizer": OptimizerConfig(
            learning_rate=3e-3 * 64, min_learning_rate=0.0, warmup_steps=2
        ),
        "steps": 4,
        "precision": "32-true",
        "device": "cpu",
        "workers": 0,
        "log": LogConfig(log_every=2, checkpoint_every=100, pictures_every=0, progress=False),
        "wandb": WandbConfig(mode="disabled"),
    }
    return pretrain(**(arguments | changes))


def rows_of(out: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv; none where it has none yet."""
    path = out / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(found: Path, expected: Path) -> None:
    """Of two runs, bit for bit."""
    tensors = load_checkpoint(expected).tensors
    for name, tensor in load_checkpoint(found).tensors.items():
        assert torch.equal(tensor, tensors[name]), name
