"""Features of some test samples before and after training, kept so that they can be drawn.

From ``fold-<name>/features.npz`` a report draws what fine-tuning changed, without the shards or
the network.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from finetune.data import Loader
from hicmae.emotion import by_presence
from hicmae.files import whole_file

FEATURES = "features.npz"
_BEFORE = "features-before.npz"
# Enough points for a picture; 4 MB a side at the width of the base model.
MAX_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class KeptFeatures:
    """Pooled features of the same samples with the first and with the tested weights.

    Args:
        keys: Of the samples (N,).
        before: (N, W) with the weights that training started from.
        after: (N, W) with those that were tested.
    """

    keys: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray


class FeatureKeeper(pl.Callback):
    """Takes the pooled features of the middle view of samples at the start of training and again
    before the test; what it looks at moves no random draw of the training.

    Args:
        loader: One view of each sample, in order.
        keys: Of the samples of the loader.
        folder: Where the first features lie until the last are there, so that a training that is
            killed and goes on still has them.
    """

    def __init__(self, loader: Loader, keys: list[str], folder: Path) -> None:
        self.loader = loader
        self.keys = keys
        self._first = folder / _BEFORE
        self._after: np.ndarray | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Features of the first weights; of a training that goes on they lie there already."""
        if trainer.is_global_zero and trainer.global_step == 0:
            _write_array(self._first, before=self._features(trainer, pl_module))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Features of the weights that are tested."""
        if trainer.is_global_zero:
            self._after = self._features(trainer, pl_module)

    def write(self, folder: Path) -> None:
        """Write ``features.npz``, whole or not at all; nothing without the first features."""
        if self._after is None or not self._first.is_file():
            return
        with np.load(self._first) as file:
            before = file["before"]
        keys = np.array(self.keys, dtype=np.str_)
        _write_array(folder / FEATURES, keys=keys, before=before, after=self._after)
        self._first.unlink()

    @torch.no_grad()
    def _features(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> np.ndarray:
        """(N, W) float16."""
        was_training = pl_module.training
        pl_module.eval()
        found = []
        with trainer.precision_plugin.forward_context():
            for batch in self.loader:
                seen, heard = batch.get("seen"), batch.get("heard")
                moved = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
                ready = pl_module.on_after_batch_transfer(moved, 0)
                ask: Any = pl_module.model.features  # type: ignore[union-attr]
                features = by_presence(ask, ready["video"], ready["fbank"], seen, heard)
                found.append(features.float().cpu().numpy().astype(np.float16))
        pl_module.train(was_training)
        return np.concatenate(found)


def choose_samples(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows whose features are kept: all, or ``MAX_SAMPLES`` drawn evenly, in their order."""
    if len(rows) <= MAX_SAMPLES:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), MAX_SAMPLES, replace=False)
    return rows.iloc[np.sort(chosen)]


def read_features(folder: Path) -> KeptFeatures | None:
    """Read the features of a fold; nothing where none were kept (early versions).

    Raises: ValueError: a damaged file.
    """
    path = folder / FEATURES
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            features = KeptFeatures(
                keys=tuple(map(str, file["keys"])),
                before=file["before"].astype(np.float32),
                after=file["after"].astype(np.float32),
            )
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, or run the fold again") from error
    if not len(features.keys) == len(features.before) == len(features.after):
        raise ValueError(f"{path}: damaged (its parts differ in length); delete it")
    return features


def _write_array(path: Path, **arrays: np.ndarray) -> None:
    with whole_file(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
