"""What frozen features know: retrieval across modalities, and a linear probe of the labels.

For: plain functions of features and labels, each with its chance level. Not for: making the
features, or when (``pretrain/probes.py``).

Shape letters: N clips, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hicmae.metrics import classification_metrics, regression_metrics

RANKS = (1, 5, 10)
_FOLDS = 4
_MOST_CLASSES = 50
_LEAST_OF_A_CLASS = 4
_LEAST_CLIPS = 16


@dataclass(frozen=True, kw_only=True)
class Label:
    """A column of the shards that can be probed.

    Attributes:
        name: Of the column.
        kind: Whether its values are classes or numbers.
        rows: Positions (N',) of the clips that have one.
        values: (N',) class numbers (int64), or numbers (float64).
        num_classes: Of classes; 0 of numbers.
        speakers: (N',) who is seen, as numbers; None where that is not known of all, or there are
            fewer than two.
    """

    name: str
    kind: Literal["classes", "numbers"]
    rows: np.ndarray
    values: np.ndarray
    num_classes: int
    speakers: np.ndarray | None


def retrieval(video: np.ndarray, audio: np.ndarray) -> dict[str, float]:
    """How often a clip's own partner is among the k nearest of all clips, by cosine similarity.

    Clips that are exactly as near as the partner count as nearer by half their number, so that
    features that are all alike score chance and not everything.

    Args:
        video: (N, D) pooled features of the picture.
        audio: (N, D) of the sound of the same clips.

    Returns: ``video_to_audio_recall1``, …, ``audio_to_video_recall10``, and ``chance_recall1``, …
    """
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
            numbers with a fraction. Names that begin with ``fold`` are no labels then.

    Raises: ValueError: a named column is absent or cannot be probed.
    """
    named = columns is not None
    if columns is None:
        columns = [name for name in table.columns if not str(name).startswith("fold")]
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
            f"probe.labels: {', '.join(map(repr, missing))} cannot be probed (needed: numbers, or "
            f"2 to {_MOST_CLASSES} classes of {_LEAST_OF_A_CLASS} clips or more; at least "
            f"{_LEAST_CLIPS} clips with a value); leave it out, or raise probe.clips"
        )
    return [label for label in labels if label is not None]


def linear_probe(features: np.ndarray, label: Label) -> dict[str, float]:
    """Predict a label from frozen features, cross-validated, and score all predictions at once.

    Folds keep speakers apart where they are known. Logistic regression and unweighted average
    recall for classes, ridge regression and the concordance correlation for numbers.

    Args:
        features: (N, D) of all clips.
        label: What to predict.

    Returns: ``uar`` and ``chance_uar``, or ``ccc`` and ``chance_ccc``.
    """
    inputs, values = features[label.rows].astype(np.float64), label.values
    predicted = np.empty(len(values), dtype=values.dtype)
    for train, test in _folds(label):
        if label.kind == "classes" and len(np.unique(values[train])) < 2:
            predicted[test] = values[train][0]
            continue
        model = make_pipeline(StandardScaler(), _estimator(label))
        with warnings.catch_warnings():
            # A probe that has not quite converged says as much about the features.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs[train], values[train])
        predicted[test] = model.predict(inputs[test])
    if label.kind == "classes":
        scores = classification_metrics(values, predicted, label.num_classes)
        return {"uar": scores["uar"], "chance_uar": 1 / len(np.unique(values))}
    return {"ccc": regression_metrics(values, predicted)["ccc"][0], "chance_ccc": 0.0}


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
    if len(rows) < _LEAST_CLIPS:
        return None
    found = column.iloc[rows]
    speakers = table["speaker"].iloc[rows] if "speaker" in table.columns else None
    groups = None
    if speakers is not None and speakers.notna().all() and speakers.nunique() > 1:
        groups = pandas.factorize(speakers, sort=True)[0]
    numeric = pandas.api.types.is_numeric_dtype(found) and not pandas.api.types.is_bool_dtype(found)
    if numeric and bool((found != found.round()).any()):
        values = found.to_numpy(dtype=np.float64, copy=True)
        if not np.isfinite(values).all():
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
