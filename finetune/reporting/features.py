"""What a report says of the network itself: its features before and after, the layers it reads.

Source of the layout: van der Maaten and Hinton, 2008, Visualizing Data using t-SNE.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from finetune.benchmark import Benchmark
from finetune.kept_features import KeptFeatures, read_features
from finetune.predictions import true_and_predicted
from finetune.record import Run, fold_folder
from finetune.reporting.document import (
    GREY,
    MARKERS,
    MODALITY_COLOURS,
    PALETTE,
    Part,
    Picture,
    Section,
    Table,
    make_figure,
    measured,
    number,
    plain,
    save,
)
from hicmae.files import whole_file

SEED = 0
PERPLEXITY = 30.0
NEIGHBOURS = 5
LAYOUTS = "features.npz"  # beside the picture: where its points lie
# Fewer samples are no picture.
MIN_SAMPLES = 20


def feature_section(run: Run, figures: Path) -> Section:
    """Features of test samples before and after fine-tuning.

    The folds are networks of their own, whose features cannot share a plane, so the picture shows
    the first of them.

    Raises: ValueError: a damaged file of features.
    """
    title = "Features before and after"
    kept = {name: read_features(fold_folder(run.folder, name)) for name in run.scores.folds}
    kept_folds = {name: found for name, found in kept.items() if found is not None}
    if not kept_folds:
        note = "No features were kept here; `hicmae finetune` keeps them in each fold's folder."
        return Section(title=title, parts=[note])
    truth = {name: _truth(run, found) for name, found in kept_folds.items()}
    parts: list[Part] = [_explanation(run), _agreement_table(run, kept_folds, truth)]
    fold, first = next(iter(kept_folds.items()))
    laid = kept_layouts(first, figures / LAYOUTS)
    headings = {
        "before": "before (the weights that training started from)",
        "after": "after (the weights that were tested)",
    }
    found = {headings[name]: one for name, one in laid.items() if one is not None}
    if found:
        path = figures / "features.png"
        perplexity = next(iter(found.values())).perplexity
        layout_figure(
            run.benchmark,
            {heading: one.places for heading, one in found.items()},
            truth[fold],
            path,
            title=f"{run.name}: t-SNE of {len(first.keys)} test samples, fold {fold}",
        )
        parts.append(
            Picture(
                path=path,
                caption=f"t-SNE of the features of fold {fold}: perplexity {perplexity:.3g},"
                f" seed {SEED}, started from the first two principal components, features"
                " standardised; distances between heaps mean nothing",
            )
        )
    else:
        parts.append(f"No t-SNE of fold {fold}: it has too few test samples, or equal features.")
    return Section(title=title, parts=parts)


def layer_section(run: Run, figures: Path) -> Section | None:
    """The learned weights of the encoder layers; nothing where a single layer is read."""
    weights = [fold.layer_weights for fold in run.folds if fold.layer_weights]
    if not weights or not any(len(values) > 1 for values in weights[0].values()):
        return None
    path = figures / "layer_weights.png"
    layer_weight_figure(weights, path, title="Learned layer weights")
    return Section(
        title="Layer weights",
        parts=[
            "How much the pooled features of each encoder layer count in the sum that the head"
            " reads; all start equal.",
            Picture(path=path, caption="Learned weights of the encoder layers"),
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Samples in a plane.

    Args:
        places: (N, 2).
        perplexity: That was used.
    """

    places: np.ndarray
    perplexity: float


def lay_out(features: np.ndarray) -> Layout | None:
    """Lay features (N, W) out in a plane; nothing of few samples or of equal ones."""
    if len(features) < MIN_SAMPLES or not np.ptp(features, axis=0).any():
        return None
    # Here and not above: every fine-tuning would wait half a second for them at its start.
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    perplexity = _perplexity(len(features))
    layout = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=SEED)
    places = layout.fit_transform(StandardScaler().fit_transform(features))
    return Layout(places=places, perplexity=perplexity)


def _perplexity(num_samples: int) -> float:
    return min(PERPLEXITY, (num_samples - 1) / 3)


def kept_layouts(features: KeptFeatures, path: Path) -> dict[str, Layout | None]:
    """The layouts before and after, from ``path`` where an earlier report kept them there.

    A layout takes a second or more, and a report of several runs draws each run again.
    """
    digest = hashlib.sha256(f"{SEED} {PERPLEXITY} {MIN_SAMPLES} {version('scikit-learn')}".encode())
    for array in (features.before, features.after):
        digest.update(np.ascontiguousarray(array).data)
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["digest"]) == digest.hexdigest():
                size = len(features.keys)
                return {
                    name: Layout(places=file[name], perplexity=_perplexity(size))
                    if name in file
                    else None
                    for name in ("before", "after")
                }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # none, another version's, or a damaged one: it is made anew
    found = {"before": lay_out(features.before), "after": lay_out(features.after)}
    kept = {name: one.places for name, one in found.items() if one is not None}
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
    figure = make_figure(
        4.4 * len(panels) + (1.5 if targets == (None,) else 0.6), 4.2 * len(targets)
    )
    figure.suptitle(title, fontsize=11)
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
                        color=PALETTE[index % len(PALETTE)],
                        marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
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
        _class_legend(figure, benchmark, grid[0][0].get_legend_handles_labels())
    save(figure, path)


def layer_weight_figure(
    weights: Sequence[Mapping[str, Sequence[float]]], path: Path, *, title: str
) -> None:
    """Draw the learned weight of each encoder layer, by modality.

    Args:
        weights: One mapping a fold: modality to the weights of its layers, which sum to 1.
    """
    figure = make_figure(7.0, 4.0)
    axes = figure.add_subplot()
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
            color=MODALITY_COLOURS[modality],
            ecolor=GREY,
            label=modality,
        )
    axes.axhline(1 / num_layers, color=GREY, linewidth=1, linestyle="--", label="equal weights")
    axes.set_xticks(range(1, num_layers + 1))
    axes.set_xlabel("encoder layer")
    axes.set_ylabel("learned weight (softmax)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)  # room for the legend
    bars = "" if len(weights) == 1 else f"; bars: mean of {len(weights)} folds ± 1 sd"
    axes.set_title(title + bars, fontsize=11)
    axes.legend(fontsize=9, ncols=3, loc="upper right", frameon=False)
    plain(axes)
    save(figure, path)


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


def _explanation(run: Run) -> str:
    what = (
        f"the share of a sample's {NEIGHBOURS} nearest neighbours that have its class"
        if run.benchmark.task == "classification"
        else f"the correlation of a sample's true value with the mean of its {NEIGHBOURS} nearest"
        " neighbours"
    )
    return (
        "Pooled features of test samples, as the head reads them, one middle clip each. *Agreement*"
        f" is {what}, in the space of all features: it needs no picture. *Before* are the"
        " weights that training started from"
        + (
            " (pretrained)."
            if run.facts.init == "checkpoint"
            else " (random, so that any order is the input's own)."
        )
    )


def _agreement_table(
    run: Run, kept: dict[str, KeptFeatures], truth: dict[str, np.ndarray]
) -> Table:
    """Agreement of neighbours, before and after, one row a fold and target."""
    rows = []
    for fold, features in kept.items():
        for name, values in _targets(run, truth[fold]):
            before, after = (
                number(neighbour_agreement(side, values))
                for side in (features.before, features.after)
            )
            rows.append([f"{fold}{name}", str(len(values)), before, run.facts.mark(after)])
    heads = [
        "network of fold",
        "samples",
        "agreement before",
        measured("agreement after", run.facts.rule),
    ]
    return Table(columns=heads, rows=rows)


def _targets(run: Run, truth: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if truth.ndim == 1:
        return [("", truth)]
    return [(f", {name}", truth[:, place]) for place, name in enumerate(run.benchmark.targets)]


def _class_legend(figure: Figure, benchmark: Benchmark, handles: tuple[Sequence, Sequence]) -> None:
    """One legend for all panels, beside them; in columns where there are many classes."""
    figure.legend(
        *handles,
        fontsize=9 if len(benchmark.classes) <= 14 else 6,
        loc="outside right center",
        ncols=1 + len(benchmark.classes) // 23,
        frameon=False,
    )
