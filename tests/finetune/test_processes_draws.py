"""Two processes with everything that draws: what each one mixes, and what a kill costs them."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import time
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
from finetune.processes import LostProcessError, Share, run_processes
from finetune.record import read_run
from finetune.settings import HardwareConfig, OptimizerConfig, RecipeConfig
from hicmae.processes import VerbProcess
from hicmae.settings import AugmentConfig, ModelConfig
from tests.support.finetune_fixtures import Train, train_tiny

pytestmark = pytest.mark.slow

EPOCHS, BATCH, PROCESSES, TRAINED = 6, 6, 2, 12
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
_train = finetune.fold._work


def record_mixing(plan: Plan, fold: Fold, share: Share) -> None:
    """What a process does for a fold, and beside it a file of all that it mixed."""
    records: list[dict[str, Any]] = []
    mix, step = finetune.module.mix_batch, FinetuneModule.training_step

    def note(*inputs: Any, **options: Any) -> Any:
        mixed = mix(*inputs, **options)
        records[-1] |= {"before": inputs[:3], "after": mixed}
        return mixed

    def begin(module: FinetuneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        records.append({"sample": batch["sample"].tolist()})
        return step(module, batch, batch_idx)

    finetune.module.mix_batch = note
    FinetuneModule.training_step = begin  # type: ignore[method-assign]
    _train(plan, fold, share)
    torch.save(records, plan.out / f"mixed-{share.rank}.pt")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, noisy: Path, tiny_model_config: ModelConfig
) -> Path:
    """A run that nobody kills."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune.fold, "_work", record_mixing)
        return train_tiny(tmp_path_factory.mktemp("whole"), noisy, tiny_model_config, **OPTIONS)


def test_a_process_mixes_the_clips_of_its_part_of_the_batch_in_a_share_of_its_own(
    whole: Path,
) -> None:
    parts = [torch.load(whole / f"mixed-{rank}.pt") for rank in range(PROCESSES)]
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


def train_and_die(plan: Plan, fold: Fold, share: Share) -> None:
    """What the second process does for a fold until the memory runs out in its third epoch."""
    begin = FinetuneModule.on_train_epoch_start

    def killed(module: FinetuneModule) -> None:
        if module.current_epoch == 2 and share.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(module)

    FinetuneModule.on_train_epoch_start = killed  # type: ignore[method-assign]
    _train(plan, fold, share)


def test_a_fold_that_loses_a_process_resumes_to_identical_results(
    whole: Path, noisy: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(finetune.fold, "_work", train_and_die)
        with pytest.raises(
            LostProcessError, match=r"process 1 of 2 was killed by .*--resume"
        ) as lost:
            train(on=noisy, **OPTIONS)
    assert "SIGKILL" in str(lost.value)
    assert not multiprocessing.active_children()
    out = train(on=noisy, resume=True, **OPTIONS)
    for name in RESULTS:
        assert (out / "fold-1" / name).read_bytes() == (whole / "fold-1" / name).read_bytes(), name
    assert read_run(out).predictions == read_run(whole).predictions
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".lock"]


def say_who_and_wait(share: Share) -> None:
    """What a process does that nobody ends."""
    print(os.getpid(), flush=True)
    time.sleep(600)


def train_for_ever(words: list[str]) -> int:
    """Stands for ``hicmae``: a command whose processes do that."""
    run_processes(2, say_who_and_wait, (), Path(words[0]))
    return 0


def test_processes_notice_that_the_command_was_killed_alone(tmp_path: Path) -> None:
    command = VerbProcess([str(tmp_path)], os.environ, f"{__name__}:train_for_ever")
    try:
        ranks = [int(command.output.readline()) for _ in range(2)]
        command._process.kill()  # alone: what it has started must notice
        assert command.wait(60) == 128 + signal.SIGKILL
        deadline = time.monotonic() + 60
        while any(map(is_running, ranks)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # What they were forked from has closed its end too.
        assert select.select([command.output], [], [], 120)[0]
        assert command.output.read() == b""
    finally:
        command.kill()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
