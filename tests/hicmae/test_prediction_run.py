"""From shards of videos through fine-tuning and back to the videos: the same numbers come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hicmae
from finetune.benchmark import Benchmark, FoldProtocol
from finetune.predictions import read_predictions
from finetune.settings import RecipeConfig
from hicmae.settings import ModelConfig
from shards.building.build import build_shards
from shards.settings import BuildConfig
from tests.support.finetune_fixtures import train_tiny
from tests.support.prediction_fixtures import write_talking

BENCHMARK = Benchmark(
    name="squares",
    task="classification",
    label="emotion",
    classes=("low", "high"),
    folds=FoldProtocol(column="fold"),
)


@pytest.mark.slow
@pytest.mark.usefixtures("one_decoding_process")
def test_a_run_predicts_a_video_as_it_predicted_its_shard(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    rows = ["path,emotion,speaker,fold"]
    for number in range(8):
        name = f"v{number}.mp4"
        # As long as a clip of the tiny network, so that one view is one window.
        write_talking(tmp_path / name, 0.64, faces=(50 + 11 * number,))
        rows.append(f"{name},{BENCHMARK.classes[number % 2]},s{number // 2},{1 + number // 4}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    build = BuildConfig(faces="boxes", face_size=40, workers=1)
    build_shards([tmp_path / "list.csv"], tmp_path / "shards", build)
    run = train_tiny(
        tmp_path,
        tmp_path / "shards",
        tiny_model_config,
        BENCHMARK,
        recipe=RecipeConfig(batch_size=4, drop_path=0.0, num_segments=1),
    )
    for fold in ("1", "2"):
        model = hicmae.load(run / f"fold-{fold}", device="cpu", precision="32-true")
        assert model.notes == ()
        assert (model.preparation.faces, model.preparation.face_size) == ("boxes", 40)
        written = read_predictions(run / f"fold-{fold}" / "predictions.jsonl", BENCHMARK)
        assert len(written) == 4
        for item in written:
            (track,) = model.predict(tmp_path / f"{item.key}.mp4").tracks
            assert track.values.shape == (1, 2)
            assert np.abs(track.values[0] - np.array(item.probabilities)).max() < 1e-3
            assert track.summary.prediction == item.predicted
        model.close()
    assert len(hicmae.load(run, device="cpu").network.members) == 2
