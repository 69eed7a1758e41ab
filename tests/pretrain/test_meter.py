"""Rows of a run: a CSV that survives crashes and resuming, and whether W&B goes online."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from hicmae.run_logging import MetricsFile, WandbConfig, WandbRun, wandb_mode
from pretrain.meter import StepMeter, line_of, over_present
from tests.support.pretrain_shards import rows_of
from tests.support.wandb_file import history, run_record, wait_for_end


def test_rows_are_appended_and_a_new_column_is_empty_in_older_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.append({"step": 1, "loss": 0.123456789})
    inode = path.stat().st_ino
    file.append({"step": 2, "loss": 1e-12})
    assert path.stat().st_ino == inode, "appended to, not written anew"
    file.append({"step": 3, "loss": float("nan"), "skipped_no-sound": 2})
    assert rows_of(tmp_path) == [
        {"step": "1", "loss": "0.1234568", "skipped_no-sound": ""},
        {"step": "2", "loss": "1e-12", "skipped_no-sound": ""},
        {"step": "3", "loss": "nan", "skipped_no-sound": "2"},
    ]
    file.append({"step": 4, "loss": 1.0})
    assert rows_of(tmp_path)[3] == {"step": "4", "loss": "1", "skipped_no-sound": ""}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]


def test_resuming_drops_later_rows_and_one_that_a_crash_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n10,3.0\n20,2.0\n30,1.5\n40,1.2")  # 1.25 had been on its way
    file = MetricsFile(path, keep_steps=20)
    file.append({"step": 30, "loss": 1.75})
    assert path.read_text() == "step,loss\n10,3.0\n20,2.0\n30,1.75\n"
    MetricsFile(path)
    assert path.read_text() == "step,loss\n10,3.0\n20,2.0\n30,1.75\n"


def test_a_step_that_was_sent_before_a_kill_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,3.0\n2,2.0\n3,1.5\n")
    file, run = MetricsFile(path, keep_steps=1), MagicMock()
    monkeypatch.setattr("wandb.init", lambda **_: run)
    monkeypatch.setattr("wandb.Image", str)
    logged = WandbRun(tmp_path, WandbConfig(mode="offline"), {}, reached=file.reached)
    for step in (2, 3, 4):
        logged.log({"step": step})
        logged.log_picture("faces", path, step)
    assert [call.kwargs["step"] for call in run.log.call_args_list] == [4, 4]


@pytest.mark.parametrize("row", ["", "\0\0\0\0", "half,1", ",2"])
def test_a_row_without_a_step_is_damage_that_is_named(row: str, tmp_path: Path) -> None:
    """As a power failure leaves it."""
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,loss\n10,3.0\n{row}\n" if row else "loss\n3.0\n")
    with pytest.raises(ValueError, match=r"metrics\.csv: damaged \(a row has step .* move it away"):
        MetricsFile(path, keep_steps=20)


@pytest.mark.parametrize(
    ("setting", "environment", "netrc", "expected"),
    [
        ("auto", {}, "", "offline"),
        ("auto", {"WANDB_API_KEY": "x"}, "", "online"),
        ("auto", {}, "machine api.wandb.ai login user password x\n", "online"),
        ("auto", {}, "machine example.org login user password x\n", "offline"),
        ("auto", {"WANDB_BASE_URL": "https://w.example.org"}, "machine w.example.org login u "
         "password x\n", "online"),
        ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "", "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "", "offline"),
        ("auto", {}, "this is no netrc file", "offline"),
        ("offline", {"WANDB_API_KEY": "x", "WANDB_MODE": "online"}, "", "offline"),
        (None, {"WANDB_API_KEY": "x"}, "", "offline"),
        (None, {"WANDB_API_KEY": "x", "WANDB_SWEEP_ID": "s"}, "", "online"),
        (None, {"WANDB_MODE": "online"}, "", "online"),
        (None, {"WANDB_MODE": "disabled", "WANDB_SWEEP_ID": "s"}, "", "disabled"),
        ("disabled", {"WANDB_API_KEY": "x"}, "", "disabled"),
    ],
)  # fmt: skip
def test_wandb_is_online_only_where_the_user_is_logged_in(
    setting: str | None,
    environment: dict[str, str],
    netrc: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "netrc"
    if netrc:
        file.write_text(netrc)
        file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert wandb_mode(setting, default="auto" if setting else "offline") == expected


@pytest.mark.parametrize(
    ("variable", "value", "setting", "found"),
    [
        ("WANDB_PROJECT", "faces", "project", "faces"),
        ("WANDB_NAME", "first", "run_name", "first-fold-1"),
        ("WANDB_RUN_ID", "r1", "run_id", "r1-fold-1"),
        ("WANDB_RUN_GROUP", "paper", "run_group", "paper"),
        ("WANDB_NOTES", "mine", "run_notes", "mine"),
        ("WANDB_DIR", "{}/elsewhere", "root_dir", "{}/elsewhere"),
        ("WANDB_SILENT", "false", "silent", False),
        ("WANDB_INIT_TIMEOUT", "7", "init_timeout", 7),
        ("WANDB_ENTITY", "team", "entity", "team"),
        ("WANDB_TAGS", "a,b", "run_tags", ("a", "b")),
        ("WANDB_PROJECT", "", "project", "hicmae-finetune"),
        ("", "", "project", "hicmae-finetune"),
        ("", "", "run_name", "run-fold-1"),
        ("", "", "run_group", "run"),
        ("", "", "root_dir", "{}/run"),
    ],
)
def test_the_environment_of_wandb_outranks_defaults_and_no_options(
    variable: str,
    value: str,
    setting: str,
    found: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As W&B puts together the environment and the arguments, which outrank it."""
    import wandb

    seen: list[wandb.Settings] = []

    def init(*, settings: wandb.Settings, name: str, id: str, **_: Any) -> MagicMock:
        merged = wandb.Settings()
        merged.update_from_env_vars(dict(os.environ))
        merged.update_from_settings(settings)
        merged.run_name, merged.run_id = name, id
        seen.append(merged)
        return MagicMock(settings=merged)

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    if variable:
        monkeypatch.setenv(variable, value.format(tmp_path))
    monkeypatch.setattr(wandb, "init", init)
    for settings in (WandbConfig(), WandbConfig(project="given", name="given")):
        WandbRun(tmp_path / "run", settings, {}, verb="finetune", part="-fold-1", group="run")
    wanted = found.format(tmp_path) if isinstance(found, str) else found
    assert getattr(seen[0], setting) == wanted
    assert (seen[1].project, seen[1].run_name) == ("given", "given-fold-1")


def test_where_wandb_does_not_start_as_asked_is_one_line_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def init(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ValueError, match=r"wandb.mode = online: No API key .*--wandb.mode offline"):
        WandbRun(tmp_path, WandbConfig(mode="online"), {})


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "mode"), [("", None), ("WANDB_API_KEY", None), ("", "auto")])
def test_what_w_and_b_takes_in_no_mode_is_one_line_too(
    tmp_path: Path, environment: pytest.MonkeyPatch, variable: str, mode: Any
) -> None:
    """Of the library itself, which looks at the name before it asks its server."""
    if variable:
        environment.setenv(variable, "0" * 40)
    with pytest.raises(ValueError, match=r"wandb.mode = offline: Invalid project name 'a/b'.*dis"):
        WandbRun(tmp_path, WandbConfig(mode=mode, project="a/b"), {}, verb="finetune")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Of a W&B that has not begun, which reads it once."""
    import wandb

    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield monkeypatch
    wandb.teardown()


@pytest.mark.slow
def test_who_is_logged_in_and_has_no_network_logs_offline_and_hears_it(
    tmp_path: Path, environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a node of a cluster; with the library itself, whose service keeps what failed."""
    environment.setenv("WANDB_API_KEY", "0" * 40)
    environment.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    environment.setattr("hicmae.run_logging._ANSWER_SECONDS", 2.0)
    run = WandbRun(tmp_path, WandbConfig(), {})
    run.log({"step": 1, "loss": 2.0})
    run.finish(0)
    assert run.mode == "offline"
    assert re.search(r"W&B cannot be reached \(.*\): it logs offline, into", capfd.readouterr().err)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    wait_for_end(file)
    assert run_record(file)[0].run_id == (tmp_path / "wandb" / "run-id.txt").read_text().strip()
    assert [row["loss"] for row in history(file)] == [2.0]


@pytest.mark.slow
def test_a_run_of_a_sweep_is_gone_on_with_under_the_id_that_its_agent_gave(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("WANDB_SWEEP_ID", "sweep1")
    environment.setenv("WANDB_RUN_ID", "trial7")
    WandbRun(tmp_path, WandbConfig(mode="offline"), {}).finish(0)
    assert (tmp_path / "wandb" / "run-id.txt").read_text() == "trial7\n"
    assert list(tmp_path.glob("wandb/offline-run-*/run-trial7.wandb"))


def test_a_line_of_progress_has_the_terms_speed_and_what_was_skipped() -> None:
    row = {
        "step": 20,
        "loss": 1.5,
        "video": 0.5,
        "audio": 1.0,
        "learning_rate": 1e-3,
        "clips_per_second": 12.34,
        "data_wait_share": 0.251,
        "skipped": 0,
    }
    line = "step 20/100  loss 1.5000, video 0.5000, audio 1.0000, lr 1.00e-03, 12.3 clips/s, "
    assert line_of(row, 100) == line + "waiting for data 25%"
    assert line_of(row | {"skipped": 3}, 100).endswith("25%, skipped 3")


def run_of_steps(
    monkeypatch: pytest.MonkeyPatch, steps: range, *, log_every: int, state: Any = None
) -> tuple[list[Any], StepMeter]:
    """Rows of steps of two batches of three clips that take a second each, from a state on."""
    rows: list[Any] = []
    now = [100.0 * steps[0]]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = StepMeter(log_every=log_every, epoch_clips=24, sinks=[rows.append])
    if state is not None:
        meter.load_state_dict(state)
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    trainer: Any = SimpleNamespace(strategy=strategy, is_global_zero=True, global_step=steps[0])
    module: Any = SimpleNamespace(device=torch.device("cpu"), batch_wanted=0.0, batch_arrived=0.25)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    meter.on_train_start(trainer, module)
    for step in steps:
        for half in (0.0, 1.0):
            batch: Any = {"keys": ["a"] * 3, "skipped": {"truncated": 1} if step == 1 else {}}
            meter.on_train_batch_start(trainer, module, batch)
            now[0] += 1.0
            meter.after_batch(trainer, module, {"terms": {"loss": torch.tensor(step + half)}})
        optimizer.param_groups[0]["lr"] = 0.1 * step
        meter.before_step(trainer, module, optimizer)
        module.gradient_norm = torch.tensor(float(10 * step))
        trainer.global_step = step + 1
        with meter.aside():  # a probe
            now[0] += 7.0
            if step < 4:
                meter.note({"probe": step})
        meter.act(trainer, module, None)
    return rows, meter


def test_a_row_is_of_its_steps_and_a_resumed_run_has_the_rows_of_an_unbroken_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, meter = run_of_steps(monkeypatch, range(5), log_every=2)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(reduce=lambda value, reduce_op: value),
        is_global_zero=True,
        global_step=5,
    )
    assert [row["step"] for row in rows] == [2, 4]
    meter.on_train_end(trainer, SimpleNamespace(device=torch.device("cpu")))  # type: ignore[arg-type]
    second, last = rows[1], rows[2]
    assert last["step"] == 5
    expected = {
        "loss": (2 + 3 + 3 + 4) / 4,
        "gradient_norm": 25,
        "learning_rate": 0.3,
        "clips": 24,
        "epoch": 1.0,
        "seconds": 8 + 4 * 7,  # with what was no training
        "clips_per_second": 12 / 4,  # without it
        "data_wait_share": 4 * 0.25 / 4,
        "skipped": 2,
        "skipped_truncated": 2,
        "probe": 3,
    }
    assert {name: second[name] for name in expected} == pytest.approx(expected)
    assert last["epoch"] == pytest.approx(30 / 24)
    assert "probe" not in last, "what was not measured again is not told again"
    _, broken = run_of_steps(monkeypatch, range(3), log_every=2)
    again, _ = run_of_steps(monkeypatch, range(3, 4), log_every=2, state=broken.state_dict())
    assert {name: again[0][name] for name in expected} == pytest.approx(expected)


def test_a_mean_over_some_batches_is_of_those_that_had_a_clip() -> None:
    means = {"contrast": 1.0, "contrast_accuracy_layer1": 0.25, "contrast_absent": 0.5}
    means |= {"video": 3.0, "video_absent": 1.0, "audio": 2.0, "audio_absent": 0.0}
    assert over_present(means) == means | {"contrast": 2.0, "contrast_accuracy_layer1": 0.5}
