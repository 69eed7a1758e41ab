"""Frames come upright, in order and with their true times, whatever the container does to them."""

from __future__ import annotations

import multiprocessing
import struct
from pathlib import Path

import numpy as np
import pytest

from hicmae.media import video
from hicmae.media.errors import MediaError
from hicmae.media.video import DECODERS, open_video
from tests.support.media_files import counting_frames, numbers_of, write_recording

COUNT = 40
TIMES = np.arange(COUNT) / 25


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "clip.mp4", counting_frames(COUNT), TIMES, b_frames=2)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg"])
@pytest.mark.parametrize("decoders", [tuple(DECODERS), ("pyav",)])
def test_any_frames_of_any_container_are_the_ones_asked_for(
    tmp_path: Path, suffix: str, decoders: tuple[str, ...]
) -> None:
    path = write_recording(tmp_path / f"clip{suffix}", counting_frames(COUNT), TIMES)
    with open_video(path, decoders=decoders) as reader:
        assert len(reader) == COUNT
        # Program streams stamp blocks and not frames: several tiny frames share one stamp.
        atol = 0.041 if suffix == ".mpg" else 2e-3
        np.testing.assert_allclose(reader.timestamps - reader.timestamps[0], TIMES, atol=atol)
        assert reader.duration_seconds == pytest.approx(COUNT / 25, abs=0.01 + atol)
        for indices in (range(COUNT), [3, 4, 30], [39], [0, 0, 13, 13, 13, 38], [0]):
            frames = reader.read(indices)
            assert frames.shape == (len(list(indices)), 48, 64, 3)
            assert numbers_of(frames, COUNT).tolist() == list(indices)


def test_decord_reads_what_it_reads_rightly_and_pyav_the_rest(tmp_path: Path, clip: Path) -> None:
    program_stream = write_recording(tmp_path / "clip.mpg", counting_frames(COUNT), TIMES)
    assert open_video(clip).decoder == "decord"
    assert open_video(program_stream).decoder == "pyav"


def test_irregular_times_are_kept(tmp_path: Path) -> None:
    times = np.cumsum([0, *np.tile([0.02, 0.05, 0.3, 0.04], 10)])[:COUNT]
    path = write_recording(tmp_path / "clip.mkv", counting_frames(COUNT), times)
    np.testing.assert_allclose(open_video(path).timestamps, times, atol=1e-3)


def test_a_picture_that_starts_late_says_so(tmp_path: Path) -> None:
    path = write_recording(
        tmp_path / "clip.mkv",
        counting_frames(COUNT),
        TIMES + 0.4,
        sound=np.zeros(96000),
    )
    reader = open_video(path)
    assert reader.decoder == "decord"
    assert reader.timestamps[0] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("hidden", [5, 17])
def test_frames_that_an_edit_list_hides_are_not_there(tmp_path: Path, hidden: int) -> None:
    path = write_recording(tmp_path / "clip.mp4", counting_frames(COUNT), TIMES)
    _start_at(path, hidden / 25)
    reader = open_video(path)
    assert len(reader) == COUNT - hidden
    assert reader.timestamps[0] == pytest.approx(0, abs=1e-3)
    assert numbers_of(reader.read(range(len(reader))), COUNT).tolist() == list(range(hidden, COUNT))
    assert numbers_of(reader.read([COUNT - hidden - 1]), COUNT).tolist() == [COUNT - 1]


@pytest.mark.parametrize("decoders", [tuple(DECODERS), ("pyav",)])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_frames_are_upright(
    tmp_path: Path, rotation: int, mirror: bool, decoders: tuple[str, ...]
) -> None:
    stored = np.zeros((6, 48, 64, 3), dtype=np.uint8)
    stored[:, :24, :32] = (255, 0, 0)
    stored[:, :24, 32:] = (0, 255, 0)
    stored[:, 24:, :32] = (0, 0, 255)
    path = write_recording(
        tmp_path / "clip.mov", stored, TIMES[:6], rotation=rotation, mirror=mirror
    )
    # The rotation is the one the player applies, counter-clockwise; the mirror comes after it.
    upright = np.rot90(stored[0], rotation // 90)
    if mirror:
        upright = upright[:, ::-1]
    reader = open_video(path, decoders=decoders)
    assert (reader.height, reader.width) == upright.shape[:2]
    for frame in reader.read([0, 5]):
        assert np.abs(frame.astype(int) - upright).mean() < 12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 17), (35, 50), (2, 98)])
def test_odd_sizes_come_back_whole(tmp_path: Path, height: int, width: int) -> None:
    frames = counting_frames(4, height, width)
    frames[:, :, -1] = 255
    frames[:, -1] = 0
    path = write_recording(tmp_path / "clip.mkv", frames, TIMES[:4], codec="ffv1")
    np.testing.assert_allclose(open_video(path).read(range(4)).astype(int), frames, atol=2)


def test_a_decoder_that_breaks_midway_is_replaced(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(video.DecordDecoder):
        def frames(self, indices: np.ndarray):  # type: ignore[no-untyped-def]
            for number, frame in zip(indices, super().frames(indices), strict=True):
                if number >= 9:
                    raise MediaError("damaged", clip, "made to break")
                yield frame

    monkeypatch.setitem(DECODERS, "decord", Breaking)
    reader = open_video(clip)
    assert reader.decoder == "decord"
    assert numbers_of(reader.read([2, 2, 8, 9, 9, 20]), COUNT).tolist() == [2, 2, 8, 9, 9, 20]
    assert reader.decoder == "pyav"
    with pytest.raises(MediaError) as caught:
        open_video(clip, decoders=["decord"]).read([10])
    assert caught.value.cause == "damaged"


def test_a_truncated_recording_gives_what_is_left(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "clip.mkv", counting_frames(COUNT), TIMES, keyframe_every=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    reader = open_video(path)
    assert 5 < len(reader) < COUNT
    numbers = numbers_of(reader.read(range(len(reader))), COUNT)
    assert numbers[:-1].tolist() == list(range(len(reader) - 1))


def test_destroyed_pictures_are_damage_and_not_other_pictures(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (COUNT, 48, 64, 3), dtype=np.uint8)
    path = write_recording(tmp_path / "clip.mp4", noise, TIMES)
    data = bytearray(path.read_bytes())
    begin = len(data) // 3
    data[begin : begin + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"frame \d+ .* cannot be decoded") as caught:
        open_video(path).read(range(COUNT))
    assert caught.value.cause == "damaged"


def test_a_forked_process_can_let_go_of_an_inherited_reader(clip: Path) -> None:
    reader = open_video(clip)
    assert reader.decoder == "decord"
    reader.read([3])
    child = multiprocessing.get_context("fork").Process(target=_close_and_open, args=(reader, clip))
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert numbers_of(reader.read([5]), COUNT).tolist() == [5]


def test_indices_must_ascend_within_the_recording(clip: Path) -> None:
    reader = open_video(clip)
    for indices in ([3, 2], [-1], [COUNT]):
        with pytest.raises(ValueError, match=r"must ascend within 0\.\.39"):
            reader.read(indices)
    assert reader.read([]).shape == (0, 48, 64, 3)
    with pytest.raises(ValueError, match="choose among decord, pyav"):
        open_video(clip, decoders=["ffmpeg"])


def _close_and_open(inherited: video.VideoReader, clip: Path) -> None:
    inherited.close()
    assert numbers_of(open_video(clip).read([7]), COUNT).tolist() == [7]


def _start_at(path: Path, seconds: float) -> None:
    """Let the edit list of an mp4 begin its only track this late."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    media = data.index(b"mdhd") + 4
    version, count = data[at], struct.unpack_from(">I", data, at + 4)[0]
    assert (version, count, data[media]) == (0, 1, 0)
    timescale = struct.unpack_from(">I", data, media + 12)[0]
    duration, start = struct.unpack_from(">Ii", data, at + 8)
    movie = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    struct.pack_into(
        ">Ii", data, at + 8, duration - round(seconds * movie), start + round(seconds * timescale)
    )
    path.write_bytes(data)


def test_a_reader_that_is_opened_anew_goes_on_with_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decord holds what it decodes ahead of a slow user; long recordings are read in stretches."""
    times = np.arange(60) / 25
    path = write_recording(tmp_path / "a.mp4", counting_frames(60), times, b_frames=2)
    with open_video(path, decoders=["decord"]) as video:
        whole = video.read(range(1, 60, 3))
    monkeypatch.setattr("hicmae.media.decord_video._HELD_BYTES", 1)
    monkeypatch.setattr("hicmae.media.decord_video._HELD_FRAMES", 7)
    with open_video(path, decoders=["decord"]) as video:
        assert np.array_equal(video.read(range(1, 60, 3)), whole)
