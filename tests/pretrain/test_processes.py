"""Runs as the processes that users start: signals, two ranks, a bad step of one, lost processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.processes import VerbProcess
from hicmae.settings import ModelConfig
from pretrain.checkpoints import newest_checkpoint
from pretrain.cluster import main_timeout
from pretrain.processes import GRACE_SECONDS, Launcher, SideGroup, StopOnSignal
from pretrain.settings import HardwareConfig
from tests.support.pretrain_processes import Process, Runs, places
from tests.support.pretrain_shards import assert_same_weights
from tests.support.shard_fixtures import rewrite_shard
from tests.support.wandb_file import records

STEPS = 30
# Of a process that hangs; what both begin with, on a machine with much to do, must fit too.
HUNG_SECONDS = 25
NAMES = ("loss", "gradient_norm", "learning_rate", "clips", "epoch")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    repository: Path,
    tiny_model_config: ModelConfig,
    many_shards: Path,
) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("processes")
    found = Runs(folder, repository, tiny_model_config, many_shards)
    yield found
    found.end()


@pytest.fixture(scope="module")
def hung(runs: Runs) -> Process:
    """A process whose other one is stopped; its timeout runs beside the tests up to its own."""
    words = (*endless("zero1"), "--hardware.timeout_seconds", str(HUNG_SECONDS))
    process, stopped = runs.start_two("hung", *words)
    runs.wait_for((runs.folder / "hung" / "metrics.csv").exists, process)
    stopped.signal(signal.SIGSTOP)
    return process


@pytest.mark.slow
@pytest.mark.usefixtures("hung")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_saves_it(number: signal.Signals, runs: Runs) -> None:
    """A run with readers of its own, in a process group as a terminal makes one."""
    out = runs.folder / number.name
    process = runs.start(number.name, "--steps", "1000000", "--workers", "2")
    runs.wait_for((out / "metrics.csv").exists, process)
    process.signal(number)
    output, _ = process.end(128 + number, 120)
    assert f"stopped by {number.name} after step" in output.splitlines()[-1]
    step = load_checkpoint(out).config["step"]
    assert (out / "checkpoints" / f"step-{step:06d}.ckpt").is_file()
    assert runs.rows(number.name)[-1]["step"] == str(step)


@pytest.mark.slow
def test_nodes_started_by_hand_with_different_settings_are_refused(runs: Runs) -> None:
    nodes = [place | {"NODE_RANK": place.pop("LOCAL_RANK")} for place in places(2)]
    started = [
        runs.start("hands", "--hardware.num_nodes=2", "--steps=2", f"--seed={seed}", **place)
        for seed, place in enumerate(nodes)
    ]
    for process in started:
        _, errors = process.end(2, 120)
        assert "have different settings (process 1: seed = 1, the first has 0)" in errors


@pytest.mark.slow
def test_a_signal_that_readers_get_too_is_survived_while_a_slow_disk_saves(runs: Runs) -> None:
    """Their death would end the training process, unsaved and not requeued."""
    out = runs.folder / "slow"
    process = runs.start(
        "slow",
        *("--steps", "1000000", "--workers", "2", "--log.checkpoint_every", "3"),
        script="pretrain_slow_save",
        SAVE_SECONDS="4",
    )
    runs.wait_for((out / "saving").exists, process)
    process.signal(signal.SIGTERM)
    output, _ = process.end(128 + signal.SIGTERM, 120)
    assert "stopped by SIGTERM after step" in output.splitlines()[-1]
    step = load_checkpoint(out).config["step"]
    assert (out / "checkpoints" / f"step-{step:06d}.ckpt").is_file()
    assert runs.rows("slow")[-1]["step"] == str(step)


@pytest.mark.slow
def test_a_terminal_that_is_gone_costs_nothing_though_it_says_so_twice(runs: Runs) -> None:
    """To its processes, and once more by the shell."""
    out = runs.folder / "twice"
    words = ("--steps", "1000000", "--workers", "1")
    process = runs.start("twice", *words, script="pretrain_slow_save", SAVE_SECONDS="2")
    runs.wait_for((out / "metrics.csv").exists, process)
    process.signal(signal.SIGHUP)
    runs.wait_for((out / "saving").exists, process)
    process.signal(signal.SIGHUP)
    output, _ = process.end(128 + signal.SIGHUP, 120)
    assert "stopped by SIGHUP after step" in output.splitlines()[-1]
    step = load_checkpoint(out).config["step"]
    assert (out / "checkpoints" / f"step-{step:06d}.ckpt").is_file()


def watch_terminal(words: list[str]) -> int:
    """What a process does that has a terminal: it goes on writing when that is gone."""
    terminal = os.open(words[0], os.O_RDWR)
    for stream in (1, 2):
        os.dup2(terminal, stream)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stopper: Any = StopOnSignal()
    stopper.on_train_start(None, None)
    print("waiting", flush=True)
    while stopper.received is None:
        time.sleep(0.01)
    print("gone", flush=True)
    return int(stopper.received)


def test_a_run_writes_on_when_its_terminal_is_gone() -> None:
    ours, theirs = os.openpty()
    watching = f"{__name__}:watch_terminal"
    process = VerbProcess([os.ttyname(theirs)], dict(os.environ), watching)
    assert b"waiting" in os.read(ours, 100)
    os.close(theirs)
    os.close(ours)
    assert process.wait(60) == signal.SIGHUP, "the signal that it has noted"
    process.kill()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--data.shards", "nowhere"], "nowhere"),
        (["--optimizer.lerning_rate", "1"], "did you mean '--optimizer.learning_rate'"),
        (["--steps", "few"], "steps"),
        (["--device", "tpu"], "device = tpu (allowed: auto, cpu, cuda, cuda:0"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    extra: list[str], words: str, runs: Runs, command: Callable[..., Any]
) -> None:
    done = command(*runs.words("bad", *extra))
    assert done.status == 2, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_never_silently_a_cpu(
    device: str, runs: Runs, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = command(*runs.words("bad", "--device", device))
    assert done.status == 2
    assert f"device = {device}: no CUDA device found" in done.err
    assert not (runs.folder / "bad").exists()


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_if_it_had_not_been(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once between checkpoints, inside a pass over the data, and once while one is written."""
    # Checkpoints fall into the middle of a row.
    more = ["--steps", str(STEPS), "--workers", "2", "--accumulate", "2", "--log.log_every", "2"]
    more += ["--log.checkpoint_every", "5"]
    out = runs.folder / "killed"
    runs.here("whole", *more)
    process = runs.start("killed", *more, "--resume")
    runs.wait_for(lambda: len(runs.rows("killed")) >= 4, process)
    process.kill()
    assert (out / "checkpoints" / "step-000005.ckpt").is_file()

    process = runs.start("killed", *more, "--resume")
    half = ".step-000015.ckpt.*.part"
    runs.wait_for(lambda: any((out / "checkpoints").glob(half)), process)
    process.kill()

    capsys.readouterr()
    runs.here("killed", *more, "--resume")
    assert "from step 1" in capsys.readouterr().out
    rows = runs.rows("killed")
    assert [row["step"] for row in rows] == [str(step) for step in range(2, STEPS + 1, 2)]
    for one, other in zip(runs.rows("whole"), rows, strict=True):
        assert {name: one[name] for name in NAMES} == {name: other[name] for name in NAMES}
    assert_same_weights(out, runs.folder / "whole")
    assert not list((out / "checkpoints").glob(".*")), "nothing half-written is left"


@pytest.mark.slow
def test_when_a_process_hangs_the_other_says_so_and_ends_in_time(hung: Process) -> None:
    """A stopped process keeps its connections open: only the timeout tells."""
    says_that_it_lost_one(hung)


@pytest.mark.slow
def test_when_a_process_dies_the_other_says_so_and_ends(runs: Runs) -> None:
    """Of this run the first process has started the other, as a user's does."""
    words = runs.words("dead", "--hardware.devices", "2", *endless("ddp"))
    dead = runs.start_program("dead", "-m", "hicmae", *words)
    runs.wait_for((runs.folder / "dead" / "metrics.csv").exists, dead)
    os.kill(child_of(dead.begun.pid), signal.SIGKILL)
    says_that_it_lost_one(dead)


def test_a_process_that_ends_before_all_have_met_ends_the_first_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher = Launcher.__new__(Launcher)
    launcher.procs = [subprocess.Popen([sys.executable, "-c", ""])]
    told, ended = list[object](), threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: (told.append(status), ended.set()))
    group = SideGroup(600, end=lambda: told.append("said"))
    group.watch_start(launcher)
    assert ended.wait(60)
    group.on_exception(None, None, ValueError())  # type: ignore[arg-type]
    assert told == ["said", 1]


@pytest.mark.slow
def test_a_process_that_its_device_never_lets_go_says_at_once_that_another_has_died(
    runs: Runs,
) -> None:
    """Long before its timeout: what was being saved is whole, and the run of W&B has ended."""
    process, second = runs.start_two(
        "stuck",
        *(*endless("ddp"), "--hardware.timeout_seconds", "600", "--log.checkpoint_every", "3"),
        *("--wandb.mode", "offline"),
        script="pretrain_stuck",
    )
    out = runs.folder / "stuck"
    runs.wait_for((out / "stuck").exists, process)
    second.signal(signal.SIGKILL)
    says_that_it_lost_one(process)
    assert newest_checkpoint(out) == (out / "checkpoints" / "step-000003.ckpt", [])
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    assert [record.exit.exit_code for record in records(file) if record.HasField("exit")] == [1]


def test_each_timeout_ends_before_the_next_one_would_cut_it_off(repository: Path) -> None:
    own = HardwareConfig().timeout_seconds
    main = main_timeout(own, torch.device("cuda")).total_seconds()
    assert main_timeout(own, torch.device("cpu")).total_seconds() == own
    assert own + GRACE_SECONDS < own + 2 * GRACE_SECONDS < main
    for script in ("one_node", "several_nodes"):
        text = (repository / "pretrain" / "slurm" / f"{script}.sbatch").read_text()
        (wait,) = re.findall(r"^srun .*--wait=(\d+)", text, re.MULTILINE)
        assert main < int(wait)


def endless(engine: str) -> tuple[str, ...]:
    return ("--steps", "100000", "--hardware.strategy", engine)


def child_of(first: int) -> int:
    """The process that the first of a run has started as the second."""
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    (second,) = [
        int(child)
        for child in children
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return second


def says_that_it_lost_one(process: Process) -> None:
    _, errors = process.end(1, 180)
    told = [line for line in errors.splitlines() if line.startswith("hicmae pretrain: error")]
    assert len(told) == 1, errors
    assert "process 0 of 2 has lost another one" in told[0]
    assert "Traceback" not in errors


@pytest.mark.slow
def test_under_torchrun_all_go_on_from_what_the_first_has_found_whole(runs: Runs) -> None:
    """The newest checkpoint has its size and not its digest, which one process alone looks at.

    Begun by two processes that find what torchrun would tell them, and continued under torchrun.
    """
    more = ("--steps", "4", "--log.checkpoint_every", "2", "--hardware.timeout_seconds", "60")
    told = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    begun = [
        runs.start("torchrun", *more, RANK=place["LOCAL_RANK"], **told, **place)
        for place in places(2)
    ]
    said = ["".join(process.end()[0] for process in begun)]
    newest = runs.folder / "torchrun" / "checkpoints" / "step-000004.ckpt"
    content = newest.read_bytes()
    newest.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    script = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "hicmae"]
    words = runs.words("torchrun", *more, "--resume")
    said.append(runs.start_program("torchrun", *script, *words).end()[0])
    for output in said:
        assert output.count("pretrained 4 steps") == 1, "only the first process speaks"
    assert "pretraining to step 4 of 8 clips" in said[0]
    assert "step-000004.ckpt: damaged" in said[1]
    assert "from step 2 to step 4 of 8 clips" in said[1]
    assert [row["step"] for row in runs.rows("torchrun")] == ["1", "2", "3", "4"]


# The second process has clips that are no numbers.
POISONED = ("--steps", "6", "--max_skipped_steps", "1", "--hardware.timeout_seconds", "120")


def steps_of_adamw(out: Path, step: int) -> set[int]:
    whole = torch.load(out / "checkpoints" / f"step-{step:06d}.ckpt", weights_only=True)
    return {int(state["step"]) for state in whole["optimizer_states"][0]["state"].values()}


@pytest.mark.slow
def test_a_bad_step_of_one_process_is_left_out_by_both_until_both_stop(runs: Runs) -> None:
    """Steps 2 and 4 are bad on the second process, which the first starts; one is allowed."""
    words = (*POISONED, "--hardware.devices", "2", "--hardware.strategy", "zero1")
    first = runs.start("poisoned-zero1", *words, script="pretrain_poisoned", POISON="1:2,4")
    _, errors = first.end(2)
    out = runs.folder / "poisoned-zero1"
    # One line on the screen, from the first process, and the samples of both in the run folder.
    told = [line for line in errors.splitlines() if "hicmae pretrain: error" in line]
    assert told
    assert "step 4: " in told[0]
    assert "max_skipped_steps = 1 allows; saved" in told[0]
    assert len(list(out.glob("nonfinite-*"))) == 4
    for step in (2, 4):
        good, bad = (
            json.loads((out / f"nonfinite-step-{step:06d}-process-{rank}.json").read_text())
            for rank in (0, 1)
        )
        assert good["keys_of_broken_inputs"] == []
        assert bad["keys_of_broken_inputs"] == [bad["keys"][0]]
        assert len(good["keys"]) == len(bad["keys"]) == 4
        assert not set(good["keys"]) & set(bad["keys"]), "each process had clips of its own"
    assert [row["step"] for row in runs.rows("poisoned-zero1")] == ["1", "2", "3", "4"]
    assert load_checkpoint(out).config["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in runs.weights("poisoned-zero1").values())
    assert steps_of_adamw(out, 4) == {2}, "AdamW has taken two of four steps"


@pytest.mark.slow
def test_two_processes_train_one_network_on_their_own_clips_and_go_on_behind_a_bad_step(
    runs: Runs,
) -> None:
    """The one that speaks says where the samples of the one that saw it are named."""
    more = ("--log.log_every", "2", "--optimizer.learning_rate", "3e-4")
    output, _ = runs.finish_two(
        "poisoned-ddp",
        *(*POISONED, "--hardware.strategy", "ddp", *more),
        script="pretrain_poisoned",
        POISON="1:4",
    )
    out = runs.folder / "poisoned-ddp"
    assert output.count("pretrained 6 steps") == 1, "only the first process speaks"
    assert output.count("step 4: not finite") == 1
    assert "process-0.json and, of the other processes, beside it" in output
    rows = runs.rows("poisoned-ddp")
    assert [row["clips"] for row in rows] == ["16", "32", "48"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert load_checkpoint(out).config["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in runs.weights("poisoned-ddp").values())
    assert steps_of_adamw(out, 6) == {5}


@pytest.mark.slow
def test_clips_are_counted_in_all_processes_where_one_has_left_out_more(
    runs: Runs, many_shards: Path
) -> None:
    shards = shutil.copytree(many_shards, runs.folder / "spoiled")
    tar = shards / "train-000000.tar"
    with tarfile.open(tar) as members:
        pictures = [name for name in members.getnames() if name.endswith(".mjpg")]
    rewrite_shard(tar, dict.fromkeys(pictures[:3], b"no picture"))
    more = ["--data.shards", str(shards), "--data.on_bad", "skip", "--data.max_bad", "100"]
    more += ["--hardware.strategy", "ddp", "--steps", "6", "--log.log_every", "2"]
    more += ["--log.checkpoint_every", "3"]
    runs.finish_two("spoiled-run", *more)
    rows = runs.rows("spoiled-run")
    for newest in (runs.folder / "spoiled-run" / "checkpoints").glob("step-000006.*"):
        newest.unlink()
    runs.finish_two("spoiled-run", *more, "--resume")  # from the middle between two rows
    for name in ("step", "clips", "epoch", "skipped"):
        assert [row[name] for row in runs.rows("spoiled-run")] == [row[name] for row in rows]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for row in rows:
        assert int(row["clips"]) + int(row["skipped"]) == 8 * int(row["step"])
        assert float(row["epoch"]) == pytest.approx(int(row["clips"]) / 16)
    assert int(rows[-1]["skipped"]) == 9, "three of each epoch"
