"""What a folder of shards holds, told from its index alone.

For: ``hicmae shards info``. Not for: whether it is true (``check.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas

from shards.index import Index, read_index

# A numeric label with more different values than this is a measurement, not a class.
_MOST_CLASSES = 20


def shards_info(folder: Path | str) -> dict[str, Any]:
    """Counts, hours, speakers, sound and labels, as plain data.

    Returns: ``folder``, ``num_samples``, ``num_frames``, ``hours``, ``bytes``, ``num_shards``,
        ``seconds`` (min, median, max of a sample), ``fps`` (its values), ``splits``, ``speakers``
        (num, unknown), ``sound`` (by state), ``face_coverage`` (mean, min), ``labels`` (a column:
        ``classes`` with counts, or ``min``/``mean``/``max``; and ``missing``), ``refused``,
        ``ignored``, ``config``, ``part`` (number, of, …; None unless it is one of a build's parts).

    Raises:
        FileNotFoundError: There is no such folder.
        ShardError: It has no index that can be read.
    """
    index = read_index(folder)
    table = index.table
    return {
        "folder": str(folder),
        "num_samples": len(table),
        "num_frames": int(table["num_frames"].sum()),
        "hours": float(table["seconds"].sum()) / 3600,
        "bytes": sum(int(shard["bytes"]) for shard in index.info["shards"]),
        "num_shards": len(index.shards),
        "seconds": {
            "min": float(table["seconds"].min()),
            "median": float(table["seconds"].median()),
            "max": float(table["seconds"].max()),
        },
        "fps": sorted(float(fps) for fps in table["fps"].unique()),
        "splits": _counts(table["split"]),
        "speakers": {
            "num": int(table["speaker"].nunique()),
            "unknown": int(table["speaker"].isna().sum()),
        },
        "sound": _counts(table["sound_state"]),
        "face_coverage": {
            "mean": float(table["face_coverage"].mean()),
            "min": float(table["face_coverage"].min()),
        },
        "labels": {name: _label(index, name) for name in index.label_columns},
        "refused": index.info.get("refused", {}),
        "ignored": index.info.get("ignored", {}),
        "config": index.info["config"],
        "part": index.info.get("part"),
    }


def describe(about: dict[str, Any]) -> list[tuple[str, str]]:
    """What ``shards_info`` returns as lines to print: name and text."""
    seconds, coverage = about["seconds"], about["face_coverage"]
    lines = [
        ("folder", about["folder"]),
        ("samples", f"{about['num_samples']} in {about['num_shards']} shards"),
        (
            "length",
            f"{about['hours']:.2f} hours, {about['num_frames']} images; a sample "
            f"{seconds['min']:.1f} to {seconds['max']:.1f} s, median {seconds['median']:.1f} s",
        ),
        ("bytes", f"{about['bytes'] / 2**20:.1f} MiB"),
        ("fps", ", ".join(f"{fps:g}" for fps in about["fps"])),
        ("splits", _listed(about["splits"])),
        (
            "speakers",
            f"{about['speakers']['num']} ({about['speakers']['unknown']} samples unknown)",
        ),
        ("sound", _listed(about["sound"])),
        ("face found in", f"{coverage['mean']:.1%} of frames (least {coverage['min']:.1%})"),
    ]
    for name, label in about["labels"].items():
        spread = (
            _listed(label["classes"])
            if "classes" in label
            else f"{label['min']:.3g} to {label['max']:.3g}, mean {label['mean']:.3g}"
        )
        missing = f" ({label['missing']} missing)" if label["missing"] else ""
        lines.append((f"label {name}", spread + missing))
    lines.append(("refused", _listed(about["refused"]) or "none"))
    lines.append(("ignored", _listed(about["ignored"]) or "none"))
    lines.append(("build", _listed(about["config"])))
    if about["part"]:
        part = about["part"]
        lines.append(("part", f"{part['number']}/{part['of']}; hicmae shards merge joins them"))
    return lines


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items())


def _label(index: Index, name: str) -> dict[str, Any]:
    """How the values of a label are spread."""
    column = index.table[name]
    given = column.dropna()
    missing = int(column.isna().sum())
    measured = pandas.api.types.is_float_dtype(given) and not bool((given % 1 == 0).all())
    if pandas.api.types.is_numeric_dtype(given) and (measured or given.nunique() > _MOST_CLASSES):
        return {
            "min": float(given.min()),
            "mean": float(given.mean()),
            "max": float(given.max()),
            "missing": missing,
        }
    return {"classes": _counts(given), "missing": missing}


def _counts(column: pandas.Series[Any]) -> dict[str, int]:
    """How often each value occurs, by value."""
    counts = column.value_counts().sort_index()
    # A column of whole numbers with gaps is read as 1.0, 2.0, …
    names = (f"{value:g}" if isinstance(value, float) else str(value) for value in counts.index)
    return dict(zip(names, map(int, counts), strict=True))
