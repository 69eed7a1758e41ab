"""Datasets whose layout is known, one file each.

A further dataset is one file here and one line in the table.
"""

from __future__ import annotations

from hicmae.config import did_you_mean
from shards.datasets import (
    aff_wild2,
    avcaffe,
    blemore,
    cexpr,
    crema_d,
    csv_list,
    dfew,
    iemocap,
    mafw,
    meld,
    mer2023,
    msp_improv,
    ravdess,
    traces,
    voxceleb2,
    werewolf_xl,
)
from shards.datasets.base import Dataset, Item, Listing, ReadOptions

__all__ = ["DATASETS", "Dataset", "Item", "Listing", "ReadOptions", "find_dataset"]

DATASETS: dict[str, Dataset] = {
    "voxceleb2": voxceleb2.DATASET,
    "crema-d": crema_d.DATASET,
    "ravdess": ravdess.DATASET,
    "msp-improv": msp_improv.DATASET,
    "iemocap": iemocap.DATASET,
    "mafw": mafw.DATASET,
    "dfew": dfew.DATASET,
    "mer2023": mer2023.DATASET,
    "werewolf-xl": werewolf_xl.DATASET,
    "avcaffe": avcaffe.DATASET,
    "meld": meld.DATASET,
    "blemore": blemore.DATASET,
    "c-expr-db": cexpr.DATASET,
    "aff-wild2": aff_wild2.DATASET,
    "csv": csv_list.DATASET,
    "traces": traces.DATASET,
}


def find_dataset(name: str) -> Dataset:
    """A dataset by its name; capitals and ``_`` for ``-`` do not matter.

    Raises: ValueError: there is none; the nearest is named.
    """
    wanted = name.lower().replace("_", "-")
    if wanted not in DATASETS:
        raise ValueError(
            f"no dataset '{name}'{did_you_mean(wanted, DATASETS)} (datasets: {', '.join(DATASETS)})"
        )
    return DATASETS[wanted]
