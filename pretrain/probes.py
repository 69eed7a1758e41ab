"""What the network has learned so far, measured on clips it is not trained on.

For: the callback that runs the encoder over held-out shards every so many steps. Not for: the
scores (``pretrain/probe_scores.py``), nor results to publish: those are fine-tuning's.

Nothing here draws at random or changes the network: a run with probes takes the same steps as one
without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytorch_lightning as pl
import torch
from torch import Tensor

from hicmae.settings import InputConfig
from pretrain.health import everyones
from pretrain.module import PretrainModule
from pretrain.probe_scores import Label, find_labels, linear_probe, retrieval
from pretrain.probe_settings import ProbeConfig
from pretrain.settings import DataConfig
from shards.index import Index, read_index
from shards.random_access import ShardDataset
from shards.sample import collate

_LEAST_CLIPS = 2


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """The clips of the probes.

    Attributes:
        datasets: One of each folder; the middle of each sample.
        labels: What is predicted.
        num_clips: Of all datasets.
    """

    datasets: tuple[ShardDataset, ...]
    labels: tuple[Label, ...]

    @property
    def num_clips(self) -> int:
        """Clips of all datasets."""
        return sum(len(dataset) for dataset in self.datasets)

    def clip(self, number: int) -> dict[str, Any]:
        """One clip. Raises ClipError: it cannot be read."""
        for dataset in self.datasets:
            if number < len(dataset):
                item = dataset[number]
                assert isinstance(item, dict)
                return item
            number -= len(dataset)
        raise IndexError(number)


def probe_data(config: ProbeConfig, data: DataConfig, input: InputConfig) -> ProbeData | None:
    """Choose the clips of the probes: spread evenly over the samples with sound, in key order.

    Returns: None where the recipe has no probes.
    Raises:
        FileNotFoundError: No such folder.
        ValueError: Clips that are trained on, nothing to probe, or a label that is not there.
    """
    if not config.every or config.shards is None:
        return None
    indexes = [read_index(folder) for folder in config.folders]
    tables = [_usable(index, config) for index in indexes]
    _refuse_training_clips(config, data, tables)
    counts = [len(table) for table in tables]
    if sum(counts) < _LEAST_CLIPS:
        raise ValueError(
            f"probe.shards: {sum(counts)} samples of split {config.split!r} with sound in "
            f"{', '.join(map(str, config.folders))} (needed: {_LEAST_CLIPS} or more)"
        )
    chosen = np.linspace(0, sum(counts) - 1, min(config.clips, sum(counts))).round().astype(int)
    datasets, rows, first = [], [], 0
    for index, table in zip(indexes, tables, strict=True):
        inside = chosen[(chosen >= first) & (chosen < first + len(table))] - first
        first += len(table)
        if len(inside):
            taken = table.iloc[inside]
            datasets.append(ShardDataset(index, input=input, rows=taken, views=1))
            rows.append(taken[["speaker", *index.label_columns]])
    table = pandas.concat(rows, ignore_index=True)
    probed = table.drop(columns="speaker") if config.labels is None else table
    columns = list(probed.columns) if config.labels is None else list(config.labels)
    labels = find_labels(table, None if config.labels is None else columns)
    labels = [label for label in labels if label.name in columns]
    return ProbeData(datasets=tuple(datasets), labels=tuple(labels))


class Probes(pl.Callback):
    """Measures every so often and hands the numbers to the meter's next row.

    ``probe_video_to_audio_recall1`` and so on, from the mean tokens of the encoders' last layer;
    ``probe_<label>_uar_both``, ``_video``, ``_audio`` (or ``_ccc_…``), from the mean fused tokens,
    or those of one modality's last layer; beside each its chance level. Every process encodes its
    share of the clips, unmasked; the first one scores.

    Args:
        data: The clips.
        config: How often, and how many at once.
        note: Takes the numbers.
    """

    def __init__(
        self, data: ProbeData, config: ProbeConfig, *, note: Callable[[Mapping[str, float]], None]
    ) -> None:
        self.data = data
        self.config = config
        self.note = note
        self._probed_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has probed this step already."""
        self._probed_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Probe when it is time."""
        step = trainer.global_step
        if step == self._probed_step or (step % self.config.every and step != trainer.max_steps):
            return
        self._probed_step = step
        assert isinstance(pl_module, PretrainModule)
        features = self.features(trainer, pl_module)
        if trainer.is_global_zero:
            self.note(self.scores(features))

    def scores(self, features: Mapping[str, np.ndarray]) -> dict[str, float]:
        """All probes of features (N, D) by name: ``video``, ``audio`` and ``both``."""
        found = retrieval(features["video"], features["audio"])
        for label in self.data.labels:
            for name, values in features.items():
                for metric, value in linear_probe(values, label).items():
                    chance = metric.startswith("chance")
                    found[f"{label.name}_{metric}" + ("" if chance else f"_{name}")] = value
        return {f"probe_{name}": value for name, value in found.items()}

    @torch.no_grad()
    def features(self, trainer: pl.Trainer, module: PretrainModule) -> dict[str, np.ndarray]:
        """Pooled features of all clips (N, D), on every process."""
        was_training = module.training
        module.eval()
        devices = [module.device] if module.device.type == "cuda" else []
        parts: list[Tensor] = []
        try:
            with torch.random.fork_rng(devices), trainer.precision_plugin.forward_context():
                for batch in self._batches(trainer.global_rank, trainer.world_size):
                    video, fbank = module.transform(
                        {name: value.to(module.device) for name, value in batch.items()}
                    )
                    encoded = module.model.encoder(video, fbank)
                    pooled = [
                        tokens.float().mean(dim=1)
                        for tokens in (
                            encoded.video.last,
                            encoded.audio.last,
                            encoded.video.fused,
                            encoded.audio.fused,
                        )
                    ]
                    parts.append(torch.stack(pooled))  # (4, B, D)
        finally:
            module.train(was_training)
        # Process r has clips r, r + world, …: interleave, and drop what fills the last batch.
        gathered = everyones(torch.cat(parts, dim=1)).cpu().numpy()
        order = np.arange(gathered.shape[1]).reshape(trainer.world_size, -1).T.reshape(-1)
        video, audio, *fused = gathered[:, order[: self.data.num_clips]]
        return {"both": np.concatenate(fused, axis=1), "video": video, "audio": audio}

    def _batches(self, rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
        """Equally many full batches for every process; the last clip is repeated to fill them."""
        share = math.ceil(self.data.num_clips / world_size)
        size = self.config.batch_size
        for first in range(0, share, size):
            places = range(first, min(first + size, share))
            numbers = [min(place * world_size + rank, self.data.num_clips - 1) for place in places]
            batch = collate([self.data.clip(number) for number in numbers])
            yield {name: batch[name] for name in ("frames", "waveform", "num_samples")}


def _usable(index: Index, config: ProbeConfig) -> pandas.DataFrame:
    """The rows that can be probed, in key order."""
    table = index.table
    if config.split != "all":
        table = table[table["split"] == config.split]
    return table[table["sound_state"] != "absent"].sort_values("key")


def _refuse_training_clips(
    config: ProbeConfig, data: DataConfig, tables: list[pandas.DataFrame]
) -> None:
    """Raise ValueError where the clips are trained on."""
    trained = {folder.resolve() for folder in data.folders if isinstance(folder, Path)}
    for folder, table in zip(config.folders, tables, strict=True):
        splits = set(table["split"])
        if folder.resolve() in trained and (data.split == "all" or data.split in splits):
            raise ValueError(
                f"probe.shards: {folder} split {config.split!r} is trained on (data.shards, split "
                f"{data.split!r}); choose another with --probe.split, or other shards"
            )
