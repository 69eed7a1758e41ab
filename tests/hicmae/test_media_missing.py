"""A recording that was cut off says so; one that is whole, in whatever container, says nothing."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.media.missing import cut_off
from hicmae.media.sound import read_sound
from shards.building.build import build_shards
from shards.index import read_index
from shards.receipts.facts import sample_infos
from shards.receipts.receipt import read_receipt
from tests.support.build_fixtures import config
from tests.support.media_files import counting_frames, write_recording, write_sound

SECONDS = 6
FASTSTART = {".mp4", ".mov"}  # with their index in front, as everything from the web has it


def whole(path: Path, *, sound: bool = True) -> Path:
    tone = np.sin(np.arange(SECONDS * 48000) / 30) if sound else None
    noise = np.random.default_rng(0).integers(0, 80, (SECONDS * 25, 48, 64, 3), dtype=np.uint8)
    frames = counting_frames(SECONDS * 25) // 2 + noise  # so that most of the file is picture
    return write_recording(path, frames, np.arange(SECONDS * 25) / 25, sound=tone)


def index_first(path: Path) -> Path:
    """Copy with the index in front of what it lists."""
    moved = path.with_stem("moved")
    with (
        av.open(str(path)) as old,
        av.open(str(moved), "w", options={"movflags": "faststart"}) as new,
    ):
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return moved


def without_end(path: Path, share: float = 0.55) -> Path:
    data = path.read_bytes()
    cut = path.with_stem("cut")
    cut.write_bytes(data[: round(len(data) * share)])
    return cut


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".flv"])
def test_a_cut_recording_says_how_much_of_its_time_is_there(tmp_path: Path, suffix: str) -> None:
    path = whole(tmp_path / f"a{suffix}")
    path = index_first(path) if suffix in FASTSTART else path
    assert cut_off(path) == ""
    said = re.fullmatch(
        r"it is cut off: (\S+) of the (\S+) s that its header announces are there",
        cut_off(without_end(path)),
    )
    assert said is not None
    there, announced = map(float, said.groups())
    assert abs(announced - SECONDS) < 0.1
    assert 0.4 < there / announced < 0.7


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".flv"])
def test_a_recording_that_keeps_the_clock_of_a_longer_one_is_whole(
    tmp_path: Path, suffix: str
) -> None:
    frames = counting_frames(SECONDS * 25)
    times = 60 + np.arange(len(frames)) / 25
    path = write_recording(tmp_path / f"segment{suffix}", frames, times)
    assert cut_off(path) == ""
    if suffix in (".mkv", ".webm"):
        said = cut_off(without_end(path))
        there, announced = map(float, re.findall(r"\d+\.\d+", said))
        assert abs(announced - SECONDS) < 0.1
        assert 0.4 < there / announced < 0.7


@pytest.mark.parametrize("suffix", [".wav", ".avi"])
def test_a_cut_riff_says_how_much_of_its_bytes_is_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".avi":
        whole(path)
    else:
        write_sound(path, np.zeros(SECONDS * 16000), 16000)
    assert cut_off(path) == ""
    assert "55% of the bytes that its header announces" in cut_off(without_end(path))


@pytest.mark.parametrize("said", [0, 2**31 - 4096 + 36, 2**31 - 1, 2**31 + 36, 2**32 - 1])
def test_a_riff_that_does_not_know_its_length_is_whole(tmp_path: Path, said: int) -> None:
    path = wav_that_says(tmp_path, said)
    assert cut_off(path) == ""
    assert len(read_sound(path).samples) == SECONDS * 16000


def test_a_wav_with_more_than_it_says_is_read_whole_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that count over 4 GiB begin at 0 again; here they do so at 64 KiB."""
    path = wav_that_says(tmp_path, None)
    assert "its header announces 31.8% of the bytes that are there, and no more is read" in cut_off(
        path
    )
    assert len(read_sound(path).samples) < 2 * 16000
    for module in ("container", "missing"):
        monkeypatch.setattr(f"hicmae.media.{module}.RIFF_BYTES", 2**16)
    assert cut_off(path) == ""
    assert len(read_sound(path).samples) == SECONDS * 16000


def wav_that_says(folder: Path, said: int | None) -> Path:
    """A WAV with this length in its header; None: its own less 128 KiB."""
    path = write_sound(folder / "a.wav", np.ones(SECONDS * 16000) / 2, 16000)
    data = bytearray(path.read_bytes())
    said = len(data) - 8 - 2**17 if said is None else said
    place = data.index(b"data")
    data[4:8] = said.to_bytes(4, "little")
    data[place + 4 : place + 8] = max(said - place, 0).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def test_an_mp4_without_its_index_says_what_is_missing(tmp_path: Path) -> None:
    path = whole(tmp_path / "a.mp4")  # its index comes last
    assert "55% of the bytes that its box mdat announces are there" in cut_off(without_end(path))
    data = path.read_bytes()
    place = data.index(b"moov") - 4
    path.write_bytes(data[:place])
    assert "its index (moov) is missing, as where a recording was never ended" in cut_off(path)
    path.write_bytes(data[: place + 40])
    assert "that its box moov announces are there" in cut_off(path)


def test_sound_that_ends_before_its_picture_is_not_cut_off(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"short{suffix}"
        frames = counting_frames(SECONDS * 25)
        tone = np.sin(np.arange(2 * 48000) / 30)
        write_recording(path, frames, np.arange(SECONDS * 25) / 25, sound=tone)
        assert cut_off(path) == "", suffix


@pytest.mark.parametrize("name", ["folder", "text.txt", "missing.mp4", "empty.mp4"])
def test_of_what_is_no_recording_nothing_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("mdat" * 400)
    (tmp_path / "empty.mp4").touch()
    assert cut_off(tmp_path / name) == ""


@pytest.mark.slow
def test_a_build_keeps_it_in_the_sample_the_receipt_and_the_refusal(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = index_first(whole(tmp_path / "a.mp4"))
    without_end(path).rename(tmp_path / "in/cut.mp4")
    without_end(path, 0.06).rename(tmp_path / "in/nothing.mp4")
    path.rename(tmp_path / "in/whole.mp4")
    result = build_shards([tmp_path / "in"], tmp_path / "out", config(workers=1))
    infos = {info.key: info for _, info in sample_infos(read_index(tmp_path / "out"))}
    assert set(infos) == {"cut", "whole"}
    assert infos["whole"].source.cut_off == ""
    assert "it is cut off" in infos["cut"].source.cut_off
    about = read_receipt(tmp_path / "out/receipt.json")
    assert about["cut_off"] == {"cut": infos["cut"].source.cut_off}
    assert f"| `cut` | {infos['cut'].source.cut_off} |" in (tmp_path / "out/receipt.md").read_text()
    (refusal,) = result.refusals
    assert "nothing.mp4: " in refusal.message
    assert re.search(r"; it is cut off: 0\.\d\d of the 6\.\d\d s", refusal.message)
