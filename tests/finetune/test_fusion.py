"""Two modalities are worth more than each alone, where the truth is in both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from finetune.mixing import MixingConfig
from finetune.record import read_run
from finetune.settings import OptimizerConfig
from hicmae.settings import AugmentConfig
from tests.support.finetune_fixtures import BENCHMARK, CROSSED, Train, write_crossed_shards


@pytest.mark.slow
def test_both_modalities_tell_what_neither_alone_can(tmp_path: Path, train: Train) -> None:
    """Colour halves the four classes and pitch the other way, so one of them reaches 1/2."""
    out = train(
        dataclasses.replace(BENCHMARK, classes=CROSSED),
        on=write_crossed_shards(tmp_path / "shards"),
        modalities="audio-video,video,audio",
        folds="1",
        epochs=10,
        recipe={"batch_size": 8},
        optimizer=OptimizerConfig(warmup_epochs=1, learning_rate=0.1, layer_decay=None),
        mixing=MixingConfig(mixup=0.0, cutmix=0.0),
        augment=AugmentConfig(),
    )
    uar = {
        name: read_run(out / name).scores.pooled["uar"]
        for name in ("audio-video", "video", "audio")
    }
    assert uar["audio-video"] > 0.9
    assert 0.4 <= uar["video"] <= 0.6
    assert 0.4 <= uar["audio"] <= 0.6
