"""The real benchmarks and the readers of their datasets fit each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas
import pytest

from finetune.benchmark import Benchmark, load_benchmark
from finetune.folds import as_text, make_folds, usable_rows
from hicmae.config import config_root
from shards.datasets import DATASETS
from shards.datasets.command import manifest
from shards.manifest import read_manifest
from tests.support.dataset_trees import TREES

NAMES = sorted(
    path.stem
    for path in (config_root() / "benchmarks").glob("*.yaml")
    if not path.stem.startswith(("synthetic", "aff_wild2"))  # see test_traces.py
)

# Nobody has reported sound and picture by these rules.
WITHOUT_HICMAE = {"blemore"}  # its authors have tried others
UNPUBLISHED = {
    "c_expr_db",
    "iemocap_joint",
    "meld",
    "mer_multi_joint",
    "msp_improv_joint",
}


def index_table(dataset: str, folder: Path) -> pandas.DataFrame:
    """What the index of shards built from an imitated tree would hold."""
    root = folder / "copy"
    root.mkdir()
    TREES[dataset](root)
    manifest(dataset=dataset, root=root, out=folder / "list.csv")
    return pandas.DataFrame(
        [
            {"key": row.key, "speaker": row.speaker, "split": row.split, **row.labels}
            | {"mjpg_length": 1, "wav_length": 1}
            for row in read_manifest(folder / "list.csv")
        ]
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pandas.DataFrame]:
    """One table a dataset that has a benchmark."""
    wanted = {load_benchmark(name).dataset for name in NAMES}
    return {name: index_table(name, tmp_path_factory.mktemp(name)) for name in sorted(wanted)}


def test_the_benchmarks_are_there() -> None:
    assert NAMES == [
        "avcaffe_arousal",
        "avcaffe_valence",
        "blemore",
        "c_expr_db",
        "crema_d",
        "crema_d_4",
        "dfew",
        "iemocap",
        "iemocap_joint",
        "mafw",
        "mafw_43",
        "mafw_43_index",
        "meld",
        "mer_multi",
        "mer_multi_joint",
        "msp_improv",
        "msp_improv_joint",
        "ravdess",
        "werewolf_xl",
    ]
    datasets = {load_benchmark(name).dataset for name in NAMES}
    without = {"voxceleb2", "csv", "traces", "aff-wild2"}
    assert datasets == DATASETS.keys() - without


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_classes_of_the_dataset_s_reader(name: str) -> None:
    benchmark = load_benchmark(name)
    dataset = DATASETS[benchmark.dataset]
    assert set(benchmark.columns) <= set(dataset.columns)
    assert benchmark.folds.column in dataset.columns
    if benchmark.task == "classification":
        assert benchmark.label is not None
        known = dataset.classes[benchmark.label]
        assert {*benchmark.classes, *benchmark.ignore} - {""} == set(known)
        kept = tuple(label for label in known if label not in benchmark.ignore)
        if name != "mafw_43_index":
            assert benchmark.classes == kept  # in the same order


def test_the_compound_emotions_have_two_orders_and_nothing_else_apart() -> None:
    ours, index = load_benchmark("mafw_43"), load_benchmark("mafw_43_index")
    # Source: cate2label, "Group_multi", of public code for MAFW; initials of all 43 in its order,
    # which differs from ours from the first place on.
    initials = {name: "".join(part[:4] + "." for part in name.split("_")) for name in ours.classes}
    assert len(set(initials.values())) == 43
    assert " ".join(initials[name] for name in index.classes) == (
        "help.disa. disg.help. fear.surp. ange.surp. disg. ange.sadn. disg.cont. neut. anxi.help."
        " fear.anxi. surp. disg.anxi. ange.disg.cont. fear.sadn. sadn.disa. anxi. fear. happ.cont."
        " sadn.help.disa. disg.anxi.help. ange. disg.disa. surp.anxi. happ. sadn. ange.disg."
        " ange.disg.anxi. fear.surp.anxi. help. sadn.anxi. disg.surp. disa. sadn.anxi.help."
        " disg.sadn. anxi.help.disa. disg.help.disa. happ.surp. sadn.surp. ange.help."
        " fear.sadn.anxi. cont. ange.anxi. sadn.help."
    )
    assert not any(
        one == other for one, other in zip(ours.classes[:12], index.classes[:12], strict=True)
    )
    assert dataclasses.replace(index, name=ours.name, classes=ours.classes) == ours


@pytest.mark.parametrize("name", NAMES)
def test_its_folds_can_be_made_and_leak_nothing(
    name: str, tables: dict[str, pandas.DataFrame]
) -> None:
    benchmark = load_benchmark(name)
    table = tables[benchmark.dataset]
    rows, _ = usable_rows(benchmark, table)
    folds = make_folds(benchmark, rows)  # proves that no speaker is on both sides
    numbers = {
        "blemore": 5,
        "c_expr_db": 5,
        "crema_d": 5,
        "crema_d_4": 5,
        "dfew": 5,
        "iemocap": 5,
        "iemocap_joint": 5,
        "mafw": 5,
        "mafw_43": 5,
        "mafw_43_index": 5,
        "msp_improv": 6,
        "msp_improv_joint": 6,
        "ravdess": 6,
        "werewolf_xl": 5,
    }
    assert len(folds) == numbers.get(name, 1)
    assert sum(len(fold.test) for fold in folds) <= len(rows)
    if len(folds) > 1:
        tested = [key for fold in folds for key in fold.test["key"]]
        assert sorted(tested) == sorted(rows["key"])
    columns = {*benchmark.votes, *benchmark.groups, *filter(None, [benchmark.average_over])}
    assert columns <= set(table.columns)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_that_hides_a_leak_is_caught(
    name: str, tables: dict[str, pandas.DataFrame]
) -> None:
    benchmark = load_benchmark(name)
    if name == "meld":
        return  # its roles are in every part, as named people
    if benchmark.folds.shared_speakers:
        assert tables[benchmark.dataset]["speaker"].isna().all()  # nobody could tell
        return
    rows, _ = usable_rows(benchmark, tables[benchmark.dataset])
    moved = rows.copy()
    column = benchmark.folds.column
    other = next(value for value in moved[column] if value != moved[column].iloc[0])
    moved[column] = [other, *moved[column].iloc[1:]]
    with pytest.raises(ValueError, match="is on both sides"):
        make_folds(benchmark, moved)


def test_four_classes_of_crema_d_leave_two_out_and_count_them(
    tables: dict[str, pandas.DataFrame],
) -> None:
    rows, left_out = usable_rows(load_benchmark("crema_d_4"), tables["crema-d"])
    assert left_out == {"disgust": 10, "fear": 10}
    assert len(rows) == 40


def test_blemore_divides_its_training_actors_and_counts_the_others(
    tables: dict[str, pandas.DataFrame],
) -> None:
    rows, left_out = usable_rows(load_benchmark("blemore"), tables["blemore"])
    assert left_out == {"fold ''": 9}
    assert set(rows["split"]) == {"train"}
    assert len(rows) == 54


def test_clips_without_a_compound_label_are_left_out_and_counted(
    tables: dict[str, pandas.DataFrame],
) -> None:
    rows, left_out = usable_rows(load_benchmark("mafw_43"), tables["mafw"])
    assert left_out == {"": 5}
    assert len(rows) == 215
    assert as_text(rows["compound_fold"].iloc[0]) == "1"


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_has_a_source_and_is_a_fraction(name: str) -> None:
    benchmark: Benchmark = load_benchmark(name)
    if name in UNPUBLISHED:
        assert not benchmark.published
        return
    methods = [item.method for item in benchmark.published]
    assert (methods[0] == "HiCMAE base") == (name not in WITHOUT_HICMAE)
    for item in benchmark.published:
        assert item.source
        assert item.modalities
        assert all(0 < value < 1 for value in item.scores.values())
    leading = benchmark.combinations.get(benchmark.ranking) or {benchmark.ranking: 1.0}
    for part in leading:
        assert any(metric.startswith(part) for metric in benchmark.published[0].scores)
