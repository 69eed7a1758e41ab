"""What clips are read for pretraining, and how: the settings of ``streaming.ClipStream``."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hicmae.settings import outside, raise_all
from shards.reading.remote import CacheConfig, as_remote
from shards.schema import needed_members


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the clips come from and how they are read.

    Args:
        shards: Folders of shards, as ``hicmae shards build`` makes them: one, or a list. Each is a
            path, an fsspec URL (s3://…, https://…), or ``pipe:`` and a command with ``{}`` for the
            name of a file.
        split: Split to train on, or ``all``.
        batch_size: Clips that one process handles at once (before accumulation).
        shuffle_shards: Shards that are drawn from at once; null: from all on this machine, an
            epoch being a permutation, and of shards elsewhere from as many as the cache has room
            for. 0 leaves samples in the order of their shard.
        weights: One number for each folder: their samples then alternate in this proportion;
            null: the folders are one collection.
        clips_per_sample: Clips cut out of each sample, one after another in a batch.
        modalities: What is trained on: ``audio-video``, or ``video`` or ``audio`` alone: a masked
            autoencoder of the picture or of the sound, for which a sample without it is bad.
        picture: ``required``: a sample without a picture is bad; ``optional``: it adds the losses
            of its sound. Contrast is between clips that have both.
        sound: The same of the sound.
        on_bad: What a bad sample or shard does: ``raise`` stops with its name, ``skip`` leaves it
            out, counted by cause; a black, silent clip that no loss counts takes its place.
        max_bad: With ``skip``, how many bad samples a run bears before it stops, saved: below 1 a
            share of the samples so far (of 200 at least), from 1 on a count. Samples that the
            index knows to lack picture or sound are no part of it.
        cache: Where shards are kept that are not on this machine.
    """

    # The tuple first: a list on the command line would do for a string too.
    shards: tuple[str, ...] | str
    split: str = "train"
    batch_size: int = 8
    shuffle_shards: int | None = None
    weights: tuple[float, ...] | None = None
    clips_per_sample: int = 1
    modalities: Literal["audio-video", "video", "audio"] = "audio-video"
    picture: Literal["required", "optional"] = "required"
    sound: Literal["required", "optional"] = "required"
    on_bad: Literal["raise", "skip"] = "raise"
    max_bad: float = 0.05
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        problems = [] if self.folders else ["shards is empty (name one folder or more)"]
        twice = [name for name, times in Counter(map(str, self.folders)).items() if times > 1]
        problems += [f"shards names {name} twice (weights draw more of one)" for name in twice]
        if self.weights is not None and len(self.weights) != len(self.folders):
            named = "; ".join(map(str, self.folders))
            problems.append(
                f"weights = {list(self.weights)} (must be one for each folder of shards: {named})"
            )
        bounds = {"1 or more": "batch_size clips_per_sample"}
        bounds |= {"0 or more": "max_bad shuffle_shards"}
        problems += outside(self, bounds)
        if self.clips_per_sample > 1 and self.batch_size % self.clips_per_sample:
            problems.append(
                f"clips_per_sample = {self.clips_per_sample} (must divide batch_size = "
                f"{self.batch_size})"
            )
        if not all(weight > 0 and math.isfinite(weight) for weight in self.weights or ()):
            problems.append(f"weights = {self.weights} (each must be positive)")
        raise_all("data", problems)

    @property
    def folders(self) -> tuple[Path | str, ...]:
        """The folders of shards; text where one is not on this machine."""
        named = (self.shards,) if isinstance(self.shards, str | Path) else self.shards
        return tuple(name if as_remote(name) else Path(name) for name in named)

    @property
    def needed(self) -> dict[str, str]:
        """Members of a shard without which a sample is bad, each with its remedy."""
        picture, sound = self.picture == "required", self.sound == "required"
        return needed_members(self.modalities, picture=picture, sound=sound)
