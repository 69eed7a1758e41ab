"""Whole runs in stages, and by contrast alone: what moves, what is logged, and resuming."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hicmae.__main__ import VERBS
from hicmae.cli import make_parser
from hicmae.settings import ObjectiveConfig
from pretrain.settings import Counts, LogConfig, OptimizerConfig
from pretrain.zero import scatter_optimizer
from tests.pretrain.test_plan import counts
from tests.support.pretrain_shards import Train, assert_same_weights, rows_of

LOG = LogConfig(log_every=1, checkpoint_every=1, keep=9, pictures_every=0, progress=False)
# Two steps an epoch: apart to step 3, the sound to step 5, then all of it.
STAGED = ObjectiveConfig(stages={"apart": 1.5, "audio": 1.0}, contrast_weight=0.1)
ALONE = ObjectiveConfig(reconstruction=False, contrast_weight=1.0, video_mask_ratio=0.5)
SETTINGS: dict[str, Any] = {"steps": 7, "log": LOG}


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    path = out / "checkpoints" / f"step-{step:06d}.ckpt"
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
def test_a_staged_run_moves_what_its_stages_name_and_resumes_in_the_middle_of_each(
    train: Train, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    train(whole, objective=STAGED, **SETTINGS)
    rows = rows_of(whole)
    for step, names in ((3, ("video", "audio")), (4, ("audio",)), (5, ("audio",))):
        expected = sum(float(rows[step - 1][name]) for name in names)
        assert float(rows[step - 1]["loss"]) == pytest.approx(expected, rel=1e-6)
    last = rows[-1]
    assert float(last["loss"]) == pytest.approx(
        float(last["video"]) + float(last["audio"]) + 0.1 * float(last["contrast"]), rel=1e-6
    )
    together = {name for name in weights(whole, 1) if ".cross_" in name and "fusion" in name}
    together |= {name for name in weights(whole, 1) if "fusion" in name and "context" in name}
    assert together
    apart = changed(weights(whole, 2), weights(whole, 3))
    assert not apart & together  # not even by the decay of weights
    assert {name.split(".")[1] for name in apart} >= {"encoder", "video_decoder", "audio_decoder"}
    sound = changed(weights(whole, 3), weights(whole, 5))
    assert sound
    assert not any(".video" in name or "fusion.video" in name for name in sound)
    assert changed(weights(whole, 5), weights(whole, 6)) >= together
    for stop in (2, 4):
        broken = shutil.copytree(whole, tmp_path / f"broken-{stop}")
        for step in range(stop + 1, 8):
            (broken / "checkpoints" / f"step-{step:06d}.ckpt").unlink()
        assert train(broken, objective=STAGED, resume=True, **SETTINGS) == 0
        for one, other in zip(rows, rows_of(broken), strict=True):
            for name in ("loss", "video", "contrast", "gradient_norm", "learning_rate"):
                assert one[name] == other[name], (stop, one["step"], name)
        assert_same_weights(broken, whole)


def test_deepspeed_counts_the_steps_of_the_longest_trained_when_it_goes_on() -> None:
    """It has one count for all; that of a new parameter would unsettle older ones."""
    part, state = torch.zeros(2), {n: {"step": torch.tensor(s)} for n, s in ((0, 1.0), (1, 9.0))}
    base = SimpleNamespace(param_groups=[{}], state={})
    optimizer = SimpleNamespace(
        optimizer=base,
        loss_scaler=SimpleNamespace(dynamic=False),
        single_partition_of_fp32_groups=[part],
    )
    whole = {"state": state, "param_groups": [{"names": ["a", "b"], "params": [0, 1]}]}
    module = torch.nn.Identity()
    scatter_optimizer(SimpleNamespace(optimizer=optimizer), module, {"optimizer_states": [whole]})
    assert base.state[part]["step"] == 9


def test_a_stage_lasts_as_many_steps_whatever_a_step_is_made_of() -> None:
    found = counts(objective=replace(STAGED, stages={"apart": 2.0, "video": 1.5}))
    assert found.stages == ((250, "apart"), (438, "video"))
    assert [found.stage(step) for step in (0, 249, 250, 437, 438)] == [
        "apart",
        "apart",
        "video",
        "video",
        "audio-video",
    ]
    assert counts().stages == ()
    halved = counts(accumulate=2, objective=replace(STAGED, stages={"apart": 2.0}))
    assert halved.stages == ((124, "apart"),)
    assert Counts(num_steps=3, warmup_steps=0, global_batch=2, steps_per_epoch=1).stage(0) == (
        "audio-video"
    )


def test_stages_that_leave_nothing_of_the_run_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.stages: they take 1250 steps, the run 1250"):
        counts(
            objective=replace(STAGED, stages={"apart": 10.0}),
            optimizer=OptimizerConfig(warmup_epochs=0),
        )
    with pytest.raises(ValueError, match=r"stages: video = 0.001 epochs is no whole step .125"):
        counts(objective=replace(STAGED, stages={"apart": 2.0, "video": 0.001}))


@pytest.mark.slow
def test_a_run_by_contrast_alone_logs_no_reconstruction_and_resumes(
    train: Train, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    log = replace(LOG, pictures_every=2)  # of nothing that has learned to draw
    train(whole, objective=ALONE, steps=4, log=log)
    rows = rows_of(whole)
    assert all(float(row["loss"]) == pytest.approx(float(row["contrast"])) for row in rows)
    assert not {"video", "audio"} & rows[0].keys()
    assert not list(whole.glob("figures/*"))
    moved = changed(weights(whole, 2), weights(whole, 4))
    assert moved
    assert all(name.startswith(("model.encoder.video", "model.encoder.audio")) for name in moved)
    broken = shutil.copytree(whole, tmp_path / "broken")
    for step in (3, 4):
        (broken / "checkpoints" / f"step-{step:06d}.ckpt").unlink()
    with pytest.raises(ValueError, match=r"objective\.reconstruction was False, now None"):
        train(broken, objective=replace(ALONE, reconstruction=True), resume=True, steps=4, log=log)
    train(broken, objective=ALONE, resume=True, steps=4, log=log)
    assert_same_weights(broken, whole)


@pytest.mark.parametrize("name", ["staged", "contrast_alone"])
def test_the_recipes_are_laid_over_any_other(name: str) -> None:
    for base in ("voxceleb2_tiny", "demo"):
        words = ["--data.shards", "x", "--out", "y"]
        for file in (base, name):
            words += ["--config", f"configs/pretrain/{file}.yaml"]
        found = make_parser("pretrain", VERBS["pretrain"]).keywords(words)["objective"]
        if name == "staged":
            assert found.stages == {"apart": 10}
            assert found.reconstruction
        else:
            assert not found.reconstruction
            assert found.contrast_weight == 1.0
    words += ["--objective.reconstruction", "true", "--objective.stages", "{audio: 2, video: 3}"]
    found = make_parser("pretrain", VERBS["pretrain"]).keywords(words)["objective"]
    assert list(found.stages.items()) == [("audio", 2), ("video", 3)]
