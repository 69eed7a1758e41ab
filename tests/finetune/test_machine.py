"""Views through a network: every one once, equal ones computed once, features alike."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from finetune.predictions import read_predictions
from finetune.testing import machine
from finetune.testing.extracting import feature_network
from finetune.testing.machine import Ranks, Running, load_tested, make_machine, sample_views
from hicmae.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from hicmae.emotion import EmotionModel
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import ClipTransform
from hicmae.transforms.video import crop_views
from hicmae.views import CROPS, ViewGrid
from shards.index import read_index
from shards.reading.random_access import ShardDataset
from shards.sample import collate
from tests.support.finetune_fixtures import BENCHMARK, run_tiny

MACHINE = make_machine("cpu", "32-true", batch_size=5, workers=0)


@pytest.fixture
def shards(trained: Path) -> Path:
    return trained / "shards"


@pytest.fixture
def finished(trained: Path) -> Path:
    return trained / "run"


def test_views_are_those_of_the_training_run(finished: Path, shards: Path) -> None:
    index = read_index(shards)
    rows = index.table[index.table["fold"] == 1]
    tested = load_tested(load_checkpoint(finished / "fold-1"))
    views = sample_views(tested, index, rows, grid=ViewGrid(segments=2), machine=MACHINE)
    written = read_predictions(finished / "fold-1" / "predictions.jsonl", BENCHMARK)
    assert [item.key for item in written] == list(rows["key"])
    assert views == pytest.approx(np.array([item.views for item in written]), abs=1e-5)
    assert written[0].view_names == ("1:whole", "2:whole")


def test_every_crop_of_every_segment_is_what_the_network_says_of_that_picture(
    finished: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clip by clip, through the readers and the network, not through the loop under test."""
    plain = ClipTransform._video
    ramp = torch.linspace(-1, 1, 32)  # the frames are of one colour, so crops would be equal
    monkeypatch.setattr(ClipTransform, "_video", lambda *args: plain(*args) + ramp)
    index = read_index(shards)
    rows = index.table.iloc[3:8]
    tested = load_tested(load_checkpoint(finished / "fold-1"))
    grid = ViewGrid(segments=3, crops=("centre", "mirrored"))
    found = sample_views(tested, index, rows, grid=grid, machine=MACHINE)
    assert found.shape == (5, 6, 2)
    dataset = ShardDataset(index, input=tested.network.config.input, rows=rows, views=3)
    transform = ClipTransform(tested.network.config.input).eval()
    for sample in range(5):
        for view in range(6):
            video, fbank = transform(collate([dataset[3 * sample + view // 2]]))
            assert video is not None
            shown = crop_views(video, [grid.crops[view % 2]])
            with torch.no_grad():
                expected = tested.network(shown, fbank).softmax(dim=1)[0]
            assert found[sample, view] == pytest.approx(expected.numpy(), abs=1e-5)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3


def test_all_crops_are_different_pictures() -> None:
    video = torch.rand(2, 3, 2, 32, 32)
    shown = crop_views(video, list(CROPS)).unflatten(0, (2, len(CROPS)))
    assert torch.equal(shown[:, 0], video)
    assert torch.equal(shown[:, 1], video.flip(-1))
    for first in range(len(CROPS)):
        for second in range(first):
            assert (shown[:, first] - shown[:, second]).abs().max() > 0.1
    # The centre crop's middle is the picture's middle; its corner lies 1/16 inside.
    ramp = torch.arange(32.0).expand(1, 3, 1, 32, 32)
    crop = crop_views(ramp, ["centre"])[0, 0, 0, 0]
    assert crop.mean() == pytest.approx(15.5)
    assert crop[0] == pytest.approx(2 + 0.5 * 0.875 - 0.5)


def test_segments_that_coincide_are_computed_once(
    finished: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = read_index(shards)
    tested = load_tested(load_checkpoint(finished / "fold-1"))
    shown = 0
    forward = EmotionModel.forward

    def counted(self: EmotionModel, video: torch.Tensor, fbank: torch.Tensor) -> torch.Tensor:
        nonlocal shown
        shown += len(video)
        return forward(self, video, fbank)

    monkeypatch.setattr(EmotionModel, "forward", counted)
    rows = index.table.iloc[:4]  # 25 frames: 10 starts of a clip of 16
    grid = ViewGrid(segments=20)
    views = sample_views(tested, index, rows, grid=grid, machine=MACHINE)
    assert shown == 4 * 10
    assert views.shape == (4, 20, 2)
    assert np.array_equal(views[:, 0], views[:, 1])
    assert not np.array_equal(views[:, 0], views[:, 19])


def test_each_crop_of_a_clip_lacks_what_the_clip_lacks(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = load_tested(load_checkpoint(finished / "fold-1"))
    running = Running(tested.network, tested.network.config.input, tested.modalities, MACHINE)
    given: dict[str, Any] = {}

    def said(network: Any, video: Any, fbank: Any, **more: Any) -> Any:
        given.update(more, fbank=fbank)
        return torch.zeros(4, 2), None

    monkeypatch.setattr(machine, "clip_values", said)
    batch = {"seen": torch.tensor([True, False]), "heard": torch.tensor([False, True])}
    video, fbank = torch.zeros(2, 3, 2, 32, 32), torch.arange(2.0).reshape(2, 1, 1)
    grid = ViewGrid(crops=("whole", "mirrored"))
    machine._all_crops(tested, running, video, fbank, batch, grid)
    assert given["seen"].tolist() == [True, True, False, False]
    assert given["heard"].tolist() == [False, False, True, True]
    assert given["fbank"].flatten().tolist() == [0, 0, 1, 1]
    given.clear()
    machine._all_crops(tested, running, video, None, batch, grid)  # the picture alone is shown
    assert not {"seen", "heard"} & set(given)


@pytest.mark.slow
def test_crops_are_refused_where_nothing_is_seen(
    shards: Path, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    out = run_tiny(tmp_path, shards, tiny_model_config, folds="1", modalities="audio", epochs=1)
    index = read_index(shards)
    tested = load_tested(load_checkpoint(out / "fold-1"))
    with pytest.raises(ValueError, match="the network only hears"):
        sample_views(
            tested, index, index.table, grid=ViewGrid(crops=("whole", "mirrored")), machine=MACHINE
        )
    assert sample_views(tested, index, index.table, grid=ViewGrid(), machine=MACHINE).shape == (
        24,
        2,
        2,
    )


@pytest.mark.parametrize(("reads", "vectors"), [({}, 4), ({"modalities": "video"}, 2)])
def test_features_before_fine_tuning_are_of_the_pretrained_encoder(
    tiny_model_config: ModelConfig, tmp_path: Path, reads: dict[str, str], vectors: int
) -> None:
    torch.manual_seed(3)
    pretrained = HiCMAE(tiny_model_config, ObjectiveConfig())
    config = {"model": tiny_model_config, **reads}
    save_checkpoint(tmp_path / "p", pretrained, kind="pretraining", config=config)
    model = feature_network(load_checkpoint(tmp_path / "p"))
    for name, value in pretrained.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    assert torch.equal(model.video_fusion.weights(), torch.full((2,), 0.5))
    assert model.head.in_features == vectors * tiny_model_config.encoder_dim


def test_a_bar_shows_the_name_of_a_fold_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    running: Any = SimpleNamespace(inputs=lambda batch: (None, None))
    loader: Any = [{"key": ["a"]}]
    assert len(list(Running.batches(running, loader, "fold [/a] [b]"))) == 1
    assert "fold [/a] [b]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE = 2, and MASTER_ADDR, MASTER_PORT not set"),
        ({"WORLD_SIZE": "all"}, "WORLD_SIZE = 'all' is no whole number; unset it"),
    ],
)
def test_what_a_launcher_has_left_is_named(
    left: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^environment: {message}"):
        Ranks()
