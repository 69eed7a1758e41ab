"""What `hicmae doctor` finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hicmae.doctor
from hicmae.doctor import doctor


def test_a_machine_that_runs_the_tests_is_found_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "doctor.json"
    assert doctor(json=file) == 0
    assert "hicmae doctor" in capsys.readouterr().out
    findings = {finding["topic"]: finding for finding in json.loads(file.read_text())}
    assert findings["decoder decord"]["found"].endswith("read 8 of 8 frames")
    assert findings["decoder av"]["found"].endswith("read 8 of 8 frames")
    assert findings["precision auto"]["found"] in ("bf16-mixed", "32-true")


def test_a_decoder_that_loses_frames_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hicmae.doctor, "_by_decord", lambda path: 7)
    assert doctor() == 1
    assert "broken" in capsys.readouterr().out


def test_a_library_that_does_not_import_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hicmae.doctor, "_IMPORTED", ("no_such_library",))
    file = tmp_path / "doctor.json"
    assert doctor(json=file) == 1
    findings = {finding["topic"]: finding for finding in json.loads(file.read_text())}
    assert findings["no_such_library"]["state"] == "broken"
    assert "torchaudio" in findings["no_such_library"]["remedy"]


def test_a_missing_face_network_is_a_note_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(tmp_path / "nowhere.onnx"))
    file = tmp_path / "doctor.json"
    assert doctor(json=file) == 0
    findings = {finding["topic"]: finding for finding in json.loads(file.read_text())}
    assert findings["faces yunet"]["state"] == "note"
    assert "nowhere.onnx" in findings["faces yunet"]["found"]
    assert findings["faces cascade"]["state"] == "ok"
