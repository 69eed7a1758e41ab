"""Dialogues, blends and compound expressions: what the layouts of such datasets give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.benchmark import load_benchmark
from finetune.folds import make_folds, usable_rows
from shards.datasets import DATASETS, ReadOptions
from shards.datasets.base import Item
from shards.datasets.blemore import SHARES, labels_of
from shards.datasets.cexpr import seconds
from tests.shards.test_datasets_benchmarks import index_table
from tests.support.dataset_trees import TREES, medium


def read(
    name: str, root: Path
) -> tuple[dict[str, Item], dict[str, list[str]], dict[str, list[str]]]:
    """Items by key, what is missing, and what is left out, of an imitated tree."""
    TREES[name](root)
    listing = DATASETS[name].read(root, ReadOptions())
    return {item.key: item for item in listing.items}, listing.missing, listing.left_out


def test_meld_keeps_dialogues_of_equal_numbers_apart(tmp_path: Path) -> None:
    items, missing, left_out = read("meld", tmp_path)
    assert len(items) == 3 * 14 - 1
    assert missing == {"no clip": ["train/dia1_utt6"]}
    assert left_out == {"not labelled": ["test/final_videos_testdia0_utt0"]}
    item = items["dev/dia1_utt4"]
    assert item.path == "dev/dev_splits_complete/dia1_utt4.mp4"
    assert (item.speaker, item.split) == ("Rachel", "dev")
    assert item.labels == {
        "emotion": "joy",
        "sentiment": "positive",
        "dialogue": "dev/1",
        "utterance": 4,
        "season": 4,
        "episode": 7,
    }
    dialogues = {item.labels["dialogue"] for item in items.values()}
    assert len(dialogues) == 6


def test_meld_is_tested_on_its_test_part_and_no_dialogue_is_on_both_sides(tmp_path: Path) -> None:
    benchmark = load_benchmark("meld")
    rows, _ = usable_rows(benchmark, index_table("meld", tmp_path))
    (fold,) = make_folds(benchmark, rows)
    assert set(fold.test["split"]) == {"test"}
    assert set(fold.train["split"]) == {"train"}
    assert set(fold.train["speaker"]) & set(fold.test["speaker"])  # the roles are the same
    mixed = rows.assign(dialogue="one")
    with pytest.raises(ValueError, match="dialogue 'one' is on both sides"):
        make_folds(benchmark, mixed)


def test_blemore_reads_blends_out_of_names_and_folds_out_of_the_table(tmp_path: Path) -> None:
    items, missing, left_out = read("blemore", tmp_path)
    assert (len(items), missing, left_out) == (63, {}, {})
    item = items["A103_mix_ang_hap_30_70_ver1"]
    assert (item.speaker, item.split, item.labels["fold"]) == ("A103", "train", 3)
    assert item.labels["emotions"] == "anger+happiness"
    assert [item.labels[name] for name in SHARES] == [0.3, 0, 0, 0.7, 0, 0]
    alone = items["A106_neu_sit2_ver1"]
    assert (alone.split, alone.labels["fold"], alone.labels["sex"]) == ("test", None, "male")
    assert [alone.labels[name] for name in SHARES] == [0, 0, 0, 0, 0, 1]
    assert alone.labels["intensity"] is None
    assert items["A100_sad_int1_ver1"].labels["intensity"] == 1
    for each in items.values():
        shares = np.array([each.labels[name] for name in SHARES], dtype=float)
        assert shares.sum() == pytest.approx(1)
    medium(tmp_path / "train/A199_hap_int1_ver1.mov")
    again = DATASETS["blemore"].read(tmp_path, ReadOptions())
    assert again.left_out == {"in no table": ["A199_hap_int1_ver1"]}


@pytest.mark.parametrize(
    "name",
    [
        "A1_mix_ang_ang_50_50_ver1",
        "A1_mix_ang_hap_70_40_ver1",
        "A1_joy_int1_ver1",
        "ang_int1_ver1",
        "A1_ang_int1",
    ],
)
def test_a_name_that_is_no_label_of_blemore_is_none(name: str) -> None:
    assert labels_of(name) is None


def test_c_expr_db_cuts_spans_out_of_videos_and_leaves_out_what_is_not_one_of_seven(
    tmp_path: Path,
) -> None:
    items, missing, left_out = read("c-expr-db", tmp_path)
    assert len(items) == 6 * 7
    assert missing == {}
    first = "0-30-1920x1080"
    assert left_out == {"none of the seven, or several at once": [f"{first}/008", f"{first}/009"]}
    item = items[f"{first}/003"]
    assert (item.start, item.end) == (4.0, 5.5)
    assert item.labels["emotion"] == "sadly_surprised"
    assert item.speaker == first
    assert {item.labels["fold"] for item in items.values()} == {1, 2, 3, 4, 5}


def test_a_video_in_which_nothing_is_shown_does_not_end_the_list_of_c_expr_db(
    tmp_path: Path,
) -> None:
    TREES["c-expr-db"](tmp_path)
    table = tmp_path / "annotation/2-30-1920x1080.csv"
    table.write_text(table.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    listing = DATASETS["c-expr-db"].read(tmp_path, ReadOptions())
    assert len(listing.items) == 5 * 7
    assert listing.left_out["no span in its table"] == ["2-30-1920x1080"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("00:01:02.500", 62.5), ("1:00:00", 3600), ("7,25", 7.25), ("x", None), ("1:-2", None)],
)
def test_times_of_elan_are_seconds(text: str, value: float | None) -> None:
    assert seconds(text) == value
