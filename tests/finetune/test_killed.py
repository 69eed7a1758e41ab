"""A sweep that is killed with SIGKILL, and finished with the results of one that was not."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from finetune.mixing import MixingConfig
from finetune.module import FinetuneModule
from finetune.record import read_run
from finetune.settings import OptimizerConfig, RecipeConfig
from hicmae.processes import forking
from hicmae.settings import AugmentConfig, ModelConfig
from tests.support.finetune_fixtures import Train, train_tiny
from tests.support.shared import another_writer

# Everything that draws or remembers: augmentation, drop path, mixing, an average, a choice.
RECIPE = RecipeConfig(batch_size=4, drop_path=0.2, ema_decay=0.9, modality_dropout=0.3)
AUGMENT = AugmentConfig(crop="random-resized", flip=0.5, erase=0.5, rand_operations=2, gain=True)
OPTIMIZER = OptimizerConfig(warmup_epochs=1.0, learning_rate=0.3, layer_decay=None)
EPOCHS = 4


def compare(first: Path, second: Path) -> None:
    """Predictions to the byte, and the logged rows of every epoch."""
    for fold in ("1", "2"):
        ours, theirs = first / f"fold-{fold}", second / f"fold-{fold}"
        for name in ("predictions.jsonl", "checkpoints/last/model.safetensors", "metrics.csv"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), (fold, name)
    assert [path.name for path in first.iterdir() if path.name.startswith(".")] == [".lock"]


def train_until_killed(folder: Path, shards: Path, sizes: ModelConfig, options: Any) -> None:
    """What a process does that is killed in the third epoch of its second fold."""
    begin, epochs = FinetuneModule.on_train_epoch_start, iter(range(EPOCHS + 2))

    def killed(module: FinetuneModule) -> None:
        if next(epochs, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(module)

    FinetuneModule.on_train_epoch_start = killed  # type: ignore[method-assign]
    train_tiny(folder, shards, sizes, out=folder / "killed", **options)


@pytest.mark.slow
def test_a_killed_sweep_resumes_in_its_fold_to_identical_results(
    noisy: Path, tiny_model_config: ModelConfig, tmp_path: Path, train: Train
) -> None:
    options = {
        "recipe": RECIPE,
        "augment": AUGMENT,
        "optimizer": OPTIMIZER,
        "mixing": MixingConfig(audio=True),
        "epochs": EPOCHS,
        "selection": "inner-validation",
        "validation_share": 0.3,
    }
    whole = train(on=noisy, name="whole", **options)
    out = tmp_path / "killed"
    process = forking().Process(
        target=train_until_killed, args=(tmp_path, noisy, tiny_model_config, options)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (out / "fold-1" / "fold.json").is_file()
    assert not (out / "fold-2").exists()
    train(on=noisy, name="killed", resume=True, **options)
    compare(out, whole)
    assert read_run(out).predictions == read_run(whole).predictions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
    ],
)
def test_a_resumed_fold_trains_the_missing_epochs_alone(
    error: BaseException,
    seen: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: Train,
) -> None:
    trained: list[int] = []
    started = FinetuneModule.on_train_epoch_start
    stop_at = 3

    def note(module: FinetuneModule) -> None:
        if module.current_epoch == stop_at and stop_at not in trained:
            trained.append(stop_at)
            raise error
        trained.append(module.current_epoch)
        started(module)

    monkeypatch.setattr(FinetuneModule, "on_train_epoch_start", note)
    options = {"recipe": RECIPE, "epochs": 5, "folds": "1"}
    with pytest.raises(seen):
        train(**options)
    partial = tmp_path / "run" / ".fold-1.partial"
    assert list(partial.glob("saved-*.ckpt"))
    trained.remove(stop_at)
    assert trained == [0, 1, 2]
    trained.append(stop_at)  # from now on it goes through
    train(resume=True, **options)
    assert trained[4:] == [3, 4]
    rows = pd.read_csv(tmp_path / "run" / "fold-1" / "metrics.csv")
    assert rows["epoch"].dropna().unique().tolist() == [0, 1, 2, 3, 4]
    assert len(rows["loss_step"].dropna()) == 15
    assert not partial.exists()


@pytest.mark.slow
def test_what_is_frozen_draws_nothing_in_a_fold_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    """Stochastic depth in a frozen encoder would train the head on what no test shows it."""
    drawing: list[bool] = []
    started = FinetuneModule.on_train_epoch_start

    def note(module: FinetuneModule) -> None:
        started(module)
        drawing.append(any(part.training for part in module.model.encoder.modules()))
        if len(drawing) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(FinetuneModule, "on_train_epoch_start", note)
    options = {"recipe": dataclasses.replace(RECIPE, tuning="probe"), "epochs": 3, "folds": "1"}
    with pytest.raises(KeyboardInterrupt):
        train(**options)
    train(resume=True, **options)
    assert drawing == [False] * 4


def test_a_fold_leaves_the_signal_that_ends_a_program_as_it_is(
    monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    found = []
    started = FinetuneModule.on_train_epoch_start

    def note(module: FinetuneModule) -> None:
        found.append(signal.getsignal(signal.SIGTERM))
        started(module)

    monkeypatch.setattr(FinetuneModule, "on_train_epoch_start", note)
    train(epochs=1, folds="1")
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.slow
def test_a_fold_that_is_killed_while_it_is_finished_is_finished_with_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    options = {"epochs": 2, "folds": "1", "recipe": {"ema_decay": 0.9}}
    whole = train(name="whole", **options) / "fold-1"
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr("finetune.outcome.write_json", Mock(side_effect=full))
        with pytest.raises(OSError, match="No space left"):
            train(**options)
    run = tmp_path / "run"
    (run / ".fold-1.partial" / "done" / "checkpoints" / ".last-half").mkdir()
    (run / "figures").mkdir()
    for name in (".scores.json.17.part", "figures/.recall.png.17.part"):
        (run / name).touch()
    train(resume=True, **options)
    rows = pd.read_csv(run / "fold-1" / "metrics.csv")
    assert rows["epoch"].dropna().unique().tolist() == [0, 1]
    assert [path.name for path in run.rglob(".*")] == [".lock"]
    # Nothing was left to train: the average of the weights and the first features are there.
    for name in ("features.npz", "predictions.jsonl", "checkpoints/last/model.safetensors"):
        assert (run / "fold-1" / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_interrupt_is_one_line_and_another_one_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    interrupt = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(FinetuneModule, "on_train_epoch_start", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(once=True)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "run" / ".fold-1.partial").is_dir()


def test_epochs_are_saved_beside_the_run_alone_and_a_full_disk_is_named(
    monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "another/folder")
    monkeypatch.setattr("tempfile.mkstemp", Mock(side_effect=full))
    train(once=True)
    monkeypatch.setattr("torch.save", Mock(side_effect=OSError(*full.args[:2])))
    with pytest.raises(OSError, match=r"/full/\.fold-1\.partial/saved-\w+\.ckpt"):
        train(once=True, name="full")


@pytest.mark.slow
def test_a_damaged_saved_epoch_is_named_and_kept(tmp_path: Path, train: Train) -> None:
    with pytest.MonkeyPatch.context() as patch:
        epochs = Mock(side_effect=[None, OSError("stop")])
        patch.setattr(FinetuneModule, "on_train_epoch_start", epochs)
        with pytest.raises(OSError, match="stop"):
            train(folds="1")
    (saved,) = (tmp_path / "run" / ".fold-1.partial").glob("saved-*.ckpt")
    whole = saved.read_bytes()
    half, place = len(whole) // 2, whole.index(b"epoch_loss")
    changed = whole[:place] + b"x" + whole[place + 1 :]
    for damaged in (whole[:half], b"", bytes(len(whole)), changed):
        saved.write_bytes(damaged)
        with pytest.raises(OSError, match=r"saved-\w+\.ckpt: this saved epoch is damaged .*delete"):
            train(folds="1", resume=True)
        assert saved.read_bytes() == damaged
    saved.write_bytes(whole)
    train(folds="1", resume=True)


def test_a_saved_epoch_of_another_configuration_is_neither_taken_up_nor_deleted(
    tmp_path: Path, train: Train
) -> None:
    saved = tmp_path / "run" / ".fold-1.partial" / "saved-0123456789abcdef.ckpt"
    saved.parent.mkdir(parents=True)
    saved.write_text("of another seed")
    (tmp_path / "run" / "config.yaml").write_text("seed: 7")
    with pytest.raises(ValueError, match=r"partial: holds an epoch .* another configuration"):
        train(once=True, resume=True)
    assert saved.is_file()
    assert read_run(train(once=True, overwrite=True)).scores.num_samples == 12


@pytest.mark.slow
def test_a_run_that_another_process_is_writing_is_left_alone(train: Train) -> None:
    run, ways = train(once=True), ("resume", "overwrite")
    with another_writer(run) as other:
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for how in ways:
            with pytest.raises(ValueError, match=rf"writes into it now \(process {other.pid} on "):
                train(once=True, **{how: True})
            assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        other.kill()  # its lock is gone with it
    for how in ways:
        train(once=True, **{how: True})
    shutil.rmtree(run / "fold-1")
    for path in run.iterdir():
        if path.is_file() and path.name != ".lock":
            path.unlink()
    train(once=True)  # nothing but the lock is there, as where a run was refused
