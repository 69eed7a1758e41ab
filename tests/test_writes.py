"""A write that fails while a run is under way: one line with the file, and nothing half-written.

Some of them; HICMAE_EVERY_WRITE=1 goes through all, which takes ten minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hicmae.config import save_yaml, to_dict
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import BENCHMARK, save_benchmark, write_labelled_shards
from tests.support.system_faults import Faults

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]

EVERY_WRITE = os.environ.get("HICMAE_EVERY_WRITE") == "1"
PRETRAIN = (
    "pretrain --config {media}/pretrain.yaml --data.shards {media}/shards --data.batch_size 4 "
    "--steps 2 --log.log_every 1 --log.checkpoint_every 1 --log.pictures_every 2 "
    "--log.picture_clips 1 --log.progress false --out {out}"
)
FINETUNE = (
    "finetune --benchmark {media}/tones.yaml --shards {media}/shards --model {media}/model.yaml "
    "--folds 1 --epochs 1 --recipe.batch_size 4 --trainer.progress false --out {out}"
)
REPORT = "report {media}/run --out {out}/report.md"
COMMON = (
    " --device cpu --precision 32-true --workers 0 --wandb.mode disabled "
    "--optimizer.warmup_epochs 0"
)


@pytest.mark.parametrize(
    ("line", "at"),
    [(PRETRAIN + COMMON, 4), (FINETUNE + COMMON, 6), (REPORT, 1)],
    ids=["pretrain", "finetune", "report"],
)
def test_a_run_that_cannot_write_says_in_one_line_which_file(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    faults: Faults,
    command: Callable[..., Any],
    line: str,
    at: int,
) -> None:
    save_yaml(tmp_path / "model.yaml", to_dict(tiny_model_config))
    save_yaml(tmp_path / "pretrain.yaml", {"model": to_dict(tiny_model_config)})
    save_benchmark(tmp_path, BENCHMARK)
    write_labelled_shards(tmp_path / "shards")
    if line == REPORT:
        done = command((FINETUNE + COMMON).format(media=tmp_path, out=tmp_path / "run"))
        assert done.status == 0, done.err
    first, at = at, 1 if EVERY_WRITE else at
    while True:
        results = tmp_path / f"results{at}"
        said = faults.arm(results, at)
        done = command(line.format(media=tmp_path, out=results / "out"))
        if faults.calls < at:
            break
        assert (done.status, len(done.err.splitlines())) == (2, 1), (at, done.err)
        # torch.save says of an error only that there was one.
        assert said in done.err or "ckpt: cannot be written" in done.err
        assert str(results) in done.err
        assert not [*results.rglob("*.part"), *results.rglob("*.tmp")], "half-written"
        at = at + 1 if EVERY_WRITE else 2 * at + 1
    assert done.status == 0, done.err
    assert at > 4 * first
