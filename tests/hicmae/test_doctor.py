"""What `hicmae doctor` finds, and what it says to do."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import hicmae.doctor
from hicmae.doctor import (
    check_devices,
    check_services,
    check_storage,
    doctor,
    requirements,
)


def findings(tmp_path: Path, *, status: int = 0) -> dict[str, dict[str, Any]]:
    """Run the command; its findings by topic."""
    file = tmp_path / "new" / "doctor.json"
    assert doctor(json=file) == status
    return {finding["topic"]: finding for finding in json.loads(file.read_text())}


def test_a_machine_that_runs_the_tests_is_found_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings(tmp_path)
    shown = capsys.readouterr().out
    assert "hicmae doctor" in shown
    assert " 0 broken" in shown
    assert found["decoder decord (frames)"]["found"].endswith("read 8 of 8")
    assert found["decoder PyAV (frames)"]["found"].endswith("read 8 of 8")
    assert found["sound by soundfile (samples)"]["state"] == "ok"
    assert found["sound by PyAV (ms)"]["state"] == "ok"
    assert found["precision auto"]["found"] in ("bf16-mixed", "32-true")
    assert {"FFmpeg", "SLURM", "W&B", "disk here", "bf16"} <= found.keys()


def test_every_note_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for topic, finding in findings(tmp_path).items():
        assert finding["state"] == "ok" or finding["remedy"], topic


def test_a_decoder_that_loses_frames_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readers = hicmae.doctor._READERS
    package, _, wanted = readers["decoder decord (frames)"]
    monkeypatch.setitem(readers, "decoder decord (frames)", (package, lambda path: 7, wanted))
    found = findings(tmp_path, status=1)["decoder decord (frames)"]
    assert (found["state"], found["remedy"]) == ("broken", "pip install --force-reinstall decord")
    assert "1 broken" in capsys.readouterr().out


def test_a_library_that_does_not_import_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hicmae.doctor, "IMPORTED", ("no_such_library",))
    found = findings(tmp_path, status=1)["no_such_library"]
    assert found["state"] == "broken"
    assert "torchaudio" in found["remedy"]


def test_a_library_out_of_its_range_is_broken_and_one_of_an_extra_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["numpy<1", "no-such-library>=2", 'onnx<1; extra == "export"', 'ruff<0; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    found = findings(tmp_path, status=1)
    assert found["numpy"]["found"].endswith("not in the range <1")
    assert found["numpy"]["remedy"] == "pip install 'numpy<1'"
    assert found["no-such-library"]["found"] == "not installed"
    assert found["onnx"]["state"] == "note"
    assert "ruff" not in found


def test_the_bounds_of_a_plain_clone_are_those_of_its_pyproject(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")

    def none(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    asked = {requirement.name: requirement for requirement in requirements()}
    assert "2.12" in str(asked["torch"].specifier)
    assert asked["onnx"].marker is not None


def test_a_missing_face_network_is_a_note_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(tmp_path / "nowhere.onnx"))
    found = findings(tmp_path)
    assert found["faces yunet"]["state"] == "note"
    assert "nowhere.onnx" in found["faces yunet"]["found"]
    assert found["faces cascade"]["state"] == "ok"


def test_little_shared_memory_and_a_full_disk_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(
        hicmae.doctor.shutil, "disk_usage", lambda folder: usage(64 << 20, 0, 64 << 20)
    )
    found = {finding.topic: finding for finding in check_storage()}
    assert found["disk here"].state == "note"
    if "shared memory" in found:
        assert "--shm-size" in found["shared memory"].remedy


def test_a_driver_that_torch_cannot_use_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout="NVIDIA H100, 550.1\n")

    monkeypatch.setattr(hicmae.doctor.subprocess, "run", run)
    found = {finding.topic: finding for finding in check_devices()}
    assert found["CUDA"].state == "broken"
    assert "driver" in found["CUDA"].remedy or "build" in found["CUDA"].remedy


def test_slurm_and_a_login_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout="slurm-wlm 22.05\n")

    monkeypatch.setattr(hicmae.doctor.subprocess, "run", run)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("WANDB_MODE", "online")
    found = {finding.topic: finding for finding in check_services()}
    assert found["SLURM"].found == "slurm-wlm 22.05, in job 17"
    assert found["W&B"].state == "ok"
