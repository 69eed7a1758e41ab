"""The index: rows and facts come back as they went in; anything else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet
import pytest

from shards.building.writer import ShardWriter
from shards.index import (
    COLUMNS,
    describe,
    index_row,
    read_index,
    shards_info,
    value_counts,
    write_index,
)
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
    with pytest.raises(FileNotFoundError, match=r"\(pretraining takes several as \[.*one,two\]\)"):
        read_index(tmp_path / "one,two")
    with pytest.raises(ShardError, match=r"no index\.parquet and no index\.json; build shards"):
        read_index(tmp_path)


def test_an_index_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path, rows({}), ABOUT)
    good = json.loads((tmp_path / "index.json").read_text())
    for bad, told in (
        (json.dumps(good | {"schema_version": 1}), "schema version 1, this program reads 2 and 3"),
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


@pytest.mark.parametrize("url", ["https://host/a/shards", "s3://bucket/shards", "pipe:cat /a/{}"])
def test_a_folder_elsewhere_is_not_called_absent(url: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_index(Path(url))
    assert str(error.value) == (
        f"{url}: shards elsewhere are read by `hicmae pretrain --data.shards` alone; copy the "
        "folder to this machine"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """25, 50 and 75 frames; two speakers and one unknown; two classes and a gap."""
    with ShardWriter(tmp_path, samples_per_shard=2) as writer:
        for number, labels in enumerate(
            ({"emotion": "joy", "fold": 1, "valence": 0.5}, {"emotion": "joy", "fold": 2}, {})
        ):
            info, mjpg, wav = make_sample(
                number, num_frames=25 * (number + 1), sound=number > 0, labels=labels
            )
            if number == 2:
                info = dataclasses.replace(info, speaker=None, split="test")
            writer.add(info, mjpg, wav)
    write_index(
        tmp_path,
        writer.rows,
        {"config": {"face_size": 32}, "shards": writer.shards, "refused": {"no-face": 2}},
    )
    return tmp_path


def test_text_that_is_none_is_refused_with_the_name_of_the_file(folder: Path) -> None:
    """Parquet has no checksum here: a byte of a text may be another one."""
    path = folder / "index.parquet"
    table = pyarrow.parquet.read_table(path)
    broken = pyarrow.array([b"\xff"] * len(table)).view(pyarrow.string())
    place = table.column_names.index("key")
    pyarrow.parquet.write_table(table.set_column(place, "key", broken), path)
    with pytest.raises(ShardError, match=r"index\.parquet: cannot be read \(.*UTF8.*; rebuild it"):
        read_index(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"bytes"', '"bites"', "shard 0 of its list has no bytes"),
        ('"shards": [', '"shards": 0, "shardz": [', "shards is no list"),
    ],
)
def test_an_index_whose_keys_are_damaged_is_refused(
    folder: Path, old: str, new: str, said: str
) -> None:
    path = folder / "index.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ShardError, match=rf"index\.json: damaged \({said}\); rebuild it"):
        read_index(folder)


def test_the_facts_of_a_folder_are_those_of_its_samples(folder: Path) -> None:
    about = shards_info(folder)
    assert (about["num_samples"], about["num_frames"], about["num_shards"]) == (3, 150, 2)
    assert about["hours"] == pytest.approx(6 / 3600)
    assert about["seconds"] == {"min": 1.0, "median": 2.0, "max": 3.0}
    assert about["bytes"] == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert about["fps"] == [25.0]
    assert about["splits"] == {"test": 1, "train": 2}
    assert about["speakers"] == {"num": 2, "unknown": 1}
    assert about["sound"] == {"absent": 1, "present": 2}
    assert about["refused"] == {"no-face": 2}
    assert about["config"] == {"face_size": 32}


def test_long_whole_numbers_with_a_gap_are_classes_of_their_own() -> None:
    counts = value_counts(pandas.Series([20230101, 20230102, None, 3]))
    assert counts == {"3": 1, "20230101": 1, "20230102": 1}


def test_labels_are_counted_as_classes_or_measured(folder: Path) -> None:
    labels = shards_info(folder)["labels"]
    assert labels["emotion"] == {"classes": {"joy": 2}, "missing": 1}
    assert labels["fold"] == {"classes": {"1": 1, "2": 1}, "missing": 1}
    assert labels["valence"] == {"min": 0.5, "mean": 0.5, "max": 0.5, "missing": 2}


def test_all_of_it_is_plain_data_and_can_be_printed(folder: Path) -> None:
    about = shards_info(folder)
    assert json.loads(json.dumps(about)) == about
    lines = dict(describe(about))
    assert lines["samples"] == "3 in 2 shards"
    assert lines["label emotion"] == "joy 2 (1 missing)"
    assert lines["refused"] == "no-face 2"


def test_the_facts_of_a_part_without_a_sample_are_plain_data_too(tmp_path: Path) -> None:
    """All its recordings were refused, which is no error of a part."""
    write_index(tmp_path, [], ABOUT)
    about = shards_info(tmp_path)
    assert json.loads(json.dumps(about, allow_nan=False)) == about
    assert dict(describe(about))["length"] == "0.00 hours, 0 images"


def test_texts_that_name_no_class_are_counted_in_the_lines_not_listed(folder: Path) -> None:
    about = shards_info(folder)
    words = {f"number {number}": 1 for number in range(51)}
    about["labels"] |= {
        "words": {"classes": words, "missing": 1},
        "said": {"classes": {"a" * 61: 1, "b": 1}, "missing": 0},
    }
    lines = dict(describe(about))
    assert lines["label words"] == "51 different values (1 missing)"
    assert lines["label said"] == "2 different values"
    assert lines["label emotion"] == "joy 2 (1 missing)"
