"""The parts of a report about the network itself: its features, and the layers it reads.

For: sections of a run. Not for: what it predicts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.kept_features import KeptFeatures, read_features
from finetune.predictions import true_and_predicted
from finetune.record import Run, fold_folder
from finetune.reporting.document import Part, Picture, Section
from finetune.reporting.embedding import NEIGHBOURS, SEED, embed, neighbour_agreement
from finetune.reporting.figures_features import embedding_figure, layer_weight_figure
from finetune.reporting.tables import Table, measured, number


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
    laid = {
        "before (the weights that training started from)": embed(first.before),
        "after (the weights that were tested)": embed(first.after),
    }
    found = {heading: one for heading, one in laid.items() if one is not None}
    if found:
        path = figures / "features.png"
        perplexity = next(iter(found.values())).perplexity
        embedding_figure(
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
    """What the numbers of the table are."""
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
    """What neighbours may agree in: the class, or each target."""
    if truth.ndim == 1:
        return [("", truth)]
    return [(f", {name}", truth[:, place]) for place, name in enumerate(run.benchmark.targets)]
