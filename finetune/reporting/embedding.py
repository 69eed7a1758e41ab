"""Where samples lie among each other, before and after fine-tuning.

For: a t-SNE of the kept features, and a number beside it that does not depend on how a plane was
laid out. Not for: keeping them (``finetune/kept_features.py``).

Source: van der Maaten and Hinton, 2008, Visualizing Data using t-SNE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEED = 0
PERPLEXITY = 30.0
NEIGHBOURS = 5
# Fewer samples are no picture.
MIN_SAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Samples in a plane.

    Args:
        places: (N, 2).
        perplexity: That was used.
    """

    places: np.ndarray
    perplexity: float


def embed(features: np.ndarray) -> Embedding | None:
    """Lay features (N, W) out in a plane; nothing of few samples or of equal ones."""
    if len(features) < MIN_SAMPLES or not np.ptp(features, axis=0).any():
        return None
    # Here and not above: every fine-tuning would wait half a second for them at its start.
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=SEED)
    places = layout.fit_transform(StandardScaler().fit_transform(features))
    return Embedding(places=places, perplexity=perplexity)


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
