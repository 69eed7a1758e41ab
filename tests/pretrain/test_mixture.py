"""Runs on clips that lack a modality, and on one modality alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from finetune.record import read_run
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from pretrain.data import PretrainData, survey
from pretrain.settings import DataConfig, LogConfig, PretrainConfig
from tests.support.finetune_fixtures import train_tiny, write_labelled_shards
from tests.support.pretrain_shards import moving_sample, rows_of, run_pretraining
from tests.support.shard_fixtures import without_picture, write_shards

LOG = LogConfig(
    log_every=1, health_every=1, pictures_every=2, picture_clips=1, checkpoint_every=9,
    progress=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples: every fourth without a picture, every fourth without sound."""
    samples = [moving_sample(number, sound=number % 4 != 1) for number in range(8)]
    samples = [
        without_picture(sample) if number % 4 == 2 else sample
        for number, sample in enumerate(samples)
    ]
    return write_shards(tmp_path_factory.mktemp("mixture") / "shards", samples)


@pytest.mark.slow
def test_a_mixture_trains_on_what_each_clip_has(
    mixture: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    data = DataConfig(
        shards=mixture, batch_size=2, shuffle_shards=0, picture="optional", sound="optional"
    )
    assert survey(data).num_clips == 8
    run_pretraining(mixture, tmp_path / "run", tiny_model_config, data=data, log=LOG)
    rows = rows_of(tmp_path / "run")
    # In their order each batch has one clip with both, and the contrast nothing to tell apart.
    assert [float(row["contrast_absent"]) for row in rows] == [1.0] * 4
    assert [float(row["contrast"]) for row in rows] == [0.0] * 4
    assert all(float(row["video"]) > 0 and float(row["audio"]) > 0 for row in rows)
    assert {row["skipped"] for row in rows} == {"0"}
    with pytest.raises(ValueError, match=r"no picture .2 of 8 .*--data.picture optional"):
        survey(DataConfig(shards=mixture, sound="optional"))


def test_batches_of_a_step_are_told_what_all_of_them_have(
    mixture: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    data = DataConfig(
        shards=mixture, batch_size=2, shuffle_shards=0, picture="optional", sound="optional"
    )
    config = PretrainConfig(
        data=data, out=tmp_path, model=tiny_model_config, accumulate=2, workers=0
    )
    reader = PretrainData(config)
    place = SimpleNamespace(root_device=torch.device("cpu"))
    reader.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=place)  # type: ignore[assignment]
    batches = list(islice(reader.train_dataloader(), 4))
    assert [(batch["batch"], batch["number"]) for batch in batches] == [
        (n, n % 2) for n in range(4)
    ]
    for batch in batches:
        seen, heard = np.stack(batch["step"], axis=1).tolist()
        assert (seen, heard) == ([[True, True], [False, True]], [[True, False], [True, True]])


@pytest.mark.slow
def test_a_batch_without_any_picture_is_left_out_of_the_mean_of_its_loss(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    samples = [
        moving_sample(n) if n < 3 else without_picture(moving_sample(n)) if n < 6
        else moving_sample(n, sound=False) for n in range(8)
    ]  # fmt: skip
    shards = write_shards(tmp_path / "shards", samples)
    data = DataConfig(
        shards=shards, batch_size=2, shuffle_shards=0, picture="optional", sound="optional"
    )
    found = []
    for every in (1, 4):
        log = replace(LOG, log_every=every, health_every=0, pictures_every=0)
        run_pretraining(shards, tmp_path / f"{every}", tiny_model_config, data=data, log=log)
        rows = rows_of(tmp_path / f"{every}")
        found.append([{k: float(v) for k, v in row.items()} for row in rows])
    # Batches in their order: pictures and sound; one picture and sound; sound; pictures.
    each, (whole,) = found
    for name, absent in (("video", 1), ("audio", 1), ("contrast", 3)):
        there = [row for row in each if not row[f"{name}_absent"]]
        assert len(there) == 4 - absent
        assert whole[f"{name}_absent"] == absent / 4
        for term in (name, *(term for term in whole if term.startswith(f"{name}_accuracy"))):
            mean = sum(row[term] for row in there) / len(there)
            assert whole[term] == pytest.approx(mean, rel=1e-5), term
    assert whole["loss"] == pytest.approx(sum(row["loss"] for row in each) / 4, rel=1e-5)


@pytest.mark.slow
def test_sound_alone_is_a_masked_autoencoder_whose_checkpoint_is_fine_tuned(
    mixture: Path,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = DataConfig(
        shards=mixture, batch_size=3, shuffle_shards=0, modalities="audio", on_bad="skip"
    )
    run_pretraining(mixture, tmp_path / "run", tiny_model_config, data=data, steps=2, log=LOG)
    hours, said = survey(data).hours, capsys.readouterr().out
    assert f" clips ({hours:.2f} hours); network of" in said
    assert "of video" not in said
    rows = rows_of(tmp_path / "run")
    assert [float(row["loss"]) for row in rows] == [float(row["audio"]) for row in rows]
    assert not {"video", "contrast", "feature_std_video_fused"} & rows[0].keys()
    assert float(rows[0]["feature_std_audio_fused"]) > 0
    assert (tmp_path / "run/figures/reconstruction-000002.png").is_file()
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "last")
    network = build_network(checkpoint)
    assert isinstance(network, HiCMAE)
    assert network.modalities == "audio"
    torch.manual_seed(0)
    drawn = HiCMAE(tiny_model_config, ObjectiveConfig()).state_dict()
    for name, value in network.state_dict().items():
        crossed = "fusion" in name and ("cross" in name or "context" in name)
        if "video" in name or crossed:
            assert torch.equal(value, drawn[name]), name
        elif name.endswith(("project.weight", "mlp.fc1.weight", "head.weight")):
            assert not torch.equal(value, drawn[name]), name
    shards = write_labelled_shards(tmp_path / "labelled", blind=(0, 5))
    out = train_tiny(
        tmp_path, shards, tiny_model_config, checkpoint=tmp_path / "run", model=None,
        modalities="audio", folds="1", epochs=1, out=tmp_path / "tuned",
    )  # fmt: skip
    assert read_run(out).facts.modalities == "audio"
    with pytest.raises(ValueError, match="pretrained on audio alone"):
        train_tiny(
            tmp_path, shards, tiny_model_config, checkpoint=tmp_path / "run", model=None,
            out=tmp_path / "both",
        )  # fmt: skip
