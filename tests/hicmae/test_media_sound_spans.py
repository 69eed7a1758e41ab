"""Sound cut in spans while it is decoded is the sound that is read whole."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.media.errors import MediaError
from hicmae.media.sound import read_sound
from hicmae.media.sound_spans import SoundSpans
from tests.support.media_files import write_recording, write_sound
from tests.support.prediction_fixtures import talk

RATE = 16000


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
