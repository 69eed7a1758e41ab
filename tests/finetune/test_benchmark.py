"""Benchmarks as data: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune.benchmark import Benchmark, Published, load_benchmark
from finetune.heads import Head
from finetune.plan import Plan, resolve
from finetune.selection import Protocol
from finetune.settings import OptimizerConfig, RecipeConfig
from hicmae.config import config_root
from tests.support.finetune_fixtures import BENCHMARK, VALUES, settings

GOOD = """
name: some
task: classification
label: emotion
classes: [low, high]
published:
  - {method: someone, scores: {uar: 0.5}, source: a paper}
"""


def load(folder: Path, text: str) -> Benchmark:
    path = folder / "some.yaml"
    path.write_text(text)
    return load_benchmark(path)


def test_a_benchmark_gets_its_defaults_from_its_task(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert found.metrics == ("uar", "war", "weighted_f1", "macro_f1")
    assert found.ranking == "uar"
    assert found.num_outputs == 2
    assert found.folds.column == "fold"
    assert found.published[0].scores == {"uar": 0.5}
    values = load(tmp_path, "{name: v, task: regression, targets: [valence]}")
    assert (values.metrics, values.columns) == (("ccc", "pcc"), ("valence",))


@pytest.mark.parametrize("path", sorted((config_root() / "benchmarks").glob("*.yaml")))
def test_every_packaged_benchmark_is_read_by_its_name(path: Path) -> None:
    found = load_benchmark(path.stem)
    assert found.name == path.stem
    assert found.title
    assert found.licence
    assert found.access


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("classes:", "clases:"), "unknown key 'clases'; did you mean 'classes'?"),
        (GOOD.replace("label: emotion", ""), "missing key 'label'"),
        (GOOD.replace("[low, high]", "[low, low]"), "classes names low twice"),
        (GOOD.replace("[low, high]", "[low]"), "classes has 1 entries"),
        (GOOD.replace("classification", "ranking"), "classification, regression"),
        (GOOD + "metrics: [uarr]", "metric 'uarr' is none of classification; did you mean 'uar'?"),
        (GOOD + "metrics: [war]\nleading: uar", "leading = uar is not among metrics"),
        (GOOD + "recipe: {loss: mse}", "recipe.loss = mse does not fit classification"),
        (GOOD + "targets: [valence]", "targets is for regression"),
        (GOOD + "ignore: [low]", "low in classes and in ignore"),
        (GOOD + "folds: {train: [1]}", "train is given and test is not"),
        (GOOD + "folds: {train: [1, 2], test: [2]}", "2 in train and in test"),
        (GOOD + "votes: [votes_low]", "votes has 1 columns for 2 classes"),
        (GOOD + "groups: [sex, sex]", "groups names sex twice"),
        (GOOD + "metrics: [uar, war, uar]", "metrics names uar twice"),
        (GOOD + "votes: [low, low]", "votes names low twice"),
        (GOOD.replace("[low, high]", "['', low]"), "a class has no name"),
        (GOOD.replace("name: some", "name: ' '"), "name is empty"),
        (GOOD.replace("uar: 0.5", "uar: 50"), "published someone: uar = 50.0 (must be a fraction"),
        (GOOD.replace("uar: 0.5", "ccc: 0.5"), "published someone: 'ccc' is no metric of class"),
        (GOOD.replace("a paper", "''"), "published someone: source is empty"),
        ("{name: v, task: regression}", "missing key 'targets'"),
        (GOOD + "recipe: {learning_rate: 0}", "recipe: learning_rate = 0.0 (must be positive"),
        (GOOD + "recipe: {learning_rate: .inf}", "recipe: learning_rate = inf (must be positive"),
        (GOOD + "recipe: {frame_stride: 0}", "recipe: frame_stride = 0 (must be 1 or more)"),
    ],
)
def test_a_bad_benchmark_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"some\.yaml") as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_published_errors_and_combinations_are_of_any_size() -> None:
    heads = (
        Head(name="level", kind="ordinal", label="level", classes=("1", "2")),
        Head(name="values", kind="regression", targets=("v", "a"), metrics=("ccc", "mse")),
    )
    scores = {"level.mae": 1.7, "values.mse": 250.0, "values.mse_v": 2.5, "total": -1.5}

    def made(**others: float) -> Benchmark:
        told = Published(method="x", scores=scores | others, source="a paper")
        sums = {"total": {"level.qwk": 1.0, "values.mse": -0.25}}
        return Benchmark(name="j", task="joint", heads=heads, combinations=sums, published=(told,))

    assert made().published[0].scores == scores
    with pytest.raises(
        ValueError, match=r"x: total = inf \(must be finite\); .*ccc = 65 \(must be a f"
    ):
        made(**{"total": float("inf"), "values.ccc": 65})


def test_a_file_is_read_whatever_it_is_called_and_a_name_is_told_its_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faces.txt").write_text(GOOD)
    Path("crema_d").mkdir()  # the recordings
    assert load_benchmark("faces.txt").name == "some"
    assert load_benchmark("crema_d").name == "crema_d"
    Path("list.csv").write_text("path,emotion")
    with pytest.raises(ValueError, match=r"list.csv: holds 'path,emotion', not a mapping"):
        load_benchmark("list.csv")
    with pytest.raises(FileNotFoundError, match=r"'CREMA-D': no such .* mean 'crema_d'\? \(bench"):
        load_benchmark("CREMA-D")


def test_the_user_outranks_the_benchmark_and_that_the_default(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD + "recipe: {epochs: 30, frame_stride: 3}")
    theirs = resolve(found, settings())
    assert (theirs.epochs, theirs.frame_stride, theirs.loss) == (30, 3, "cross-entropy")
    assert theirs.learning_rate == 1e-3
    ours = resolve(found, settings(recipe=RecipeConfig(frame_stride=2), epochs=9))
    assert (ours.epochs, ours.frame_stride) == (9, 2)
    rated = load(tmp_path, GOOD + "recipe: {learning_rate: 0.0002}")
    faster = settings(optimizer=OptimizerConfig(learning_rate=0.005))
    assert resolve(rated, settings()).learning_rate == 2e-4
    assert resolve(rated, faster).learning_rate == 5e-3
    with pytest.raises(ValueError, match=r"min_learning_rate = 0.001 exceeds learning_rate = 0.0"):
        resolve(rated, settings(optimizer=OptimizerConfig(min_learning_rate=1e-3)))


def test_a_recipe_that_cannot_work_is_refused(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    with pytest.raises(ValueError, match="warmup_epochs = 5 leaves nothing of epochs = 5"):
        resolve(found, settings(epochs=5))
    with pytest.raises(ValueError, match="loss = ccc does not fit classification"):
        resolve(found, settings(recipe=RecipeConfig(loss="ccc"), epochs=9))
    with pytest.raises(ValueError, match="epochs = 0"):
        resolve(found, settings(optimizer=OptimizerConfig(warmup_epochs=0), epochs=0))
    with pytest.raises(ValueError, match=r"batch_size = 0.*; label_smoothing = 1"):
        RecipeConfig(batch_size=0, label_smoothing=1)


TAGS = Head(name="tags", kind="multilabel", label="tags", classes=("a", "b"))
JOINT = Benchmark(name="joint", task="joint", heads=(TAGS,))


@pytest.mark.parametrize(
    ("benchmark", "selection", "asked", "fits"),
    [
        (BENCHMARK, "last", None, False),
        (BENCHMARK, "last", True, True),
        (BENCHMARK, "inner-validation", None, True),
        (BENCHMARK, "inner-validation", False, False),
        (BENCHMARK, "best-on-test", None, False),
        (VALUES, "inner-validation", None, False),
        (JOINT, "last", None, True),
        (JOINT, "last", False, False),
        (JOINT, "best-on-test", None, False),
    ],
)
def test_people_are_kept_out_where_something_is_fitted_to_them(
    benchmark: Benchmark, selection: Any, asked: bool | None, fits: bool
) -> None:
    recipe = RecipeConfig(calibrate=asked, batch_size=32)
    plan: Any = SimpleNamespace(
        benchmark=benchmark,
        protocol=Protocol(selection=selection),
        config=SimpleNamespace(recipe=recipe, accumulate=4),
    )
    own: Any = Plan
    assert own.calibrates.fget(plan) == fits
    for windows, smooths in (((0.0, 2.0), selection != "best-on-test"), ((2.0,), False)):
        plan.calibrates = fits
        plan.benchmark = SimpleNamespace(over_time=SimpleNamespace(smoothing_seconds=windows))
        assert own.keeps_out.fget(plan) == (fits or smooths)
    plan.batch_size = own.batch_size.fget(plan)
    assert own.scaled(plan, 1e-3) == 5e-4
