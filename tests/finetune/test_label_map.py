"""Classes of one corpus read as those of another: nothing is dropped silently."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finetune.benchmark import Benchmark, Published, load_benchmark
from finetune.testing.label_map import LabelMap, load_label_map, map_benchmark
from hicmae.config import config_root

OURS = Benchmark(name="ours", task="classification", label="emotion", classes=("a", "b", "c", "d"))
THEIRS = Benchmark(
    name="theirs", task="classification", label="feeling", classes=("x", "y", "z", "calm")
)
MAPS = sorted(path.stem for path in (config_root() / "label_maps").glob("*.yaml"))


def names(**changes: Any) -> LabelMap:
    given: dict[str, Any] = {
        "trained_on": "ours",
        "tested_on": "theirs",
        "classes": {"a": "y", "b": "x", "c": "x", "d": None},
        "merge": {"calm": "y"},
        "leave_out": ("z",),
    }
    return LabelMap(**(given | changes))


def test_probabilities_are_added_dropped_and_scaled_to_one() -> None:
    mapped = map_benchmark(OURS, THEIRS, names())
    assert mapped.benchmark.classes == ("x", "y")
    assert mapped.benchmark.name == "theirs from ours"
    assert (mapped.dropped, mapped.left_out) == (("d",), ("z",))
    found = mapped.outputs(np.array([[[0.1, 0.2, 0.3, 0.4]], [[0.0, 0.0, 0.0, 1.0]]]))
    assert found[0, 0] == pytest.approx([0.5 / 0.6, 0.1 / 0.6])
    assert found[1, 0] == pytest.approx([0.5, 0.5])  # it says none of them
    classes = {"a": "y", "b": "x", "c": "calm", "d": None}  # of which calm counts as y
    merged = map_benchmark(OURS, THEIRS, names(classes=classes))
    found = merged.outputs(np.array([[[0.1, 0.2, 0.3, 0.4]]]))
    assert found[0, 0] == pytest.approx([0.2 / 0.6, 0.4 / 0.6])
    every = map_benchmark(OURS, THEIRS, names(classes=dict(zip("abcd", "yxxy", strict=True))))
    few = map_benchmark(OURS, THEIRS, names(classes=classes | {"c": None}))
    # A calibration is of the classes of the training; none of these is.
    assert [each.keeps_classes for each in (mapped, merged, every, few)] == [False] * 4


def test_samples_are_renamed_left_out_and_counted() -> None:
    rows = pd.DataFrame({"key": list("01234"), "feeling": ["x", "z", "calm", "y", "z"]})
    kept, counts = map_benchmark(OURS, THEIRS, names()).rows(rows)
    assert kept["key"].tolist() == ["0", "2", "3"]
    assert kept["feeling"].tolist() == ["x", "y", "y"]
    assert counts == {"z": 2}
    assert rows["feeling"].tolist() == ["x", "z", "calm", "y", "z"]
    with pytest.raises(ValueError, match="no sample is left to test: all 2 are of z"):
        map_benchmark(OURS, THEIRS, names()).rows(rows[rows["feeling"] == "z"])


def test_the_same_classes_in_another_order_need_no_map() -> None:
    other = Benchmark(name="other", task="classification", label="l", classes=("d", "c", "b", "a"))
    mapped = map_benchmark(OURS, other, None)
    assert mapped.benchmark.classes == other.classes
    assert mapped.outputs(np.array([[[0.1, 0.2, 0.3, 0.4]]]))[0, 0] == pytest.approx(
        [0.4, 0.3, 0.2, 0.1]
    )
    assert mapped.keeps_classes
    assert map_benchmark(OURS, OURS, None).benchmark == OURS
    told = (Published(method="theirs", scores={"uar": 0.5}, source="a paper"),)
    mended = dataclasses.replace(OURS, title="Mended", published=told)
    assert map_benchmark(OURS, mended, None).benchmark == mended


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trained_on": "others"}, "trained_on = others (here it is ours)"),
        ({"classes": {"a": "y", "b": "x", "c": "x"}}, "d of ours is forgotten (null drops it)"),
        ({"classes": {"a": "y", "b": "x", "c": "x", "d": "w"}}, "'w' is none of theirs"),
        ({"classes": {"a": "y", "b": "x", "c": "x", "d": None, "e": "x"}}, "'e' is none of ours"),
        ({"leave_out": ()}, "z of theirs is forgotten (name it in classes, merge or leave_out)"),
        ({"leave_out": ("z", "x")}, "x is in leave_out and is mapped to"),
        ({"merge": {"calm": "z"}}, "merge counts calm as z, which nothing in classes is"),
        ({"merge": {"calm": "y", "y": "x"}}, "calm as y, which itself counts as x"),
        ({"classes": {}, "targets": {"a": "b"}}, "targets for regression"),
    ],
)
def test_a_map_that_forgets_or_invents_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="label map from") as caught:
        map_benchmark(OURS, THEIRS, names(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_real_values_are_chosen_ordered_and_rescaled() -> None:
    ours = Benchmark(name="ours", task="regression", targets=("arousal", "valence", "dominance"))
    theirs = Benchmark(name="theirs", task="regression", targets=("v", "a"))
    given = LabelMap(
        trained_on="ours",
        tested_on="theirs",
        targets={"arousal": "a", "valence": "v", "dominance": None},
        rescale={"v": (2.0, -1.0)},
    )
    mapped = map_benchmark(ours, theirs, given)
    assert mapped.benchmark.targets == ("v", "a")
    assert mapped.outputs(np.array([[[0.1, 0.2, 0.3]]]))[0, 0] == pytest.approx([-0.6, 0.1])
    rows = pd.DataFrame({"v": [0.1]})
    assert mapped.rows(rows)[0] is rows
    alone = {"arousal": None, "valence": "v", "dominance": None}
    one = map_benchmark(ours, theirs, dataclasses.replace(given, targets=alone))
    assert (one.benchmark.targets, one.dropped) == (("v",), ("arousal", "dominance"))
    assert one.outputs(np.array([[[0.1, 0.2, 0.3]]]))[0, 0] == pytest.approx([-0.6])
    unused = dataclasses.replace(given, targets=alone, rescale={"a": (2.0, 0.0)})
    with pytest.raises(ValueError, match="rescale is of a, which nothing in targets is"):
        map_benchmark(ours, theirs, unused)
    both = LabelMap(
        trained_on="ours",
        tested_on="theirs",
        targets={"arousal": "a", "valence": "a", "dominance": None},
    )
    with pytest.raises(ValueError, match="two targets become a"):
        map_benchmark(ours, theirs, both)
    with pytest.raises(ValueError, match="'ours' is regression and 'theirs' is classification"):
        map_benchmark(ours, THEIRS, None)


def test_what_would_change_values_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="rescale is not for classes"):
        map_benchmark(OURS, THEIRS, names(rescale={"x": (5.0, 0.0)}))
    one = Benchmark(name="one", task="regression", targets=("v",))
    given = LabelMap(trained_on="one", tested_on="one", targets={"v": "v"}, merge={"v": "v"})
    with pytest.raises(ValueError, match="merge is not for targets"):
        map_benchmark(one, one, given)


def test_there_are_maps() -> None:
    assert "crema_d_to_ravdess" in MAPS


@pytest.mark.parametrize("name", MAPS)
def test_a_packaged_map_fits_its_benchmarks(name: str) -> None:
    found = load_label_map(name)
    assert name == f"{found.trained_on}_to_{found.tested_on}"
    trained, tested = load_benchmark(found.trained_on), load_benchmark(found.tested_on)
    mapped = map_benchmark(trained, tested, found)
    assert len(mapped.benchmark.classes) >= 4
    assert mapped.weights.sum() == len(trained.classes) - len(mapped.dropped)


def test_a_misspelt_map_is_refused_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("trained_on: ours\ntested_on: theirs\nclases: {a: b}\n")
    with pytest.raises(ValueError, match=r"map.yaml: unknown key 'clases'; did you mean 'classes'"):
        load_label_map(str(path))
    with pytest.raises(FileNotFoundError, match="did you mean"):
        load_label_map("crema_d_to_ravdes")
