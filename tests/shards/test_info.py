"""What a folder of shards holds, counted by hand here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from shards.building.writer import ShardWriter
from shards.index import write_index
from shards.info import describe, shards_info
from tests.support.shard_fixtures import make_sample


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
        {
            "config": {"face_size": 32},
            "shards": writer.shards,
            "refused": {"no-face": 2},
        },
    )
    return tmp_path


def test_counts_are_those_of_the_samples(folder: Path) -> None:
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
