"""Checkpoints travel whole, load strictly, and name what does not fit."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.checkpoints import checkpoint
from hicmae.checkpoints.checkpoint import (
    Calibration,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
)
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig


@pytest.fixture(scope="module")
def network(tiny_model_config: ModelConfig) -> HiCMAE:
    torch.manual_seed(0)
    return HiCMAE(tiny_model_config)


@pytest.fixture
def saved(tmp_path: Path, network: HiCMAE, tiny_model_config: ModelConfig) -> tuple[Path, HiCMAE]:
    folder = tmp_path / "run" / "checkpoints" / "last"
    save_checkpoint(folder, network, kind="pretraining", config={"model": tiny_model_config})
    return folder, network


def test_a_checkpoint_comes_back_as_it_was_from_its_folder_and_the_runs(
    saved: tuple[Path, HiCMAE], tiny_model_config: ModelConfig
) -> None:
    folder, network = saved
    found = load_checkpoint(folder)
    assert load_checkpoint(folder.parent.parent).path == folder  # of the run folder, the last
    assert found.kind == "pretraining"
    assert found.model_config() == tiny_model_config
    assert set(found.tensors) == set(network.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(found.tensors[name], value), name


def test_the_encoder_loads_strictly_into_an_emotion_model(
    saved: tuple[Path, HiCMAE], tiny_model_config: ModelConfig
) -> None:
    folder, network = saved
    model = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2))
    load_encoder(model.encoder, load_checkpoint(folder))
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name


def test_a_checkpoint_of_another_size_is_named(
    saved: tuple[Path, HiCMAE], tiny_model_config: ModelConfig
) -> None:
    other = replace(tiny_model_config, encoder_dim=64, encoder_depth=3)
    model = EmotionModel(other, EmotionConfig(num_outputs=2))
    with pytest.raises(ValueError, match=r"tensors do not fit this network \(missing video") as e:
        load_encoder(model.encoder, load_checkpoint(saved[0]))
    assert "\n" not in str(e.value)


def test_a_replaced_checkpoint_leaves_nothing_beside_it(
    saved: tuple[Path, HiCMAE], tiny_model_config: ModelConfig
) -> None:
    folder, network = saved[0], copy.deepcopy(saved[1])
    with torch.no_grad():
        network.video_decoder.mask_token.fill_(7)
    save_checkpoint(folder, network, kind="pretraining", config={"model": tiny_model_config})
    assert [path.name for path in folder.parent.iterdir()] == ["last"]
    assert (load_checkpoint(folder).tensors["video_decoder.mask_token"] == 7).all()


def test_a_failed_save_keeps_the_old_checkpoint(
    saved: tuple[Path, HiCMAE], tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, network = saved

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(folder, network, kind="pretraining", config={"model": tiny_model_config})
    assert load_checkpoint(folder).kind == "pretraining"
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


def change(folder: Path, **sections: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | sections))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "damaged weights"),
        (lambda f: (f / "config.json").write_text("{"), "damaged configuration"),
        (lambda f: (f / "config.json").write_text("[]"), "damaged configuration"),
        (lambda f: (f / "model.safetensors").unlink(), "found no model.safetensors"),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps({"format_version": 9, "kind": "pretraining", "model": {}})
            ),
            "format 9",
        ),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps({"format_version": 1, "kind": "pretraining"})
            ),
            "no section 'model'",
        ),
        (lambda f: change(f, kind="emotion"), "no section 'emotion'"),
        (lambda f: change(f, protocol=None), "section 'protocol' is None"),
        (lambda f: change(f, scores=[0.5]), r"section 'scores' is \[0\.5\]"),
    ],
)
def test_damage_is_named_in_one_line(saved: tuple[Path, HiCMAE], damage, message: str) -> None:
    folder, _ = saved
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"labels": {"task": "classification", "names": ["joy", "joy"]}}, "each once"),
        (
            {"calibration": dict.fromkeys((field.name for field in fields(Calibration)), 0)},
            r"temperature = 0.0 \(must be positive\)",
        ),
        ({"over_time": {"smoothing_seconds": math.inf}}, r"inf \(must be seconds from 0\)"),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked(
    config: dict[str, Any], message: str, saved: tuple[Path, HiCMAE]
) -> None:
    found = replace(load_checkpoint(saved[0]), config=config)
    with pytest.raises(ValueError, match=message):
        (found.labels(), found.calibration(), found.smoothing_seconds())


def test_of_a_run_of_folds_one_is_to_be_named(saved: tuple[Path, HiCMAE], tmp_path: Path) -> None:
    for name in ("folds/fold-2", "folds/fold-1", "sweep/both/fold-1", "sweep/audio/seed-0/fold-1"):
        shutil.copytree(saved[0], tmp_path / name / "checkpoints" / "last")
    with pytest.raises(ValueError, match=r"folds: is a run of 2 folds, .* such as .*folds/fold-1$"):
        load_checkpoint(tmp_path / "folds")
    with pytest.raises(ValueError, match=r"sweep: holds runs \(audio/seed-0, both\); name one"):
        load_checkpoint(tmp_path / "sweep")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder; give a run"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"\.py: is a file; give a run folder or a checkpoint"):
        load_checkpoint(Path(__file__))
