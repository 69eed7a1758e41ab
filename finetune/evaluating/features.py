"""Pooled features of samples, as the head of a fine-tuned network reads them.

For: pictures and probes of what fine-tuning did to the features. Not for: writing features to
files (``embedding.py``).

Shape letters: N samples, D width of the features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from finetune.data import check_sound
from finetune.evaluating.machine import MachineConfig, Running
from hicmae.checkpoint import Checkpoint, load_encoder
from hicmae.checkpoints.networks import build_network
from hicmae.emotion import EmotionConfig, EmotionModel
from shards.index import Index
from shards.random_access import ShardDataset

_MACHINE = MachineConfig()


def pooled_features(
    model: EmotionModel, loader: DataLoader[Any], machine: MachineConfig = _MACHINE
) -> np.ndarray:
    """Features of a network after pooling and the head's norm, averaged over a sample's views.

    Args:
        model: The network.
        loader: Batches with ``sample``, numbered from 0 without gaps, such as those of
            ``finetune.data.test_loader``; each sample in any number of views.
        machine: On what; its batch size and workers are the loader's own affair.

    Returns: (N, D) float32, in the order of the loader's sample numbers.
    """
    running = Running(model, model.config.input, model.emotion.modalities, machine)
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    with torch.no_grad():
        for batch, video, fbank in running.batches(loader):
            with running.autocast():
                found = model.features(video, fbank).float().cpu().numpy()  # (B, D)
            for sample, row in zip(batch["sample"].tolist(), found, strict=True):
                sums[sample] = sums.get(sample, 0.0) + row.astype(np.float64)
                counts[sample] = counts.get(sample, 0) + 1
    assert sorted(sums) == list(range(len(sums))), "samples are not numbered without gaps"
    return np.stack([sums[n] / counts[n] for n in range(len(sums))]).astype(np.float32)


def features_of_rows(
    checkpoint: Checkpoint,
    index: Index,
    rows: pd.DataFrame,
    *,
    emotion: EmotionConfig | None = None,
    segments: int = 1,
    machine: MachineConfig = _MACHINE,
) -> np.ndarray:
    """Pooled features of samples from a checkpoint of either kind.

    Before fine-tuning there is no head; the features are then those that the head would read at
    its first step: all layers weighted alike.

    Args:
        checkpoint: Pretrained (features before) or fine-tuned (features after).
        index: Of the shards.
        rows: Of it, N of them.
        emotion: Of a pretrained checkpoint: which modalities and layers are pooled; give that of
            the fine-tuned one to compare the two. None given: both modalities, all layers.
        segments: Views of a sample, averaged.
        machine: On what.

    Returns: (N, D) float32, in the order of the rows.
    Raises: ValueError: a sample without sound where the network listens.
    """
    model = feature_network(checkpoint, emotion)
    modalities = model.emotion.modalities
    check_sound(rows, modalities=modalities)
    dataset = ShardDataset(
        index,
        input=model.config.input,
        rows=rows,
        views=segments,
        require_sound="audio" in modalities.split("-"),
    )
    return pooled_features(model, machine.loader(dataset), machine)


def feature_network(checkpoint: Checkpoint, emotion: EmotionConfig | None = None) -> EmotionModel:
    """A network whose ``features`` are those of a checkpoint of either kind.

    Args:
        checkpoint: Pretrained or fine-tuned.
        emotion: As in ``features_of_rows``; ignored for a fine-tuned one, which has its own.
    """
    if checkpoint.kind == "emotion":
        network = build_network(checkpoint)
        assert isinstance(network, EmotionModel)
        return network
    network = EmotionModel(checkpoint.model_config(), emotion or EmotionConfig(num_outputs=1))
    load_encoder(network.encoder, checkpoint)
    return network.eval()
