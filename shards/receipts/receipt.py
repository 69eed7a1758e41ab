"""The receipt of a folder of shards, by which two people compare their preparations.

``receipt.json`` is what machines compare, ``receipt.md`` the page beside it. A receipt holds no
times and no paths of the machine, so that the same build gives the same bytes. It is made from the
index and the jsons of the samples; of the images, only those of the contact sheet are decoded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from hicmae.files import write_text
from shards.index import Index, read_index, value_counts, value_name
from shards.receipts.facts import (
    ASPECTS,
    CONTENT,
    QUANTITIES,
    SampleFacts,
    canonical_json,
    describe_values,
    library_versions,
    quantiles_of,
    read_facts,
)
from shards.schema import ShardError

RECEIPT_JSON = "receipt.json"
RECEIPT_PAGE = "receipt.md"
RECEIPT_PICTURES = "receipt"
# Of the content of receipt.json; also to be raised when a bin of facts.py moves.
RECEIPT_VERSION = 1

_PARTS = ("configuration", "counts", "distributions", "digests", "labels", "refused", "versions")
_MOST_CLASSES = 50  # of a label; one with more is an identifier or a measurement


def write_receipt(folder: Path, *, versions: Mapping[str, str] | None = None) -> None:
    """Write the receipt of a finished folder; each file beside its name and then renamed.

    Args: versions: Of the libraries that built it; none given: those in use now.

    Raises: FileNotFoundError, ShardError: as ``read_index`` and ``read_facts``.
    """
    # Drawing is heavy, and builds import this module for the names of the files.
    from shards.receipts import page

    folder = Path(folder)
    index = read_index(folder)
    about = make_receipt(
        index, read_facts(index), library_versions() if versions is None else versions
    )
    cells = page.write_pictures(folder / RECEIPT_PICTURES, index, about)
    write_text(folder / RECEIPT_PAGE, page.receipt_page(about, cells, RECEIPT_PICTURES))
    write_text(folder / RECEIPT_JSON, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def make_receipt(index: Index, facts: SampleFacts, versions: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``receipt.json``, made from the index and the facts of its samples.

    Args: versions: Of the libraries that built it; empty if not known.
    """
    table, info = index.table, index.info
    alone = int((table["mjpg_length"] == 0).sum())
    return {
        "receipt_version": RECEIPT_VERSION,
        "schema_version": index.info["schema_version"],
        "configuration": info["config"],
        "counts": {
            **{name: count for name, count in info["counts"].items() if name != "splits"},
            **({"num_sound_alone": alone} if alone else {}),
            "hours": round(float(table["seconds"].sum()) / 3600, 4),
            "bytes": sum(int(shard["bytes"]) for shard in info["shards"]),
            "num_shards": len(info["shards"]),
            "num_speakers": int(table["speaker"].nunique()),
            "num_refused": sum(info.get("refused", {}).values()),
        },
        "splits": _groups(table, "split", speakers=True),
        "labels": {name: _label(table, name) for name in index.label_columns},
        "speakers": _speakers(table),
        "sound": {
            "states": value_counts(table["sound_state"]),
            "num_padded": facts.num_padded,
            "padded_seconds": round(facts.padded_seconds, 3),
            "num_damaged": facts.num_damaged_sounds,
            **({"taken": _sorted(facts.sounds_taken)} if facts.sounds_taken else {}),
        },
        "faces": {
            "detectors": _sorted(facts.detectors),
            "found_by": _sorted(facts.found_by),
            "face_sizes": _sorted(facts.face_sizes),
        },
        **({"cut_off": _sorted(facts.cut_off)} if facts.cut_off else {}),
        **({"pictures": _sorted(facts.pictures)} if facts.pictures else {}),
        **({"sync": _sync(facts)} if facts.sync else {}),
        "refused": info.get("refused", {}),
        "ignored": info.get("ignored", {}),
        "distributions": {name: describe_values(name, table) for name in QUANTITIES},
        "digests": _digests(index, facts),
        "versions": dict(versions),
    }


def read_receipt(path: Path) -> dict[str, Any]:
    """Read a ``receipt.json`` that somebody wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ShardError: It is no receipt, or one of another version.
    """
    try:
        about = json.loads(path.read_bytes())
    except ValueError as error:  # undecodable text is a ValueError too
        raise ShardError(f"{path}: cannot be read ({error}); give a {RECEIPT_JSON}") from error
    version = about.get("receipt_version") if isinstance(about, dict) else None
    if version != RECEIPT_VERSION:
        raise ShardError(
            f"{path}: receipt version {version!r}, this program reads {RECEIPT_VERSION}; make it "
            "again with: hicmae shards receipt FOLDER"
        )
    lost = [name for name in _PARTS if not isinstance(about.get(name), dict)]
    lost += [
        f"distributions.{name}" for name in QUANTITIES if name not in about.get("distributions", {})
    ]
    if lost:
        raise ShardError(
            f"{path}: no {', '.join(lost)}; make it again with: hicmae shards receipt FOLDER"
        )
    return about


def recorded_versions(folder: Path) -> dict[str, str]:
    """The libraries that built a folder, as its receipt says; empty if it has none of its own."""
    try:
        old = read_receipt(folder / RECEIPT_JSON)
    except (FileNotFoundError, NotADirectoryError, ShardError):
        return {}
    same = old["digests"].get("shards") == _shard_digests(read_index(folder))
    return dict(old["versions"]) if same else {}


def _sorted(groups: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): groups[name] for name in sorted(groups)}


def _digests(index: Index, facts: SampleFacts) -> dict[str, Any]:
    """Hex SHA-256: what two preparations have in common is seen from them alone."""
    settings = {
        "schema_version": index.info["schema_version"],
        "configuration": index.info["config"],
    }
    return {
        "preparation": hashlib.sha256(canonical_json(settings)).hexdigest(),
        "content": facts.digest(*CONTENT),
        "ordered_samples": hashlib.sha256(facts.record_digests.tobytes()).hexdigest(),
        "keys": facts.digest(),
        **{aspect: facts.digest(aspect) for aspect in ASPECTS},
        "shards": _shard_digests(index),
    }


def _sync(facts: SampleFacts) -> dict[str, Any]:
    """How many samples go with their sound, and which seem not to."""
    words = ("ok", "apart", "shifted")
    about: dict[str, Any] = {f"num_{word}": len(facts.sync.get(word, {})) for word in words}
    return about | {word: facts.sync[word] for word in words[1:] if word in facts.sync}


def _shard_digests(index: Index) -> dict[str, str]:
    return {str(shard["name"]): str(shard["sha256"]) for shard in index.info["shards"]}


def _groups(table: pandas.DataFrame, column: str, *, speakers: bool = False) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for value, part in table.groupby(column, sort=True):
        groups[value_name(value)] = {
            "num_samples": len(part),
            "seconds": round(float(part["seconds"].sum()), 3),
        }
        if speakers:
            groups[value_name(value)]["num_speakers"] = int(part["speaker"].nunique())
    return groups


def _label(table: pandas.DataFrame, name: str) -> dict[str, Any]:
    """Classes with counts and seconds, or the spread of a measurement, or how many names."""
    given = table.dropna(subset=[name])
    missing = len(table) - len(given)
    column = given[name]
    numeric = pandas.api.types.is_numeric_dtype(column) and not pandas.api.types.is_bool_dtype(
        column
    )
    fractions = numeric and not bool((column % 1 == 0).all())
    num_values = int(column.nunique())
    if numeric and (fractions or num_values > _MOST_CLASSES):
        values = column.to_numpy(dtype=np.float64)
        return {
            "missing": missing,
            "mean": round(float(values.mean()), 6),
            "sd": round(float(values.std()), 6),
            "quantiles": quantiles_of(values),
        }
    if num_values > _MOST_CLASSES:
        return {"missing": missing, "num_values": num_values}
    return {"missing": missing, "classes": _groups(given, name)}


def _speakers(table: pandas.DataFrame) -> dict[str, Any]:
    groups = _groups(table, "speaker")
    each = {
        name: quantiles_of(np.array([group[name] for group in groups.values()], dtype=np.float64))
        for name in ("num_samples", "seconds")
        if groups
    }
    return {
        "num": len(groups),
        "samples_without": int(table["speaker"].isna().sum()),
        "quantiles": each,
        "each": groups,
    }
