"""Frames of any recording come by index, at their times, in their colours, at a constant rate."""

from __future__ import annotations

import gc
import multiprocessing
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hicmae.media.decoders import DECODERS, DecordDecoder
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.recording import Recording
from hicmae.media.video import VideoReader, constant_rate_indices, open_video
from tests.support.media_files import (
    counting_frames,
    frames_of,
    numbers_of,
    opened,
    write_planes,
    write_recording,
)

COUNT = 40
TIMES = np.arange(COUNT) / 25


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "clip.mp4", counting_frames(COUNT), TIMES, b_frames=2)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_pictures_of_an_avi_are_shown_at_their_places(
    tmp_path: Path, codec: str, b_frames: int
) -> None:
    """FFmpeg gives all of H.264 and of B-frames a frame late; the sound beside them is not."""
    times = np.delete(np.arange(40), slice(20, 24)) / 25  # the camera dropped four frames
    path = write_recording(
        tmp_path / "a.avi", counting_frames(36), times, codec=codec, b_frames=b_frames
    )
    with open_video(path) as reader:
        np.testing.assert_array_equal(numbers_of([*reader.frames(range(36))], 36), np.arange(36))
        # Where frames that are needed early lie across the hole, it is next to where it was.
        np.testing.assert_allclose(reader.timestamps, times, atol=b_frames * 0.161)
        assert reader.timestamps[[0, -1]] == pytest.approx(times[[0, -1]])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg"])
@pytest.mark.parametrize("decoders", [tuple(DECODERS), ("pyav",)])
def test_any_frames_of_any_container_are_the_ones_asked_for(
    tmp_path: Path, suffix: str, decoders: tuple[str, ...]
) -> None:
    path = write_recording(tmp_path / f"clip{suffix}", counting_frames(COUNT), TIMES)
    with opened(path, *decoders) as reader:
        assert len(reader) == COUNT
        # Program streams stamp blocks and not frames: several tiny frames share one stamp.
        atol = 0.041 if suffix == ".mpg" else 2e-3
        np.testing.assert_allclose(reader.timestamps - reader.timestamps[0], TIMES, atol=atol)
        assert reader.duration_seconds == pytest.approx(COUNT / 25, abs=0.01 + atol)
        for indices in (range(COUNT), [3, 4, 30], [39], [0, 0, 13, 13, 13, 38], [0]):
            frames = frames_of(reader, indices)
            assert frames.shape == (len(list(indices)), 48, 64, 3)
            assert numbers_of(frames, COUNT).tolist() == list(indices)


def test_decord_reads_what_it_reads_rightly_and_pyav_the_rest(tmp_path: Path, clip: Path) -> None:
    program_stream = write_recording(tmp_path / "clip.mpg", counting_frames(COUNT), TIMES)
    assert open_video(clip).decoder.name == "decord"
    assert open_video(program_stream).decoder.name == "pyav"


@pytest.mark.parametrize(
    ("suffix", "codec", "options", "b_frames", "decoder"),
    [
        (".mp4", "libx265", {"x265-params": "keyint=12:b-adapt=0:log-level=none"}, 2, "pyav"),
        (".mkv", "mpeg2video", {}, 2, "pyav"),
        (".mp4", "mpeg4", {}, 2, "pyav"),
        (".mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}, 0, "pyav"),
        (".mov", "libx264", {"x264-params": "open-gop=1:keyint=12"}, 2, "pyav"),
        (".mp4", "libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}, 2, "decord"),
        (".mp4", "libx264", {}, 2, "decord"),
        (".mp4", "mpeg4", {}, 0, "decord"),
    ],
)
def test_jumps_give_the_frames_asked_for_where_groups_of_pictures_are_open(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str], b_frames: int, decoder: str
) -> None:
    """decord loses its place in them while its stamps stay right; elsewhere it is not left out."""
    path = write_recording(
        tmp_path / f"clip{suffix}",
        counting_frames(COUNT),
        TIMES,
        codec=codec,
        b_frames=b_frames,
        options=options,
    )
    for indices in ([0, 17, 18, 39], range(12, 20), range(0, 40, 5), [26], [35, 36, 37]):
        with open_video(path) as reader:
            assert reader.decoder.name == decoder
            assert numbers_of(frames_of(reader, indices), COUNT).tolist() == list(indices)


@pytest.mark.parametrize("wrong", ["", "times", "frames", "count", "size"])
def test_decord_is_left_where_it_sees_something_else(
    clip: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader:
        """decord's own, but for one thing."""

        def __init__(self, reader: Any) -> None:
            self._reader = reader

        def __len__(self) -> int:
            return len(self._reader) - (wrong == "count")

        def get_frame_timestamp(self, indices: range) -> np.ndarray:
            late = 0.003 * (np.array(indices)[:, None] > 9) * (wrong == "times")
            return np.asarray(self._reader.get_frame_timestamp(indices) + late)

        def __getitem__(self, index: int) -> Any:
            frame = self._reader[index].asnumpy()
            frame = 255 - frame if wrong == "frames" else frame
            return SimpleNamespace(asnumpy=lambda: frame[:-1] if wrong == "size" else frame)

    plain = DecordDecoder._opened
    monkeypatch.setattr(DecordDecoder, "_opened", lambda self: Reader(plain(self)))
    with open_video(clip) as reader:
        assert reader.decoder.name == ("pyav" if wrong else "decord")
        assert numbers_of(frames_of(reader, [0, 17]), COUNT).tolist() == [0, 17]


def test_irregular_times_are_kept(tmp_path: Path) -> None:
    times = np.cumsum([0, *np.tile([0.02, 0.05, 0.3, 0.04], 10)])[:COUNT]
    path = write_recording(tmp_path / "clip.mkv", counting_frames(COUNT), times)
    np.testing.assert_allclose(open_video(path).timestamps, times, atol=1e-3)


def test_a_picture_that_starts_late_says_so(tmp_path: Path) -> None:
    frames = counting_frames(COUNT)
    path = write_recording(tmp_path / "a.mkv", frames, TIMES + 0.4, sound=np.zeros(96000))
    reader = open_video(path)
    assert reader.decoder.name == "decord"
    assert reader.timestamps[0] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("hidden", [5, 17])
def test_frames_that_an_edit_list_hides_are_not_there(tmp_path: Path, hidden: int) -> None:
    path = write_recording(tmp_path / "clip.mp4", counting_frames(COUNT), TIMES)
    _start_at(path, hidden / 25)
    reader = open_video(path)
    assert len(reader) == COUNT - hidden
    assert reader.timestamps[0] == pytest.approx(0, abs=1e-3)
    shown = frames_of(reader, range(len(reader)))
    assert numbers_of(shown, COUNT).tolist() == list(range(hidden, COUNT))
    assert numbers_of(frames_of(reader, [COUNT - hidden - 1]), COUNT).tolist() == [COUNT - 1]


def test_the_picture_on_the_screen_at_a_cut_is_held_and_what_follows_stays_in_its_place(
    tmp_path: Path,
) -> None:
    """FFmpeg drops it, and moves what follows to the cut while the sound stays."""
    seconds = np.array([0, 1, 2, 3, 4, *(5 + np.arange(35) / 25)])
    path = write_recording(tmp_path / "screen.mp4", counting_frames(COUNT), seconds, b_frames=2)
    _start_at(path, 2.3)
    reader = open_video(path)
    np.testing.assert_allclose(reader.timestamps, [0, *(seconds[3:] - 2.3)], atol=2e-3)
    assert reader.start_seconds == 0
    # Who counted the frames to tell boxes did not see the one that is held.
    np.testing.assert_array_equal(reader.frame_clock, reader.timestamps[1:])
    for indices in (range(len(reader)), [0], [1], [7, 20]):
        numbers = numbers_of(frames_of(reader, indices), COUNT)
        assert numbers.tolist() == [index + 2 for index in indices]
    # What changes once a second is held until it does; it is not exchanged for the nearer one.
    shown = at_25(reader.timestamps)
    changes = (np.flatnonzero(np.diff(shown[:70])) + 1) / 25
    np.testing.assert_allclose(changes[:3], [0.7, 1.7, 2.7], atol=0.04)


def test_a_cut_between_two_frames_moves_none_of_them(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "camera.mp4", counting_frames(COUNT), TIMES, b_frames=2)
    _start_at(path, 0.23)
    reader = open_video(path)
    np.testing.assert_allclose(reader.timestamps, [0, *(TIMES[6:] - 0.23)], atol=2e-3)
    assert numbers_of(frames_of(reader, [0, 1, 9]), COUNT).tolist() == [5, 6, 14]


def test_a_first_frame_that_is_late_for_want_of_an_edit_list_begins_the_picture(
    tmp_path: Path,
) -> None:
    path = write_recording(tmp_path / "ravdess.mp4", counting_frames(COUNT), TIMES, b_frames=2)
    _start_at(path, -0.08)  # as some editors write it: from 0, though the first frame is later
    reader = open_video(path)
    assert reader.timestamps[0] == reader.start_seconds == 0
    assert numbers_of(frames_of(reader, [0, 1, 9]), COUNT).tolist() == [0, 1, 9]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("last", "seconds"), [(3.0, 4.56), (0.05, 1.6), (None, 1.6)])
def test_a_picture_that_is_held_at_the_end_is_part_of_it(
    tmp_path: Path, suffix: str, last: float | None, seconds: float
) -> None:
    path = write_recording(
        tmp_path / f"a{suffix}", counting_frames(COUNT), TIMES, last_seconds=last
    )
    reader = open_video(path)
    assert reader.duration_seconds == pytest.approx(seconds, abs=0.005)
    with Recording(path, reader, FaceConfig(faces="none"), fps=25, start=1.52) as recording:
        expected = [38, *[39] * (round(seconds * 25) - 39)]
        assert recording.indices.tolist() == expected
    if last == 3.0:
        with Recording(path, open_video(path), FaceConfig(faces="none"), fps=25, start=3.0) as late:
            assert set(late.indices.tolist()) == {39}


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
    reader = opened(path, *decoders)
    assert (reader.height, reader.width) == upright.shape[:2]
    for frame in frames_of(reader, [0, 5]):
        assert np.abs(frame.astype(int) - upright).mean() < 12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 17), (35, 50), (2, 98)])
def test_odd_sizes_come_back_whole(tmp_path: Path, height: int, width: int) -> None:
    frames = counting_frames(4, height, width)
    frames[:, :, -1] = 255
    frames[:, -1] = 0
    path = write_recording(tmp_path / "clip.mkv", frames, TIMES[:4], codec="ffv1")
    np.testing.assert_allclose(frames_of(open_video(path), range(4)).astype(int), frames, atol=2)


def test_a_decoder_that_breaks_midway_is_replaced(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(DecordDecoder):
        def frames(self, indices: np.ndarray):  # type: ignore[no-untyped-def]
            for number, frame in zip(indices, super().frames(indices), strict=True):
                if number >= 9:
                    raise MediaError("damaged", clip, "made to break")
                yield frame

    monkeypatch.setitem(DECODERS, "decord", Breaking)
    reader = open_video(clip)
    assert reader.decoder.name == "decord"
    assert numbers_of(frames_of(reader, [2, 2, 8, 9, 9, 20]), COUNT).tolist() == [2, 2, 8, 9, 9, 20]
    assert reader.decoder.name == "pyav"
    with pytest.raises(MediaError) as caught:
        frames_of(opened(clip, "decord"), [10])
    assert caught.value.cause == "damaged"


def test_a_truncated_recording_gives_what_is_left(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "clip.mkv", counting_frames(COUNT), TIMES, keyframe_every=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    reader = open_video(path)
    assert 5 < len(reader) < COUNT
    numbers = numbers_of(frames_of(reader, range(len(reader))), COUNT)
    assert numbers[:-1].tolist() == list(range(len(reader) - 1))


def test_destroyed_pictures_are_damage_and_not_other_pictures(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (COUNT, 48, 64, 3), dtype=np.uint8)
    path = write_recording(tmp_path / "clip.mp4", noise, TIMES)
    data = bytearray(path.read_bytes())
    begin = len(data) // 3
    data[begin : begin + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"frame \d+ .* cannot be decoded") as caught:
        frames_of(open_video(path), range(COUNT))
    assert caught.value.cause == "damaged"


def test_a_forked_process_can_let_go_of_an_inherited_reader(clip: Path) -> None:
    gc.collect()  # of what other tests left: encoders have threads, which a fork does not copy
    reader = open_video(clip)
    assert reader.decoder.name == "decord"
    frames_of(reader, [3])
    lost = [open_video(clip)]
    lost.append(lost)  # what only the garbage collector frees, in the child too
    del lost
    child = multiprocessing.get_context("fork").Process(target=_close_and_open, args=(reader, clip))
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert numbers_of(frames_of(reader, [5]), COUNT).tolist() == [5]


def test_indices_must_ascend_within_the_recording(clip: Path) -> None:
    reader = open_video(clip)
    for indices in ([3, 2], [-1], [COUNT]):
        with pytest.raises(ValueError, match=r"must ascend within 0\.\.39"):
            frames_of(reader, indices)
    assert list(reader.frames([])) == []


def _close_and_open(inherited: VideoReader, clip: Path) -> None:
    inherited.close()
    gc.collect()
    assert numbers_of(frames_of(open_video(clip), [7]), COUNT).tolist() == [7]


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
    with opened(path, "decord") as video:
        whole = frames_of(video, range(1, 60, 3))
    monkeypatch.setattr("hicmae.media.decoders._HELD_BYTES", 1)
    monkeypatch.setattr("hicmae.media.decoders._HELD_FRAMES", 7)
    with opened(path, "decord") as video:
        assert np.array_equal(frames_of(video, range(1, 60, 3)), whole)


def at_25(timestamps: np.ndarray) -> np.ndarray:
    """All frames at 25 a second, the last as long as the median one."""
    usual = float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 1 / 25
    last = timestamps[-1] + usual
    return constant_rate_indices(timestamps, 25, timestamps[0], last, last=last)


def nearest(timestamps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(wanted[:, None] - timestamps[None]).argmin(axis=1)


@pytest.mark.parametrize("start", [0.0, 0.033, 7.3])
@pytest.mark.parametrize("count", [1, 2, 174, 1000])
def test_the_same_rate_changes_nothing(start: float, count: int) -> None:
    indices = at_25(start + np.arange(count) / 25)
    np.testing.assert_array_equal(indices, np.arange(count))


@pytest.mark.parametrize("fps", [12.5, 20, 29.97, 30, 50, 59.94])
def test_other_rates_take_the_nearest_frame(fps: float) -> None:
    timestamps = 0.1 + np.arange(300) / fps
    indices = at_25(timestamps)
    assert len(indices) == pytest.approx(300 / fps * 25, abs=1)
    wanted = timestamps[0] + np.arange(len(indices)) / 25
    error = np.abs(timestamps[indices] - wanted)
    assert error.max() <= 0.5 / fps + 1e-6 or error[:-1].max() <= 0.5 / fps + 1e-6
    if fps == 50:
        np.testing.assert_array_equal(indices, np.arange(0, 300, 2))


def test_dropped_frames_are_filled_and_never_shift_what_follows() -> None:
    whole = np.arange(100) / 25
    left = np.delete(np.arange(100), [*range(30, 45), 60, 61, 80])
    indices = at_25(whole[left])
    assert len(indices) == 100
    np.testing.assert_array_equal(left[indices][left], left)
    distance = np.abs(whole[left][indices] - whole)  # of two that are equally near, either
    best = np.abs(whole[left][nearest(whole[left], whole)] - whole)
    np.testing.assert_allclose(distance, best, atol=1e-6)


def test_random_times_give_the_nearest_frame() -> None:
    rng = np.random.default_rng(0)
    timestamps = np.cumsum(rng.uniform(0.005, 0.2, 200))
    indices = at_25(timestamps)
    wanted = timestamps[0] + np.arange(len(indices)) / 25
    np.testing.assert_array_equal(indices, nearest(timestamps, wanted))
    assert np.all(np.diff(indices) >= 0)


def test_a_span_is_cut_from_the_middle() -> None:
    timestamps = np.arange(100) / 25
    np.testing.assert_array_equal(
        constant_rate_indices(timestamps, 25, 1.0, 2.0, last=4.0), np.arange(25, 50)
    )
    assert constant_rate_indices(timestamps, 25, 3.9, 9.0, last=4.0)[-1] == 99


def test_impossible_spans_are_refused() -> None:
    timestamps = np.arange(100) / 25
    for start, end in ((5.0, 6.0), (-2.0, -1.0), (2.0, 2.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="lies outside"):
            constant_rate_indices(timestamps, 25, start, end, last=4.0)


# fmt: off
COLOURS = np.array([
    [200, 40, 40], [40, 180, 60], [50, 60, 200], [220, 210, 60],
    [128, 128, 128], [20, 20, 20], [240, 240, 240], [190, 140, 120],
])
# fmt: on
# Weights of red and blue in luma. Source: ITU-R BT.601-7 and BT.709-6, section "signal format".
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
# Codes of ISO/IEC 23091-2: matrices, and limited or full range as FFmpeg numbers them.
MATRIX, LIMITED, FULL = {"bt601": 6, "bt709": 1}, 1, 2


def ycbcr(matrix: str, full: bool, bits: int) -> np.ndarray:
    """The colours (8, 3) as a camera would store them."""
    red_weight, blue_weight = WEIGHTS[matrix]
    red, green, blue = (COLOURS / 255).T
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    cb, cr = (blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)
    step, most = 2 ** (bits - 8), 2**bits - 1
    if full:
        return np.round(np.stack([luma * most, cb * most + 128 * step, cr * most + 128 * step], 1))
    return np.round(np.stack([16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr], axis=1) * step)


def write_bars(
    path: Path,
    *,
    matrix: str = "bt601",
    full: bool = False,
    bits: int = 8,
    size: tuple[int, int] = (64, 256),
    codec: str = "libx264",
    rotation: int | None = None,
    named: bool = True,
) -> Path:
    """Eight upright bars of the colours, without loss, tagged as they are stored."""
    pixels, halved = ("yuv444p", 1) if bits == 8 else ("yuv420p10le", 2)
    options = {"qp": "0"}
    if codec == "mjpeg":
        pixels, halved, options = "yuvj420p", 2, {"qmin": "1", "qmax": "1"}
    planes = []
    for channel, by in zip(ycbcr(matrix, full, bits).T, (1, halved, halved), strict=True):
        height, width = (-(-side // by) for side in size)
        row = channel[np.minimum(np.arange(width) * 8 // width, 7)]
        planes.append(np.tile(row.astype(np.uint8 if bits == 8 else np.uint16), (height, 1)))
    colours = (2, 2, MATRIX[matrix] if named else 2, FULL if full else LIMITED)
    return write_planes(
        path, [planes] * 3, pixels, codec, colours=colours, rotation=rotation, options=options
    )


def bars_of(frame: np.ndarray) -> np.ndarray:
    """The colours in the middle of the bars (8, 3)."""
    height, width = frame.shape[:2]
    return frame[height // 2, (np.arange(8) * 2 + 1) * width // 16].astype(int)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_matrix_range_and_depth_are_heeded(
    tmp_path: Path, matrix: str, full: bool, bits: int, decoder: str
) -> None:
    path = write_bars(tmp_path / "bars.mp4", matrix=matrix, full=full, bits=bits)
    frame = frames_of(opened(path, decoder), [1])[0]
    np.testing.assert_allclose(bars_of(frame), COLOURS, atol=4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_matrix_that_is_not_named_is_bt601_in_hd_too(tmp_path: Path, decoder: str) -> None:
    path = write_bars(tmp_path / "bars.mp4", size=(720, 1280), named=False)
    np.testing.assert_allclose(bars_of(frames_of(opened(path, decoder), [1])[0]), COLOURS, atol=4)


def test_the_full_range_of_motion_jpeg_is_heeded(tmp_path: Path) -> None:
    path = write_bars(tmp_path / "bars.avi", full=True, codec="mjpeg")
    np.testing.assert_allclose(bars_of(frames_of(open_video(path), [1])[0]), COLOURS, atol=8)


@pytest.mark.parametrize("size", [(61, 255), (33, 131), (63, 256)])
def test_odd_sizes_keep_their_colours_to_the_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = frames_of(open_video(write_bars(tmp_path / "bars.mp4", size=size)), [1])[0]
    assert frame.shape == (*size, 3)
    np.testing.assert_allclose(bars_of(frame), COLOURS, atol=4)
    np.testing.assert_allclose(frame[-1, -1], COLOURS[-1], atol=4)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_colours_are_upright_through_every_decoder(tmp_path: Path, degrees: int) -> None:
    path = write_bars(tmp_path / "bars.mp4", rotation=degrees)
    expected = {90: COLOURS[::-1], 180: COLOURS[::-1], 270: COLOURS}[degrees]
    for decoder in DECODERS:
        frame = frames_of(opened(path, decoder), [1])[0]
        if degrees != 180:
            assert frame.shape == (256, 64, 3)
            frame = frame.transpose(1, 0, 2)
        np.testing.assert_allclose(bars_of(frame), expected, atol=4)
