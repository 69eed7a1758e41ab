"""Small labelled shards for the tests of fine-tuning.

The class of a sample can be seen (colour of the frames) and heard (pitch).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark, FoldProtocol
from finetune.record import Run
from finetune.run import finetune
from finetune.settings import (
    FinetuneConfig,
    MixingConfig,
    OptimizerConfig,
    RecipeConfig,
    TrainerConfig,
)
from hicmae.config import config_root, from_dict, load_yaml, save_yaml, to_dict
from hicmae.run_logging import WandbConfig
from hicmae.settings import AugmentConfig, ModelConfig
from shards.schema import Label
from tests.support.shard_fixtures import make_sample, wav_bytes, without_picture, write_shards

# Fine-tunes with a test's own options: see the fixture ``train`` of tests/finetune.
Train = Callable[..., Path]

CLASSES = ("low", "high")
CROSSED = ("dark-low", "dark-high", "bright-low", "bright-high")
NUM_SPEAKERS, TAKES = 4, 3

BENCHMARK = Benchmark(name="tones", task="classification", label="emotion", classes=CLASSES)
VALUES = Benchmark(name="values", task="regression", targets=("valence", "arousal"))


def labels_of(number: int) -> dict[str, Label]:
    """What sample ``number`` is: class and values follow from its number alone."""
    high = number % 2
    speaker = (number // 2) % NUM_SPEAKERS
    take = number // (2 * NUM_SPEAKERS)
    return {
        "emotion": CLASSES[high],
        "valence": (2 * high - 1) * (0.4 + 0.2 * take),
        "arousal": 0.3 * take + 0.5 * high,
        "fold": 1 + speaker % 2,
    }


def wrong_labels() -> dict[int, dict[str, Any]]:
    """Changes that give a third of the samples the other class: scores stay below 1."""
    numbers = (1, 4, 6, 11, 13, 18, 20, 23)
    return {n: {"labels": {"emotion": CLASSES[1 - n % 2]}} for n in numbers}


def write_labelled_shards(
    folder: Path,
    *,
    mute: int | None = None,
    blind: tuple[int, ...] = (),
    changes: dict[int, dict[str, Any]] | None = None,
) -> Path:
    """Shards of 4 speakers x 2 classes x 3 takes in two folds of two speakers each.

    Args:
        folder: Where.
        mute: Number of a sample that has no sound.
        blind: Numbers of those that have no picture.
        changes: Fields of single samples' descriptions, ``labels`` merged into theirs, or what
            makes their bytes their own (``comment``).
    """
    samples = []
    for number in range(2 * NUM_SPEAKERS * TAKES):
        high, speaker = number % 2, (number // 2) % NUM_SPEAKERS
        change = dict((changes or {}).get(number, {}))
        labels = labels_of(number) | change.pop("labels", {})
        fields = {"key": f"s{speaker}/{number:03d}", "speaker": f"s{speaker}", "labels": labels}
        pitch = None if number == mute else 300 + 900 * high
        sample = _sample(15 * high + number // 8, pitch, fields | change)
        samples.append(without_picture(sample) if number in blind else sample)
    return write_shards(folder, samples, samples_per_shard=10)


def _sample(colour: int, pitch: int | None, fields: dict[str, Any]) -> Any:
    """A sample of a plain colour and a tone, Hz; none: without sound."""
    # Of the bytes of a sample there are no two, unless a test asks for it.
    comment = fields.pop("comment", fields["key"])
    info, mjpg, wav = make_sample(colour, sound=pitch is not None, comment=comment)
    digest = None
    if pitch is not None:
        time = np.arange(info.num_samples) / info.sample_rate
        wav = wav_bytes(8000 * np.sin(2 * np.pi * pitch * time))
        digest = hashlib.sha256(wav).hexdigest()
    digests = dataclasses.replace(info.digests, wav=digest)
    return dataclasses.replace(info, digests=digests, **fields), mjpg, wav


def write_crossed_shards(folder: Path) -> Path:
    """Shards of 4 speakers x 4 classes x 3 takes; a class is a colour and a pitch."""
    samples = []
    for number in range(4 * NUM_SPEAKERS * TAKES):
        kind, speaker, take = number % 4, (number // 4) % NUM_SPEAKERS, number // 16
        bright, high = divmod(kind, 2)
        labels = {"emotion": CROSSED[kind], "fold": 1 + speaker % 2}
        fields = {"key": f"s{speaker}/{number:03d}", "speaker": f"s{speaker}", "labels": labels}
        samples.append(_sample(15 * bright + take, 300 + 900 * high + 20 * take, fields))
    return write_shards(folder, samples, samples_per_shard=16)


def save_benchmark(folder: Path, benchmark: Benchmark) -> str:
    """The benchmark's YAML file."""
    path = folder / f"{benchmark.name}.yaml"
    save_yaml(path, to_dict(benchmark))
    return str(path)


def run_tiny(
    folder: Path,
    shards: Path,
    sizes: ModelConfig,
    benchmark: Benchmark = BENCHMARK,
    /,
    **options: Any,
) -> Path:
    """Fine-tune a tiny network for two epochs. Returns: the run folder."""
    size_file = folder / "model.yaml"
    save_yaml(size_file, to_dict(sizes))
    out = options.pop("out", folder / "run")
    chosen: dict[str, Any] = {
        "model": str(size_file),
        "epochs": 2,
        "recipe": RecipeConfig(batch_size=4, drop_path=0.0),
        "optimizer": OptimizerConfig(warmup_epochs=0, learning_rate=0.1, layer_decay=None),
        "augment": AugmentConfig(flip=0.5),
        "precision": "32-true",
        "device": "cpu",
        "workers": 0,
        "trainer": TrainerConfig(progress=False, log_every=1),
        "wandb": WandbConfig(mode="disabled"),
    }
    finetune(
        benchmark=save_benchmark(folder, benchmark),
        shards=shards,
        out=out,
        **(chosen | options),
    )
    return out


def train_tiny(
    folder: Path,
    shards: Path,
    sizes: ModelConfig,
    benchmark: Benchmark = BENCHMARK,
    /,
    **options: Any,
) -> Path:
    """The same without the run's report, whose figures take four times as long as the training."""
    trainer = options.pop("trainer", TrainerConfig(progress=False, log_every=1))
    options["trainer"] = dataclasses.replace(trainer, report=False)
    return run_tiny(folder, shards, sizes, benchmark, **options)


def all_notes(run: Run) -> str:
    """Every sentence that a run and its folds have for the reader of their numbers."""
    return "\n".join([*run.facts.notes, *(note for fold in run.folds for note in fold.notes)])


def damage_pictures(folder: Path, rows: pd.DataFrame) -> None:
    """Write over a part of the first picture of samples of an index."""
    for row in rows.itertuples():
        with (folder / row.shard).open("r+b") as file:
            file.seek(row.mjpg_offset + 40)
            file.write(b"damaged")


def settings(**options: Any) -> FinetuneConfig:
    """Settings of a run as the verb makes them of these options."""
    given: dict[str, Any] = {"benchmark": "tones", "shards": Path("shards"), "out": Path("run")}
    return FinetuneConfig(**given | options)


def paper_settings(**options: Any) -> FinetuneConfig:
    """Settings of a run as published, of ``configs/finetune/paper_base.yaml``."""
    document = load_yaml(config_root() / "finetune/paper_base.yaml")
    parts = {
        "recipe": RecipeConfig,
        "optimizer": OptimizerConfig,
        "mixing": MixingConfig,
        "augment": AugmentConfig,
    }
    read: dict[str, Any] = {
        name: from_dict(parts[name], value, name) if name in parts else value
        for name, value in document.items()
    }
    return settings(**{"protocol": "paper", **read, **options})


def split_benchmark(**protocol: Any) -> Benchmark:
    """The classes with another protocol."""
    return dataclasses.replace(BENCHMARK, folds=FoldProtocol(**protocol))
