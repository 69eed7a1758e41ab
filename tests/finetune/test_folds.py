"""Folds: who is on which side, and every way in which a division would be dishonest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune.benchmark import Benchmark, load_benchmark
from finetune.folds import (
    Fold,
    as_text,
    left_out,
    make_folds,
    num_speakers,
    shared_values,
    usable_rows,
)
from hicmae.config import config_root
from tests.support.finetune_fixtures import BENCHMARK, VALUES, split_benchmark


def table(**columns: object) -> pd.DataFrame:
    """Eight samples of four speakers in two folds."""
    given = {
        "key": [f"k{number}" for number in range(8)],
        "speaker": [f"s{number // 2}" for number in range(8)],
        "fold": [1, 1, 2, 2, 1, 1, 2, 2],
        "emotion": ["low", "high"] * 4,
        "valence": np.linspace(-1, 1, 8),
        "arousal": np.linspace(0, 1, 8),
        "mjpg_length": 1,
        "wav_length": 1,
    }
    return pd.DataFrame(given | columns)


def divide(benchmark: Benchmark = BENCHMARK, /, **columns: object) -> list[Fold]:
    """The folds of those samples."""
    return make_folds(benchmark, usable_rows(benchmark, table(**columns))[0])


def test_each_sample_is_tested_once_and_never_by_its_own_fold() -> None:
    rows, ignored = usable_rows(BENCHMARK, table())
    folds = make_folds(BENCHMARK, rows)
    assert [fold.name for fold in folds] == ["1", "2"]
    assert ignored == {}
    assert sorted(key for fold in folds for key in fold.test["key"]) == sorted(rows["key"])
    for fold in folds:
        assert set(fold.test["fold"].astype(str)) == {fold.name}
        assert not set(fold.train["key"]) & set(fold.test["key"])
        assert len(fold.train) + len(fold.test) == len(rows)


def test_rows_keep_their_number_in_the_index() -> None:
    ignoring = dataclasses.replace(BENCHMARK, ignore=("other",))
    rows, ignored = usable_rows(
        ignoring, table(emotion=["other", "high", "low", "high", "low", "high", "low", "high"])
    )
    assert list(rows.index) == [1, 2, 3, 4, 5, 6, 7]
    assert ignored == {"other": 1}


def test_folds_are_ordered_as_numbers_and_chosen_by_name() -> None:
    wide = table(fold=[1, 1, 10, 10, 2, 2, 3, 3])
    rows, _ = usable_rows(BENCHMARK, wide)
    assert [fold.name for fold in make_folds(BENCHMARK, rows)] == ["1", "2", "3", "10"]
    assert [fold.name for fold in make_folds(BENCHMARK, rows, folds="10, 2")] == ["2", "10"]
    with pytest.raises(ValueError, match=r"no fold 4 \(folds: 1, 2, 3, 10, or all\)"):
        make_folds(BENCHMARK, rows, folds="2,4")


def test_a_fold_whose_name_holds_a_comma_can_be_asked_for() -> None:
    rows, _ = usable_rows(BENCHMARK, table(fold=["Bonn, Rhine"] * 2 + ["Ulm"] * 2 + ["Lee"] * 4))
    assert [fold.name for fold in make_folds(BENCHMARK, rows, folds="Bonn, Rhine")] == [
        "Bonn, Rhine"
    ]
    several = make_folds(BENCHMARK, rows, folds=["Ulm", "Bonn, Rhine"])
    assert [fold.name for fold in several] == ["Bonn, Rhine", "Ulm"]


def test_folds_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"folds '<30' and '>30' would have the same folder"):
        divide(fold=["<30", "<30", ">30", ">30"] * 2)


def test_a_fixed_split_has_one_fold_and_leaves_the_rest_alone() -> None:
    benchmark = split_benchmark(column="split", train=("train",), test=("test",))
    given = table(split=["train", "train", "val", "val", "test", "test", "test", "test"])
    (fold,) = make_folds(benchmark, usable_rows(benchmark, given)[0])
    assert fold.name == "split"
    assert list(fold.train["key"]) == ["k0", "k1"]
    assert list(fold.test["key"]) == ["k4", "k5", "k6", "k7"]
    unlisted = split_benchmark(column="split", test=("test",))
    (rest,) = make_folds(unlisted, usable_rows(unlisted, given)[0])
    assert list(rest.train["key"]) == ["k0", "k1", "k2", "k3"]


def test_what_is_on_neither_side_of_a_fixed_split_is_counted() -> None:
    benchmark = split_benchmark(train=(1,), test=(2,))
    given = table(fold=[1, 1, 2, 2, 3, 3, 3, 3], emotion=["low", "high"] * 2 + ["new"] * 4)
    rows, ignored = usable_rows(benchmark, given)
    assert list(rows["key"]) == ["k0", "k1", "k2", "k3"]
    assert ignored == {"fold '3'": 4}, "and their labels do not matter"
    rows, ignored = usable_rows(benchmark, given.assign(emotion="low"), sides=False)
    assert (len(rows), ignored) == (8, {})


@pytest.mark.parametrize("sides", [{"test": ("s1", "s33")}, {"test": ("s1",), "train": ("s33",)}])
def test_a_side_that_no_sample_has_is_refused(sides: dict[str, tuple[str, ...]]) -> None:
    benchmark = split_benchmark(column="speaker", **sides)
    with pytest.raises(ValueError, match=r"has speaker 's33' \(there .*mean 's3'\?"):
        usable_rows(benchmark, table())


def test_a_speaker_on_both_sides_is_refused_unless_the_protocol_says_so() -> None:
    leaking = ["s0", "s0", "s0", "s1", "s2", "s2", "s3", "s3"]
    with pytest.raises(ValueError, match="fold 1: speaker 's0' is on both sides") as caught:
        divide(speaker=leaking)
    assert "(1 training and 2 test samples of 1 such)" in str(caught.value)
    assert len(divide(split_benchmark(shared_speakers=True), speaker=leaking)) == 2
    with pytest.raises(ValueError, match="speaker '1' is on both sides"):  # numbers too
        divide(speaker=[1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 4.0])


def test_unnamed_speakers_are_refused_unless_the_protocol_says_so() -> None:
    for speaker in (None, [None, *["s1"] * 7]):
        with pytest.raises(ValueError, match=r"has no speaker \(\d such samples\)"):
            divide(speaker=speaker)
    shared = divide(split_benchmark(shared_speakers=True), speaker=[None, "s1"] * 4)
    assert [shared_values(fold, "speaker") for fold in shared] == [["s1"]] * 2  # not nobody's
    assert num_speakers(BENCHMARK, shared[0].train) is None
    rows, _ = usable_rows(BENCHMARK, table().drop(columns="speaker"))
    with pytest.raises(ValueError, match="the index has no column 'speaker'") as caught:
        make_folds(BENCHMARK, rows)
    assert "\n" not in str(caught.value)
    assert len(make_folds(split_benchmark(shared_speakers=True), rows)) == 2


def test_a_label_outside_the_list_is_named_with_its_sample() -> None:
    with pytest.raises(ValueError, match="'k2': emotion 'hgih' is no class") as caught:
        usable_rows(BENCHMARK, table(emotion=["low", "high", "hgih", "low"] * 2))
    assert "2 such samples; classes: low, high" in str(caught.value)


def test_a_missing_label_is_called_missing_and_counted_where_it_is_left_out() -> None:
    emotion = ["", "high", None, "high", "low", "high", "low", "other"]
    with pytest.raises(ValueError, match=r"'k0' has no emotion \(2 such .* leave them out with"):
        divide(emotion=emotion)
    with pytest.raises(ValueError, match=r"'k1' has no valence \(2 such .*label them, or make"):
        divide(VALUES, valence=[0.5, np.nan, 0, 0, None, 1, 1, 1])
    ignoring = dataclasses.replace(BENCHMARK, ignore=("", "other"))
    rows, ignored = usable_rows(ignoring, table(emotion=emotion))
    assert len(rows) == 5
    assert left_out(ignored) == "without a label: 2, other: 1"


def test_labels_that_are_numbers_are_compared_as_written() -> None:
    numbered = dataclasses.replace(BENCHMARK, classes=("0", "1"))
    rows, _ = usable_rows(numbered, table(emotion=[0.0, 1.0] * 4))
    assert len(rows) == 8


def test_a_class_that_is_never_trained_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fold 1: no training sample of low;.* by --folds, or"):
        divide(emotion=["high", "low", *["high"] * 2] * 2)


def test_a_target_that_is_no_number_is_named_with_its_sample() -> None:
    for wrong, remedy in (("loud", ""), (np.inf, ""), ("0,4", r"; write 0\.4, with")):
        told = rf"sample 'k3': arousal = .* is no finite number .*{remedy}"
        with pytest.raises(ValueError, match=told):
            usable_rows(VALUES, table(arousal=[0.1, 0.2, 0.3, wrong, 0.5, 0.6, 0.7, 0.8]))


def test_missing_columns_and_empty_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="no column 'emotion'"):
        usable_rows(BENCHMARK, table().drop(columns="emotion"))
    with pytest.raises(ValueError, match="no column 'session'"):
        divide(split_benchmark(column="session"))
    with pytest.raises(ValueError, match="no training sample"):
        divide(split_benchmark(test=("1", "2")))
    with pytest.raises(ValueError, match="has one value"):
        divide(fold=1)
    with pytest.raises(ValueError, match="sample 'k0' has no fold"):
        divide(fold=[None, *[1] * 4, *[2] * 3])


@pytest.mark.parametrize(
    "benchmark",
    [
        dataclasses.replace(BENCHMARK, classes=("a", "b"), ignore=("low", "high")),
        split_benchmark(ignore=(1, 2)),
    ],
)
def test_a_benchmark_that_leaves_out_every_sample_is_refused(benchmark: Benchmark) -> None:
    with pytest.raises(ValueError, match=r"leaves out all 8 samples of the index .*: 4, .*: 4\)"):
        divide(benchmark)


def test_cells_are_text_as_people_write_it() -> None:
    cells = [3.0, 3, np.float64(3), "3", None, np.nan, 2.5, np.int64(7)]
    assert [as_text(cell) for cell in cells] == ["3", "3", "3", "3", "", "", "2.5", "7"]


def test_every_offender_is_named_up_to_five() -> None:
    sides = pd.concat([table(fold=1), table(fold=2)])
    sides["speaker"] = [f"s{number}" for number in range(8)] * 2
    with pytest.raises(ValueError, match="speaker 's0', 's1', 's2', 's3', 's4', … are on both"):
        make_folds(BENCHMARK, sides)
    with pytest.raises(ValueError, match=r"'s0', 's1' are on both .*\(2 training and 2 test"):
        make_folds(BENCHMARK, sides.iloc[:10])


def test_a_recording_or_dialogue_on_both_sides_is_refused_even_of_shared_speakers() -> None:
    dialogue = ["d0", "d0", "d1", "d1", "d0", "d2", "d3", "d3"]
    clean = [f"d{number}" for number in range(8)]
    for benchmark in (
        split_benchmark(shared_speakers=True, disjoint=("dialogue",)),
        split_benchmark(disjoint=("dialogue",)),
        dataclasses.replace(split_benchmark(shared_speakers=True), average_over="dialogue"),
    ):
        assert len(divide(benchmark, dialogue=clean)) == 2
        with pytest.raises(ValueError, match="fold 1: dialogue 'd0' is on both sides"):
            divide(benchmark, dialogue=["d0", "d1", "d0", "d2", "d3", "d4", "d5", "d6"])
        with pytest.raises(ValueError, match="sample 'k0' has no dialogue"):
            divide(benchmark, dialogue=[None, *dialogue[1:]])
        with pytest.raises(ValueError, match="no column 'dialogue'"):
            divide(benchmark)


@pytest.mark.parametrize("path", sorted((config_root() / "benchmarks").glob("*.yaml")))
def test_no_packaged_benchmark_lets_a_speaker_or_session_leak(path: Path) -> None:
    """Ten samples a class and side; then one of the training side joins a test speaker."""
    benchmark = load_benchmark(path.stem)
    if benchmark.over_time:  # whose instants are divided as their samples are
        benchmark = dataclasses.replace(benchmark, over_time=None)
    protocol = benchmark.folds
    sides = ["1", "2"] if protocol.test is None else [protocol.train[0], protocol.test[0]]
    classes = {head.label: head.classes for head in benchmark.every_head if head.label}
    size = 10 * max(1, *map(len, classes.values())) if classes else 10
    column = np.repeat([str(side) for side in sides], size)
    rows = pd.DataFrame({"key": [f"k{n}" for n in range(2 * size)], protocol.column: column})
    rows[["mjpg_length", "wav_length"]] = 1
    rows[benchmark.speaker] = [f"{side}-{n % 5}" for n, side in enumerate(column)]
    for name in benchmark.disjoint:
        rows[name] = [f"{side}-{n}" for n, side in enumerate(column)]
    for label, names in classes.items():
        rows[label] = np.resize(names, 2 * size)
    for head in benchmark.every_head:
        for name in head.targets:
            rows[name] = np.linspace(-1, 1, 2 * size)
        for name in getattr(head, "columns", ()):
            rows[name] = 1 / len(head.columns)
    folds = make_folds(benchmark, usable_rows(benchmark, rows)[0])
    assert len(folds) == (2 if protocol.test is None else 1)
    leaking = rows.copy()
    leaking.loc[0, benchmark.speaker] = rows.loc[2 * size - 1, benchmark.speaker]
    if protocol.shared_speakers:
        assert make_folds(benchmark, usable_rows(benchmark, leaking)[0])
    else:
        with pytest.raises(ValueError, match=f"{benchmark.speaker} '.*' is on both sides"):
            make_folds(benchmark, usable_rows(benchmark, leaking)[0])
    for name in benchmark.disjoint:
        crossing = rows.copy()
        crossing.loc[0, name] = rows.loc[2 * size - 1, name]
        with pytest.raises(ValueError, match=f"{name} '.*' is on both sides"):
            make_folds(benchmark, usable_rows(benchmark, crossing)[0])
