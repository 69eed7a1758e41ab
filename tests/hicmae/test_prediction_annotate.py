"""The annotated copy of a video: every frame at its time, upright, with its sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from hicmae.prediction.annotate import COLOURS, AnnotateRequest, Canvas, DrawnTrack, annotate
from tests.support.media_files import (
    counting_frames,
    flash_and_beep,
    frames_of,
    numbers_of,
    onset,
    write_recording,
)

NAMES = ("calm", "joy")


def track(**changes: Any) -> DrawnTrack:
    """A face in a corner that is calm for a second and joyful after."""
    settings: dict[str, Any] = {
        "name": "face0",
        "names": NAMES,
        "start_seconds": 0.0,
        "end_seconds": 4.0,
        "middles": np.array([0.5, 1.5]),
        "values": np.array([[0.9, 0.1], [0.2, 0.8]]),
        "boxes": np.tile([[20.0, 100.0, 80.0, 160.0]], (100, 1)),
        "angles": np.zeros(100),
        "fps": 25.0,
        "said": ("calm 0.90", "joy 0.80"),
    }
    return DrawnTrack(**(settings | changes))


def copied(path: Path, out: Path) -> Path:
    """Annotate with one track."""
    messages: list[Any] = []
    annotate(AnnotateRequest(path=path, out=out, tracks=(track(),)), messages.append)
    return out


def test_every_frame_stays_at_its_time(tmp_path: Path) -> None:
    kept = np.delete(np.arange(20), [7, 8, 15])
    frames, times = counting_frames(20, 48, 64)[kept], kept / 25
    source = write_recording(tmp_path / "a.mp4", frames, times)
    with open_video(source) as video, open_video(copied(source, tmp_path / "out.mp4")) as copy:
        assert copy.timestamps == pytest.approx(video.timestamps, abs=1e-4)
        assert (copy.height, copy.width) == (240, 320 + 190)
        picture = frames_of(copy, range(len(copy)))[:, 10:150, 10:300]
    assert list(numbers_of(picture, 20)) == list(kept)


@pytest.mark.parametrize(
    ("container", "codec"), [(".mp4", "aac"), (".mkv", "aac"), (".webm", "opus"), (".ts", "aac")]
)
def test_picture_and_sound_stay_together(tmp_path: Path, container: str, codec: str) -> None:
    frames, times, sound = flash_and_beep(3.0, 1.6)
    source = write_recording(tmp_path / f"a{container}", frames, times, sound=sound)
    with av.open(str(source)) as opened:
        assert opened.streams.audio[0].codec_context.name.startswith(codec)
    out = copied(source, tmp_path / "out.mp4")
    with av.open(str(out)) as opened:
        assert opened.streams.audio[0].codec_context.name == "aac"
    with open_video(out) as copy:
        bright = frames_of(copy, range(len(copy)))[:, 10:60, 10:300].mean(axis=(1, 2, 3)) > 120
        flash = copy.timestamps[int(np.argmax(bright))] - copy.start_seconds
        heard = read_sound(out)
        beep = heard.start_seconds + onset(heard.samples, heard.sample_rate) - copy.start_seconds
    assert flash == pytest.approx(1.6, abs=0.021)
    assert beep == pytest.approx(1.6, abs=0.03)


@pytest.mark.parametrize("kind", ["late.mkv", "trimmed.mp4"])
def test_the_copy_counts_time_as_the_timelines_do(tmp_path: Path, kind: str) -> None:
    """It began with the picture, or with the sound that a cut without encoding had left over."""
    frames, times, sound = flash_and_beep(3.0, 1.6)
    late = 0.1 * (kind == "late.mkv")
    source = write_recording(tmp_path / kind, frames, times + late, sound=sound)
    if kind == "trimmed.mp4":
        source = trimmed(source, tmp_path / "b.mp4", 0.5)
    out = copied(source, tmp_path / "out.mp4")
    with open_video(source) as video, open_video(out) as copy:
        said, drawn = (each.timestamps - each.origin_seconds for each in (video, copy))
    assert drawn == pytest.approx(said, abs=2e-3)
    heard = [onset(s.samples, 16000) + s.start_seconds for s in map(read_sound, (source, out))]
    assert heard[1] == pytest.approx(heard[0], abs=2e-3)


def test_the_copy_has_the_sound_that_is_predicted_by(tmp_path: Path) -> None:
    """Of a camera whose first track is not plugged in it was silent."""
    frames, times, sound = flash_and_beep(3.0, 1.6)
    voiced = write_recording(tmp_path / "a.mp4", frames, times, sound=sound)
    mute = write_recording(tmp_path / "b.mp4", frames, times, sound=0 * sound)
    both, packets = tmp_path / "c.mp4", []
    with av.open(str(both), "w") as out:
        for path, kind in ((voiced, "video"), (mute, "audio"), (voiced, "audio")):
            source = av.open(str(path))
            stream = source.streams.best(kind)  # type: ignore[call-overload]
            into = out.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = into
                    packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    heard = read_sound(copied(both, tmp_path / "out.mp4"))
    assert onset(heard.samples, 16000) + heard.start_seconds == pytest.approx(1.6, abs=0.03)


def trimmed(source: Path, out: Path, seconds: float) -> Path:
    """A recording without its first seconds, which an edit list hides: nothing is encoded again."""
    with av.open(str(source)) as container, av.open(str(out), "w") as copy:
        streams = [copy.add_stream_from_template(stream) for stream in container.streams]
        for packet in container.demux():
            if packet.dts is not None:
                shift = round(seconds / packet.time_base)
                packet.stream = streams[packet.stream.index]
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                copy.mux(packet)
    return out


@pytest.mark.parametrize("container", [".mp4", ".webm"])
def test_sound_that_begins_before_the_picture_stays_where_it_is(
    tmp_path: Path, container: str
) -> None:
    frames, times, sound = flash_and_beep(2.0, 0.6)
    source = write_recording(tmp_path / f"a{container}", frames, times + 1.0, sound=sound)
    out = copied(source, tmp_path / "out.mp4")
    with open_video(out) as copy:
        bright = frames_of(copy, range(len(copy)))[:, 10:60, 10:300].mean(axis=(1, 2, 3)) > 120
        flash = copy.timestamps[int(np.argmax(bright))]
    heard = read_sound(out)
    beep = heard.start_seconds + onset(heard.samples, heard.sample_rate)
    assert flash - beep == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize(
    ("times", "seconds", "suffix"),
    [
        ([0.0], 3.0, ".mp4"),  # one picture with speech
        ([0.0, 0.04], 2.5, ".webm"),  # sound that is encoded again
        ([0.0, 2.0, 2.04, 2.08, 2.12], 2.16, ".mp4"),  # a picture that stands
        ([2.0, 2.04], 3.0, ".mp4"),  # a camera that is switched on late
    ],
)
def test_a_copy_is_as_long_as_picture_and_sound_and_its_bars_go_on(
    tmp_path: Path, times: list[float], seconds: float, suffix: str
) -> None:
    frames = np.full((len(times), 48, 64, 3), 128, dtype=np.uint8)
    sound = flash_and_beep(seconds, seconds - 0.3)[2]
    source = write_recording(tmp_path / f"a{suffix}", frames, times, sound=sound)
    out = copied(source, tmp_path / "out.mp4")
    heard = read_sound(out)
    assert heard.start_seconds + heard.duration_seconds == pytest.approx(seconds, abs=0.06)
    onsets = [onset(s.samples, 16000) + s.start_seconds for s in (read_sound(source), heard)]
    assert onsets[1] == pytest.approx(onsets[0], abs=2e-3)
    with open_video(out) as copy:
        assert copy.timestamps[0] == pytest.approx(0, abs=1e-3)
        assert copy.timestamps[0] + copy.duration_seconds == pytest.approx(seconds, abs=0.21)
        assert np.diff(copy.timestamps).max() < 0.21
        assert set(np.round(times, 3)) <= set(np.round(copy.timestamps, 3))
        bars = frames_of(copy, [0, len(copy) - 1])[:, :, 330:].astype(int)
    assert np.abs(bars[0] - bars[1]).max() > 60, "calm, then joy"


def test_a_turned_video_comes_out_upright(tmp_path: Path) -> None:
    frames = np.zeros((10, 48, 96, 3), dtype=np.uint8)
    frames[:, :, :48] = 200
    source = write_recording(tmp_path / "a.mp4", frames, np.arange(10) / 25, rotation=90)
    with open_video(source) as video, open_video(copied(source, tmp_path / "o.mp4")) as copy:
        assert (video.height, video.width) == (96, 48)
        upright = frames_of(video, [0])[0]
        shown = frames_of(copy, [0])[0][: 96 * 3 : 3, : 48 * 3 : 3]
    assert np.abs(upright.astype(int) - shown)[2:25, 2:46].mean() < 12
    assert np.abs(upright.astype(int) - shown)[52:70, 2:46].mean() < 12


def test_boxes_and_bars_are_where_they_belong() -> None:
    canvas = Canvas((track(),), 301, 403)
    assert canvas.height % 2 == canvas.width % 2 == 0
    frame = np.full((301, 403, 3), 128, dtype=np.uint8)
    early, late = canvas.draw(frame, 0.2), canvas.draw(frame, 1.9)
    assert early.shape == (canvas.height, canvas.width, 3)
    assert tuple(early[130, 20]) == tuple(early[160, 50]) == COLOURS[0]
    assert tuple(early[130, 50]) == (128, 128, 128), "the face itself stays as it is"
    filled = [
        (image[:, 403:] == COLOURS[0]).all(axis=2)[:, canvas.width // 2 - 403 :].sum()
        for image in (early, late)
    ]
    assert all(count > 100 for count in filled)
    assert not np.array_equal(early[:, 403:], late[:, 403:])
    assert np.array_equal(canvas.draw(frame, 1.1)[:, 403:], late[:, 403:]), "the nearest window"
    gone = canvas.draw(frame, 5.0)
    assert np.array_equal(gone[:301, :403], frame), "nothing where the track is over"


def test_a_track_is_drawn_while_it_is_there_and_where_it_was_seen() -> None:
    boxes = np.tile([[0.0, 0.0, 9.0, 9.0]], (50, 1))
    boxes[25:30] = np.nan  # another scene
    one = track(start_seconds=1.0, end_seconds=3.0, boxes=boxes)
    times = (0.99, 1.0, 1.96, 2.1, 2.2, 2.99, 3.0)
    assert [one.is_seen(at) for at in times] == [False, True, True, False, True, True, False]
    assert one.place(1.2) == 5


def test_hostile_names_and_crowds_are_drawn() -> None:
    crowd = tuple(
        track(
            name=f"face{number}",
            names=("überrascht", "怒り" * 30),
            boxes=np.zeros((1, 4)),
            angles=np.zeros(1),
        )
        for number in range(9)
    )
    image = Canvas(crowd, 1, 1).draw(np.zeros((1, 1, 3), dtype=np.uint8), 1.0)
    assert image.shape[0] == 240
    real = track(scales=((0, 1),), said=(), values=np.array([[-2.0, 0.1], [1.0, 0.0]]))
    assert Canvas((real,), 240, 320).draw(np.zeros((240, 320, 3), np.uint8), 0.0).max() > 100


def test_a_long_name_is_cut_and_its_value_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    put = cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda im, text, *a: (told.append(text), put(im, text, *a)))
    names = ("emotions.enthusiasm", "arousal")
    values = np.array([[-2.04, 0.1], [1.0, 0.0]])
    real = track(names=names, scales=((0, 1),), said=(), values=values)
    Canvas((real,), 100, 100).draw(np.zeros((100, 100, 3), np.uint8), 0.0)
    assert any(text.startswith("emo") and text.endswith(". -2.04") for text in told), told
    assert "arousal +0.10" in told
    small = track(names=("gain", "b"), scales=((0, 1),), said=(), values=1e-4 * values)
    Canvas((small,), 240, 320).draw(np.zeros((240, 320, 3), np.uint8), 0.0)
    assert any(text.endswith(" -0.0002") for text in told), told
    Canvas((track(),), 240, 320).draw(np.zeros((240, 320, 3), np.uint8), 0)
    assert "face0 calm 0.90" in told


def test_a_bar_is_as_long_as_its_own_scale_says() -> None:
    """A probability of 1 and a value that is as far as it goes fill their bars beside a pulse."""
    each = track(names=("joy", "valence", "pulse"), scales=((1,), (2,)), said=("joy", "joy"))
    each = replace(each, values=np.array([[1.0, 0.9, 90.0], [0.0, 0.0, 60.0]]))
    image = Canvas((each,), 240, 320).draw(np.zeros((240, 320, 3), np.uint8), 0.0)
    assert np.ptp((image[:, -20] == COLOURS[0]).all(axis=1).nonzero()[0]) > 2 * 10
    assert (image[:, -20] == COLOURS[0]).all(axis=1).sum() > 3 * 6
