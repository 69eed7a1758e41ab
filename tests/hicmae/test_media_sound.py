"""Sound lies on the clock of the pictures, to the sample, through any container, also in spans."""

from __future__ import annotations

import wave
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest

from hicmae.media import sound as sound_file
from hicmae.media.container import packets_of
from hicmae.media.errors import MediaError
from hicmae.media.sound import Sound, SoundSpans, read_sound, read_span_sound, rms_db
from hicmae.media.video import open_video
from tests.support.media_files import (
    counting_frames,
    flash_and_beep,
    onset,
    write_recording,
    write_sound,
)
from tests.support.prediction_fixtures import talk

RATE = 16000


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg"])
@pytest.mark.parametrize("flash_at", [0.4, 1.52])
def test_flash_and_beep_stay_together(tmp_path: Path, suffix: str, flash_at: float) -> None:
    rate = 44100 if suffix in {".flv", ".mpg"} else 48000
    frames, times, tone = flash_and_beep(2.4, flash_at, rate=rate)
    path = write_recording(tmp_path / f"clip{suffix}", frames, times, sound=tone, sound_rate=rate)
    reader, sound = open_video(path), read_sound(path)
    bright = [frame.mean() > 128 for frame in reader.frames(range(len(reader)))]
    seen = reader.timestamps[int(np.argmax(bright))]
    heard = sound.start_seconds + onset(sound.samples, RATE)
    # Program streams stamp blocks and not frames.
    assert heard == pytest.approx(seen, abs=0.041 if suffix == ".mpg" else 0.002)
    samples, _ = sound.span(reader.timestamps[0], 2 * RATE)
    assert onset(samples, RATE) == pytest.approx(flash_at, abs=0.041 if suffix == ".mpg" else 0.002)


@pytest.mark.parametrize("every", [1, 2])
def test_frames_without_stamps_lie_before_those_that_have_one(tmp_path: Path, every: int) -> None:
    """Matroska holds what a cut left over before 0, and FFmpeg gives its pictures no stamps."""
    frames, times, tone = flash_and_beep(2.4, 1.52)
    kept = np.r_[:20, 20 : len(times) : every]  # half as many a second, where stamps are
    times = times[kept]
    source = write_recording(tmp_path / "whole.mkv", frames[kept], times, sound=tone)
    path, disabled = tmp_path / "cut.mkv", {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as whole, av.open(str(path), "w", options=disabled) as cut:
        streams = [cut.add_stream_from_template(stream) for stream in whole.streams]
        for packet in whole.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                packet.pts, packet.dts = packet.pts - 500, packet.dts - 500
                cut.mux(packet)
    with av.open(str(path)) as container:
        assert next(container.demux(video=0)).pts is None
    with open_video(path) as reader:
        bright = [frame.mean() > 128 for frame in reader.frames(range(len(reader)))]
        assert reader.timestamps == pytest.approx(times - 0.5, abs=2e-3)
        seen = reader.timestamps[int(np.argmax(bright))]
    sound = read_sound(path)
    assert sound.start_seconds + onset(sound.samples, RATE) == pytest.approx(seen, abs=0.003)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_sound_that_starts_late_is_late(tmp_path: Path, suffix: str) -> None:
    frames, times, tone = flash_and_beep(2.0, 0.0)
    path = write_recording(
        tmp_path / f"clip{suffix}", frames, times, sound=tone[:48000], sound_start=0.7
    )
    reader, sound = open_video(path), read_sound(path)
    samples, padded = sound.span(reader.timestamps[0], 2 * RATE)
    assert onset(samples, RATE) == pytest.approx(0.7, abs=0.01)
    assert not samples[: int(0.65 * RATE)].any()
    assert padded == pytest.approx(RATE, abs=0.05 * RATE)


def test_a_picture_that_starts_late_cuts_the_sound(tmp_path: Path) -> None:
    frames, times, tone = flash_and_beep(2.0, 1.0)
    path = write_recording(tmp_path / "clip.mkv", frames, times + 0.5, sound=tone)
    reader, sound = open_video(path), read_sound(path)
    samples, padded = sound.span(reader.timestamps[0], RATE)
    assert onset(samples, RATE) == pytest.approx(0.5, abs=0.002)
    assert padded == 0


def test_a_hole_in_the_sound_becomes_silence_of_its_length(tmp_path: Path) -> None:
    frames, times, tone = flash_and_beep(3.0, 0.0)
    path = tmp_path / "clip.mkv"
    write_recording(path, frames, times, sound=tone)
    whole = read_sound(path)
    holed = _without_packets(path, tmp_path / "holed.mkv", 1.0, 2.0)
    sound = read_sound(holed)
    # Matroska rounds the time of the packet after the hole to a millisecond, 16 samples.
    assert len(sound.samples) == pytest.approx(len(whole.samples), abs=16)
    middle = sound.samples[int(1.1 * RATE) : int(1.9 * RATE)]
    assert not middle.any()
    assert rms_db(sound.samples[int(2.2 * RATE) :]) == pytest.approx(whole.rms_db, abs=0.3)
    assert onset(sound.samples[int(1.5 * RATE) :], RATE) == pytest.approx(0.5, abs=0.03)
    short = read_sound(_without_packets(path, tmp_path / "short.mkv", 1.0, 1.2))
    assert len(short.samples) == pytest.approx(len(whole.samples), abs=16)
    assert not short.samples[int(1.05 * RATE) : int(1.15 * RATE)].any()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_one_lost_packet_is_silence_of_its_length_and_jitter_is_none(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"clip{suffix}"
    frames, times, tone = flash_and_beep(3.0, 2.0)
    whole = read_sound(write_recording(path, frames, times, sound=tone + 0.01))
    for begin, end in [(0.7, 0.72), (1.0, 1.04)]:
        lost = read_sound(_without_packets(path, tmp_path / f"lost{suffix}", begin, end))
        assert onset(lost.samples, RATE) == pytest.approx(onset(whole.samples, RATE), abs=1.1e-3)
        assert not lost.samples[round((begin + 0.01) * RATE) :][: RATE // 200].any()
    jittered = _without_packets(path, tmp_path / f"jitter{suffix}", 0, 0, jitter=0.008)
    np.testing.assert_array_equal(read_sound(jittered).samples, whole.samples)


def test_raw_sound_whose_rate_changes_is_as_long_as_its_samples(tmp_path: Path) -> None:
    """Radio that was cut together: FFmpeg stamps all of it by the rate of the first packet."""
    for name, rate in (("a.aac", 48000), ("b.aac", 32000)):
        with av.open(str(tmp_path / name), "w") as writing:
            stream = writing.add_stream("aac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(voice(3, rate)[None], "s16", "mono")
            frame.sample_rate = rate
            writing.mux([*stream.encode(frame), *stream.encode(None)])
    joined = tmp_path / "joined.aac"
    joined.write_bytes((tmp_path / "a.aac").read_bytes() + (tmp_path / "b.aac").read_bytes())
    parts = [read_sound(tmp_path / name) for name in ("a.aac", "b.aac")]
    seconds = sum(part.duration_seconds for part in parts)
    assert read_sound(joined).duration_seconds == pytest.approx(seconds, abs=1e-3)
    assert read_sound(joined, end_seconds=4.0).duration_seconds == pytest.approx(4.0)


def test_a_broken_stamp_is_no_hour_of_silence(tmp_path: Path) -> None:
    sound = read_sound(gap(tmp_path / "gap.mkv", 4000.0))
    assert sound.duration_seconds < 2.1
    assert sound.damaged


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_resampling_keeps_pitch_level_and_place(tmp_path: Path, rate: int) -> None:
    clock = np.arange(rate) / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * clock)
    sound = read_sound(write_sound(tmp_path / "sound.wav", wave, rate))
    assert sound.start_seconds == 0
    assert len(sound.samples) == pytest.approx(RATE, abs=2)
    expected = 0.4 * 32767 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    inner = slice(200, RATE - 200)
    assert np.abs(sound.samples[inner] - expected[inner]).max() < 40
    assert sound.rms_db == pytest.approx(20 * np.log10(0.4 / np.sqrt(2)), abs=0.05)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = np.linspace(-0.5, 0.5, RATE)
    right = np.full(RATE, 0.25)
    path = write_sound(tmp_path / "sound.wav", np.stack([left, right], axis=1), RATE)
    mixed = read_sound(path).samples / 32767
    np.testing.assert_allclose(mixed, (left + right) / 2, atol=1e-4)


def test_silence_is_sound(tmp_path: Path) -> None:
    path = write_recording(
        tmp_path / "clip.mp4", counting_frames(25), np.arange(25) / 25, sound=np.zeros(48000)
    )
    sound = read_sound(path)
    assert sound.rms_db == -180
    assert not sound.damaged
    assert sound.duration_seconds == pytest.approx(1, abs=0.05)


def test_no_sound_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "clip.mp4", counting_frames(5), np.arange(5) / 25)
    with pytest.raises(MediaError, match="no sound stream") as caught:
        read_sound(path)
    assert caught.value.cause == "no-sound"


def _broken(path: Path) -> tuple[Path, Sound]:
    """A recording whose sound is damaged midway, and what its sound was."""
    rng = np.random.default_rng(1)
    frames, times, tone = flash_and_beep(3.0, 0.0)
    noisy = tone * 0.5 + rng.normal(0, 0.05, len(tone))
    write_recording(path, frames, times, sound=noisy)
    whole = read_sound(path)
    data = bytearray(path.read_bytes())
    sizes = data.index(b"mdat"), data.index(b"moov")
    begin = sizes[0] + (sizes[1] - sizes[0]) * 7 // 10
    data[begin : begin + 6000] = rng.bytes(6000)
    path.write_bytes(data)
    return path, whole


def test_broken_sound_keeps_what_decodes_in_its_place(tmp_path: Path) -> None:
    path, whole = _broken(tmp_path / "clip.mp4")
    sound = read_sound(path)
    assert sound.damaged
    early = slice(0, RATE)
    np.testing.assert_array_equal(sound.samples[early], whole.samples[early])


def test_a_cut_off_recording_keeps_the_sound_before_the_cut(tmp_path: Path) -> None:
    frames, times, tone = flash_and_beep(3.0, 0.0)
    path = write_recording(tmp_path / "clip.mkv", frames, times, sound=tone)
    whole = read_sound(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    sound = read_sound(path)
    count = int(0.5 * RATE)
    assert count < len(sound.samples) < len(whole.samples)
    np.testing.assert_array_equal(sound.samples[:count], whole.samples[:count])


def test_reading_can_stop_early(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.wav", np.full(RATE * 5, 0.1), RATE)
    assert len(read_sound(path, end_seconds=1.25).samples) == 1.25 * RATE


@pytest.mark.parametrize(
    ("start", "expected", "padded"),
    [
        (10.0, [1, 2, 3, 4], 0),
        (9.5, [0, 0, 1, 2], 2),
        (10.5, [3, 4, 5, 0], 1),
        (10.2, [2, 3, 4, 5], 0),  # the nearest sample, and not the one before
        (9.8, [0, 1, 2, 3], 1),
        (8.0, [0, 0, 0, 0], 4),
        (20.0, [0, 0, 0, 0], 4),
    ],
)
def test_a_span_is_padded_where_there_is_no_sound(
    start: float, expected: list[int], padded: int
) -> None:
    samples = np.arange(1, 6, dtype=np.int16)
    sound = Sound(samples=samples, sample_rate=4, start_seconds=10.0)
    cut, missing = sound.span(start, 4)
    assert cut.tolist() == expected
    assert missing == padded
    cut, missing = sound.shifted(2.0).span(start + 2.0, 4)
    assert (cut.tolist(), missing) == (expected, padded)


def test_level_of_nothing_and_of_full_scale() -> None:
    assert rms_db(np.zeros(0, dtype=np.int16)) == -180
    assert rms_db(np.full(10, -32768, dtype=np.int16)) == pytest.approx(0)


def _without_packets(
    source: Path, target: Path, begin: float, end: float, jitter: float = 0.0
) -> Path:
    """Copy a recording, leaving out the sound packets of a span; others move by up to ``jitter``
    seconds, but for the first ones."""
    rng = np.random.default_rng(0)
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        streams = {stream: writing.add_stream_from_template(stream) for stream in reading.streams}
        for packet in reading.demux():
            if packet.dts is None:
                continue
            seconds = float(packet.pts * packet.time_base)
            if packet.stream.type == "audio" and begin <= seconds < end:
                continue
            if packet.stream.type == "audio" and seconds > 0.1:
                moved = round(rng.uniform(-jitter, jitter) / packet.time_base)
                packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            packet.stream = streams[packet.stream]
            writing.mux(packet)
    return target


def voice(seconds: float = 2.0, rate: int = 48000) -> np.ndarray:
    """Loud noise (n,) int16."""
    return (np.random.default_rng(0).standard_normal(round(seconds * rate)) * 3000).astype(np.int16)


def write_tracks(path: Path, tracks: list[tuple[str, list[np.ndarray]]], rate: int = 48000) -> Path:
    """Write tracks of (layout, channels (n,) int16 each) without a picture."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=rate, layout=layout) for layout, _ in tracks]
        for stream, (layout, channels) in zip(streams, tracks, strict=True):
            samples = np.stack(channels, 1).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            out.mux([*stream.encode(frame), *stream.encode(None)])
    return path


V, Q = voice(), np.zeros(96000, dtype=np.int16)
FAINT = (V // 100).astype(np.int16)


@pytest.mark.parametrize(
    ("tracks", "taken"),
    [
        ([("stereo", [V, -V])], "channel 1 of 2, as the mix loses it"),
        ([("stereo", [FAINT - V, V])], "channel 2 of 2, as the mix loses it"),
        ([("mono", [Q]), ("mono", [V])], "track 2 of 2, as track 1 is silent"),
        (
            [("mono", [Q]), ("mono", [Q]), ("stereo", [-V, V])],
            "track 3 of 3, as track 1 is silent; channel 1 of 2, as the mix loses it",
        ),
        ([("5.1", [Q, Q, V, Q, Q, Q])], ""),
        ([("5.1", [Q, Q, Q, V, Q, Q])], "channel 4 of 6, as the mix loses it"),
        ([("mono", [V // 10]), ("mono", [V])], None),
    ],
)
def test_a_voice_that_the_mix_would_lose_is_as_loud_as_in_mono(
    tmp_path: Path, tracks: list[tuple[str, list[np.ndarray]]], taken: str | None
) -> None:
    alone = read_sound(write_tracks(tmp_path / "mono.mov", [("mono", [V])]))
    sound = read_sound(write_tracks(tmp_path / "clip.mov", tracks))
    if taken is None:  # a first track that is faint, but is heard
        assert sound.taken == ""
        assert sound.rms_db == pytest.approx(alone.rms_db - 20, abs=0.5)
        return
    assert sound.taken == taken
    assert sound.rms_db == pytest.approx(alone.rms_db, abs=0.1)
    assert abs(np.corrcoef(sound.samples, alone.samples)[0, 1]) > 0.999


@pytest.mark.slow
def test_channels_without_a_layout_are_averaged_or_the_loudest_is_taken(tmp_path: Path) -> None:
    others = [np.roll(V, 1000 * number) for number in range(6)]
    levels = {}
    for name, channels in (("one", [Q, Q, Q, Q, Q, V]), ("all", others), ("mono", [V])):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((len(channels), 2, 48000, 0, "NONE", ""))
            file.writeframes(np.stack(channels, 1).tobytes())
        levels[name] = read_sound(tmp_path / f"{name}.wav")
    assert levels["one"].taken == "channel 6 of 6, as the mix loses it"
    assert levels["one"].rms_db == pytest.approx(levels["mono"].rms_db, abs=0.1)
    assert levels["all"].taken == ""
    assert levels["all"].rms_db == pytest.approx(levels["mono"].rms_db - 10 * np.log10(6), abs=0.3)


@pytest.mark.parametrize(("suffix", "codec"), [(".m4a", "aac"), (".wav", "pcm_s16le")])
@pytest.mark.parametrize("layout", ["7.1", "5.1"])
def test_sound_of_many_loudspeakers_is_that_of_the_middle_one(
    tmp_path: Path, suffix: str, codec: str, layout: str
) -> None:
    count, path = {"7.1": 8, "5.1": 6}[layout], tmp_path / f"a{suffix}"
    channels = np.zeros((count, 48000), dtype=np.float32)
    channels[2] = 0.5 * talk(1.0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=48000, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.round(channels.T * 32767).astype(np.int16).reshape(1, -1), "s16", layout
        )
        frame.rate, frame.pts = 48000, 0
        form = stream.codec_context.codec.audio_formats[0].name
        cutter = av.AudioResampler(form, layout, 48000, frame_size=1024)
        for part in [*cutter.resample(frame), *cutter.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    heard = read_sound(path, sample_rate=48000).samples[:48000] / 32768
    assert np.corrcoef(heard, channels[2][: len(heard)])[0, 1] > 0.98
    assert heard.std() == pytest.approx(channels[2].std(), rel=0.05)


def test_sound_that_is_silent_everywhere_stays_the_first_track(tmp_path: Path) -> None:
    sound = read_sound(write_tracks(tmp_path / "q.mov", [("stereo", [Q, Q]), ("mono", [Q])]))
    assert (sound.taken, sound.rms_db) == ("", -180)


@pytest.mark.parametrize(
    ("suffix", "codec", "priming"),  # what the encoder puts before, samples; none says how much
    [
        (".mp3", "libmp3lame", 0),
        (".ts", "aac", 1024),
        (".mpg", "mp2", 481),
        (".wma", "wmav2", 2048),
        (".flv", "aac", 1024),
    ],
)
def test_a_sound_file_of_its_own_begins_at_its_beginning(
    tmp_path: Path, suffix: str, codec: str, priming: int
) -> None:
    smooth = np.convolve(np.random.default_rng(1).standard_normal(144000), np.ones(24) / 24, "same")
    samples = (smooth / np.abs(smooth).max()).astype(np.float32) * 0.5
    with av.open(str(tmp_path / f"a{suffix}"), "w", options={"max_delay": "700000"}) as out:
        stream = out.add_stream(codec, rate=48000, layout="mono")
        stream.bit_rate = 128000
        size = stream.codec_context.frame_size or 2048
        form = "s16" if codec == "mp2" else "fltp"
        cutter = av.AudioResampler(format=form, layout="mono", rate=48000, frame_size=size)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 48000
        for part in (*cutter.resample(frame), *cutter.resample(None)):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    plain = read_sound(write_sound(tmp_path / "a.wav", samples, 48000)).samples / 32768
    found = read_sound(out.name, end_seconds=2.5, from_beginning=True)
    assert found.start_seconds + found.duration_seconds == pytest.approx(2.5, abs=0.002)
    heard = found.span(0, len(plain))[0] / 32768
    size = 2 * len(plain)
    lags = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(plain, size)))
    lag = (int(np.argmax(lags)) + len(plain)) % size - len(plain)
    assert lag / RATE == pytest.approx(priming / 48000, abs=0.0005)


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_stamps_that_start_again_are_refused(tmp_path: Path, suffix: str) -> None:
    rate = 44100 if suffix == ".mpg" else 48000
    parts = b""
    for number in range(2):
        frames, times, tone = flash_and_beep(3.0, 0.0, rate=rate)
        sound = tone * (number + 1) / 2
        path = tmp_path / f"{number}{suffix}"
        write_recording(path, frames, times, sound=sound, sound_rate=rate)
        assert len(open_video(path)) == 75
        assert read_sound(path).duration_seconds == pytest.approx(3, abs=0.1)
        parts += path.read_bytes()
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(parts)
    for read, kind in ((open_video, "video"), (read_sound, "audio")):
        with pytest.raises(MediaError, match=f"stamps of its {kind} go back") as caught:
            read(joined)
        assert caught.value.cause == "stamps-restart"
        assert "\n" not in str(caught.value)


def test_the_sound_is_of_the_programme_of_the_picture(tmp_path: Path) -> None:
    """A transport stream may hold several, each with a picture and sound of its own."""
    large, small = np.zeros((50, 96, 128, 3), np.uint8), np.zeros((50, 16, 16, 3), np.uint8)
    times, noise = np.arange(50) / 25, np.random.default_rng(0).uniform(-0.9, 0.9, 96000)
    table, parts = bytes.fromhex("00b0110001c10000"), list[bytes]()
    for number, (frames, sound) in enumerate(((large, 0.3 * talk(2.0)), (small, noise)), start=1):
        source = write_recording(tmp_path / f"{number}.mkv", frames, times, sound=sound)
        options = {
            "mpegts_service_id": str(number),
            "mpegts_start_pid": str(256 * number),
            "mpegts_pmt_start_pid": str(4096 + number),
        }
        alone = source.with_suffix(".ts")
        with av.open(str(source)) as reading, av.open(str(alone), "w", options=options) as out:
            streams = [out.add_stream_from_template(stream) for stream in reading.streams]
            for packet in reading.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
        table += bytes([0, number, 0xF0, number])
        data = alone.read_bytes()
        parts += [data[place : place + 188] for place in range(0, len(data), 188)]
    # Of both one table of programmes. Source: ISO/IEC 13818-1, 2.4.4.3 and annex A.
    rest = int.from_bytes(table + bytes(4), "big") ^ (0xFFFFFFFF << 8 * len(table))
    while (excess := rest.bit_length() - 33) >= 0:
        rest ^= 0x104C11DB7 << excess
    head = (bytes.fromhex("4740001000") + table + rest.to_bytes(4, "big")).ljust(188, b"\xff")
    both = tmp_path / "both.ts"
    both.write_bytes(head + b"".join(part for part in parts if part[1] & 31 or part[2] > 31))
    with av.open(str(both)) as container:
        assert len(container.streams.video) == len(container.streams.audio) == 2
    heard, alone = read_sound(both), tmp_path / "1.ts"
    assert open_video(both).width == 128
    assert np.array_equal(heard.samples, read_sound(alone).samples)


@pytest.mark.parametrize(("wrong", "place"), [(9000.0, 30), (-5000.0, 60)])
def test_one_broken_stamp_is_no_new_beginning(tmp_path: Path, wrong: float, place: int) -> None:
    frames, times, tone = flash_and_beep(3.0, 0.0)
    path = write_recording(tmp_path / "whole.mkv", frames, times, sound=tone)
    with av.open(str(path)) as reading:
        packets = [packet for packet in reading.demux(video=0) if packet.size]
        packets[place].dts = round(wrong / packets[place].time_base)
        container = SimpleNamespace(name=str(path), demux=lambda stream: iter(packets))
        given = list(packets_of(cast("Any", container), reading.streams[0]))
        assert len(given) == len(packets) > place


def same_spans(path: Path, end: float | None = None) -> int:
    """Compare ascending spans of random lengths; returns how many."""
    whole = read_sound(path, end_seconds=end)
    rng, first, count = np.random.default_rng(0), -3000, 0
    with SoundSpans(path, sample_rate=RATE, end_seconds=end) as spans:
        assert spans.start_seconds == whole.start_seconds
        while first < len(whole.samples) + 5000:
            length = int(rng.integers(1, 60000))
            wanted, padding = whole.span(whole.start_seconds + first / RATE, length)
            found, num_sound = spans.span(first, length)
            assert np.array_equal(found, wanted)
            assert num_sound == length - padding
            first += int(rng.integers(0, 30000))
            count += 1
    with SoundSpans(path, sample_rate=RATE, end_seconds=end) as spans:
        assert spans.measure() == len(whole.samples)
    return count


def gap(path: Path, silent: float) -> Path:
    """A recording whose sound pauses: nothing is there between the two parts."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=48000, layout="mono")
        sound = talk(2.0).astype(np.float32)
        for begin in range(0, len(sound) - 1152, 1152):
            frame = av.AudioFrame.from_ndarray(
                sound[None, begin : begin + 1152], format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
            packets = stream.encode(frame)
            for packet in packets:
                if packet.pts * packet.time_base > 1.0:
                    packet.pts += round(silent / packet.time_base)
                    packet.dts = packet.pts
                container.mux(packet)
    return path


def test_spans_are_those_of_the_whole_sound(tmp_path: Path) -> None:
    frames = np.zeros((75, 16, 16, 3), dtype=np.uint8)
    late = write_recording(
        tmp_path / "late.mkv", frames, np.arange(75) / 25, sound=talk(2.5), sound_start=0.4
    )
    wav = write_sound(tmp_path / "other rate.wav", talk(4.0, 22050), 22050)
    assert same_spans(late) > 3
    assert same_spans(late, end=1.37) > 1
    assert same_spans(wav) > 3


@pytest.mark.slow
def test_sound_of_spans_is_the_same_as_if_each_were_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, times, tone = flash_and_beep(3.0, 0.0)
    mp4 = write_recording(tmp_path / "plain.mp4", frames, times, sound=tone)
    mkv = write_recording(tmp_path / "late.mkv", frames, times, sound=tone, sound_start=0.4)
    wav = write_sound(tmp_path / "other rate.wav", talk(3.0, 22050), 22050)
    holed = _without_packets(mkv, tmp_path / "holed.mkv", 1.0, 2.0)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(mkv.read_bytes()[: mkv.stat().st_size * 6 // 10])
    damaged = _broken(tmp_path / "damaged.mp4")[0]
    rng = np.random.default_rng(0)
    decoded: list[Path | str] = []
    plain = sound_file.open_container
    monkeypatch.setattr(
        sound_file, "open_container", lambda path: (decoded.append(path), plain(path))[1]
    )
    paths = (mp4, mkv, wav, holed, cut, damaged, gap(tmp_path / "gap.mp3", 1.0))
    for from_beginning, path in product((False, True), paths):
        ends = [*np.sort(rng.uniform(0.0, 3.5, 5)), 2.0, 0.1, 2.0]
        for end in np.round(ends, 2):
            options: dict[str, Any] = {"sample_rate": RATE, "from_beginning": from_beginning}
            found, alone = (
                _sound_or_error(read, path, end_seconds=float(end), **options)
                for read in (read_span_sound, read_sound)
            )
            assert found == alone, (path, end, from_beginning)
    decoded.clear()
    for end in np.arange(0.5, 3.0, 0.1):
        read_span_sound(mp4, sample_rate=RATE, end_seconds=float(end))
    assert len(decoded) < 5, "or many spans of a long recording would each cost all that is before"


def _sound_or_error(read: Callable[..., Sound], path: Path, **options: Any) -> tuple[Any, ...]:
    try:
        sound = read(path, **options)
    except MediaError as error:
        return error.cause, str(error)
    return sound.samples.tobytes(), sound.start_seconds, sound.damaged, sound.taken


def test_a_gap_is_silence_and_is_not_held(tmp_path: Path) -> None:
    path = gap(tmp_path / "gap.mkv", 600.0)
    whole = read_sound(path)
    assert whole.duration_seconds > 600
    with SoundSpans(path, sample_rate=RATE) as spans:
        most = 0
        for first in range(0, len(whole.samples), 40000):
            found, _ = spans.span(first, 40000)
            assert np.array_equal(
                found[: len(whole.samples) - first], whole.samples[first:][:40000]
            )
            most = max(most, len(spans._buffer))
    assert most < 50000


def test_a_far_first_span_does_not_hold_what_is_before(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "long.wav", np.tile(talk(1.0, RATE), 60), RATE)
    with SoundSpans(path, sample_rate=RATE, history=100) as spans:
        found, _ = spans.span(55 * RATE, 1000)
        assert len(spans._buffer) < 8000
    assert np.array_equal(found, read_sound(path).samples[55 * RATE :][:1000])


def test_what_has_no_sound_is_refused_with_the_cause(tmp_path: Path) -> None:
    frames = np.zeros((5, 16, 16, 3), dtype=np.uint8)
    mute = write_recording(tmp_path / "mute.mp4", frames, np.arange(5) / 25)
    with pytest.raises(MediaError) as caught:
        SoundSpans(mute, sample_rate=RATE)
    assert caught.value.cause == "no-sound"


def test_real_sound_is_the_same(clips_dir: Path) -> None:
    names = ["talking/grid_bbaf2n.mpg", "talking/1001_DFA_ANG_XX.flv", "awkward/nasa_13013.mp4"]
    assert all(same_spans(clips_dir / name) > 3 for name in names)
