"""Scores of parts: groups that a benchmark names or the index has, speakers, worst errors."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from finetune.commands import report
from finetune.folds import group_columns
from finetune.predictions import Prediction, make_prediction
from finetune.record import Run, read_run
from finetune.reporting.breakdown import Group, dot_figure, group_section, speaker_section
from finetune.reporting.classes import class_sections, confusion_figure, coverage_section
from finetune.reporting.comparison import _recalls
from finetune.reporting.document import Section, Table
from finetune.reporting.errors import error_section, read_frames, worst
from finetune.reporting.features import MAX_SAMPLES, FeatureKeeper, choose_samples, read_features
from finetune.reporting.resampling import class_intervals
from finetune.scores import score_run, score_units
from hicmae.checkpoints.checkpoint import Calibration, load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.settings import ModelConfig
from hicmae.transforms import ClipTransform
from shards.index import read_index
from shards.reading.random_access import ShardDataset
from shards.sample import collate
from tests.support.finetune_fixtures import (
    BENCHMARK,
    CLASSES,
    VALUES,
    run_tiny,
)


@pytest.fixture
def shards(trained: Path) -> Path:
    return trained / "shards"


@pytest.fixture
def run(trained: Path) -> Run:
    return read_run(trained / "run")


def only_table(section: Section) -> Table:
    """The one table of a section."""
    (table,) = (part for part in section.parts if isinstance(part, Table))
    return table


def test_columns_with_few_repeated_values_are_groups_and_truth_and_folds_are_not() -> None:
    rows = pd.DataFrame(
        {
            "key": list("abcdef"),
            "speaker": list("xxyyzz"),
            "emotion": ["low", "high"] * 3,
            "fold": [1, 2] * 3,
            "emotion_original": ["calm", "glad"] * 3,
            "sex": list("ffmmff"),
            "age": [30, 30, 40, 40, 40, None],
            "height": [1.5, 1.6, 1.5, 1.6, 1.5, 1.6],
            "once": list("aaaaab"),
            "same": list("aaaaaa"),
            "name": [f"n{number}" for number in range(6)],
            "named": [f"n{number}" for number in range(6)],
        }
    )
    assert group_columns(BENCHMARK, rows) == ("sex", "age")
    named = dataclasses.replace(BENCHMARK, groups=("named", "nowhere"))
    assert group_columns(named, rows) == ("named", "sex", "age")
    found = group_columns(dataclasses.replace(VALUES, targets=("height",)), rows)
    assert {"emotion", "emotion_original"} < {*found}


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_a_group_has_the_score_of_its_samples_and_small_ones_are_marked(
    run: Run, tmp_path: Path
) -> None:
    section = group_section(run, tmp_path)
    assert section is not None
    by_column = {part.title: part for part in section.parts if isinstance(part, Section)}
    assert set(by_column) == {"By sex"}
    table = only_table(by_column["By sex"])
    assert list(table.columns[:4]) == ["sex", "samples", "speakers", "UAR, selection best-on-test"]
    for row in table.rows:
        own = [item for item in run.units if item.groups["sex"] == row[0]]
        uar = f"{score_units(BENCHMARK, own)['uar']:.3f} (best-on-test)"
        assert row[1:4] == ["12 (small)", "2", uar]
    with Image.open(tmp_path / "groups.png") as picture:
        assert picture.width > 500
    rooms = [f"{2 + 8 * (number % 2)}" for number in range(len(run.predictions))]
    told = zip(run.predictions, rooms, strict=True)
    moved = tuple(dataclasses.replace(item, groups={"room": room}) for item, room in told)
    section = group_section(dataclasses.replace(run, predictions=moved), tmp_path)
    assert section is not None
    (by_room,) = (part for part in section.parts if isinstance(part, Section))
    assert [row[0] for row in only_table(by_room).rows] == ["2", "10"]


def test_speakers_stand_worst_first_and_need_names(run: Run, tmp_path: Path) -> None:
    section = speaker_section(run, tmp_path)
    assert section is not None
    table = only_table(section)
    scores = [float(row[2].removesuffix(" (best-on-test)")) for row in table.rows]
    assert scores == sorted(scores)
    assert {row[0] for row in table.rows} == {"s0", "s1", "s2", "s3"}
    assert (tmp_path / "speakers.png").is_file()
    nobody = tuple(dataclasses.replace(item, speaker="") for item in run.predictions)
    assert speaker_section(dataclasses.replace(run, predictions=nobody), tmp_path) is None


def test_recall_intervals_are_the_percentiles_of_draws_of_speakers() -> None:
    def unit(number: int, speaker: str, *, right: bool) -> Prediction:
        given = (0.9, 0.1) if right else (0.1, 0.9)
        return Prediction(
            key=str(number),
            fold="1",
            speaker=speaker,
            true="low",
            predicted="low" if right else "high",
            probabilities=given,
            views=(given,),
        )

    units = [unit(n, f"p{n // 5}", right=n // 5 < 30) for n in range(200)]
    low, high = class_intervals(BENCHMARK, units)[0]
    rng = np.random.default_rng(5)
    draws = rng.binomial(40, 30 / 40, size=20_000) / 40
    expected = np.percentile(draws, [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.026)
    assert np.isnan(class_intervals(BENCHMARK, units)[1]).all()


def test_the_most_confident_errors_come_first_with_their_middle_frame(
    run: Run, shards: Path, tmp_path: Path
) -> None:
    found = worst(run)
    wrong = [item for item in run.units if item.true != item.predicted]
    assert len(found) == min(20, len(wrong)) > 0
    sizes = [mistake.size for mistake in found]
    assert sizes == sorted((max(item.probabilities or ()) for item in wrong), reverse=True)[:20]
    frames, missing = read_frames(shards, run.facts.shards_digest, [found[0].sample])
    assert not missing
    (frame,) = frames.values()
    # The fixture's frames are of one colour, which tells the class that is seen.
    assert frame.reshape(-1, 3).std(axis=0).max() < 30
    section = error_section(run, tmp_path, None)
    assert section is not None
    with Image.open(tmp_path / "errors.jpg") as sheet:
        assert sheet.width > 5 * 200 or len(found) < 5
    assert [row[1] for row in only_table(section).rows] == [item.unit.key for item in found]


def test_shards_that_are_gone_or_others_are_said_and_the_errors_listed(
    run: Run, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of shards"):
        report(runs=[run.folder], out=tmp_path / "report.md", shards=tmp_path / "nowhere")
    gone = error_section(run, tmp_path, tmp_path / "nowhere")
    assert gone is not None
    assert any("no longer in" in part for part in gone.parts if isinstance(part, str))
    assert not (tmp_path / "errors.jpg").exists()
    assert only_table(gone).rows
    assert "not those of this run" in read_frames(shards, "0" * 64, ["s0/000"])[1]
    assert "'nobody' is not in" in read_frames(shards, run.facts.shards_digest, ["nobody"])[1]
    cut = tmp_path / "cut"
    shutil.copytree(shards, cut)
    for path in cut.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in read_frames(cut, run.facts.shards_digest, ["s0/000"])[1]


def test_kept_features_are_those_of_the_tested_checkpoint(run: Run, shards: Path) -> None:
    folder = run.folder / "fold-1"
    kept = read_features(folder)
    assert kept is not None
    assert not (folder / "features-before.npz").exists()
    model = build_network(load_checkpoint(folder / "checkpoints" / "last"))
    dataset = ShardDataset(read_index(shards), input=model.config.input, views=1)
    places = list(dataset.rows["key"])
    batch = collate([dataset[places.index(key)] for key in kept.keys])
    transform = ClipTransform(model.config.input).eval()
    expected = model.eval().features(*transform(batch)).detach().numpy()
    np.testing.assert_allclose(kept.after, expected, atol=5e-3)
    assert np.abs(kept.before - kept.after).max() > 0.05
    assert set(kept.keys) == {item.key for item in run.predictions if item.fold == "1"}


def test_of_many_samples_some_are_kept_in_their_order() -> None:
    rows = pd.DataFrame({"key": [f"{number:05d}" for number in range(3 * MAX_SAMPLES)]})
    chosen = choose_samples(rows, seed=0)
    assert len(chosen) == chosen["key"].nunique() == MAX_SAMPLES
    assert chosen["key"].is_monotonic_increasing
    assert chosen.equals(choose_samples(rows, seed=0))
    assert len(choose_samples(rows[:7], seed=0)) == 7


@pytest.mark.slow
def test_keeping_features_changes_nothing_that_is_learned(
    run: Run,
    shards: Path,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("on_train_start", "on_predict_start"):
        monkeypatch.setattr(FeatureKeeper, name, lambda *_: None)
    without = run_tiny(tmp_path, shards, tiny_model_config, folds="1", selection="best-on-test")
    assert read_features(without / "fold-1") is None
    name = "predictions.jsonl"
    assert (without / "fold-1" / name).read_text() == (run.folder / "fold-1" / name).read_text()
    assert "No features were kept here" in (without / "report.md").read_text()


@pytest.mark.parametrize(("size", "words", "inches"), [(43, 43, 14.2), (200, 0, 34.6)])
def test_a_matrix_of_very_many_classes_stays_a_picture(
    size: int, words: int, inches: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Figure] = []
    monkeypatch.setattr("finetune.reporting.document.save", lambda figure, _: made.append(figure))
    many = dataclasses.replace(BENCHMARK, classes=tuple(map(str, range(size))))
    confusion_figure(many, np.eye(size, dtype=int), tmp_path / "confusion.png", title="")
    axes = made[0].axes[0]
    assert len(axes.texts) == len(axes.get_yticks()) == words
    assert made[0].get_size_inches()[1] == pytest.approx(inches, abs=0.1)


def test_who_has_no_score_is_named_inside_the_picture(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where scores are far from 0, which the axis then does not hold."""
    places = []

    def noting(figure: Figure, path: Path) -> None:
        figure.canvas.draw()
        for axes in figure.axes:
            inside = axes.get_window_extent()
            places.extend(
                inside.contains(*text.get_window_extent().p0)
                for text in axes.texts
                if text.get_text() == "n/a"
            )

    monkeypatch.setattr("finetune.reporting.document.save", noting)
    rows = [
        Group(
            name=str(score),
            units=run.units[:3],
            scores={run.benchmark.ranking: score},
            interval=(math.nan, math.nan),
            num_speakers=1,
        )
        for score in (0.9, 0.95, math.nan)
    ]
    scores = dataclasses.replace(run.scores, pooled={run.benchmark.ranking: math.nan})
    empty = dataclasses.replace(run, scores=scores)
    dot_figure(empty, [("", rows)], tmp_path / "dots.png", people=False, title="dots")
    assert places == [True]


@pytest.mark.parametrize(
    ("scored", "rows", "told"),
    [
        (50, 40, "the 30 worst and the 10 best of 50;"),
        (45, 40, "the 30 worst and the 10 best of 50, 5 of whom have no score;"),
        (38, 38, "the 38 with a score of 50, 12 of whom have no score;"),
    ],
)
def test_the_best_of_many_speakers_have_a_score(
    run: Run, scored: int, rows: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of a single clip, whose correlation is undefined."""
    monkeypatch.setattr("finetune.reporting.breakdown.dot_figure", lambda *_, **__: None)
    draws, made = np.random.default_rng(0), []
    for number in range(50):
        for clip in range(6 if number < scored else 1):
            true = draws.normal(size=2)
            made.append(
                make_prediction(
                    VALUES,
                    key=f"{number}/{clip}",
                    fold="1",
                    speaker=f"s{number}",
                    true=true,
                    views=(true + 0.01 * (number + 1) * draws.normal(size=2))[None],
                )
            )
    values = dataclasses.replace(
        run, benchmark=VALUES, predictions=tuple(made), scores=score_run(VALUES, made)
    )
    section = speaker_section(values, tmp_path)
    assert section is not None
    shown = [float(row[2].removesuffix(" (best-on-test)")) for row in only_table(section).rows]
    assert len(shown) == rows
    assert shown == sorted(shown)
    assert f"The table has {told}" in str(section.parts[0])
    monkeypatch.setattr("finetune.reporting.breakdown.MAX_NAMED", 40)  # of whom none has intervals
    without = speaker_section(values, tmp_path)
    assert without is not None
    assert set(only_table(section).columns) - set(only_table(without).columns) == {
        name for name in only_table(section).columns if "95 %" in name
    }
    assert {len(row) for row in only_table(without).rows} == {len(only_table(without).columns)}


def test_recall_and_precision_of_each_class_are_scikit_learns(run: Run, tmp_path: Path) -> None:
    shifted = [
        dataclasses.replace(item, predicted="high") if number % 3 else item
        for number, item in enumerate(run.predictions)
    ]
    run = dataclasses.replace(run, predictions=tuple(shifted))
    sides = [item.true for item in run.units], [item.predicted for item in run.units]
    precision, recall, _, support = precision_recall_fscore_support(*sides, labels=CLASSES)
    assert abs(precision - recall).min() > 0.1
    calls = [sides[1].count(name) for name in CLASSES]
    table = only_table(class_sections(run, tmp_path, "")[0])
    found = [[cell.removesuffix(" (best-on-test)") for cell in row] for row in table.rows]
    assert [[row[0], row[1], row[2], row[4], row[5]] for row in found] == [
        [name, str(number), f"{hit:.3f}", f"{sure:.3f}", str(called)]
        for name, number, hit, sure, called in zip(
            CLASSES, support, recall, precision, calls, strict=True
        )
    ]
    beside = only_table(_recalls([("a", run), ("b", run)]))
    assert [row[1].partition(" ")[0] for row in beside.rows] == [f"{hit:.3f}" for hit in recall]


def test_the_largest_errors_of_real_values_are_counted_in_deviations_of_each_target(
    run: Run,
) -> None:
    made = [
        make_prediction(
            VALUES, key=f"k{n}", fold="1", speaker="s", true=(100.0 * n, n), views=np.array([said])
        )
        for n, said in enumerate([(0.0, 0.0), (130.0, 1.0), (200.0, 3.0), (300.0, 3.0)])
    ]
    found = worst(dataclasses.replace(run, benchmark=VALUES, predictions=tuple(made)))
    assert [mistake.sample for mistake in found] == ["k2", "k1"]
    spread = np.std([0, 1, 2, 3])
    assert [mistake.size for mistake in found] == pytest.approx(
        [1 / spread / 2**0.5, 0.3 / spread / 2**0.5]
    )


@pytest.mark.parametrize(
    ("units", "speakers", "people", "small"),
    [(19, 5, True, True), (20, 5, True, False), (20, 4, True, True), (20, 4, False, False),
     (20, None, True, False)],
)  # fmt: skip
def test_a_group_is_small_below_so_many_samples_or_people(
    units: int, speakers: int | None, people: bool, small: bool
) -> None:
    group = Group(
        name="a",
        units=[None] * units,
        scores={},
        interval=(0, 1),
        num_speakers=speakers,  # type: ignore[list-item]
    )
    assert group.is_small(people=people) == small


def test_what_a_calibrated_network_leaves_unanswered_is_counted_fold_by_fold(
    run: Run, tmp_path: Path
) -> None:
    """At temperature 1, so that probabilities stay what they are, and a limit in a gap of them."""
    limits = {}
    for name in run.scores.folds:
        own = [item for item in run.units if item.fold == name]
        own.sort(key=lambda item: max(item.probabilities or ()))
        sure = np.array([max(item.probabilities or ()) for item in own])
        wrong = np.array([item.predicted != item.true for item in own])
        # A gap that leaves answers of another share of errors than all have.
        gaps = [at for at in range(1, len(own)) if wrong[at:].mean() != wrong.mean()]
        gap = max(gaps, key=lambda at: sure[at] - sure[at - 1])
        limits[name] = float(sure[gap - 1 : gap + 1].mean())
    folds = tuple(
        dataclasses.replace(
            fold,
            calibration=Calibration(
                temperature=1.0,
                threshold=limits[fold.name],
                answered=0.9,
                num_samples=7,
                surprise=0.5,
                surprise_before=0.6,
            ),
        )
        for fold in run.folds
    )
    section = coverage_section(dataclasses.replace(run, folds=folds), tmp_path, "")
    assert section is not None
    table, offers = (part for part in section.parts if isinstance(part, Table))
    sure = np.array([max(item.probabilities or ()) for item in run.units])
    for row in offers.rows:  # whoever passes what is written gets what is promised
        limit, share = (cell.removesuffix(" (best-on-test)") for cell in row[1:3])
        assert f"{(sure >= float(limit)).mean():.1%}" == share
    for row, fold in zip(table.rows, folds, strict=True):
        own = [item for item in run.units if item.fold == fold.name]
        answered = [i for i in own if max(i.probabilities or ()) >= limits[fold.name]]
        assert 0 < len(answered) < len(own)
        wrong = [np.mean([i.true != i.predicted for i in some]) for some in (own, answered)]
        share = f"{len(answered) / len(own):.1%}"
        cells = [share, *(f"{each:.3f}" for each in wrong)]
        assert [cell.removesuffix(" (best-on-test)") for cell in row[4:]] == cells
