"""The index: rows and facts come back as they went in; anything else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas
import pytest

from shards.index import COLUMNS, index_row, read_index, write_index
from shards.schema import Label, ShardError
from tests.support.shard_fixtures import make_sample

ABOUT: dict[str, Any] = {"counts": {"num_recordings": 3}, "config": {"fps": 25}, "shards": []}


def rows(*labels: dict[str, Label]) -> list[dict[str, Label | None]]:
    return [
        index_row(
            dataclasses.replace(make_sample(number, num_frames=2)[0], labels=given),
            "train-000000.tar",
            {"mjpg": (512, 10), "wav": (1536, 20), "json": (2560, 30)},
        )
        for number, given in enumerate(labels)
    ]


def test_a_row_says_where_everything_is(tmp_path: Path) -> None:
    write_index(tmp_path, rows({"emotion": "joy"}), ABOUT)
    index = read_index(tmp_path)
    row = index.table.iloc[0]
    assert list(index.table.columns) == [*COLUMNS, "emotion"]
    assert (row["mjpg_offset"], row["mjpg_length"]) == (512, 10)
    assert (row["wav_offset"], row["json_length"]) == (1536, 30)
    assert row["seconds"] == pytest.approx(2 / 25)
    assert (row["shard"], row["emotion"], row["speaker"]) == ("train-000000.tar", "joy", "id00")
    assert index.label_columns == ["emotion"]
    assert index.info["config"] == {"fps": 25}


def test_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    given = rows({}, {}, {})
    given[2]["split"] = "test"
    write_index(tmp_path, given, ABOUT)
    assert read_index(tmp_path).info["counts"] == {
        "num_recordings": 3,
        "num_samples": 3,
        "num_frames": 6,
        "seconds": 0.24,
        "splits": {"test": 1, "train": 2},
    }


def test_a_sample_without_sound_has_no_offset(tmp_path: Path) -> None:
    info = make_sample(0, num_frames=2, sound=False)[0]
    write_index(tmp_path, [index_row(info, "a.tar", {"mjpg": (0, 1), "json": (512, 1)})], ABOUT)
    row = read_index(tmp_path).table.iloc[0]
    assert (row["wav_offset"], row["wav_length"], row["num_samples"]) == (-1, 0, 0)


def test_labels_keep_their_kind_and_gaps_are_nan(tmp_path: Path) -> None:
    write_index(
        tmp_path,
        rows({"fold": 1, "valence": 1, "id": 7}, {"fold": 2, "valence": 0.5, "id": "007"}, {}),
        ABOUT,
    )
    table = read_index(tmp_path).table
    assert table["fold"].tolist()[:2] == [1, 2]
    assert math.isnan(table["fold"][2])
    assert table["valence"].tolist()[:2] == [1.0, 0.5]
    # One source gave a number and another text: text is what both can be.
    assert table["id"].tolist()[:2] == ["7", "007"]
    assert pandas.isna(table["id"][2])


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_index(tmp_path / name, rows({"fold": 1}, {"fold": 2}), ABOUT)
    for file in ("index.parquet", "index.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "index.json",
        "index.parquet",
    ]


def test_a_missing_folder_and_one_without_index_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder of shards"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"no index\.parquet and no index\.json; build shards"):
        read_index(tmp_path)


def test_an_index_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path, rows({}), ABOUT)
    good = json.loads((tmp_path / "index.json").read_text())
    for bad, told in (
        (json.dumps(good | {"schema_version": 1}), "schema version 1, this program reads 2"),
        (json.dumps({"schema_version": 2}), "no counts, config, label_columns, shards"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "index.json").write_text(bad)
        with pytest.raises(ShardError, match=told):
            read_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(good | {"label_columns": ["emotion"]}))
    with pytest.raises(ShardError, match="no column emotion"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(good))
    data = (tmp_path / "index.parquet").read_bytes()
    (tmp_path / "index.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"index\.parquet: cannot be read"):
        read_index(tmp_path)
