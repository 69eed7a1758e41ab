"""Emotion while it happens: the same as of a recording, never later than it must be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hicmae
from hicmae import LiveFrame, LiveSound
from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from hicmae.prediction.live import LiveSource
from hicmae.settings import InputConfig, ModelConfig
from shards.settings import BuildConfig
from tests.support.prediction_fixtures import write_checkpoint, write_talking

BUILD = BuildConfig(faces="none", face_size=32)
RATE = 16000


@pytest.fixture
def model(tmp_path: Path, tiny_model_config: ModelConfig) -> Iterator[hicmae.EmotionPredictor]:
    folder = write_checkpoint(tmp_path / "checkpoint", tiny_model_config, build=BUILD)
    with hicmae.load(folder, device="cpu", precision="32-true") as made:
        yield made


def live(video: Path, *, sound: bool = True, begin: float = 0.0) -> list[LiveFrame | LiveSound]:
    """A recording as a camera and a microphone would give it, piece by piece."""
    reader = open_video(video)
    pieces: list[LiveFrame | LiveSound] = [
        LiveFrame(seconds=begin + moment, pixels=pixels)
        for moment, pixels in zip(
            reader.timestamps.tolist(), reader.frames(range(len(reader))), strict=True
        )
    ]
    reader.close()
    if sound:
        heard = read_sound(video, sample_rate=RATE)
        pieces += [
            LiveSound(
                seconds=begin + heard.start_seconds + first / RATE,
                samples=heard.samples[first : first + 800],
                rate=RATE,
            )
            for first in range(0, len(heard.samples), 800)
        ]
    return sorted(pieces, key=lambda piece: piece.seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("one_decoding_process")
def test_it_says_what_is_said_of_the_same_recording(
    tmp_path: Path, model: hicmae.EmotionPredictor
) -> None:
    video = write_talking(tmp_path / "a.mp4", 3.0)
    (track,) = model.predict(video, hop=0.4).tracks
    for pieces, modality in ((live(video), "audio-video"), (live(video, sound=False), "video")):
        moments = list(model.live(pieces, hop=0.4, keep_up=False))
        expected = model.predict(video, hop=0.4, each_modality=True).tracks[0].by_modality
        assert len(moments) == len(track.spans) - 1  # a recording's last window ends where it does
        assert {moment.modality for moment in moments} == {modality}
        spans = [[moment.start_seconds, moment.end_seconds] for moment in moments]
        assert np.allclose(spans, track.spans[:-1])
        said = np.array([moment.values for moment in moments])
        assert np.allclose(said, expected[modality][:-1], atol=2e-5)
        assert np.ptp(said, axis=0).max() > 1e-3


def test_sound_that_stops_is_not_waited_for_and_lost_sound_is_silent(
    tmp_path: Path, model: hicmae.EmotionPredictor
) -> None:
    pieces = live(write_talking(tmp_path / "a.mp4", 5.0))
    cut = [p for p in pieces if isinstance(p, LiveFrame) or p.seconds < 1.5]
    kinds = [moment.modality for moment in model.live(cut, hop=0.5, keep_up=False)]
    assert (kinds[0], kinds[-1]) == ("audio-video", "video")
    source = LiveSource(model.input)
    for piece in pieces:
        if isinstance(piece, LiveSound) and not 0.5 <= piece.seconds < 0.7:
            source.add(piece)
        if piece.seconds > 1:
            break
    assert source.sound is not None
    lost, _ = source.sound.span(0.5, 3200)
    heard, padded = source.sound.span(0.7, 3200)
    assert not lost[50:-50].any()
    assert np.abs(heard).mean() > 500
    assert not padded


@pytest.mark.usefixtures("one_decoding_process")
@pytest.mark.slow
def test_windows_that_waited_for_the_sound_have_their_pictures(
    tmp_path: Path, model: hicmae.EmotionPredictor
) -> None:
    video = write_talking(tmp_path / "a.mp4", 4.0)
    assert model.input.clip_seconds + 0.2 < 1
    moments = list(
        model.live(
            [p for p in live(video) if isinstance(p, LiveFrame) or p.seconds < 1.5],
            hop=0.2,
            keep_up=False,
        )
    )
    assert {moment.modality for moment in moments} == {"audio-video", "video"}
    seen = [moment for moment in moments if moment.start_seconds > 1.6]
    expected = model.predict(video, hop=0.2, each_modality=True).tracks[0]
    for moment in seen:
        place = np.abs(expected.spans[:, 0] - moment.start_seconds).argmin()
        assert moment.values == pytest.approx(expected.by_modality["video"][place], abs=2e-5)


def test_a_camera_that_begins_where_a_window_ends_shows_nothing_in_it(
    model: hicmae.EmotionPredictor,
) -> None:
    pixels, noise = np.zeros((32, 32, 3), dtype=np.uint8), np.ones(19200, dtype=np.int16)
    pieces = [
        LiveSound(seconds=0.0, samples=noise, rate=16000),
        LiveFrame(seconds=1.28, pixels=pixels),
        LiveSound(seconds=1.2, samples=noise[:1600], rate=16000),
    ]
    moments = list(model.live(pieces, hop=0.64, keep_up=False))
    ends = [(moment.end_seconds, moment.modality) for moment in moments]
    assert ends == [(0.64, "audio"), (1.28, "audio")]


def test_a_fast_clock_of_the_microphone_or_another_rate_loses_no_sound(
    model: hicmae.EmotionPredictor,
) -> None:
    ones, more = np.full(9600, 1000, dtype=np.int16), np.full(4800, 2000, dtype=np.int16)
    for seconds, rate in ((0.5, 16000), (0.6, 8000)):  # 0.1 s twice; on without a gap
        held = LiveSource(model.input)
        held.add(LiveSound(seconds=0.0, samples=ones, rate=16000))
        held.add(LiveSound(seconds=seconds, samples=more, rate=rate))
        assert held.sound is not None
        before, padded = held.sound.span(0.0, round(seconds * 16000))
        assert not padded
        assert np.array_equal(before, ones[: len(before)])
        after, padded = held.sound.span(seconds + 0.01, 4000)
        assert not padded
        assert np.abs(after - 2000).max() < 10


def test_one_channel_of_several_and_a_microphone_with_nothing_yet_are_heard(
    model: hicmae.EmotionPredictor,
) -> None:
    held = LiveSource(model.input)
    held.add(LiveSound(seconds=0.0, samples=np.zeros(0, dtype=np.int16), rate=16000))
    both = np.arange(3200, dtype=np.int16).reshape(-1, 2)
    held.add(LiveSound(seconds=0.0, samples=both[:, 1], rate=16000))
    assert held.sound is not None
    assert np.array_equal(held.sound.samples, both[:, 1])


def test_times_that_cannot_go_on_by_a_hop_are_taken_exactly_or_refused(
    model: hicmae.EmotionPredictor,
) -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    since_1970 = np.float32(1.7e9)  # the next that it knows is 128 s later
    held = LiveSource(model.input)
    held.add(LiveFrame(seconds=since_1970, pixels=pixels))
    with pytest.raises(ValueError, match=r"a picture of 1.* after one of"):
        held.add(LiveFrame(seconds=since_1970 + np.float32(1), pixels=pixels))
    held.add(LiveFrame(seconds=since_1970 + np.float32(128), pixels=pixels))
    for number in range(1, 4):
        assert (due := held.next_due(newest=False)) is not None
        assert due.end == pytest.approx(float(since_1970) - 1 + 0.64 + number)
    with pytest.raises(ValueError, match="LiveSound of nan s"):
        held.add(LiveSound(seconds=float("nan"), samples=np.zeros(1, np.int16), rate=8000))
    with pytest.raises(ValueError, match=r"uint8 \(0, 8, 3\)"):
        held.add(LiveFrame(seconds=1.8e9, pixels=pixels[:0]))


def test_a_slow_network_leaves_windows_out_and_says_how_late_it_is(
    tmp_path: Path, model: hicmae.EmotionPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = live(write_talking(tmp_path / "a.mp4", 3.0), begin=100.0)
    now = [0.0]
    first_asked, all_there = threading.Event(), threading.Event()
    run = model.network.run

    def slow(*args: Any) -> Any:
        first_asked.set()
        assert all_there.wait(30)  # meanwhile everything else happens
        return run(*args)

    def camera() -> Iterator[LiveFrame | LiveSound]:
        for piece in pieces:
            now[0] = piece.seconds
            yield piece
            if piece.seconds > 100.7:
                assert first_asked.wait(30)
        now[0] = 110.0
        all_there.set()

    monkeypatch.setattr(model.network, "run", slow)
    moments = list(model.live(camera(), hop=0.25, clock=lambda: now[0]))
    assert [moment.left_out for moment in moments] == [0, 8]
    assert [round(moment.end_seconds, 2) for moment in moments] == [100.64, 102.89]
    for moment in moments:  # from the last piece of the window to the answer
        assert moment.delay_seconds == pytest.approx(110 - moment.end_seconds, abs=0.11)


@pytest.mark.slow
@pytest.mark.usefixtures("one_decoding_process")
def test_memory_does_not_grow_and_the_face_is_the_one_of_the_camera(
    clips_dir: Path, yunet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(yunet_file))
    sizes = ModelConfig(
        input=InputConfig(image_size=32, fbank_frames=256, mel_bins=32),
        **dict.fromkeys(("encoder_dim", "decoder_dim"), 32),
        **dict.fromkeys(("encoder_heads", "decoder_heads", "fusion_depth"), 1),
        **dict.fromkeys(("encoder_depth", "decoder_depth"), 1),
        feature_layers=(1,),
    )
    build = BuildConfig(face_size=32)
    folder = write_checkpoint(tmp_path / "checkpoint", sizes, build=build)
    video = clips_dir / "talking" / "marlin_video01.mp4"
    with hicmae.load(folder, device="cpu") as model:
        pieces = live(video)
        moments = list(model.live(pieces, keep_up=False))
        (track, *_) = model.predict(video, hop=1.0).tracks
    assert len(moments) > 5
    for moment in moments:
        assert moment.modality == "audio-video"
        at = (track.boxes["seconds"] - (moment.end_seconds - 0.04)).abs().idxmin()
        there = track.boxes.loc[at, ["x0", "y0", "x1", "y1"]].to_numpy(float)
        assert moment.box is not None
        assert np.abs(moment.box - there).max() < 0.15 * (there[2] - there[0])
    held = LiveSource(model.input)
    for piece in pieces:
        held.add(piece)
    assert held.sound is not None
    assert held.sound.duration_seconds < 4.7
    assert len(held.frames(pieces[-1].seconds)) < 80


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(0.0, b"")], r"live: tuple \(give LiveFrame and LiveSound\)"),
        ([LiveFrame(seconds=0, pixels=np.zeros((4, 4), np.uint8))], r"uint8 \(H, W, 3\)"),
        ([LiveFrame(seconds=0, pixels=np.zeros((4, 4, 3), np.uint8))] * 2, "after one of 0.000 s"),
        ([LiveSound(seconds=0, samples=np.zeros(9), rate=RATE)], "float64.*int16"),
    ],
)
@pytest.mark.parametrize("keep_up", [False, True])
def test_what_is_no_picture_or_sound_is_refused_where_it_is_asked_for(
    model: hicmae.EmotionPredictor, pieces: Any, message: str, keep_up: bool
) -> None:
    with pytest.raises(ValueError, match=message):
        list(model.live(pieces, keep_up=keep_up))
    with pytest.raises(ValueError, match="live: hop = 0"):
        next(model.live([], hop=0))
    with pytest.raises(ValueError, match="a camera brings no list of boxes"):
        model.live([], config=hicmae.WindowConfig(faces="boxes"))
