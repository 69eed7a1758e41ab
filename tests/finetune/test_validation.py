"""The side that chooses an epoch: who is on it, and that the best epoch's weights come back."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from finetune.benchmark import Benchmark
from finetune.folds import Fold
from finetune.validation import EpochChoice, inner_split
from hicmae.settings import InputConfig
from tests.support.finetune_fixtures import BENCHMARK, VALUES, split_benchmark


def training_side(*, speakers: int = 10, each: int = 6, **columns: Any) -> Fold:
    """A fold of speakers who all have both classes."""
    rows = speakers * each
    given = {
        "key": [f"k{number}" for number in range(rows)],
        "speaker": [f"s{number // each}" for number in range(rows)],
        "emotion": [("low", "high")[number % 2] for number in range(rows)],
        "fold": "2",
    }
    table = pd.DataFrame(given | columns)
    return Fold(name="1", train=table, test=table.iloc[:0])


def test_the_inner_validation_takes_whole_speakers_and_about_the_share() -> None:
    fold = training_side()
    for share in (0.1, 0.2, 0.35):
        found = inner_split(BENCHMARK, fold, share=share)
        assert found.by == "speaker"
        assert not set(found.train["speaker"]) & set(found.validation["speaker"])
        assert sorted([*found.train["key"], *found.validation["key"]]) == sorted(fold.train["key"])
        assert abs(len(found.validation) - share * 60) <= 6
        assert set(found.train["emotion"]) == {"low", "high"}


def test_a_speaker_who_would_take_far_more_than_the_share_is_passed_over() -> None:
    speaker = ["s0"] * 24 + [f"s{1 + number // 8}" for number in range(40)]
    side = training_side(speakers=8, each=8, speaker=speaker)
    found = [
        inner_split(BENCHMARK, dataclasses.replace(side, name=str(fold)), share=0.2).validation
        for fold in range(12)
    ]
    # Of the 12.8 that are wanted; only who comes first may be so many.
    assert {len(rows) for rows in found} == {16, 24}
    assert all(set(rows["speaker"]) == {"s0"} for rows in found if len(rows) == 24)


def test_the_inner_validation_depends_on_names_and_fold_alone() -> None:
    fold = training_side()
    chosen = set(inner_split(BENCHMARK, fold, share=0.2).validation["speaker"])
    shuffled = dataclasses.replace(fold, train=fold.train.sample(frac=1, random_state=3))
    assert set(inner_split(BENCHMARK, shuffled, share=0.2).validation["speaker"]) == chosen
    others = {
        frozenset(
            inner_split(BENCHMARK, dataclasses.replace(fold, name=str(name)), share=0.2).validation[
                "speaker"
            ]
        )
        for name in range(6)
    }
    assert len(others) > 1


def test_whoever_has_the_last_sample_of_a_class_stays_in_training() -> None:
    """Only s3 is ever high."""
    emotion = ["high" if 18 <= number < 24 else "low" for number in range(60)]
    for fold in range(8):
        side = dataclasses.replace(training_side(emotion=emotion), name=str(fold))
        found = inner_split(BENCHMARK, side, share=0.5)
        assert "s3" in set(found.train["speaker"])
        assert len(found.validation) > 0
    alone = training_side(speakers=1)
    with pytest.raises(ValueError, match="finds no speaker of the training side") as caught:
        inner_split(BENCHMARK, alone, share=0.2)
    assert "use --selection last" in str(caught.value)


def test_where_speakers_are_unknown_recordings_are_kept_whole_or_else_samples() -> None:
    shared = split_benchmark(shared_speakers=True)
    unknown = training_side(speaker=None)
    assert inner_split(shared, unknown, share=0.2).by == "sample"
    dialogue = [f"d{number // 4}" for number in range(60)]
    of_dialogues = split_benchmark(shared_speakers=True, disjoint=("dialogue",))
    found = inner_split(of_dialogues, training_side(speaker=None, dialogue=dialogue), share=0.2)
    assert found.by == "dialogue"
    assert not set(found.train["dialogue"]) & set(found.validation["dialogue"])
    assert inner_split(shared, training_side(), share=0.2).by == "speaker"
    assert inner_split(shared, training_side(speakers=1), share=0.2).by == "sample"  # of one person


class Counter(pl.LightningModule):
    """A module whose one weight is the number of its epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.logged: list[dict[str, float]] = []

    def log_dict(self, values: dict[str, float], **_: Any) -> None:  # type: ignore[override]
        self.logged.append(values)


def play(benchmark: Benchmark, rows: pd.DataFrame, epochs: list[list[Any]]) -> tuple[Any, Counter]:
    """Let the callback see the outputs of epochs, one view a sample."""
    choice = EpochChoice(
        benchmark=benchmark,
        fold=Fold(name="1", train=rows, test=rows),
        num_segments=1,
        clip=InputConfig(),
        prefix="validation",
    )
    module = Counter()
    for epoch, outputs in enumerate(epochs):
        with torch.no_grad():
            module.weight.fill_(epoch + 1)
        for sample, output in enumerate(outputs):
            batch = {
                "sample": torch.tensor([sample]),
                "view": torch.tensor([0]),
                "output": torch.tensor([output]),
            }
            choice.on_validation_batch_end(None, module, batch, None, sample)  # type: ignore[arg-type]
        choice.on_validation_epoch_end(SimpleNamespace(current_epoch=epoch), module)  # type: ignore[arg-type]
    return choice, module


def test_the_first_of_the_best_epochs_is_kept_and_every_epoch_is_logged() -> None:
    rows = pd.DataFrame(
        {"key": ["a", "b"], "speaker": "s", "emotion": ["low", "high"], "num_frames": 9}
    )
    low, high = [0.9, 0.1], [0.2, 0.8]
    choice, module = play(BENCHMARK, rows, [[low, low], [low, high], [low, high], [high, low]])
    assert [line["validation_uar"] for line in module.logged] == [0.5, 1.0, 1.0, 0.0]
    assert choice.restore(module) == []
    assert (choice.epoch, module.weight.item(), choice.scores["uar"]) == (2, 2, 1.0)


def test_an_undefined_score_chooses_nothing_and_is_said() -> None:
    rows = pd.DataFrame({"key": ["a", "b", "c"], "speaker": "s", "valence": 0.5, "num_frames": 9})
    rows["arousal"] = [0.1, 0.5, 0.9]
    outputs = [[0.1, 0.2], [0.3, 0.4], [0.2, 0.9]]
    choice, module = play(VALUES, rows, [outputs, outputs])
    assert choice.epoch is None
    assert "ccc was undefined after every epoch" in choice.restore(module)[0]
    assert module.weight.item() == 2  # the last epoch's
