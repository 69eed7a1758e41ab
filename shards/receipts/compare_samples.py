"""Sample by sample: which are on one side only, and what differs in those of both.

For: comparing two folders of shards by their indexes and jsons. Not for: pictures and sound
themselves (``compare_signals.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from shards.index import COLUMNS, Index
from shards.receipts.sample_facts import ASPECTS, SampleFacts

# Columns that say where the bytes of a sample lie; "mjpg_length" and the like follow the encoding.
_PLACES = {name for name in COLUMNS if name.endswith(("_offset", "_length"))}
_PLACES |= {"key", "shard", "blocks_xxh3"}
_EXAMPLES = 20


def compare_samples(
    first: Index, first_facts: SampleFacts, second: Index, second_facts: SampleFacts
) -> dict[str, Any]:
    """Compare the samples of two folders by key.

    Returns: ``num_shared``, ``only_first`` and ``only_second`` (keys), ``aspects`` (name →
        ``num`` that differ, and example ``keys``), ``columns`` (of both indexes, those that
        differ: ``num``, ``examples`` as [key, A, B], and of numbers ``largest`` and ``mean``
        difference, B - A), ``num_relabelled`` (another split, speaker or label) and
        ``num_retimed`` (more than one frame longer or shorter).
    """
    a, b = (index.table.set_index("key", drop=False) for index in (first, second))
    order_b = pandas.Index(b.index)
    places_b = order_b.get_indexer(pandas.Index(a.index))
    rows_a = np.flatnonzero(places_b >= 0)
    rows_b = places_b[rows_a]
    in_a = np.zeros(len(b), dtype=bool)
    in_a[rows_b] = True
    shared_a, shared_b = a.iloc[rows_a], b.iloc[rows_b]
    keys = shared_a["key"].to_numpy()
    columns: dict[str, Any] = {}
    relabelled = np.zeros(len(keys), dtype=bool)
    labels = {"split", "speaker", *first.label_columns, *second.label_columns}
    for name in [column for column in a.columns if column in b.columns]:
        if name in _PLACES:
            continue
        differs, summary = _compare_column(keys, shared_a[name], shared_b[name])
        if differs.any():
            columns[name] = summary
        if name in labels:
            relabelled |= differs
    one_frame = 1 / np.minimum(shared_a["fps"].to_numpy(), shared_b["fps"].to_numpy())
    change = np.abs(shared_b["seconds"].to_numpy() - shared_a["seconds"].to_numpy())
    retimed = change > 1.001 * one_frame
    return {
        "num_shared": len(keys),
        "only_first": [str(key) for key in a["key"].to_numpy()[places_b < 0]],
        "only_second": [str(key) for key in b["key"].to_numpy()[~in_a]],
        "aspects": _aspects(keys, rows_a, first_facts, rows_b, second_facts),
        "columns": columns,
        "num_relabelled": int(relabelled.sum()),
        "num_retimed": int(retimed.sum()),
    }


def _aspects(
    keys: np.ndarray,
    rows_a: np.ndarray,
    first: SampleFacts,
    rows_b: np.ndarray,
    second: SampleFacts,
) -> dict[str, Any]:
    """In how many shared samples each aspect differs, by digest."""
    found = {}
    for aspect in ASPECTS:
        differs = (first.digests[aspect][rows_a] != second.digests[aspect][rows_b]).any(axis=1)
        found[aspect] = {
            "num": int(differs.sum()),
            "keys": [str(key) for key in keys[differs][:_EXAMPLES]],
        }
    return found


def _compare_column(
    keys: np.ndarray, first: pandas.Series[Any], second: pandas.Series[Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Where two columns of the same samples differ (a gap equals a gap), and a summary."""
    gaps_a, gaps_b = first.isna().to_numpy(), second.isna().to_numpy()
    known = ~gaps_a & ~gaps_b
    differs = gaps_a != gaps_b
    numeric = all(
        pandas.api.types.is_numeric_dtype(side) and not pandas.api.types.is_bool_dtype(side)
        for side in (first, second)
    )
    change = np.zeros(0)
    if numeric:
        a, b = (side.to_numpy(dtype=np.float64, na_value=np.nan) for side in (first, second))
        with np.errstate(invalid="ignore"):
            differs |= known & (a != b)
        change = (b - a)[known & differs]
    else:  # one side may hold as text what the other holds as a number
        a, b = (side.map(_text).to_numpy() for side in (first, second))
        differs |= known & (a != b)
    examples = [
        [str(keys[row]), _plain(first.iloc[row]), _plain(second.iloc[row])]
        for row in np.flatnonzero(differs)[:_EXAMPLES]
    ]
    summary: dict[str, Any] = {"num": int(differs.sum()), "examples": examples}
    if len(change):
        summary["largest"] = float(change[np.abs(change).argmax()])
        summary["mean"] = float(change.mean())
    return differs, summary


def _text(value: Any) -> str:
    """A value as text; 1 and 1.0 are the same class."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; a gap is null."""
    if pandas.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
