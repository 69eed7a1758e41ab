"""Clips of more frames than the checkpoint was trained on: ``--model.num_frames``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hicmae.checkpoints.checkpoint import WEIGHTS, load_checkpoint
from hicmae.encoder import AudioVisualEncoder
from tests.support.finetune_fixtures import Train


@pytest.mark.slow
def test_a_checkpoint_of_16_frames_is_fine_tuned_on_32_with_their_sound(
    train: Train, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"checkpoint": pretrained, "model": {"num_frames": 32}}
    run = train(**options, once=True, name="longer")
    said = capsys.readouterr().out.replace("\n", " ")
    assert "on clips of 32 frames and 1.28 s instead of 16 and 0.64 s (positions are fixed" in said
    sizes = load_checkpoint(run / "fold-1").model_config()
    assert (sizes.input.num_frames, sizes.input.fbank_frames) == (32, 128)
    slower = train(**options, recipe={"frame_stride": 2}, once=True, name="slower")
    clip = load_checkpoint(slower / "fold-1").model_config().input
    assert (clip.clip_seconds, clip.fbank_frames) == (2.56, 256)
    # Of what both see, a longer network says at first what a shorter one does: same positions.
    short = load_checkpoint(pretrained).model_config()
    for name in ("video", "audio"):
        few, many = (getattr(AudioVisualEncoder(one), name).positions for one in (short, sizes))
        assert len(many) == 2 * len(few)
        assert torch.equal(many[: len(few)], few)


def test_what_cannot_grow_is_refused_in_one_line(
    train: Train, pretrained: Path, tmp_path: Path
) -> None:
    for model, told in (
        ({"num_frames": 33}, "input.num_frames = 33 is no multiple of 2"),
        ({"num_frames": "many"}, r"--model.num_frames 32"),
        ({"encoder_dim": 64}, r"its size and num_frames"),
    ):
        with pytest.raises(ValueError, match=told):
            train(checkpoint=pretrained, model=model, once=True)
    last = pretrained / "checkpoints" / "last"
    tensors = load_file(last / WEIGHTS) | {"encoder.video.positions": torch.zeros(32, 32)}
    (tmp_path / "learned").mkdir()
    save_file(tensors, tmp_path / "learned" / WEIGHTS)
    (tmp_path / "learned" / "config.json").write_bytes((last / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"learned positions \(encoder.video.positions\)"):
        train(checkpoint=tmp_path / "learned", model={"num_frames": 32}, once=True)
