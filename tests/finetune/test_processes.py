"""Two processes that share each batch give what one gives."""

from __future__ import annotations

import atexit
import errno
import json
import math
import multiprocessing
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException

import finetune.processes
from finetune.benchmark import Benchmark
from finetune.data import EpochOrder, part_of
from finetune.mixing import MixingConfig
from finetune.processes import LostProcessError, Share, _explained, run_processes
from finetune.record import read_run
from finetune.settings import HardwareConfig, OptimizerConfig, RecipeConfig, TrainerConfig
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.settings import AugmentConfig
from shards.index import read_index
from tests.finetune.test_joint import ALL as JOINT
from tests.finetune.test_joint import CHANGES, PARTLY
from tests.support.finetune_fixtures import (
    BENCHMARK,
    VALUES,
    Train,
    all_notes,
    damage_pictures,
    write_labelled_shards,
)


def test_processes_of_torchrun_that_would_share_a_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: Train
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"torchrun started 2 .*--hardware\.devices 2$"):
        train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "batch"), [(23, 6), (24, 6), (5, 6), (4, 6)])
def test_the_processes_batches_are_together_those_of_one(number: int, batch: int) -> None:
    def batches(rank: int, of: int) -> list[list[int]]:
        order = EpochOrder(number, batch_size=batch, seed=3, share=Share(rank=rank, of=of))
        order.set_epoch(2)
        items = list(order)
        assert len(items) == len(order)
        size = batch // of
        return [items[start : start + size] for start in range(0, len(items), size)]

    alone = batches(0, 1)
    for of in (2, 3):
        parts = [batches(rank, of) for rank in range(of)]
        assert {len(part) for part in parts} == {max(1, number // batch)}
        for place, whole in enumerate(alone):
            together = sorted(item for part in parts for item in part[place])
            # Of a single batch that is not full, what cannot be shared evenly is left out.
            assert together == sorted(whole)[: len(together)] or set(together) < set(whole)
            assert len(together) == len(whole) - len(whole) % of


def test_orders_follow_from_seed_and_epoch_alone() -> None:
    order = EpochOrder(50, batch_size=10, seed=1, share=Share())
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    order.set_epoch(0)
    assert list(order) == first
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert list(EpochOrder(50, batch_size=10, seed=2, share=Share())) != first


def test_every_view_is_in_one_part_alone() -> None:
    for number in (1, 7, 24, 25):
        parts = [part_of(number, Share(rank=rank, of=3)) for rank in range(3)]
        assert [item for part in parts for item in part] == list(range(number))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [VALUES, JOINT], ids=lambda one: one.name)
def test_two_processes_give_the_metrics_of_one(
    benchmark: Benchmark, noisy: Path, train: Train, tmp_path: Path
) -> None:
    """Nothing is drawn here but the order and places of the clips, which processes share.

    Of the joint one some clips lack a head's label, so that a process may have none of a batch.
    """
    recipe = RecipeConfig(
        batch_size=4,
        drop_path=0.0,
        loss=None if benchmark.heads else "mse+ccc",
        num_segments=3,
        ema_decay=0.5,
    )
    shards = noisy
    if benchmark.heads:
        shards = write_labelled_shards(tmp_path / "joint", changes=CHANGES)
    runs = {}
    for devices in (1, 2):
        runs[devices] = train(
            benchmark,
            on=shards,
            name=f"run-{devices}",
            folds="1",
            epochs=2,
            recipe=recipe,
            optimizer=OptimizerConfig(warmup_epochs=1.0, learning_rate=0.05, layer_decay=None),
            augment=AugmentConfig(),
            mixing=MixingConfig(mixup=0.0, cutmix=0.0),
            hardware=HardwareConfig(devices=devices),
            selection="inner-validation",
            validation_share=0.3,
        )
    one, two = read_run(runs[1]), read_run(runs[2])
    assert one.facts.configuration_digest == two.facts.configuration_digest
    assert [item.key for item in two.predictions] == [item.key for item in one.predictions]
    for ours, theirs in zip(two.predictions, one.predictions, strict=True):
        assert np.array(ours.views) == pytest.approx(np.array(theirs.views), abs=2e-4)
    for name, value in one.scores.pooled.items():
        assert two.scores.pooled[name] == pytest.approx(value, abs=1e-3, nan_ok=True)
    weights = [load_checkpoint(run / "fold-1").tensors for run in runs.values()]
    for name, tensor in weights[0].items():
        assert torch.allclose(weights[1][name], tensor, atol=2e-4), name
    logged = [pd.read_csv(run / "fold-1" / "metrics.csv") for run in runs.values()]
    assert list(logged[0].columns) == list(logged[1].columns)
    for column in logged[0].columns:
        values = [table[column].dropna().to_numpy() for table in logged]
        assert values[1] == pytest.approx(values[0], abs=1e-3), column
    assert len(logged[0]["loss_epoch"].dropna()) == 2
    assert one.folds[0].epoch == two.folds[0].epoch
    assert not math.isnan(two.folds[0].train_loss or math.nan)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "changes"), [(BENCHMARK, None), (PARTLY, CHANGES)])
def test_a_clip_counts_the_same_however_a_step_is_split(
    benchmark: Benchmark, changes: Any, tmp_path: Path, train: Train
) -> None:
    """Of batches and processes some have fewer clips that can be read, or have a label, and some
    none at all.
    """
    broken = write_labelled_shards(tmp_path / "broken", changes=changes)
    table = read_index(broken).table
    damage_pictures(broken, table[table["fold"] == 2].iloc[[0, 2, 3, 4, 7, 9]])
    whole, *split = (
        train(
            benchmark,
            on=broken,
            name=f"run-{devices}-{batch}",
            folds="1",
            epochs=2,
            accumulate=4 // batch,
            recipe={"batch_size": batch},
            optimizer=OptimizerConfig(warmup_epochs=1.0, learning_rate=0.05, layer_decay=None),
            augment=AugmentConfig(),
            mixing=MixingConfig(mixup=0.0, cutmix=0.0),
            trainer=TrainerConfig(progress=False, log_every=1, on_bad="skip"),
            hardware=HardwareConfig(devices=devices),
        )
        for devices, batch in ((1, 4), (1, 1), (2, 2))
    )
    weights = load_checkpoint(whole / "fold-1").tensors
    losses = pd.read_csv(whole / "fold-1" / "metrics.csv")["loss_epoch"].dropna().to_numpy()
    for run in split:
        assert "12 training clips skipped (bad-digest)" in all_notes(read_run(run))
        for name, tensor in load_checkpoint(run / "fold-1").tensors.items():
            assert torch.allclose(weights[name], tensor, atol=2e-4), (run.name, name)
        logged = pd.read_csv(run / "fold-1" / "metrics.csv")["loss_epoch"].dropna().to_numpy()
        assert logged == pytest.approx(losses, abs=1e-3), run.name


def say_what_it_is(folder: Path, share: Share) -> None:
    """What a process can see of how it was started."""
    facts = {
        "said": os.environ.get("SAID"),
        "rank": os.environ["LOCAL_RANK"],
        "threads": torch.get_num_threads(),
        "forked from": os.getppid(),
        "leader": os.getpgid(0),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "readers": multiprocessing.get_start_method(),
    }
    (folder / f"{share.rank}.json").write_text(json.dumps(facts))
    atexit.register((folder / f"{share.rank}.end").touch)


@pytest.mark.slow
def test_processes_are_forked_from_one_and_are_what_this_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores, servers = len(os.sched_getaffinity(0)), set()
    for said, threads in (("so", 1), ("else", cores)):
        folder = tmp_path / said
        folder.mkdir()
        monkeypatch.setenv("SAID", said)
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        run_processes(2, say_what_it_is, (folder,), tmp_path)
        for rank in range(2):
            facts = json.loads((folder / f"{rank}.json").read_text())
            servers.add(facts.pop("forked from"))
            assert facts == {
                "said": said,
                "rank": str(rank),
                "threads": max(1, threads // 2),
                "leader": os.getpgid(0),  # Ctrl-C reaches all
                "interrupt": True,
                "readers": multiprocessing.get_start_method(),
            }
            assert (folder / f"{rank}.end").exists()
    assert len(servers) == 1
    assert servers != {os.getpid()}


def say_the_sum(tensors: list[torch.Tensor], folder: Path, share: Share) -> None:
    """What came over."""
    total = torch.stack(tensors).sum(0)
    (folder / str(share.rank)).write_text(f"{len(tensors)} {total.tolist()}")


@pytest.mark.slow
def test_a_checkpoint_of_any_number_of_tensors_goes_to_all(tmp_path: Path) -> None:
    tensors = [torch.full((2,), float(number)) for number in range(600)]
    run_processes(2, say_the_sum, (tensors, tmp_path), tmp_path)
    said = f"600 {[float(sum(range(600)))] * 2}"
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [said, said]


def fail_on_the_second(error: Exception, share: Share) -> None:
    """What one process cannot do while the other waits for it."""
    if share.rank == 1:
        raise error
    time.sleep(600)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others, which do not end by themselves, get a second instead of five."""
    monkeypatch.setattr(finetune.processes, "_GRACE_SECONDS", 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("sample 's1/003' cannot be read"), r"^sample 's1/003' cannot be read$"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/saved.ckpt"),
            r"^/run/saved.ckpt: no space left on device \(free",
        ),
    ],
)
def test_an_error_of_a_process_comes_back_as_its_one_line_and_ends_the_others(
    error: Exception, said: str, tmp_path: Path, impatient: None
) -> None:
    with pytest.raises(type(error), match=said):
        run_processes(2, fail_on_the_second, (error,), tmp_path)


def wait_for_the_second(share: Share) -> None:
    """What a process does whose partner stops, but keeps its connections open."""
    distributed.init_process_group("gloo", rank=share.rank, world_size=share.of)
    # Processes may start seconds apart on a busy machine: only what follows is to be impatient.
    group = distributed.new_group(timeout=timedelta(seconds=3))
    if share.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.all_reduce(torch.ones(1), group=group)


@pytest.mark.slow
def test_a_process_that_falls_silent_is_told_from_an_error(tmp_path: Path, impatient: None) -> None:
    (tmp_path / ".error-0").write_text("of an earlier attempt")
    with pytest.raises(LostProcessError, match=r"process 0 of 2 has lost another one.*--resume"):
        run_processes(2, wait_for_the_second, (), tmp_path)
    assert not multiprocessing.active_children()


def test_a_process_that_nccl_aborts_is_not_taken_for_one_without_memory(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(processes=[0, 1])
    for name, words in (("SIGABRT", "hardware.timeout_seconds"), ("SIGKILL", "memory runs out")):
        number = -getattr(signal, name)
        error = ProcessExitedException("", 1, 0, number, signal_name=name)
        assert words in str(_explained(error, context, tmp_path))


@pytest.mark.parametrize(
    ("devices", "recipe", "said"),
    [
        (3, {"batch_size": 4}, "batch_size = 4 cannot be shared by hardware.devices = 3"),
        (32, {"batch_size": 32}, "hardware.devices = 32 for 12 training samples or test views"),
    ],
)
def test_what_devices_cannot_share_is_refused(
    devices: int, recipe: dict[str, Any], said: str, tmp_path: Path, train: Train
) -> None:
    with pytest.raises(ValueError, match=said):
        train(recipe=RecipeConfig(**recipe), hardware=HardwareConfig(devices=devices))
    assert not (tmp_path / "run").exists()
