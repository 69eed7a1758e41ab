"""The protocol of labels over time: lag, combination of annotators, smoothing, scores.

Everything is decided on the training side of a fold and applied to its test side unseen:
``settle_fold`` before training gives every instant its label, and ``smooth`` after it averages
what the network says of a recording. Scores are pooled over all instants, and of each recording.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune.benchmark import Benchmark
from finetune.data import view_loader
from finetune.folds import Fold, check_fold
from finetune.heads import digits
from finetune.instants import NUMBER, OverTime, check_reach, recording_of, traces_of
from finetune.module import FinetuneModule
from finetune.plan import Plan
from finetune.predictions import Prediction
from finetune.scores import score
from hicmae.config import from_dict
from hicmae.devices import choose_device
from hicmae.metrics import regression_metrics
from hicmae.prediction.traces import moving_mean
from shards.index import Index
from shards.reading.random_access import FIRST, SAMPLE, WINDOW
from shards.traces import Trace

# Instants whose features choose the lag: the fit takes time with their number, not its error.
_MOST_INSTANTS = 3000
# How the note about single recordings begins.
RECORDINGS = "CCC per recording"
_UNCHOSEN = ", as no lag can be chosen by notes of one recording, or that never change"
_PENALTIES = tuple(10.0**power for power in range(-1, 6))


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was decided of a fold on its training side.

    Args:
        lags: Annotator to seconds.
        weights: Target to annotator to weight, adding up to 1.
        smoothing_seconds: Window of the moving average; 0: none.
        shared: Scores that the shared network has on the labels of the one annotator.
        unchosen: Annotators for whom no lag could be chosen, and 0 stands.
    """

    lags: dict[str, float]
    weights: dict[str, dict[str, float]]
    smoothing_seconds: float = 0.0
    shared: dict[str, float] = field(default_factory=dict)
    unchosen: tuple[str, ...] = field(default=(), metadata={"omit_default": True})

    def notes(self, num_kept_out: int) -> list[str]:
        """Sentences for the reader of the numbers.

        Args: num_kept_out: Instants that chose the window.
        """
        told = [
            f"annotator {who}: labels are taken {lag:.2f} s after what they are about"
            f"{_UNCHOSEN if who in self.unchosen else ''}"
            for who, lag in self.lags.items()
        ]
        for target, weights in self.weights.items():
            if len(weights) > 1:
                shares = ", ".join(f"{who} {value:.3f}" for who, value in weights.items())
                told.append(f"{target} is the weighted mean of its annotators: {shares}")
        if self.smoothing_seconds:
            chosen = f", chosen on the {num_kept_out} instants kept out of training"
            told.append(
                f"predictions are means over {self.smoothing_seconds:g} s of each recording"
                f"{chosen if num_kept_out else ''}"
            )
        return told


def settle_fold(plan: Plan, fold: Fold) -> tuple[Fold, Settled | None]:
    """Give the instants of both sides their labels, as the training side alone decides.

    Returns: the fold without instants that have no label, and what was decided; of a benchmark
        that is not over time, the fold as it is and None.
    Raises: ValueError: a side on which nothing has a label; traces that do not reach as far as
        the lags that are asked for.
    """
    settings, benchmark = plan.benchmark.over_time, plan.benchmark
    if settings is None:
        return fold, None
    traces = traces_of(plan.index, settings)
    check_reach(plan.index.folder, traces, float(settings.lags[-1]))
    only = plan.config.recipe.annotator
    inside = [traces[key] for key in fold.train[SAMPLE].unique()]
    people = list(dict.fromkeys(who for trace in inside for who in trace.annotators))
    people = [who for who in people if only in (None, who)]
    train = fold.train[fold.train[NUMBER] % settings.train_every == 0]
    if settings.lag_seconds is None:
        chosen = choose_lags(plan, train, traces, people)
        lags = dict.fromkeys(people, 0.0) | chosen
    else:
        chosen = lags = dict.fromkeys(people, settings.lag_seconds)
    weights = {
        target: _weights(train, traces, target, lags, settings) for target in benchmark.targets
    }
    unchosen = tuple(who for who in people if who not in chosen)
    settled = Settled(lags=lags, weights=weights, unchosen=unchosen)
    sides = [_labelled(rows, traces, settled) for rows in (train, fold.test)]
    fold = dataclasses.replace(fold, train=sides[0], test=sides[1])
    check_fold(benchmark, fold)
    return fold, settled


def settled_again(
    benchmark: Benchmark, index: Index, fold: Fold, decided: Mapping[str, Any], network: Path
) -> tuple[Fold, float]:
    """Give the instants of a test side their labels as a finished training has decided.

    Args:
        index: Of the instants.
        decided: What the record of the network's fold keeps (a ``Settled``).

    Returns: the fold with the instants that have a label, and the window of smoothing, seconds.
    Raises: ValueError: the record keeps nothing, or none of its annotators has noted anything;
        traces that do not reach as far as its lags.
    """
    if benchmark.over_time is None:
        return fold, 0.0
    if not decided:
        raise ValueError(
            f"{network}: does not say which lags its training side chose, without which labels over"
            " time are not those of what is shown; name the run folder of hicmae finetune"
        )
    settled = from_dict(Settled, decided, f"{network}: over_time")
    traces = traces_of(index, benchmark.over_time)
    check_reach(index.folder, traces, max(settled.lags.values(), default=0.0))
    rows = _labelled(fold.test, traces, settled)
    if rows.empty:
        raise ValueError(
            f"{index.folder}: nothing is noted by {', '.join(settled.lags)}, whose lags alone"
            f" {network} knows; name the annotators alike"
        )
    return dataclasses.replace(fold, test=rows), settled.smoothing_seconds


def choose_lags(
    plan: Plan, rows: pd.DataFrame, traces: Mapping[str, Trace], people: Sequence[str]
) -> dict[str, float]:
    """The lag of each annotator at which labels are best predicted from what is shown.

    A ridge regression from the pooled features of the network that training starts from, on
    contexts around each instant, is fitted for all lags at once on some recordings and judged by
    correlation on the others.

    Returns: annotator to seconds: the middle of the lags that are hardly worse than the best;
        without who has noted one recording alone, or nothing that changes.
    Raises: ValueError: there is one recording.
    Source: that the lag is the shift at which labels agree most with features of the recording is
        Mariooryad and Busso, 2015, "Correcting time-continuous emotional labels by modeling the
        reaction lag of evaluators" (there by mutual information).
    """
    settings = plan.benchmark.over_time
    assert settings is not None
    if len(rows) > _MOST_INSTANTS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, _MOST_INSTANTS).astype(int)]
    features = _features(plan, _centred(rows, traces, plan))
    groups = np.array([recording_of(str(key))[0] for key in rows["key"]])
    if len(np.unique(groups)) < 2:
        raise ValueError(
            f"the lag of annotators cannot be chosen on one recording ('{groups[0]}'); name it:"
            " over_time.lag_seconds"
        )
    found = {}
    for who in people:
        each = []
        for target in plan.benchmark.targets:
            noted = [_noted(rows, traces, target, who, float(lag)) for lag in settings.lags]
            values = np.stack(noted, axis=1)  # (N, L)
            known = np.isfinite(values).all(axis=1)
            each.append(_agreement(features[known], values[known], groups[known]))
        # A target that somebody has not noted, or in which nothing changes, says nothing of a lag.
        told = np.ma.masked_invalid(np.stack(each)).mean(axis=0)
        agreement = np.ma.filled(told, np.nan)
        if np.isfinite(agreement).any():
            found[who] = _middle_of_the_best(np.array(settings.lags), agreement)
    return found


def _middle_of_the_best(lags: np.ndarray, agreement: np.ndarray) -> float:
    """The lag in the middle of those around the best that leave hardly more unexplained than it.

    A clip shows motion, by which labels a little earlier and later are predicted about as well: the
    best of them is anywhere among them, and they lie evenly around the true one. Hardly more is up
    to twice as much, and, where most is unexplained at any lag, up to a tenth of what the worst one
    has more.

    Args:
        lags: Seconds (L,), ascending.
        agreement: Correlation at each (L,), not-a-number where there is none.
    """
    unexplained = np.where(np.isfinite(agreement), 1 - agreement * np.abs(agreement), np.inf)
    best = int(unexplained.argmin())
    least, most = unexplained[best], unexplained[np.isfinite(unexplained)].max()
    worse = np.flatnonzero(unexplained > min(2 * least, least + (most - least) / 10))
    first = worse[worse < best].max(initial=-1) + 1
    end = worse[worse > best].min(initial=len(lags))
    return round(float(lags[first:end].mean()), 6)


def smooth(predictions: Sequence[Prediction], window_seconds: float) -> list[Prediction]:
    """Average what is said of a recording over the instants at most half a window away.

    Returns: the predictions in their order; their views are left as they were.
    """
    if window_seconds <= 0:
        return list(predictions)
    found = list(predictions)
    for places, times in _recordings(predictions).values():
        values = np.array([predictions[place].outputs for place in places])  # (N, D)
        means = moving_mean(times, values, window_seconds)
        for place, mean in zip(places, means, strict=True):
            found[place] = dataclasses.replace(predictions[place], predicted=digits(mean))
    return found


def choose_smoothing(benchmark: Benchmark, kept_out: Sequence[Prediction]) -> float:
    """The window with the best leading score on instants kept out of training, the shortest of
    equals.
    """
    assert benchmark.over_time is not None
    windows = sorted(benchmark.over_time.smoothing_seconds)
    if len(windows) == 1 or not kept_out:
        return windows[0]
    scores = [score(benchmark, smooth(kept_out, window))[benchmark.ranking] for window in windows]
    return windows[int(np.nanargmax(scores))] if np.isfinite(scores).any() else windows[0]


def recording_scores(
    benchmark: Benchmark, predictions: Sequence[Prediction]
) -> dict[str, dict[str, float]]:
    """CCC of each recording by target, and their mean over targets (``ccc``).

    Returns: recording to scores; not-a-number where the labels of one are constant.
    """
    found = {}
    for recording, (places, _) in _recordings(predictions).items():
        true = np.array([predictions[place].true for place in places], dtype=np.float64)
        said = np.array([predictions[place].predicted for place in places], dtype=np.float64)
        values = [float(value) for value in regression_metrics(true, said)["ccc"]]
        found[recording] = {"ccc": float(np.mean(values))}
        if len(values) > 1:
            names = [f"ccc_{target}" for target in benchmark.targets]
            found[recording] |= dict(zip(names, values, strict=True))
    return found


def per_recording(benchmark: Benchmark, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean over recordings of the CCC of each, by target and of all (``ccc``).

    A recording in which the labels of a target are constant is left out of every mean, so that
    they are of the same recordings.
    """
    table = pd.DataFrame(recording_scores(benchmark, predictions).values())
    means = table[table["ccc"].notna()].mean()
    return {str(name): float(value) for name, value in means.items()}


def recordings_note(benchmark: Benchmark, predictions: Sequence[Prediction]) -> list[str]:
    """CCC per recording as a sentence of the record; none of a benchmark that is not over time."""
    if benchmark.over_time is None:
        return []
    means, each = per_recording(benchmark, predictions), recording_scores(benchmark, predictions)
    told = ", ".join(f"{name} {value:z.4f}" for name, value in means.items())
    number = sum(math.isfinite(scores["ccc"]) for scores in each.values())
    return [f"{RECORDINGS}, mean of {number}: {told} (the scores are pooled over instants)"]


def _recordings(
    predictions: Sequence[Prediction],
) -> dict[str, tuple[list[int], np.ndarray]]:
    """Places of the predictions of each recording in the order of time, and their times (N,)."""
    found: dict[str, list[tuple[float, int]]] = {}
    for place, item in enumerate(predictions):
        recording, seconds = recording_of(item.key)
        found.setdefault(recording, []).append((seconds, place))
    return {
        recording: ([p for _, p in sorted(own)], np.array([t for t, _ in sorted(own)]))
        for recording, own in found.items()
    }


def _noted(
    rows: pd.DataFrame, traces: Mapping[str, Trace], target: str, who: str, lag: float
) -> np.ndarray:
    """What one annotator noted of each instant, (N,); not-a-number where nothing."""
    found = np.full(len(rows), np.nan)
    numbers = rows[NUMBER].to_numpy()
    for key, places in rows.groupby(SAMPLE, sort=False).indices.items():
        trace = traces[str(key)]
        if target in trace.values:
            found[places] = trace.late(target, who, lag)[numbers[places]]
    return found


def _weights(
    rows: pd.DataFrame,
    traces: Mapping[str, Trace],
    target: str,
    lags: Mapping[str, float],
    settings: OverTime,
) -> dict[str, float]:
    """Weight of each annotator in a label, adding up to 1.

    Source of the evaluator-weighted estimator: Grimm and Kroschel, 2005, "Evaluation of natural
    emotions using self assessment manikins": weights are the correlations of each evaluator with
    the mean of all. Deviation: a negative one counts as 0.
    """
    equal = dict.fromkeys(lags, 1 / len(lags))
    if settings.combine == "mean" or len(lags) == 1:
        return equal
    noted = np.stack([_noted(rows, traces, target, who, lag) for who, lag in lags.items()])
    known = noted[:, np.isfinite(noted).all(axis=0)]  # (K, N) where everybody has noted
    if known.shape[1] < 2:
        return equal
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement = np.corrcoef(known, known.mean(axis=0))[-1, :-1]
    agreement = np.clip(np.nan_to_num(agreement), 0, None)
    if agreement.sum() == 0:
        return equal
    shares = agreement / agreement.sum()
    return {who: float(share) for who, share in zip(lags, shares, strict=True)}


def _labelled(rows: pd.DataFrame, traces: Mapping[str, Trace], settled: Settled) -> pd.DataFrame:
    """Instants with their labels; those without any are left out."""
    labels = {}
    for target, weights in settled.weights.items():
        noted = np.stack(
            [_noted(rows, traces, target, who, settled.lags[who]) for who in weights]
        )  # (K, N)
        known = np.ma.masked_invalid(noted)
        means = np.ma.average(known, axis=0, weights=list(weights.values()))
        # Where all who have noted something weigh nothing, there is no label.
        labels[target] = np.ma.filled(means, np.nan)
    rows = rows.assign(**labels)
    return rows[np.isfinite(rows[list(labels)].to_numpy()).all(axis=1)]


def _centred(rows: pd.DataFrame, traces: Mapping[str, Trace], plan: Plan) -> pd.DataFrame:
    """The same instants, each in the middle of the shortest context."""
    input = plan.model.input
    length = np.minimum(round(input.clip_seconds * input.fps), rows["num_frames"].to_numpy())
    at = np.array([traces[key].at for key in rows[SAMPLE]])
    hop = np.array([traces[key].hop for key in rows[SAMPLE]])
    # A clip's frames stand for a moment each, the last of them a stride before the end.
    middle = (length - input.frame_stride) / 2
    begin = np.round((at + hop * rows[NUMBER].to_numpy()) * input.fps - middle)
    begin = np.clip(begin, 0, rows["num_frames"].to_numpy() - length).astype(np.int64)
    return rows.assign(**{FIRST: begin, WINDOW: length})


def _features(plan: Plan, rows: pd.DataFrame) -> np.ndarray:
    """Pooled features of rows with the weights that training starts from, (N, W)."""
    with torch.random.fork_rng():
        torch.manual_seed(plan.config.seed)
        module = FinetuneModule(plan, rows, steps_per_epoch=1)
    module.to(choose_device(plan.config.device)).eval()
    return module.pooled(view_loader(plan, rows, views=1)).astype(np.float64)


def _agreement(features: np.ndarray, noted: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Correlation of each column of labels with what features of other recordings predict of it.

    Not CCC: what is predicted varies less than the labels do, so that CCC would favour lags between
    two instants, where interpolation takes some of the labels' variance as well.

    Returns: (columns,); not-a-number where nothing can be fitted.
    """
    num_groups = len(np.unique(groups))
    if num_groups < 2:  # somebody who has noted one recording alone
        return np.full(noted.shape[1], np.nan)
    fit = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES, alpha_per_target=True))
    folds = GroupKFold(min(5, num_groups))
    said = cross_val_predict(fit, features, noted, groups=groups, cv=folds).reshape(noted.shape)
    return np.array(regression_metrics(noted, said)["pcc"], dtype=np.float64)
