"""Labels over time: lag, annotators, smoothing and scores, from shards to a report."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest

from finetune import over_time
from finetune.commands import evaluate, modalities
from finetune.folds import Fold
from finetune.instants import (
    NUMBER,
    OverTime,
    check_reach,
    instant_index,
    recording_of,
    traces_of,
)
from finetune.over_time import (
    Settled,
    choose_lags,
    choose_smoothing,
    per_recording,
    recording_scores,
    recordings_note,
    settled_again,
    smooth,
)
from finetune.predictions import make_prediction
from finetune.record import Run, read_run
from finetune.reporting.document import Table
from finetune.reporting.errors import read_frames
from finetune.reporting.resampling import intervals
from finetune.reporting.values import lowest_first, over_time_section
from finetune.scores import score
from hicmae.__main__ import main
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import average
from hicmae.emotion import EmotionModel
from hicmae.files import file_sha256
from shards.index import TABLE_NAME, Index, read_index
from shards.reading.random_access import FIRST, SAMPLE, WINDOW, ShardDataset
from shards.traces import Trace
from tests.support.finetune_fixtures import Train
from tests.support.media_files import write_recording
from tests.support.shard_fixtures import INPUT
from tests.support.shared import shards_once
from tests.support.trace_fixtures import (
    ANNA,
    BEN,
    FPS,
    brightness,
    over_time_benchmark,
    write_trace_shards,
)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of recordings with two annotators."""
    return shards_once(tmp_path_factory, "traced", write_trace_shards)


@pytest.fixture
def train_traced(train: Train, traced: Path) -> Train:
    """Fine-tunes the tiny network on one fold of them, by what is seen."""
    seen = {"on": traced, "modalities": "video", "folds": "1", "recipe": {"batch_size": 16}}
    return functools.partial(train, **seen)


@pytest.mark.slow
def test_lags_are_found_and_the_run_says_all_that_was_decided(train_traced: Train) -> None:
    benchmark = over_time_benchmark(
        lag_seconds=None, combine="evaluator-weighted", smoothing_seconds=(0.0, 1.0)
    )
    folder = train_traced(benchmark, epochs=2, report=True)
    run = read_run(folder)
    settled = run.folds[0].over_time
    assert settled["lags"]["anna"] == pytest.approx(ANNA, abs=0.04)
    assert settled["lags"]["ben"] == pytest.approx(BEN, abs=0.04)
    assert sum(settled["weights"]["valence"].values()) == pytest.approx(1)
    means = per_recording(run.benchmark, run.predictions)
    assert any(f"ccc {means['ccc']:.4f}" in note for note in run.facts.notes)
    report = (folder / "report.md").read_text()
    assert "CCC per recording" in report


@pytest.mark.slow
def test_a_personal_network_beats_the_shared_one_on_its_annotator(train_traced: Train) -> None:
    benchmark = over_time_benchmark(lag_seconds=0.8)
    shared = train_traced(benchmark, name="shared", epochs=3)
    personal = train_traced(
        benchmark,
        name="personal",
        epochs=3,
        checkpoint=shared / "fold-1" / "checkpoints" / "last",
        model=None,
        recipe={"batch_size": 16, "annotator": "ben"},
    )
    run = read_run(personal)
    before, after = run.folds[0].over_time["shared"]["ccc"], run.scores.pooled["ccc"]
    assert after > before + 0.05
    notes = " ".join(run.folds[0].notes)
    assert "on the labels of ben, from the shared network to the personal one: ccc" in notes
    # The baseline is the shared network as it was: its predictions, scored on the labels of ben.
    said = {item.key: item.predicted for item in read_run(shared).predictions}
    own = [item for item in run.predictions if item.key in said]
    again = [dataclasses.replace(item, predicted=said[item.key]) for item in own]
    assert len(own) == len(run.predictions)
    assert score(run.benchmark, again)["ccc"] == pytest.approx(before, abs=1e-3)


@pytest.mark.slow
def test_what_training_decided_is_kept_for_testing_again_and_for_traces(
    train_traced: Train, traced: Path, tmp_path: Path
) -> None:
    decided = over_time_benchmark(lag_seconds=0.8, smoothing_seconds=(1.0,), place=1.0)
    folder = train_traced(decided, epochs=1)
    run, options = read_run(folder), {"device": "cpu", "precision": "32-true", "workers": 0}
    evaluate(source=folder, out=tmp_path / "again", **options)
    again = read_run(tmp_path / "again")
    assert again.scores.pooled == pytest.approx(run.scores.pooled, abs=1e-4)
    assert [item.key for item in again.predictions] == [item.key for item in run.predictions]
    for item, other in zip(again.predictions, run.predictions, strict=True):
        assert item.true == other.true
        assert item.predicted == pytest.approx(other.predicted, abs=1e-4)
    told = [note for note in again.facts.notes if note.startswith("CCC per recording")]
    assert len(told) == 1
    assert "CCC per recording" in (tmp_path / "again" / "report.md").read_text()
    with pytest.raises(ValueError, match="is over time, where another instant's sound"):
        modalities(source=folder, **options)
    # A checkpoint keeps the window, and not whose labels came how late.
    alone = shutil.copytree(folder / "fold-1" / "checkpoints" / "last", tmp_path / "alone")
    assert load_checkpoint(alone).smoothing_seconds() == 1.0
    clip_seconds = load_checkpoint(alone).model_config().input.clip_seconds
    assert load_checkpoint(alone).shift_seconds() == clip_seconds / 2  # labels were at the end
    other = EmotionModel.from_pretrained(alone)
    other.head.bias.data += 1
    other.save_pretrained(tmp_path / "other")
    assert average([alone, tmp_path / "other"]).shift_seconds() == clip_seconds / 2
    assert "anna" not in (alone / "config.json").read_text()
    with pytest.raises(ValueError, match="does not say which lags its training side chose"):
        evaluate(source=alone, out=tmp_path / "no", shards=traced, **options)

    frames = (100 + 60 * brightness(3, np.arange(100) / FPS)).astype(np.uint8)
    clip = tmp_path / "clip.mp4"
    pictures = np.broadcast_to(frames[:, None, None, None], (100, 32, 32, 3))
    write_recording(clip, pictures, np.arange(100) / FPS)
    traces = []
    for name, more in (("smooth", []), ("raw", ["--smoothing", "0"])):
        words = [str(clip), "--checkpoint", str(alone), "--out", str(tmp_path / name)]
        told = ["--rate", "5", "--faces", "none", "--device", "cpu", *more]
        assert main(["predict", *words, *told]) == 0
        (file,) = (tmp_path / name).rglob("trace-*.csv")
        windows = pandas.read_csv(file.with_name("timeline.csv"))
        assert pandas.read_csv(file)["time"].iloc[0] == pytest.approx(windows["end"][0], abs=0.2)
        traces.append(pandas.read_csv(file)["valence"].to_numpy())
    smoothed, raw = traces
    # Five values lie within half a second; at the ends there are fewer.
    expected = np.convolve(raw, np.full(5, 0.2), mode="valid")
    assert smoothed[3:-3] == pytest.approx(expected[1:-1], abs=1e-5)
    assert np.abs(smoothed - raw).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "recipe", "said"),
    [
        ({}, {"annotator": "bem"}, "recipe.annotator = bem: nobody .* did you mean 'ben'"),
        ({"trace": "traces"}, {}, "no column 'traces'"),
    ],
)
def test_what_the_shards_lack_is_named_before_training(
    train_traced: Train, settings: dict[str, Any], recipe: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train_traced(over_time_benchmark(**settings), recipe=recipe, once=True)


def test_instants_are_samples_of_the_frames_around_them(traced: Path) -> None:
    index = read_index(traced)
    settings = OverTime(context_seconds=0.8, place=0.25, max_lag_seconds=2.0)
    instants = instant_index(index, ["valence"], settings, INPUT.clip_seconds)
    assert instants.table["key"].is_unique
    dataset = ShardDataset(instants, input=INPUT, views=2, modalities="video")
    assert settings.shift_seconds(INPUT.clip_seconds) == -0.2
    item = {str(key): number for number, key in enumerate(instants.table["key"])}["r0@10.000"]
    shown = [dataset[2 * item + view]["frames"].float().mean(dim=(1, 2, 3)) for view in range(2)]
    begin = round((10.0 - 0.25 * 0.8) * FPS)
    assert instants.table[FIRST][item] > 0  # the context begins within its sample
    # The first view begins with the context, the last one ends with it; frames are every second.
    for view, first in zip(shown, (begin, begin + 12), strict=True):
        times = (first + np.arange(4) * 2) / FPS
        expected = 130 + 100 * brightness(0, times)
        assert np.abs(view.numpy() - expected).max() < 3
    drawn: Any = ShardDataset(instants, input=INPUT, modalities="video")[item]
    times = (begin + np.arange(13)[:, None] + np.arange(4) * 2) / FPS  # of every start
    gaps = drawn["frames"].float().mean(dim=(1, 2, 3)).numpy() - 130 - 100 * brightness(0, times)
    assert np.abs(gaps).max(axis=1).min() < 3


def test_an_instant_has_the_frames_about_its_time_and_the_first_who_notes_it() -> None:
    nobody, count = None, [float(number) for number in range(8)]
    anna = [*count[:3], nobody, *count[4:]]
    values = {"valence": {"anna": anna, "ben": [9.0] * 8}, "arousal": {"ben": count[:]}}
    values["arousal"]["ben"][5] = nobody
    # Eight instants from -0.2 s on, of a picture from 0 to 1.2 s.
    told = {"recording": "r", "since": 10.0, "at": -0.2, "hop": 0.2, "num_own": 8, "values": values}
    row = {"key": "s", "fps": 10.0, "num_frames": 12, "trace": json.dumps(told)}
    index = Index(table=pandas.DataFrame([row]), info={}, folder=Path("shards"))
    settings = OverTime(context_seconds=0.4, place=0.25)
    both = instant_index(index, ["valence", "arousal"], settings, 0.2).table
    assert both["key"].tolist() == ["r@10.200", "r@10.400", "r@10.600", "r@10.800", "r@11.200"]
    assert both["valence"].tolist() == [1, 2, 9, 4, 6]
    assert both[FIRST].tolist() == [0, 1, 3, 5, 8]  # moved into the sample at both ends
    assert set(both[WINDOW]) == {4}
    own = instant_index(index, ["valence"], settings, 2.0, annotator="anna").table
    assert own["valence"].tolist() == own[NUMBER].tolist() == [1, 2, 4, 5, 6]
    assert set(own[WINDOW]) == {12}  # all there is of a clip
    for targets, annotator, said in (
        (["joy"], None, "no trace has a value 'joy'"),
        (["arousal"], "anna", "no instant has a value of arousal"),
        (["arousal"], "carl", "nobody of that name"),
    ):
        with pytest.raises(ValueError, match=said):
            instant_index(index, targets, settings, 0.2, annotator=annotator)
    twice = Index(table=pandas.DataFrame([row, row | {"key": "t"}]), info={}, folder=index.folder)
    with pytest.raises(ValueError, match="samples 's' and 't' have the same trace"):
        traces_of(twice, settings)
    lags = OverTime(lag_seconds=None, max_lag_seconds=0.2).lags
    assert lags == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("context_seconds", 0.0),
        ("place", 1.1),
        ("train_every", 0),
        ("lag_seconds", 4.1),
        ("lag_seconds", -0.1),
        ("max_lag_seconds", float("inf")),
        ("lag_step_seconds", 0.0),
        ("smoothing_seconds", ()),
        ("smoothing_seconds", (1.0, -1.0)),
    ],
)
def test_settings_over_time_that_cannot_be_are_named(setting: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"over_time: {setting}"):
        OverTime(**{setting: wrong})


def test_labels_of_strangers_have_no_known_lag(traced: Path) -> None:
    benchmark, index = over_time_benchmark(), read_index(traced)
    assert benchmark.over_time is not None
    instants = instant_index(index, ["valence"], benchmark.over_time, INPUT.clip_seconds)
    fold = Fold(name="1", train=instants.table.iloc[:0], test=instants.table)
    decided = {"lags": {"ben": 1.2}, "weights": {"valence": {"ben": 1.0}}}
    found, window = settled_again(
        benchmark, instants, fold, decided | {"smoothing_seconds": 0.5}, Path("run")
    )
    assert window == 0.5
    assert 0 < len(found.test) < len(instants.table)  # the last of Ben's come too late
    strangers = {"lags": {"carl": 1.2}, "weights": {"valence": {"carl": 1.0}}}
    with pytest.raises(ValueError, match="nothing is noted by carl, whose lags alone run knows"):
        settled_again(benchmark, instants, fold, strangers, Path("run"))


def test_lags_beyond_what_the_parts_of_a_recording_hold_are_refused(traced: Path) -> None:
    """The last instants of every part lost their labels, and a lag was chosen without them."""
    traces = traces_of(read_index(traced), OverTime())
    check_reach(traced, traces, 2.0)
    with pytest.raises(
        ValueError, match=r"'r0/000' has its trace for 2\.2 s .*trace.max_lag_seconds 3"
    ):
        check_reach(traced, traces, 3.0)
    whole = {key: trace for key, trace in traces.items() if key.endswith("/001")}
    check_reach(traced, whole, 3.0)  # nothing comes after them


@pytest.mark.parametrize("window", [1.0, 0.8])  # of the second, instants lie at its ends
def test_smoothing_and_recordings_agree_with_a_plain_loop(window: float) -> None:
    draws = np.random.default_rng(0)
    benchmark = over_time_benchmark()
    items = [
        make_prediction(
            benchmark,
            key=f"r{number % 2}@{0.2 * (number // 2):.3f}",
            fold="1",
            speaker="s",
            true=[draws.normal()],
            views=draws.normal(size=(1, 1)),
        )
        for number in range(40)
    ]
    smoothed = smooth(items, window)
    for place, item in enumerate(smoothed):
        recording, seconds = recording_of(item.key)
        near = [
            other.outputs[0]
            for other in items
            if recording_of(other.key)[0] == recording
            and abs(recording_of(other.key)[1] - seconds) <= window / 2 + 1e-6
        ]
        assert item.predicted[0] == pytest.approx(np.mean(near), abs=1e-6), place
    for recording, values in recording_scores(benchmark, items).items():
        own = [item for item in items if item.key.startswith(f"{recording}@")]
        true, said = (
            np.array([each[0] for each in side])
            for side in zip(*((item.true, item.predicted) for item in own), strict=True)
        )
        bias = (true.mean() - said.mean()) ** 2
        spread = np.cov(true, said)  # of N - 1, as torchmetrics has it
        expected = 2 * spread[0, 1] / (np.trace(spread) + bias)
        assert values["ccc"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("noise", "apart", "wanted"), [(1.0, 0.2, 1.0), (0.0, 0.2, 0.0), (1.0, 9.0, 0.0)]
)
def test_the_window_is_that_of_the_best_score_and_the_shortest_of_equals(
    noise: float, apart: float, wanted: float
) -> None:
    settings = OverTime(smoothing_seconds=(1.0, 0.0))
    benchmark = dataclasses.replace(over_time_benchmark(), over_time=settings)
    true = np.sin(np.arange(40) / 4)
    items = [
        make_prediction(
            benchmark,
            key=f"r@{apart * number:.3f}",
            fold="1",
            speaker="s",
            true=[value],
            views=np.array([[value + noise * (-1) ** number]]),
        )
        for number, value in enumerate(true)
    ]
    assert choose_smoothing(benchmark, items) == wanted


@pytest.mark.parametrize(
    ("agreement", "lag"),
    [
        # What is told the wrong way round explains nothing, however strongly.
        ([-0.9, 0.985, 0.99, 0.9, np.nan], 1.5),
        # Of weak features no lag leaves twice as much: it was the middle of all, whatever was said.
        ([0.5, 0.45, 0.2, 0.1, 0.1], 0.0),
        ([0.1, 0.1, 0.29, 0.3, 0.1], 2.5),
    ],
)
def test_the_lag_is_the_middle_of_those_that_are_hardly_worse_than_the_best(
    agreement: list[float], lag: float
) -> None:
    assert over_time._middle_of_the_best(np.arange(5.0), np.array(agreement)) == lag


def test_who_disagrees_weighs_nothing_and_a_label_needs_a_note_of_every_target() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(20,))
    said = {"anna": signal, "ben": signal + rng.normal(size=20), "carl": -signal}
    gaps = {"anna": np.where(np.arange(20) < 5, np.nan, signal)}
    values = {"valence": said, "arousal": gaps}
    traces = {"r": Trace(recording="r", since=0, at=0, hop=0.1, num_own=20, values=values)}
    rows = pandas.DataFrame({SAMPLE: "r", NUMBER: np.arange(20)})
    lags = dict.fromkeys(said, 0.0)
    settings = OverTime(combine="evaluator-weighted")
    weights = over_time._weights(rows, traces, "valence", lags, settings)
    mean = np.mean([*said.values()], axis=0)
    agree = [np.corrcoef(said[who], mean)[0, 1] for who in ("anna", "ben")]
    assert [*weights.values()] == pytest.approx([*np.divide(agree, sum(agree)), 0])
    settled = Settled(lags=lags, weights={"valence": weights, "arousal": {"anna": 1.0}})
    found = over_time._labelled(rows, traces, settled)
    assert found[NUMBER].tolist() == [*range(5, 20)]
    wanted = weights["anna"] * said["anna"] + weights["ben"] * said["ben"]
    assert found["valence"].tolist() == pytest.approx(wanted[5:].tolist())


def test_what_chooses_the_lag_is_seen_around_its_instant() -> None:
    trace = Trace(recording="r", since=0, at=1.0, hop=0.1, num_own=20, values={})
    rows = pandas.DataFrame({SAMPLE: "r", NUMBER: np.arange(20), "num_frames": 100})
    plan: Any = SimpleNamespace(model=SimpleNamespace(input=INPUT))
    begins = over_time._centred(rows, {"r": trace}, plan)[FIRST].to_numpy()
    middles = begins + (INPUT.num_frames - 1) * INPUT.frame_stride / 2
    assert np.abs(middles - (1 + 0.1 * np.arange(20)) * INPUT.fps).max() <= 0.5


def test_the_frames_of_errors_are_those_of_the_instants(traced: Path) -> None:
    """In their parts of the recordings, of which the second begins long before its instants do."""
    benchmark = over_time_benchmark(lag_seconds=0.0)
    digest = file_sha256(traced / TABLE_NAME)
    index = instant_index(read_index(traced), ["valence"], benchmark.over_time, 0.4)
    keys = [str(key) for key in index.table["key"]][:: len(index.table) // 20]
    assert {index.table[SAMPLE][index.table["key"] == key].iloc[0][-3:] for key in keys} == {
        "000",
        "001",
    }
    frames, missing = read_frames(traced, digest, keys, over_time=benchmark.over_time)
    assert not missing
    for key in keys:
        recording, seconds = recording_of(key)
        shown = np.floor(seconds * FPS + 1e-6) / FPS
        expected = 130 + 100 * brightness(int(recording[1:]), np.array([shown]))[0]
        assert frames[key].mean() == pytest.approx(expected, abs=2.5), key
    _, unknown = read_frames(traced, digest, ["r0@999.000"], over_time=benchmark.over_time)
    assert "'r0@999.000' is not in" in unknown


@pytest.mark.parametrize("speaker", ["", "s"])
def test_an_interval_without_people_is_drawn_by_recording_and_not_by_instant(speaker: str) -> None:
    """Instants of a recording follow one another: a bootstrap done by hand takes it as a whole."""
    benchmark, draws = over_time_benchmark(), np.random.default_rng(0)
    said: dict[str, list[tuple[float, float]]] = {}
    items = []
    for number in range(12):
        bias = draws.normal()  # of what is said of a recording
        for step in range(50):
            true = np.sin(step / 8 + number)
            value = true + bias + 0.1 * draws.normal()
            said.setdefault(f"r{number}", []).append((true, value))
            views = np.array([[value]])
            key = f"r{number}@{step / 5:.3f}"
            items.append(
                make_prediction(
                    benchmark, key=key, fold="1", speaker=speaker, true=[true], views=views
                )
            )
    found = intervals(benchmark, [items])
    assert (found.by, found.num_clusters) == ("recording", 12)
    assert "people are not drawn" in found.sentence()
    names, by_hand = list(said), []
    for _ in range(2000):
        chosen = np.concatenate([said[name] for name in draws.choice(names, len(names))])
        spread = np.cov(chosen.T)
        shift = np.subtract(*chosen.mean(axis=0)) ** 2
        by_hand.append(2 * spread[0, 1] / (np.trace(spread) + shift))
    assert found.values["ccc"] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=0.03)
    one = intervals(benchmark, [items[:50]])
    assert np.isnan(one.values["ccc"][0])
    assert one.sentence().startswith("Intervals: none, for there is one value of recording")


def test_recordings_with_constant_labels_are_counted_nowhere_and_come_last() -> None:
    benchmark, draws = over_time_benchmark(), np.random.default_rng(0)
    items = []
    for number in range(50):
        recording, step = divmod(number, 10)
        true = step * (recording % 2)  # the labels of r0, r2 and r4 are constant
        said = true + recording * draws.normal(size=(1, 1))
        key = f"r{recording}@{step}.000"
        items.append(
            make_prediction(benchmark, key=key, fold="1", speaker="s", true=[true], views=said)
        )
    each = recording_scores(benchmark, items)
    assert [name for name, _ in lowest_first(each)] == ["r3", "r1", "r0", "r2", "r4"]
    (note,) = recordings_note(benchmark, items)
    mean = (each["r1"]["ccc"] + each["r3"]["ccc"]) / 2
    assert note.startswith(f"CCC per recording, mean of 2: ccc {mean:.4f}")
    decided = {
        "lags": {"anna": 0.4},
        "weights": {"valence": {"anna": 0.25}},
        "shared": {"ccc": 0.5},
    }
    facts: Any = {
        "facts": SimpleNamespace(mark=str),
        "folds": (SimpleNamespace(name="1", over_time=decided | {"smoothing_seconds": 1.5}),),
        "scores": SimpleNamespace(pooled=score(benchmark, items)),
    }
    run = Run(
        folder=Path(), benchmark=benchmark, predictions=tuple(items), disagreements=(), **facts
    )
    whole, singly, told = (part for part in over_time_section(run).parts if isinstance(part, Table))
    place = list(whole.columns).index("CCC")
    pooled, means = ((row[0], row[place]) for row in whole.rows)
    assert pooled == ("pooled over 50 instants", f"{score(benchmark, items)['ccc']:.3f}")
    assert means == ("per recording, mean of 2", f"{mean:.3f}")
    assert [row[0] for row in singly.rows] == ["r3", "r1", "r0", "r2", "r4"]
    assert [row[place] for row in singly.rows[1:3]] == [f"{each['r1']['ccc']:.3f}", "n/a"]
    assert [row[1:] for row in told.rows] == [
        ["lag", "anna", "0.40 s"],
        ["weight in valence", "anna", "0.250"],
        ["CCC of the shared network", "test side", "0.500"],
        ["smoothing", "predictions", "1.5 s"],
    ]


def test_means_over_recordings_are_of_the_same_recordings_for_every_target() -> None:
    """One whose arousal is constant counts for valence neither."""
    benchmark = dataclasses.replace(over_time_benchmark(), targets=("valence", "arousal"))
    draws, items = np.random.default_rng(0), []
    for number in range(60):
        recording, step = divmod(number, 20)
        true = draws.normal(size=2) * (1, recording > 0)  # of r0 arousal is constant
        views = (true + 0.3 * (1 + recording) * draws.normal(size=2))[None]
        key = f"r{recording}@{step}.000"
        items.append(
            make_prediction(benchmark, key=key, fold="1", speaker="s", true=true, views=views)
        )
    each, means = recording_scores(benchmark, items), per_recording(benchmark, items)
    for name in ("ccc", "ccc_valence", "ccc_arousal"):
        assert means[name] == pytest.approx((each["r1"][name] + each["r2"][name]) / 2)
    assert means["ccc"] == pytest.approx((means["ccc_valence"] + means["ccc_arousal"]) / 2)
    assert recordings_note(benchmark, items)[0].startswith("CCC per recording, mean of 2:")


@pytest.mark.parametrize("arousal", [None, 0.5])
def test_a_target_that_somebody_did_not_note_or_that_never_changes_hides_no_lag(
    monkeypatch: pytest.MonkeyPatch, arousal: float | None
) -> None:
    rng, hop, count, late = np.random.default_rng(0), 0.1, 120, 4
    shown, traces, rows = [], {}, []
    for name in ("r1", "r2", "r3"):
        signal = rng.normal(size=count)
        noted = np.concatenate([np.zeros(late), signal, np.zeros(20)])
        other = {} if arousal is None else {"anna": np.full(len(noted), arousal)}
        once = {"carl": noted} if name == "r1" else {}
        values = {"valence": {"anna": noted} | once, "arousal": other | {"ben": noted}}
        traces[name] = Trace(recording=name, since=0, at=0, hop=hop, num_own=count, values=values)
        shown.append(signal)
        rows += [{"key": f"{name}@{k * hop:.3f}", SAMPLE: name, NUMBER: k} for k in range(count)]
    monkeypatch.setattr(over_time, "_centred", lambda rows, traces, plan: rows)
    monkeypatch.setattr(over_time, "_features", lambda plan, rows: np.concatenate(shown)[:, None])
    settings = OverTime(lag_seconds=None, max_lag_seconds=1, lag_step_seconds=hop)
    benchmark = SimpleNamespace(over_time=settings, targets=("valence", "arousal"))
    plan: Any = SimpleNamespace(benchmark=benchmark)
    found = choose_lags(plan, pandas.DataFrame(rows), traces, ["anna", "ben", "carl"])
    assert found == {"anna": pytest.approx(0.4), "ben": pytest.approx(0.4)}
    settled = Settled(lags={**found, "carl": 0.0}, weights={}, unchosen=("carl",))
    assert ["no lag can be chosen" in note for note in settled.notes(0)] == [False, False, True]


@pytest.mark.parametrize(
    "settings",
    [
        {"context_seconds": float("inf")},
        {"max_lag_seconds": float("inf")},
        {"lag_seconds": float("nan")},
        {"smoothing_seconds": (0.0, float("nan"))},
        {"smoothing_seconds": (float("inf"),)},
    ],
)
def test_times_that_are_no_finite_numbers_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"over_time: {next(iter(settings))}"):
        OverTime(**settings)
