"""What `hicmae doctor` finds, and what it says to do."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

import hicmae.devices
import hicmae.doctor
from hicmae.devices import choose_device, cuda_problem
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
    assert found["sound by PyAV (ms, whole packets)"]["state"] == "ok"
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


@pytest.mark.slow
def test_without_decord_pyav_reads_and_the_doctor_says_so(tmp_path: Path, repository: Path) -> None:
    """In a process of its own: a decoder is chosen when it is imported."""
    script = (
        "import sys; sys.modules['decord'] = None; import hicmae.doctor as doctor; "
        "from pathlib import Path; from hicmae.media.video import open_video; "
        f"clip = Path({str(tmp_path / 'clip.mp4')!r}); doctor._write_clip(clip); "
        "print(open_video(clip).decoder.name); "
        "print(*((f.topic, f.state) for f in doctor.check_decoders()), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "pyav"
    assert "('decoder decord (frames)', 'note')" in lines
    assert "('decoder PyAV (frames)', 'ok')" in lines


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", True),
        ("win32", "AMD64", True),
        ("linux", "aarch64", False),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),
    ],
)
def test_what_is_asked_for_can_be_installed_on_every_system(
    system: str, machine: str, wanted: bool, repository: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(line) for line in project["dependencies"]]
    there = {"sys_platform": system, "platform_machine": machine}
    found = {item.name for item in asked if item.marker is None or item.marker.evaluate(there)}
    assert ("decord" in found) == wanted
    assert "av" in found
    (lightning,) = (item.specifier for item in asked if item.name == "pytorch-lightning")
    assert [lightning.contains(f"2.6.{n}") for n in range(1, 7)] == [True, False, False] + 3 * [
        True
    ]


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

    def none(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    asked = {requirement.name: requirement for requirement in requirements()}
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert {str(asked[Requirement(line).name]) for line in project["dependencies"]} == {
        str(Requirement(line)) for line in project["dependencies"]
    }
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


@pytest.mark.parametrize(
    ("gpu", "release", "words", "remedy"),
    [
        ("H100, 535.54, 9.0", "13.0", ("driver 535.54", "needs driver 580 or newer"), "older CUDA"),
        ("H100, 535.54", "13.0", ("driver 535.54", "needs driver 580 or newer"), "older CUDA"),
        ("V100, 580.95, 7.0", "13.0", ("compute capability 7.0", "sm_75, sm_90"), "that has it"),
        ("H100, 580.95, 9.0", None, ("built without CUDA",), "build with CUDA"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_named_with_what_it_has_and_needs(
    gpu: str, release: str | None, words: tuple[str, ...], remedy: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By the doctor, and by whoever asks for the device; auto says that it is the CPU."""

    def run(command: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
        # Old drivers do not know the field compute_cap.
        known = gpu.count(",") == command[1].count(",")
        if not known:
            raise subprocess.CalledProcessError(2, command)
        return subprocess.CompletedProcess(command, 0, stdout=f"{gpu}\n")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hicmae.devices.subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", release)
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_75 sm_90", raising=False)
    found = {finding.topic: finding for finding in check_devices()}["CUDA"]
    assert found.state == "broken"
    assert all(word in found.found for word in words), found
    assert found.remedy.endswith(remedy)
    with pytest.raises(ValueError, match=f"device = cuda: {gpu.split(',')[0]} ") as caught:
        choose_device("cuda")
    assert all(word in str(caught.value) for word in words)
    capsys.readouterr()
    assert choose_device("auto").type == "cpu"
    assert words[0] in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    choose_device("auto")
    assert capsys.readouterr().err == "", "hidden on purpose"


@pytest.mark.parametrize(
    ("capability", "architectures", "usable"),
    [
        ((8, 9), ["sm_75", "sm_80"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((10, 3), ["sm_80", "sm_90a", "sm_100"], True),
        ((12, 1), ["sm_90", "sm_100"], False),
        ((8, 0), ["sm_86"], False),
    ],
)
def test_a_gpu_is_used_where_the_build_has_code_for_it(
    capability: tuple[int, int], architectures: list[str], usable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    problem = cuda_problem()
    assert (problem is None) == usable
    if problem is not None:
        number = f"{capability[0]}.{capability[1]}"
        assert problem.startswith(f"a GPU has compute capability {number}, and torch")


def test_one_of_two_gpus_is_used_though_the_build_has_no_code_for_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(8, 9), (6, 1)][index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(
            ValueError, match=r"GPU 1 has .* 6\.1, .* hide it with CUDA_VISIBLE_DEV"
        ):
            choose_device(name)
    with pytest.raises(ValueError, match=r"none of that number \(cuda:0 to cuda:1\)"):
        choose_device("cuda:2")


def test_slurm_and_a_login_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout="slurm-wlm 22.05\n")

    monkeypatch.setattr(hicmae.devices.subprocess, "run", run)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("WANDB_MODE", "online")
    found = {finding.topic: finding for finding in check_services()}
    assert found["SLURM"].found == "slurm-wlm 22.05, in job 17"
    assert found["W&B"].state == "ok"


def test_a_scheduler_that_does_not_answer_is_not_called_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\necho no configuration >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = {finding.topic: finding for finding in check_services()}["SLURM"]
    assert (found.state, found.found) == ("note", "sbatch is here and does not say its version")

    def hang(command: tuple[str, ...], *, timeout: float, **_: Any) -> None:
        assert timeout <= 5, "the rest of the table waits for it"
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(hicmae.devices.subprocess, "run", hang)
    assert {finding.topic: finding for finding in check_services()}["SLURM"] == found


@pytest.mark.parametrize(
    ("mode", "state", "said"),
    [
        ("offline", "note", "offline: runs are logged into their folders"),
        ("disabled", "note", "disabled: no run is logged"),
        ("disable", "broken", "WANDB_MODE = disable in the environment (must be online, offline"),
    ],
)
def test_where_runs_are_logged_is_said_as_it_is(
    mode: str, state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    found = {finding.topic: finding for finding in check_services()}["W&B"]
    assert found.state == state
    assert found.found.startswith(said)
