"""The network itself: features of some test samples before and after training, and its layers.

A training keeps them in ``fold-<name>/features.npz``, from which a report draws what it changed,
without the shards or the network.

Source of the layout: van der Maaten and Hinton, 2008, Visualizing Data using t-SNE.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl

from finetune.benchmark import Benchmark
from finetune.data import Loader
from finetune.predictions import true_and_predicted
from finetune.record import Run, fold_folder
from finetune.reporting import document as doc
from hicmae.files import whole_file

SEED = 0
PERPLEXITY = 30.0
_STEPS = 500  # twice as many lower the divergence by 0.1 to 0.3 % (216 samples), 2 % (1,000)
NEIGHBOURS = 5
LAYOUTS = "features.npz"  # beside the picture: where its points lie
# Fewer samples are no picture.
MIN_SAMPLES = 20
FEATURES = "features.npz"
_BEFORE = "features-before.npz"
# Enough points for a picture; 4 MB a side at the width of the base model.
MAX_SAMPLES = 1000


def feature_section(run: Run, figures: Path, *, of: str = "") -> doc.Section:
    """Features of test samples before and after fine-tuning; ``of``: the head whose labels colour
    them, of a network of several.

    The folds are networks of their own, whose features cannot share a plane, so the picture shows
    the first of them.

    Raises: ValueError: a damaged file of features.
    """
    title = "Features before and after"
    kept = {name: read_features(fold_folder(run.folder, name)) for name in run.scores.folds}
    kept_folds = {name: found for name, found in kept.items() if found is not None}
    if not kept_folds:
        note = "No features were kept here; `hicmae finetune` keeps them in each fold's folder."
        return doc.Section(title=title, parts=[note])
    truth = {name: _truth(run, found) for name, found in kept_folds.items()}
    parts: list[doc.Part] = [_explanation(run, of), _agreement_table(run, kept_folds, truth)]
    fold, first = next(iter(kept_folds.items()))
    laid = kept_layouts(first, figures / LAYOUTS)
    headings = {
        "before": "before (the weights that training started from)",
        "after": "after (the weights that were tested)",
    }
    found = {headings[name]: one for name, one in laid.items() if one is not None}
    if found:
        path = figures / "features.png"
        layout_figure(
            run.benchmark,
            found,
            truth[fold],
            path,
            title=f"{run.title}: t-SNE of {len(first.keys)} test samples, fold {fold}"
            + (f", by {of}" if of else ""),
        )
        parts.append(
            doc.Picture(
                path=path,
                caption=f"t-SNE of the features of fold {fold}: perplexity"
                f" {perplexity(len(first.keys)):.3g}, seed {SEED}, started from the first two"
                " principal components, features standardised; distances between heaps mean"
                " nothing",
            )
        )
    else:
        parts.append(f"No t-SNE of fold {fold}: it has too few test samples, or equal features.")
    return doc.Section(title=title, parts=parts)


def layer_section(run: Run, figures: Path) -> doc.Section | None:
    """The learned weights of the encoder layers; nothing where a single layer is read."""
    weights = [fold.layer_weights for fold in run.folds if fold.layer_weights]
    if not weights or not any(len(values) > 1 for values in weights[0].values()):
        return None
    path = figures / "layer_weights.png"
    layer_weight_figure(weights, path)
    return doc.Section(
        title="Layer weights",
        parts=[
            "How much the pooled features of each encoder layer count in the sum that the head"
            " reads; all start equal.",
            doc.Picture(path=path, caption="Learned weights of the encoder layers"),
        ],
    )


def lay_out(features: np.ndarray) -> np.ndarray | None:
    """Lay features (N, W) out in a plane (N, 2); nothing of few samples or of equal ones."""
    if len(features) < MIN_SAMPLES or not np.ptp(features, axis=0).any():
        return None
    # Here and not above: every fine-tuning would wait half a second for them at its start.
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    layout = TSNE(
        perplexity=perplexity(len(features)),
        init="pca",
        learning_rate="auto",
        max_iter=_STEPS,
        random_state=SEED,
    )
    # Two threads took 2.0 s for two layouts of 216 samples and one 2.8 on quiet cores; beside two
    # other processes, where threads wait for each other, 7.1 and 2.6.
    with threadpool_limits(1):
        return np.asarray(layout.fit_transform(StandardScaler().fit_transform(features)))


def perplexity(num_samples: int) -> float:
    """Of a layout: fewer samples have fewer neighbours."""
    return min(PERPLEXITY, (num_samples - 1) / 3)


def kept_layouts(features: KeptFeatures, path: Path) -> dict[str, np.ndarray | None]:
    """The layouts before and after, from ``path`` where an earlier report kept them there.

    A layout takes a second or more, and a report of several runs draws each run again.
    """
    digest = hashlib.sha256(
        f"{SEED} {PERPLEXITY} {_STEPS} {MIN_SAMPLES} {version('scikit-learn')}".encode()
    )
    for array in (features.before, features.after):
        digest.update(np.ascontiguousarray(array).data)
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["digest"]) == digest.hexdigest():
                return {name: file.get(name) for name in ("before", "after")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # none, another version's, or a damaged one: it is made anew
    found = {"before": lay_out(features.before), "after": lay_out(features.after)}
    kept = {name: places for name, places in found.items() if places is not None}
    kept["digest"] = np.array(digest.hexdigest())
    with whole_file(path) as beside, beside.open("wb") as written:
        np.savez(written, **kept)  # type: ignore[arg-type]
    return found


def neighbour_agreement(features: np.ndarray, truth: np.ndarray) -> float:
    """How alike the truths of neighbours are in the space of all features.

    Args:
        features: (N, W).
        truth: Class numbers (N,) int64, or real values (N,) float64.

    Returns: of classes, the share of a sample's nearest neighbours that have its class; of real
        values, the correlation of a sample's value with the mean of its neighbours'. Not-a-number
        where there are too few samples or the values are constant.
    """
    if len(features) <= NEIGHBOURS:
        return float("nan")
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(features)
    # Without an argument it leaves each sample itself out.
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(scaled).kneighbors(return_distance=False)
    if truth.dtype.kind == "i":
        return float((truth[near] == truth[:, None]).mean())
    around = truth[near].mean(axis=1)
    if np.ptp(truth) == 0 or np.ptp(around) == 0:
        return float("nan")
    return float(np.corrcoef(truth, around)[0, 1])


def layout_figure(
    benchmark: Benchmark,
    panels: Mapping[str, np.ndarray],
    truth: np.ndarray,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw samples in a plane, one panel a set of weights, coloured by their truth.

    Args:
        panels: Heading to places (N, 2).
        truth: Class numbers (N,), or values of every target (N, D), which has a row each.
    """
    targets = (None,) if benchmark.task == "classification" else benchmark.targets
    figure = doc.make_figure(
        4.4 * len(panels) + (1.5 if targets == (None,) else 0.6), 4.2 * len(targets), title
    )
    grid = figure.subplots(len(targets), len(panels), squeeze=False)
    size = 36 if len(truth) <= 300 else 14
    for row, target in enumerate(targets):
        for axes, (heading, places) in zip(grid[row], panels.items(), strict=True):
            if target is None:
                for index, name in enumerate(benchmark.classes):
                    own = places[truth == index]
                    axes.scatter(
                        own[:, 0],
                        own[:, 1],
                        s=size,
                        alpha=0.75,
                        linewidths=0,
                        color=doc.PALETTE[index % len(doc.PALETTE)],
                        marker=doc.MARKERS[index // len(doc.PALETTE) % len(doc.MARKERS)],
                        label=name,
                    )
            else:
                points = axes.scatter(
                    places[:, 0],
                    places[:, 1],
                    s=size,
                    alpha=0.85,
                    linewidths=0,
                    c=truth[:, row],
                    cmap="viridis",
                )
            axes.set_title(heading, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        if target is not None:
            figure.colorbar(points, ax=list(grid[row]), label=f"true {target}", fraction=0.03)
    if targets == (None,):
        # One legend for all panels, beside them; in columns where there are many classes.
        figure.legend(
            *grid[0][0].get_legend_handles_labels(),
            fontsize=9 if len(benchmark.classes) <= 14 else 6,
            loc="outside right center",
            ncols=1 + len(benchmark.classes) // 23,
            frameon=False,
        )
    doc.save(figure, path)


def layer_weight_figure(weights: Sequence[Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw the learned weight of each encoder layer, by modality.

    Args: weights: One mapping a fold: modality to the weights of its layers, which sum to 1.
    """
    bars = "" if len(weights) == 1 else f"; bars: mean of {len(weights)} folds ± 1 sd"
    figure, axes = doc.make_axes(7.0, 4.0, f"Learned layer weights{bars}")
    modalities = list(weights[0])
    width = 0.8 / len(modalities)
    num_layers = max(len(values) for values in weights[0].values())
    for index, modality in enumerate(modalities):
        values = np.array([fold[modality] for fold in weights])  # (folds, L)
        places = np.arange(1, values.shape[1] + 1) + (index - (len(modalities) - 1) / 2) * width
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
        axes.bar(
            places,
            values.mean(axis=0),
            width=width * 0.92,
            yerr=spread,
            capsize=3,
            color=doc.MODALITY_COLOURS[modality],
            ecolor=doc.GREY,
            label=modality,
        )
    axes.axhline(1 / num_layers, color=doc.GREY, linewidth=1, linestyle="--", label="equal weights")
    axes.set_xticks(range(1, num_layers + 1))
    axes.set_xlabel("encoder layer")
    axes.set_ylabel("learned weight (softmax)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)  # room for the legend
    axes.legend(fontsize=9, ncols=3, loc="upper right", frameon=False)
    doc.plain(axes)
    doc.save(figure, path)


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

    def _features(self, trainer: pl.Trainer, module: Any) -> np.ndarray:
        """(N, W) float16."""
        was_training = module.training
        module.eval()
        with trainer.precision_plugin.forward_context():
            found: np.ndarray = module.pooled(self.loader).astype(np.float16)
        module.train(was_training)
        return found


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
    if not zipfile.is_zipfile(path):  # of which NumPy says to load it as a pickle, and how
        raise ValueError(f"{path}: damaged (no .npz file); delete it, or run the fold again")
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


def _truth(run: Run, features: KeptFeatures) -> np.ndarray:
    """Truth of the samples: class numbers (N,), or values (N, D).

    Raises: ValueError: a sample that was not predicted.
    """
    by_key = {item.key: item for item in run.predictions}
    unknown = [key for key in features.keys if key not in by_key]
    if unknown:
        raise ValueError(
            f"{run.folder}: features of sample '{unknown[0]}', which has no prediction"
            f" ({len(unknown)} such samples); they are of another run, delete the features.npz"
        )
    return true_and_predicted(run.benchmark, [by_key[key] for key in features.keys])[0]


def _explanation(run: Run, of: str) -> str:
    what = (
        f"the share of a sample's {NEIGHBOURS} nearest neighbours that have its class"
        if run.benchmark.task == "classification"
        else f"the correlation of a sample's true value with the mean of its {NEIGHBOURS} nearest"
        " neighbours"
    )
    return (
        "Pooled features of test samples, as the head reads them, one middle clip each"
        f"{f', by the labels of head {of}, the first that all of them have' if of else ''}."
        f" *Agreement* is {what}, in the space of all features: it needs no picture. *Before* are"
        " the weights that training started from"
        + (
            " (pretrained)."
            if run.facts.init == "checkpoint"
            else " (random, so that any order is the input's own)."
        )
    )


def _agreement_table(
    run: Run, kept: dict[str, KeptFeatures], truth: dict[str, np.ndarray]
) -> doc.Table:
    """Agreement of neighbours, before and after, one row a fold and target."""
    rows = []
    for fold, features in kept.items():
        for name, values in _targets(run, truth[fold]):
            before, after = (
                doc.number(neighbour_agreement(side, values))
                for side in (features.before, features.after)
            )
            rows.append([f"{fold}{name}", str(len(values)), before, run.facts.mark(after)])
    heads = [
        "network of fold",
        "samples",
        "agreement before",
        doc.measured("agreement after", run.facts.rule),
    ]
    return doc.Table(columns=heads, rows=rows)


def _targets(run: Run, truth: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if truth.ndim == 1:
        return [("", truth)]
    return [(f", {name}", truth[:, place]) for place, name in enumerate(run.benchmark.targets)]


def _write_array(path: Path, **arrays: np.ndarray) -> None:
    with whole_file(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
