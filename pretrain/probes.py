"""What the network has learned so far, measured on clips it is not trained on.

Retrieval across modalities and linear probes of the labels, from frozen features, each beside its
chance level; results to publish are fine-tuning's. Nothing here draws at random or changes the
network: a run with probes takes the same steps as one without.

Shape letters: N clips, B a batch of them, D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas
import pytorch_lightning as pl
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import ConcatDataset

from hicmae.metrics import classification_metrics, regression_metrics
from hicmae.objective.losses import all_rows
from hicmae.settings import InputConfig
from pretrain.module import PretrainModule, StepCallback
from pretrain.settings import ProbeConfig
from shards.index import Index, read_index
from shards.reading.random_access import ShardDataset
from shards.reading.settings import DataConfig
from shards.sample import collate
from shards.schema import needed_members

RANKS = (1, 5, 10)
_FOLDS = 4
_MOST_CLASSES = 50
_LEAST_OF_A_CLASS = 4
_LEAST_OF_A_LABEL = 16  # clips with a value
_LEAST_CLIPS = 2


@dataclass(frozen=True, kw_only=True)
class Label:
    """A column of the shards that can be probed."""

    name: str
    kind: Literal["classes", "numbers"]
    rows: np.ndarray  # (N',) positions of the clips that have a value
    values: np.ndarray  # (N',) class numbers (int64), or numbers (float64)
    num_classes: int  # 0 of numbers
    speakers: np.ndarray | None  # (N',) numbers; None: not known of all, fewer than two, the label


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """The clips of the probes."""

    clips: ConcatDataset[Any]  # of each folder; the middle of each sample
    labels: tuple[Label, ...]

    @property
    def num_clips(self) -> int:
        return len(self.clips)


def probe_data(config: ProbeConfig, data: DataConfig, input: InputConfig) -> ProbeData | None:
    """Choose the clips of the probes: spread evenly over the samples with all that is trained on,
    in key order.

    Returns: None where the recipe has no probes.
    Raises:
        FileNotFoundError: No such folder.
        ValueError: Clips that are trained on, nothing to probe, or a label that is not there.
    """
    if not config.every or config.shards is None:
        return None
    indexes = [read_index(folder) for folder in config.folders]
    tables = [_usable(index, config, data.modalities) for index in indexes]
    _refuse_training_clips(config, data, tables)
    counts = [len(table) for table in tables]
    if sum(counts) < _LEAST_CLIPS:
        raise ValueError(
            f"probe.shards: {sum(counts)} samples of split {config.split!r} with "
            f"{data.modalities.replace('audio-video', 'sound and picture')} in "
            f"{', '.join(map(str, config.folders))} (needed: {_LEAST_CLIPS} or more)"
        )
    chosen = np.linspace(0, sum(counts) - 1, min(config.clips, sum(counts))).round().astype(int)
    datasets, rows, first = [], [], 0
    for index, table in zip(indexes, tables, strict=True):
        inside = chosen[(chosen >= first) & (chosen < first + len(table))] - first
        first += len(table)
        if len(inside):
            taken = table.iloc[inside]
            datasets.append(
                ShardDataset(index, input=input, rows=taken, views=1, modalities=data.modalities)
            )
            rows.append(taken[["speaker", *index.label_columns]])
    table = pandas.concat(rows, ignore_index=True)
    labels = tuple(find_labels(table, config.labels))
    return ProbeData(clips=ConcatDataset(datasets), labels=labels)


class Probes(StepCallback):
    """Measures every so often and hands the numbers to the meter's next row.

    ``probe_video_to_audio_recall1`` and so on, from the mean tokens of the encoders' last layer;
    ``probe_<label>_uar_both``, ``_video``, ``_audio`` (or ``_ccc_…``), from the mean fused tokens,
    or those of one modality's last layer; beside each its chance level. Every process encodes its
    share of the clips, unmasked; the first one scores.
    """

    def __init__(
        self, data: ProbeData, config: ProbeConfig, *, note: Callable[[Mapping[str, float]], None]
    ) -> None:
        self.data = data
        self.config = config
        self.note = note
        self.every = config.every

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Also after the last step."""
        return super().is_due(trainer) or trainer.global_step == trainer.max_steps

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Any) -> None:
        """Probe: all processes encode, the first one scores."""
        features = self.features(trainer, module)
        if trainer.is_global_zero:
            self.note(self.scores(features))

    def scores(self, features: Mapping[str, np.ndarray]) -> dict[str, float]:
        """All probes of features (N, D) by name: ``video``, ``audio`` and ``both``, or the one."""
        found = retrieval(features["video"], features["audio"]) if "both" in features else {}
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
                    there = [part for part in (encoded.video, encoded.audio) if part is not None]
                    tokens = [part.last for part in there] + [part.fused for part in there]
                    pooled = [part.float().mean(dim=1) for part in tokens]
                    parts.append(torch.stack(pooled, dim=1))  # (B, 4, D), or (B, 2, D) of one
        finally:
            module.train(was_training)
        # Process r has clips r, r + world, …: interleave, and drop what fills the last batch.
        gathered = all_rows(torch.cat(parts)).transpose(0, 1).cpu().numpy()
        order = np.arange(gathered.shape[1]).reshape(trainer.world_size, -1).T.reshape(-1)
        found = gathered[:, order[: self.data.num_clips]]
        if len(found) == 2:  # of one modality alone
            return {module.model.modalities: found[0]}
        video, audio, *fused = found
        return {"both": np.concatenate(fused, axis=1), "video": video, "audio": audio}

    def _batches(self, rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
        """Equally many full batches for every process; the last clip is repeated to fill them."""
        share = math.ceil(self.data.num_clips / world_size)
        size = self.config.batch_size
        for first in range(0, share, size):
            places = range(first, min(first + size, share))
            numbers = [min(place * world_size + rank, self.data.num_clips - 1) for place in places]
            batch = collate([self.data.clips[number] for number in numbers])
            tensors = ("frames", "waveform", "num_samples")
            yield {name: batch[name] for name in tensors if name in batch}


def retrieval(video: np.ndarray, audio: np.ndarray) -> dict[str, float]:
    """How often a clip's own partner is among the k nearest of all clips, by cosine similarity.

    Clips that are exactly as near as the partner count as nearer by half their number, so that
    features that are all alike score chance and not everything.

    Args:
        video: (N, D) pooled features of the picture.
        audio: (N, D) of the sound of the same clips.

    Returns: ``video_to_audio_recall1``, …, ``audio_to_video_recall10``, not-a-number where a
        feature is none, and ``chance_recall1``, …
    """
    with np.errstate(invalid="ignore"):
        left, right = (
            values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
            for values in (video.astype(np.float64), audio.astype(np.float64))
        )
    similar = np.round(left @ right.T, 9)  # (N, N); rounding makes ties of what is one
    own = np.diag(similar)
    scores: dict[str, float] = {}
    for name, table in (("video_to_audio", similar), ("audio_to_video", similar.T)):
        nearer = (table > own[:, None]).sum(axis=1)
        equal = (table == own[:, None]).sum(axis=1)  # the partner among them
        equal = np.where(np.isnan(own), np.nan, equal)
        for rank in RANKS:
            # The partner is equally likely at each place among its equals.
            hit = np.clip((rank - nearer) / equal, 0, 1)
            scores[f"{name}_recall{rank}"] = float(hit.mean())
    count = len(video)
    return scores | {f"chance_recall{rank}": min(1.0, rank / count) for rank in RANKS}


def find_labels(table: pandas.DataFrame, columns: Sequence[str] | None) -> list[Label]:
    """The columns of an index that can be probed.

    Args:
        table: One row a clip, with its labels and ``speaker``.
        columns: Those to probe; none given: all that look like labels, which are texts, truth
            values and whole numbers of 2 to 50 different values, each at least four times, and
            numbers that differ and have a fraction, of 16 clips or more. ``speaker`` is no label
            then, nor is a name that begins with ``fold``.

    Raises: ValueError: a named column is absent or cannot be probed.
    """
    named = columns is not None
    if columns is None:
        columns = [n for n in map(str, table) if n != "speaker" and not n.startswith("fold")]
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise ValueError(
            f"probe.labels: no column {', '.join(map(repr, absent))} in the shards (found "
            f"{', '.join(map(str, table.columns))})"
        )
    labels = [_label(table, name) for name in columns]
    missing = [name for name, label in zip(columns, labels, strict=True) if label is None]
    if named and missing:
        raise ValueError(
            f"probe.labels: {', '.join(map(repr, missing))} cannot be probed (needed: numbers that "
            f"differ, or 2 to {_MOST_CLASSES} classes of {_LEAST_OF_A_CLASS} clips or more; at "
            f"least {_LEAST_OF_A_LABEL} clips with a value); leave it out, or raise probe.clips"
        )
    return [label for label in labels if label is not None]


def linear_probe(features: np.ndarray, label: Label) -> dict[str, float]:
    """Predict a label from frozen features, cross-validated, and score all predictions at once.

    Folds keep speakers apart where they are known, unless it is they who are predicted. Logistic
    regression and unweighted average recall for classes, ridge regression and the concordance
    correlation for numbers.

    Args: features: (N, D) of all clips.
    Returns: ``uar`` and ``chance_uar``, or ``ccc`` and ``chance_ccc``; the former not-a-number
        where a feature is none.
    """
    inputs, values = features[label.rows].astype(np.float64), label.values
    classes = label.kind == "classes"
    name, chance = ("uar", 1 / len(np.unique(values))) if classes else ("ccc", 0.0)
    if not np.isfinite(inputs).all():
        return {name: math.nan, f"chance_{name}": chance}
    predicted = np.empty(len(values), dtype=values.dtype)
    for train, test in _folds(label):
        if classes and len(np.unique(values[train])) < 2:
            predicted[test] = values[train][0]
            continue
        model = make_pipeline(StandardScaler(), _estimator(label))
        with warnings.catch_warnings():
            # A probe that has not quite converged says as much about the features.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs[train], values[train])
        predicted[test] = model.predict(inputs[test])
    if classes:
        score = classification_metrics(values, predicted, label.num_classes)["uar"]
    else:
        score = regression_metrics(values, predicted)["ccc"][0]
    return {name: score, f"chance_{name}": chance}


def _usable(index: Index, config: ProbeConfig, modalities: str) -> pandas.DataFrame:
    """The rows that can be probed, in key order."""
    table = index.table
    if config.split != "all":
        table = table[table["split"] == config.split]
    for member in needed_members(modalities, picture=True, sound=True):
        table = table[table[f"{member}_length"] > 0]
    return table.sort_values("key")


def _refuse_training_clips(
    config: ProbeConfig, data: DataConfig, tables: list[pandas.DataFrame]
) -> None:
    trained = {folder.resolve() for folder in data.folders if isinstance(folder, Path)}
    for folder, table in zip(config.folders, tables, strict=True):
        splits = set(table["split"])
        if folder.resolve() in trained and (data.split == "all" or data.split in splits):
            raise ValueError(
                f"probe.shards: {folder} split {config.split!r} is trained on (data.shards, split "
                f"{data.split!r}); choose another with --probe.split, or other shards"
            )


def _estimator(label: Label) -> LogisticRegression | RidgeCV:
    if label.kind == "classes":
        return LogisticRegression(C=0.1, max_iter=200, class_weight="balanced")
    return RidgeCV(alphas=np.logspace(0, 4, 5))


def _folds(label: Label) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test positions; the same ones every time."""
    values, speakers = label.values, label.speakers
    if speakers is not None:
        number = min(_FOLDS, len(np.unique(speakers)))
        return list(GroupKFold(number).split(values, groups=speakers))
    if label.kind == "classes":
        number = min(_FOLDS, int(np.bincount(values, minlength=label.num_classes).min()))
        folds = StratifiedKFold(max(2, number), shuffle=True, random_state=0)
        return list(folds.split(np.zeros(len(values)), values))
    return list(KFold(_FOLDS, shuffle=True, random_state=0).split(values))


def _label(table: pandas.DataFrame, name: str) -> Label | None:
    """A column as a label, or None where it is not one."""
    column = table[name]
    rows = np.flatnonzero(column.notna().to_numpy())
    if len(rows) < _LEAST_OF_A_LABEL:
        return None
    found = column.iloc[rows]
    # Who speaks cannot be told of speakers that no fold is trained on.
    apart = "speaker" in table.columns and name != "speaker"
    speakers = table["speaker"].iloc[rows] if apart else None
    groups = None
    if speakers is not None and speakers.notna().all() and speakers.nunique() > 1:
        groups = pandas.factorize(speakers, sort=True)[0]
    numeric = pandas.api.types.is_numeric_dtype(found) and not pandas.api.types.is_bool_dtype(found)
    if numeric and bool((found != found.round()).any()):
        values = found.to_numpy(dtype=np.float64, copy=True)
        if not np.isfinite(values).all() or values.min() == values.max():
            return None
        return Label(
            name=name, kind="numbers", rows=rows, values=values, num_classes=0, speakers=groups
        )
    numbers, names = pandas.factorize(found.astype(str), sort=True)
    counts = np.bincount(numbers)
    if not 2 <= len(names) <= _MOST_CLASSES or counts.min() < _LEAST_OF_A_CLASS:
        return None
    return Label(
        name=name,
        kind="classes",
        rows=rows,
        values=numbers.astype(np.int64),
        num_classes=len(names),
        speakers=groups,
    )
