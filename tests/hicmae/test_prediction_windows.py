"""Where windows are, which clips cover them, and that a long recording needs no more memory."""

from __future__ import annotations

import math
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.media.faces import FaceConfig
from hicmae.media.tracking import FaceTrack
from hicmae.prediction.messages import Finished, Found, Window, WindowConfig
from hicmae.prediction.process import read_windows
from hicmae.prediction.stretches import Piece, Stretch
from hicmae.prediction.timelines import Span
from hicmae.prediction.windows import Request, cut_windows
from hicmae.settings import InputConfig
from tests.hicmae.test_media_picture import write_sizes
from tests.support.media_files import write_recording, write_sound
from tests.support.prediction_fixtures import moving_frames, talk, write_boxes, write_talking

INPUT = InputConfig(image_size=32, num_frames=16, frame_stride=1, fbank_frames=64, mel_bins=32)
BOXES = FaceConfig(faces="boxes", face_size=32)


def cut(
    path: Path, config: WindowConfig, preparation: FaceConfig = BOXES, **changes: Any
) -> tuple[Found, list[Window], Finished]:
    """Go through a recording in this process."""
    messages: list[Any] = []
    request = Request(
        path=path,
        input=INPUT,
        preparation=config.prepared(preparation),
        config=config,
        **changes,
    )
    cut_windows(request, messages.append)
    kinds = {kind: [m for m in messages if isinstance(m, kind)] for kind in (Found, Window)}
    assert isinstance(messages[-1], Finished)
    return kinds[Found][0], kinds[Window], messages[-1]


def test_windows_are_a_hop_apart_and_the_last_ends_with_the_face() -> None:
    layout = WindowConfig(hop=1.0).layout(InputConfig())
    assert (layout.window_frames, layout.num_clips) == (64, 1)
    assert layout.starts(100) == [0, 25, 36]
    assert layout.starts(114) == [0, 25, 50]
    assert layout.starts(64) == layout.starts(10) == [0]
    assert WindowConfig(hop=0.5).layout(InputConfig()).starts(100) == [0, 12, 25, 36]


def test_another_detector_than_that_of_the_build_has_settings_of_its_own() -> None:
    build = FaceConfig(detector={"min_score": 0.5})
    assert WindowConfig().prepared(build).detector == {"min_score": 0.5}
    assert WindowConfig(faces="yunet").prepared(build).detector == {"min_score": 0.5}
    assert WindowConfig(faces="cascade").prepared(build).detector == {}
    assert WindowConfig(faces="none").prepared(build).detector == {}
    larger = WindowConfig(detector={"longest_side": 960})
    assert larger.prepared(build).detector == {"min_score": 0.5, "longest_side": 960}
    with pytest.raises(ValueError, match=r"longest_side = 9 .must lie within 320..4096"):
        WindowConfig(detector={"longest_side": 9}).prepared(build)


def test_long_windows_are_covered_by_clips_without_a_gap() -> None:
    layout = WindowConfig(window=6.0, hop=2.0).layout(InputConfig())
    assert (layout.window_frames, layout.num_clips) == (150, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop": 0.0}, "hop = 0 (must be 0.001 s or more, and finite)"),
        ({"hop": 1e-9}, "hop = 1e-09 (must be 0.001 s or more, and finite)"),
        ({"window": math.inf}, "window = inf (must be positive and finite)"),
        ({"min_seconds": -1.0}, "min_seconds = -1.0 (must be 0 or more)"),
        ({"boxes": Path("x.csv")}, "boxes is given with faces = profile"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"predict: ") as caught:
        WindowConfig(**settings)
    assert message in str(caught.value)


def test_windows_shorter_than_a_clip_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"window = 1 s \(the network's clip is 2.56 s: give that"):
        WindowConfig(window=1.0).layout(InputConfig())


def test_a_detector_without_eyes_is_refused_where_images_are_turned_by_them() -> None:
    with pytest.raises(ValueError, match="faces = cascade: the network was trained on images"):
        WindowConfig(faces="cascade").prepared(FaceConfig(align="eyes"))


def test_clips_cover_a_long_window_evenly(tmp_path: Path) -> None:
    path = write_talking(tmp_path / "a.mp4", 3.0)
    found, windows, _ = cut(path, WindowConfig(window=1.5, hop=0.5))
    assert [window.start_seconds for window in windows] == [0.0, 0.48, 1.0, 1.48]
    assert [len(window.clips) for window in windows] == [3, 3, 3, 3]
    assert found.tracks[0].num_windows == 4
    first = windows[0].clips
    assert all(clip.frames is not None and clip.frames.shape == (16, 32, 32, 3) for clip in first)
    assert all(clip.num_samples == INPUT.clip_samples for clip in first)
    # 38 frames: clips of 16 begin at 0, 11 and 22.
    lone = cut(path, WindowConfig(hop=11 / 25))[1]
    assert np.array_equal(first[1].frames, lone[1].clips[0].frames)
    assert np.array_equal(first[1].waveform, lone[1].clips[0].waveform)


def test_every_face_has_its_own_windows_in_the_order_of_time(tmp_path: Path) -> None:
    frames = moving_frames(100, faces=(50, 140))
    path = write_recording(tmp_path / "two.mp4", frames, np.arange(100) / 25, sound=talk(4.0))
    write_boxes(tmp_path / "two.csv", {"a": (50, 0, 99), "b": (140, 40, 80), "c": (50, 0, 5)})
    found, windows, _ = cut(path, WindowConfig(hop=0.4))
    assert [track.name for track in found.tracks] == ["face0", "face1"]
    assert found.tracks[1].start_seconds == pytest.approx(1.6)
    assert found.tracks[1].end_seconds == pytest.approx(3.24)
    assert [len(track.boxes) for track in found.tracks] == [100, 41]
    assert found.notes == ("1 of 3 faces are seen for less than 0.5 s and left out",)
    ends = [window.end_seconds for window in windows]
    assert ends == sorted(ends)
    of_second = [window for window in windows if window.track == "face1"]
    assert [window.number for window in of_second] == [0, 1, 2, 3]
    assert of_second[0].start_seconds == pytest.approx(1.6)
    assert of_second[-1].end_seconds == pytest.approx(3.24)
    # The box is followed: the square with its texture is in the middle of every image.
    assert all(clip.frames.std() > 40 for window in windows for clip in window.clips)


def test_a_recording_shorter_than_a_face_must_be_seen_is_predicted_all_the_same(
    tmp_path: Path,
) -> None:
    found, windows, _ = cut(write_talking(tmp_path / "a.mp4", 0.4), WindowConfig())
    assert [track.name for track in found.tracks] == ["face0"]
    assert found.notes == ("shorter than the network's clip (0.40 of 0.64 s)",)
    assert len(windows) == 1
    heard, *_ = cut(write_sound(tmp_path / "a.wav", talk(0.63, 16000), 16000), WindowConfig())
    assert len(heard.notes) == 1, "less than half a frame is nothing"


def test_the_largest_face_alone_is_taken_where_asked(tmp_path: Path) -> None:
    path = write_talking(tmp_path / "two.mp4", 2.0, faces=(50, 140))
    found, _, _ = cut(path, WindowConfig(face_choice="largest"))
    assert [track.name for track in found.tracks] == ["face0"]
    assert found.tracks[0].num_windows == 3


def test_without_sound_the_picture_is_enough_and_that_is_said(tmp_path: Path) -> None:
    path = write_talking(tmp_path / "mute.mp4", 2.0, sound=False)
    found, windows, _ = cut(path, WindowConfig())
    assert found.notes == ("it has no sound: predicted from the picture alone",)
    assert not found.has_sound
    assert all(window.clips[0].waveform is None for window in windows)


def test_without_a_face_the_sound_is_enough_and_that_is_said(tmp_path: Path) -> None:
    path = write_talking(tmp_path / "a.mp4", 2.0)
    path.with_suffix(".csv").write_text("frame,x0,y0,x1,y1,success\n0,0,0,9,9,0\n")
    found, windows, _ = cut(path, WindowConfig())
    (track,) = found.tracks
    assert (track.name, track.is_face, track.num_windows) == ("sound", False, 3)
    assert found.notes[0].startswith("no face was found that lasts (boxes)")
    assert all(window.clips[0].frames is None for window in windows)
    assert [window.start_seconds for window in windows] == [0.0, 1.0, 1.36]


def test_a_sound_file_is_predicted_by_its_own_length(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", talk(2.1, 22050), 22050)
    found, windows, _ = cut(path, WindowConfig())
    assert found.notes == ("no picture: predicted from the sound alone",)
    assert found.seconds == pytest.approx(2.1, abs=1e-3)
    assert [window.start_seconds for window in windows] == [0.0, 1.0, 1.48]
    assert (found.width, found.height) == (0, 0)
    _, short, _ = cut(write_sound(tmp_path / "b.wav", talk(0.3, 16000), 16000), WindowConfig())
    assert short[0].clips[0].num_samples == 4800 + 320  # rounded to whole frames
    spans = (Span(start=0.2, end=0.6),)  # what is heard after it is not of it
    (clip,), (whole,) = (cut(path, WindowConfig(), spans=of)[1][0].clips for of in (spans, None))
    assert (clip.num_samples, clip.waveform.shape) == (6400, (INPUT.clip_samples,))
    assert np.array_equal(clip.waveform[:6400], whole.waveform[3200:9600])
    assert not clip.waveform[6400:].any()


def test_silence_is_said(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", np.zeros(32000), 16000)
    assert "silent" in cut(path, WindowConfig())[2].notes[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.slow
def test_a_picture_without_sound_for_a_while_is_said(tmp_path: Path, suffix: str) -> None:
    frames = moving_frames(150, faces=(50,))
    path = tmp_path / f"a{suffix}"
    write_recording(path, frames, np.arange(150) / 25, sound=talk(2.0), sound_start=1.5)
    write_boxes(tmp_path / "a.csv", {"f": (50, 0, 149)})
    _, windows, finished = cut(path, WindowConfig(hop=1.0))
    (note,) = finished.notes
    told = re.fullmatch(
        r"its picture at (.*)\.\.(.*) s and (.*)\.\.(.*) s has no sound, which counts as silence",
        note,
    )
    assert told is not None
    assert [float(time) for time in told.groups()] == pytest.approx([0, 1.5, 3.5, 6.0], abs=0.1)
    assert windows[-1].start_seconds > 4
    for seconds, notes in ((5.5, 0), (4.5, 1)):  # half a second is not worth a note
        write_recording(path, frames, np.arange(150) / 25, sound=talk(seconds))
        assert len(cut(path, WindowConfig(hop=1.0))[2].notes) == notes


def test_pictures_of_several_sizes_are_said(tmp_path: Path) -> None:
    path = write_sizes(tmp_path / "a.webm", "part.webm", "libvpx", [(96, 128), (128, 96)])
    found = cut(path, WindowConfig(faces="none"))[0]
    assert "its pictures have 2 sizes, and each is fitted into the largest" in found.notes


def test_a_channel_taken_alone_is_said_and_is_heard(tmp_path: Path) -> None:
    voice = talk(2.0, 16000)
    plain = cut(write_sound(tmp_path / "a.wav", voice, 16000), WindowConfig())
    opposed = np.stack([voice, -voice], axis=1)
    found = cut(write_sound(tmp_path / "b.wav", opposed, 16000), WindowConfig())
    assert plain[2].notes == ()
    assert found[2].notes == ("its sound is channel 1 of 2, as the mix loses it",)
    waveforms = [answer[1][0].clips[0].waveform for answer in (found, plain)]
    assert np.abs(waveforms[0].astype(float) - waveforms[1]).max() <= 2


@pytest.mark.parametrize(
    ("see", "hear", "name", "message"),
    [
        (True, False, "a.wav", "no picture stream"),
        (False, True, "mute.mp4", "no sound stream"),
        (True, True, "nobody.mp4", "boxes found no face that lasts, and it has no sound"),
    ],
)
def test_a_network_that_lacks_what_it_reads_says_so(
    tmp_path: Path, see: bool, hear: bool, name: str, message: str
) -> None:
    path = tmp_path / name
    if name.endswith("wav"):
        write_sound(path, talk(1.0, 16000), 16000)
    else:
        write_talking(path, 1.0, sound=False)
    if name == "nobody.mp4":
        path.with_suffix(".csv").write_text("frame,x0,y0,x1,y1,success\n0,0,0,9,9,0\n")
    with pytest.raises(ValueError, match=message):
        cut(path, WindowConfig(), see=see, hear=hear)


@pytest.fixture(scope="module")
def long_and_short(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Recordings of 4 s and 40 s with a face in a box."""
    folder, paths = tmp_path_factory.mktemp("lengths"), {}
    for seconds in (4, 40):
        count = 25 * seconds
        frames = np.tile(moving_frames(100), (seconds // 4, 1, 1, 1))
        paths[seconds] = write_recording(
            folder / f"{seconds}.mp4", frames, np.arange(count) / 25, sound=talk(seconds)
        )
        write_boxes(folder / f"{seconds}.csv", {"a": (60, 0, count - 1)})
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("spans", [None, (Span(start=0, end=40),)], ids=["windows", "a span"])
def test_a_long_recording_needs_no_more_memory_than_a_short_one(
    long_and_short: dict[int, Path], spans: tuple[Span, ...] | None
) -> None:
    """What Python allocates while windows go by and are dropped, at its peak."""
    requests = {
        seconds: Request(
            path=path,
            input=INPUT,
            preparation=replace(BOXES, face_size=160),
            config=WindowConfig(hop=0.5),
            spans=spans,
        )
        for seconds, path in long_and_short.items()
    }
    cut_windows(requests[4], lambda _: None)  # imports and what is kept from then on
    peaks = {}
    for seconds, request in requests.items():
        tracemalloc.start()
        cut_windows(request, lambda _: None)
        peaks[seconds] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 36 s more are 1.2 MB of sound, 50 MB of frames and 69 MB of images; the boxes of 900 frames
    # and the list of packets are what may grow.
    assert peaks[40] - peaks[4] < 900_000


@pytest.mark.slow
def test_windows_of_a_stream_come_with_what_was_found(tmp_path: Path) -> None:
    path = write_talking(tmp_path / "a.mp4", 2.0)
    told: list[str] = []
    with read_windows(
        path, input=INPUT, preparation=BOXES, progress=lambda p: told.append(p.stage)
    ) as stream:
        windows = list(stream)
    assert len(windows) == stream.found.tracks[0].num_windows == 3
    assert stream.finished is not None
    assert stream.finished.seconds["decoding"] > 0
    assert "faces" in told or "windows" in told
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4: no such file"):
        read_windows(tmp_path / "nowhere.mp4", input=INPUT, preparation=BOXES)


def test_a_span_of_a_person_in_two_scenes_is_of_the_longer_one() -> None:
    found_by = np.array(["detected"] * 50 + ["absent"] * 30 + ["detected"] * 20)
    track = FaceTrack(
        boxes=np.tile(np.float32([0, 0, 40, 40]), (100, 1)),
        found_by=found_by,
        coverage=1.0,
        first=5,
    )
    layout = WindowConfig().layout(INPUT)
    stretch = Stretch(name="face0", num_frames=100, layout=layout, first=5, track=track, starts=[0])
    assert stretch.part(0, 200) == (0, 50)
    assert stretch.part(45, 105) == (80, 100)  # 10 frames of one scene, 20 of the other
    assert stretch.part(10, 30) == (5, 25)
    assert stretch.share(60, 80) == (0.0, 0.0)  # nobody is seen
    assert stretch.share(95, 105)[0] == 1.0
    # No window reaches into the other scene, and of a span each clip is as long as it can be.
    whole = Stretch(
        name="face0", num_frames=100, layout=layout, track=track, starts=[0, 45, 80, 95]
    )
    assert [piece[1:] for piece in whole.pieces] == [
        (0, 16, 50),
        (45, 5, 50),
        (80, 16, 100),
        (95, 5, 100),
    ]
    whole.ask([Piece(7, 45, 5, 50), Piece(3, 80, 20, 100)])
    assert whole.spans == (7, 3)
    assert whole.pieces == [(0, 45, 5, 50), (1, 80, 16, 100), (1, 84, 16, 100)]
