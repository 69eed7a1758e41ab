"""Two processes with everything that draws: what each one mixes, and what a kill costs them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune.fold
import finetune.module
from finetune.data import EpochOrder
from finetune.folds import Fold
from finetune.mixing import MixingConfig
from finetune.module import FinetuneModule
from finetune.plan import Plan
from finetune.processes import Share
from finetune.record import read_run
from finetune.settings import HardwareConfig, OptimizerConfig, RecipeConfig
from hicmae.config import save_yaml, to_dict
from hicmae.settings import AugmentConfig, ModelConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    save_benchmark,
    train_tiny,
    write_labelled_shards,
    wrong_labels,
)

pytestmark = pytest.mark.slow

EPOCHS, BATCH, PROCESSES, TRAINED = 8, 6, 2, 12
OPTIONS: dict[str, Any] = {
    "recipe": RecipeConfig(batch_size=BATCH, drop_path=0.2, ema_decay=0.9, modality_dropout=0.3),
    "augment": AugmentConfig(
        crop="random-resized", flip=0.5, erase=0.5, rand_operations=2, gain=True
    ),
    "optimizer": OptimizerConfig(warmup_epochs=1.0, learning_rate=0.3, layer_decay=None),
    "mixing": MixingConfig(audio=True),
    "hardware": HardwareConfig(devices=PROCESSES),
    "epochs": EPOCHS,
    "folds": "1",
    "selection": "best-on-test",
}
RESULTS = ("predictions.jsonl", "checkpoints/last/model.safetensors", "metrics.csv")
PARTIAL = ".fold-1.partial"
_train = finetune.fold._work


def record_mixing(plan: Plan, fold: Fold, share: Share) -> None:
    """What a process does for a fold, and beside it a file of all that it mixed."""
    records: list[dict[str, Any]] = []
    mix, step = finetune.module.mix_batch, FinetuneModule.training_step

    def note(*inputs: Any) -> Any:
        mixed = mix(*inputs)
        records[-1] |= {"before": inputs[:3], "after": mixed}
        return mixed

    def begin(module: FinetuneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        records.append({"sample": batch["sample"].tolist()})
        return step(module, batch, batch_idx)

    finetune.module.mix_batch = note
    FinetuneModule.training_step = begin  # type: ignore[method-assign]
    _train(plan, fold, share)
    torch.save(records, plan.out / f"mixed-{share.rank}.pt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nobody kills.

    Args:
        folder: With the shards and the files of the command.
        shards: What is trained on.
        run: The run folder.
    """

    folder: Path
    shards: Path
    run: Path


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_config: ModelConfig
) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("draws")
    with pytest.MonkeyPatch.context() as patch:
        # Sums in another order, as of other threads, differ in the last bit.
        patch.setenv("OMP_NUM_THREADS", "1")
        shards = write_labelled_shards(folder / "shards", changes=wrong_labels())
        with pytest.MonkeyPatch.context() as recorded:
            recorded.setattr(finetune.fold, "_work", record_mixing)
            run = train_tiny(folder, shards, tiny_model_config, out=folder / "whole", **OPTIONS)
        yield Undisturbed(folder=folder, shards=shards, run=run)


def test_a_process_mixes_the_clips_of_its_part_of_the_batch_in_a_share_of_its_own(
    whole: Undisturbed,
) -> None:
    parts = [torch.load(whole.run / f"mixed-{rank}.pt") for rank in range(PROCESSES)]
    order = EpochOrder(TRAINED, batch_size=BATCH, seed=0, share=Share())
    shares: list[list[float]] = [[], []]
    for step in range(EPOCHS * TRAINED // BATCH):
        epoch, place = divmod(step * BATCH, TRAINED)
        order.set_epoch(epoch)
        together = list(order)[place : place + BATCH]
        for rank, part in enumerate(parts):
            assert part[step]["sample"] == together[rank::PROCESSES]
            shares[rank].append(check_mixed(part[step]["before"], part[step]["after"]))
    assert len(parts[0]) == len(parts[1]) == len(shares[0])
    assert not set(shares[0]) & set(shares[1]) - {1.0}  # each process draws for itself
    assert all(len({share for share in of_one if share < 0.99}) > 5 for of_one in shares)


def check_mixed(before: Any, after: Any) -> float:
    """Prove that all clips were mixed with their neighbours alike. Returns: the share kept."""
    video, fbank, targets = before
    partner = [item.roll(1, dims=0) for item in before]
    changed = (after[0] != video).any(dim=0).any(dim=0).any(dim=0)  # (H, W)
    cut = torch.equal(after[0], torch.where(changed, partner[0], video))
    if cut:
        share = 1 - float(changed.float().mean())
        frames = (after[1] != fbank).any(dim=0).any(dim=1)  # (S,)
        assert torch.equal(after[1], torch.where(frames[:, None], partner[1], fbank))
        # Silence that both clips have does not show.
        assert int(frames.sum()) <= (1 - share) * len(frames) + 0.5
    else:
        apart = video - partner[0]
        share = float(((after[0] - partner[0]) * apart).sum() / apart.square().sum())
        for own, other, mixed in zip(before[:2], partner[:2], after[:2], strict=True):
            torch.testing.assert_close(mixed, share * own + (1 - share) * other, rtol=0, atol=1e-4)
    expected = share * targets + (1 - share) * partner[2]
    torch.testing.assert_close(after[2], expected, rtol=0, atol=1e-4)
    return share


def start(whole: Undisturbed, out: Path, *more: str) -> tuple[subprocess.Popen[str], list[int]]:
    """The command, in the middle of its fold. Returns: it, and its processes by rank."""
    config = {
        name: to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in OPTIONS.items()
    }
    config |= {
        "benchmark": save_benchmark(whole.folder, BENCHMARK),
        "shards": str(whole.shards),
        "out": str(out),
        "model": str(whole.folder / "model.yaml"),
        "precision": "32-true",
        "device": "cpu",
        "workers": 0,
        "trainer": {"progress": False, "log_every": 1},
        "wandb": {"mode": "disabled"},
    }
    save_yaml(whole.folder / "config.yaml", config)
    words = ["finetune", "--config", str(whole.folder / "config.yaml"), *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "hicmae", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    before = stamps(out)
    deadline = time.monotonic() + 300
    try:
        while stamps(out) == before:  # until an epoch is saved
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert not (out / "fold-1").exists()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [
        int(child)
        for child in children  # in the order in which they were started
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return process, ranks


def stamps(out: Path) -> list[int]:
    """When the saved epoch was written."""
    return [path.stat().st_mtime_ns for path in (out / PARTIAL).glob("saved-*.ckpt")]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_fold_that_loses_a_process_and_then_all_resumes_to_identical_results(
    whole: Undisturbed, tiny_model_config: ModelConfig
) -> None:
    out = whole.folder / "killed"
    command, ranks = start(whole, out)
    try:
        assert len(ranks) == PROCESSES
        os.kill(ranks[1], signal.SIGKILL)
        _, errors = command.communicate(timeout=120)
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert command.returncode == 2
    (told,) = (line for line in errors.splitlines() if line.startswith("hicmae finetune: error"))
    assert "process 1 of 2 was killed by SIGKILL" in told
    assert "--resume" in told
    assert "Traceback" not in errors
    assert not any(map(is_running, ranks))
    assert stamps(out), "what was saved is still there"

    command, ranks = start(whole, out, "--resume")
    try:
        command.kill()  # alone: what it has started must notice
        command.communicate(timeout=120)  # until the last process has closed its end
        deadline = time.monotonic() + 60
        while any(map(is_running, ranks)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        if any(map(is_running, ranks)):
            os.killpg(command.pid, signal.SIGKILL)
    assert stamps(out)

    train_tiny(whole.folder, whole.shards, tiny_model_config, out=out, resume=True, **OPTIONS)
    for name in RESULTS:
        ours, theirs = (run / "fold-1" / name for run in (out, whole.run))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert read_run(out).predictions == read_run(whole.run).predictions
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
