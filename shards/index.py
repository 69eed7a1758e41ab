"""The index beside the shards: one row a sample, one JSON file about the whole, and what they tell.

``index.parquet`` has the columns of ``COLUMNS`` and one more for each label of the manifest, under
its own name; ``blocks_xxh3`` is the checksum of ``schema.checksum``, 0 for none. ``index.json`` has
``schema_version``, ``counts``, ``config`` of the build, ``label_columns``, ``shards`` (name, bytes,
sha256, num_samples), ``refused`` by cause and ``ignored`` by suffix.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet

from hicmae.files import whole_file, write_text
from shards.schema import (
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    Label,
    SampleInfo,
    ShardError,
    unreadable,
)

TABLE_NAME = "index.parquet"
INFO_NAME = "index.json"
JOURNAL_NAME = "journal.jsonl"  # in the folder of a build that is not finished

# Offsets and lengths are of a member's data inside its tar, bytes; -1 and 0 where there is none.
COLUMNS: dict[str, pyarrow.DataType] = {
    "key": pyarrow.string(),
    "shard": pyarrow.string(),
    "mjpg_offset": pyarrow.int64(),
    "mjpg_length": pyarrow.int64(),
    "wav_offset": pyarrow.int64(),
    "wav_length": pyarrow.int64(),
    "json_offset": pyarrow.int64(),
    "json_length": pyarrow.int64(),
    "num_frames": pyarrow.int64(),
    "num_samples": pyarrow.int64(),
    "fps": pyarrow.float64(),
    "seconds": pyarrow.float64(),
    "speaker": pyarrow.string(),
    "split": pyarrow.string(),
    "sound_state": pyarrow.string(),
    "face_coverage": pyarrow.float64(),
    "face_pixels": pyarrow.float64(),
    "loudness_db": pyarrow.float64(),
    "blocks_xxh3": pyarrow.uint64(),
}
# What ``index.json`` says of each shard.
_OF_SHARD = {"name": str, "bytes": int, "sha256": str, "num_samples": int}
# Collections that were built before the column existed are read all the same, only slower.
_ABSENT = {"blocks_xxh3": 0}


@dataclass(frozen=True, kw_only=True)
class Index:
    """A folder of shards, as its index describes it.

    Args:
        table: One row a sample, in the order of the build; columns as in ``COLUMNS``, then labels.
        info: The content of ``index.json``.
    """

    table: pandas.DataFrame
    info: dict[str, Any]
    folder: Path

    @property
    def label_columns(self) -> list[str]:
        """Names of the columns that the manifest brought."""
        return list(self.info["label_columns"])

    @cached_property
    def described(self) -> dict[str, dict[str, Any]]:
        """Name → what ``index.json`` says of each shard: name, bytes, sha256, num_samples."""
        return {shard["name"]: shard for shard in self.info["shards"]}

    @property
    def shards(self) -> list[str]:
        """File names of the shards, in order."""
        return [shard["name"] for shard in self.info["shards"]]


def index_row(
    info: SampleInfo, shard: str, members: Mapping[str, tuple[int, int]], blocks_xxh3: int = 0
) -> dict[str, Label | None]:
    """The index row of a sample.

    Args:
        members: Extension → (offset, length) of the member's data, bytes.
        blocks_xxh3: Checksum of its blocks in the tar; 0: none.
    """
    row: dict[str, Label | None] = {"key": info.key, "shard": shard}
    for extension in ("mjpg", "wav", "json"):
        offset, length = members.get(extension, (-1, 0))
        row |= {f"{extension}_offset": offset, f"{extension}_length": length}
    return row | described(info) | {"blocks_xxh3": blocks_xxh3} | info.labels


def described(info: SampleInfo) -> dict[str, Label | None]:
    """What the index repeats of a sample's json, but its key and its labels."""
    return {
        "num_frames": info.num_frames,
        "num_samples": info.num_samples,
        "fps": info.fps,
        "seconds": info.seconds,
        "speaker": info.speaker,
        "split": info.split,
        "sound_state": info.sound,
        "face_coverage": info.faces.coverage,
        "face_pixels": info.faces.face_pixels,
        "loudness_db": info.loudness_db,
    }


def write_index(
    folder: Path, rows: Iterable[Mapping[str, Label | None]], info: Mapping[str, Any]
) -> None:
    """Write both files of the index.

    Args:
        rows: As ``index_row`` gives them, in the order of the build.
        info: What ``index.json`` is to hold besides ``schema_version``, ``label_columns`` and the
            ``counts`` that follow from the rows; other counts are kept.
    """
    rows = list(rows)
    labels = list(dict.fromkeys(name for row in rows for name in row if name not in COLUMNS))
    columns = {
        name: pyarrow.array([{**_ABSENT, **row}[name] for row in rows], type=kind)
        for name, kind in COLUMNS.items()
    }
    columns |= {name: _label_array([row.get(name) for row in rows]) for name in labels}
    with whole_file(folder / TABLE_NAME, sync=True) as beside:
        pyarrow.parquet.write_table(pyarrow.table(columns), beside, compression="zstd")
    about = {
        "schema_version": SCHEMA_VERSION,
        **info,
        "counts": {**info.get("counts", {}), **_counts(rows)},
        "label_columns": labels,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False)
    write_text(folder / INFO_NAME, text + "\n", sync=True)


def read_index(folder: Path | str) -> Index:
    """Read the index of a folder of shards.

    Missing values of a label are NaN in the table, but None of true and false, and of texts None
    with pandas before 3.

    Raises:
        FileNotFoundError: There is no such folder.
        ShardError: It holds no index, or one that this program cannot read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        # As a path it has lost one of two slashes.
        if elsewhere := re.match(r"(pipe:)|([A-Za-z][A-Za-z0-9+.-]+:)/", str(folder)):
            url = f"{elsewhere[2]}//{str(folder)[elsewhere.end() :]}" if elsewhere[2] else folder
            raise FileNotFoundError(
                f"{url}: shards elsewhere are read by `hicmae pretrain --data.shards` alone; copy "
                "the folder to this machine"
            )
        several = f" (pretraining takes several as [{folder}])" if "," in str(folder) else ""
        raise FileNotFoundError(f"{folder}: no such folder of shards{several}")
    missing = [name for name in (TABLE_NAME, INFO_NAME) if not (folder / name).is_file()]
    if (folder / JOURNAL_NAME).exists():
        raise ShardError(
            f"{folder}: an unfinished build; give the command that began it again to finish it"
        )
    if missing:
        raise ShardError(
            f"{folder}: no {' and no '.join(missing)}; build shards with: "
            "hicmae shards build SOURCE --out FOLDER"
        )
    try:
        info = json.loads((folder / INFO_NAME).read_bytes())
    except ValueError as error:
        raise ShardError(f"{folder / INFO_NAME}: cannot be read ({error}); rebuild it") from error
    version = info.get("schema_version") if isinstance(info, dict) else None
    if version not in READABLE_VERSIONS:
        raise ShardError(f"{folder / INFO_NAME}: {unreadable(version)}")
    absent = [name for name in ("counts", "config", "label_columns", "shards") if name not in info]
    if absent:
        raise ShardError(f"{folder / INFO_NAME}: no {', '.join(absent)}; rebuild it")
    if damage := _info_damage(info):
        raise ShardError(f"{folder / INFO_NAME}: damaged ({damage}); rebuild it")
    try:
        columns = pyarrow.parquet.read_table(folder / TABLE_NAME)
        columns.validate(full=True)  # or text that is none shows where it is first looked at
        table = columns.to_pandas()
    # The last is of the names of columns.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ShardError(f"{folder / TABLE_NAME}: cannot be read ({reason}); rebuild it") from error
    for name, value in _ABSENT.items():
        if name not in table.columns:
            table[name] = pandas.Series(value, index=table.index, dtype="uint64")
    lost = [name for name in [*COLUMNS, *info["label_columns"]] if name not in table.columns]
    if lost:
        raise ShardError(f"{folder / TABLE_NAME}: no column {', '.join(lost)}; rebuild it")
    return Index(table=table, info=info, folder=folder)


def _info_damage(info: Mapping[str, Any]) -> str:
    """What in the content of ``index.json`` is not of its form, or nothing."""
    forms = {"counts": dict, "config": dict, "label_columns": list, "shards": list}
    for name, form in forms.items():
        if not isinstance(info[name], form):
            return f"{name} is no {'mapping' if form is dict else 'list'}"
    for number, shard in enumerate(info["shards"]):
        for name, kind in _OF_SHARD.items():
            if not isinstance(shard, dict) or type(shard.get(name)) is not kind:
                return f"shard {number} of its list has no {name}"
    return ""


# A numeric label with more different values than this is a measurement, not a class.
_MOST_CLASSES = 20
# Of texts, what is shown as classes: so many, of so many characters.
_MOST_SHOWN, _LONGEST_SHOWN = 50, 60


def shards_info(folder: Path | str) -> dict[str, Any]:
    """Counts, hours, speakers, sound and labels, as plain data.

    Returns: ``folder``, ``num_samples``, ``num_frames`` (images), ``num_sound_alone``, ``hours``,
        ``bytes``, ``num_shards``, ``seconds`` (min, median, max of a sample; None where a part of
        a build has none), ``fps`` (its values),
        ``splits``, ``speakers`` (num, unknown), ``sound`` (by state), ``face_coverage`` (mean, min;
        None without images), ``labels`` (a column: ``classes`` with counts, or
        ``min``/``mean``/``max``; and ``missing``), ``refused``, ``ignored``, ``config``, ``part``
        (number, of, …; None unless it is one of a build's parts).

    Raises: FileNotFoundError, ShardError: as ``read_index``.
    """
    index = read_index(folder)
    table = index.table
    seen = table[table["mjpg_length"] > 0]
    coverage = seen["face_coverage"].agg(["mean", "min"]).to_dict() if len(seen) else None
    return {
        "folder": str(folder),
        "num_samples": len(table),
        "num_frames": int(seen["num_frames"].sum()),
        "num_sound_alone": len(table) - len(seen),
        "hours": float(table["seconds"].sum()) / 3600,
        "bytes": sum(int(shard["bytes"]) for shard in index.info["shards"]),
        "num_shards": len(index.shards),
        "seconds": table["seconds"].agg(["min", "median", "max"]).to_dict() if len(table) else None,
        "fps": sorted(float(fps) for fps in table["fps"].unique()),
        "splits": value_counts(table["split"]),
        "speakers": {
            "num": int(table["speaker"].nunique()),
            "unknown": int(table["speaker"].isna().sum()),
        },
        "sound": value_counts(table["sound_state"]),
        "face_coverage": coverage,
        "labels": {name: _label_spread(index, name) for name in index.label_columns},
        "refused": index.info.get("refused", {}),
        "ignored": index.info.get("ignored", {}),
        "config": index.info["config"],
        "part": index.info.get("part"),
    }


def describe(about: dict[str, Any]) -> list[tuple[str, str]]:
    """What ``shards_info`` returns as lines to print: name and text."""
    seconds, coverage = about["seconds"], about["face_coverage"]
    length = f"{about['hours']:.2f} hours, {about['num_frames']} images"
    if seconds is not None:
        length += f"; a sample {seconds['min']:.1f} to {seconds['max']:.1f} s, "
        length += f"median {seconds['median']:.1f} s"
    lines = [
        ("folder", about["folder"]),
        ("samples", f"{about['num_samples']} in {about['num_shards']} shards"),
        ("length", length),
        ("bytes", f"{about['bytes'] / 2**20:.1f} MiB"),
        ("fps", ", ".join(f"{fps:g}" for fps in about["fps"])),
        ("splits", _listed(about["splits"])),
        (
            "speakers",
            f"{about['speakers']['num']} ({about['speakers']['unknown']} samples unknown)",
        ),
        ("sound", _listed(about["sound"])),
    ]
    if coverage is not None:
        found = f"{coverage['mean']:.1%} of frames (least {coverage['min']:.1%})"
        lines.append(("face found in", found))
    if about["num_sound_alone"]:
        lines.append(("sound alone", f"{about['num_sound_alone']} samples without a picture"))
    for name, label in about["labels"].items():
        spread = (
            _classes_listed(label["classes"])
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


def value_counts(column: pandas.Series[Any]) -> dict[str, int]:
    """How often each value is there, in their order."""
    counts = column.value_counts().sort_index()
    return {value_name(value): int(count) for value, count in counts.items()}


def value_name(value: Any) -> str:
    """A value as the name of a group; a column of whole numbers with gaps is read as 1.0, 2.0.

    Whole numbers have all their digits: 20230101 and 20230102 are two.
    """
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:g}"
    return str(value)


def _counts(rows: Sequence[Mapping[str, Label | None]]) -> dict[str, Any]:
    splits = Counter(str(row["split"]) for row in rows)
    return {
        "num_samples": len(rows),
        "num_frames": sum(int(row["num_frames"] or 0) for row in rows if row["mjpg_length"]),
        "seconds": round(sum(float(row["seconds"] or 0) for row in rows), 3),
        "splits": dict(sorted(splits.items())),
    }


def _label_array(values: list[Label | None]) -> pyarrow.Array:
    """One label as an Arrow column; numbers stay numbers unless some are text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pyarrow.array(values, type=pyarrow.float64())
    if len(kinds) > 1:  # sources disagree: text is what all of them can be
        return pyarrow.array([None if value is None else str(value) for value in values])
    return pyarrow.array(values)


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items())


def _classes_listed(counts: dict[str, int]) -> str:
    """Classes with their counts; of texts that name no class, such as transcripts, how many."""
    if len(counts) > _MOST_SHOWN or any(len(name) > _LONGEST_SHOWN for name in counts):
        return f"{len(counts)} different values"
    return _listed(counts)


def _label_spread(index: Index, name: str) -> dict[str, Any]:
    column = index.table[name]
    given = column.dropna()
    missing = int(column.isna().sum())
    measured = pandas.api.types.is_float_dtype(given) and not bool((given % 1 == 0).all())
    if pandas.api.types.is_numeric_dtype(given) and (measured or given.nunique() > _MOST_CLASSES):
        spread = given.agg(["min", "mean", "max"])
        return {**{str(name): value for name, value in spread.items()}, "missing": missing}
    return {"classes": value_counts(given), "missing": missing}
