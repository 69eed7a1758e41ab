"""Tests of cutting and decoding the bytes of a sample."""

from __future__ import annotations

import dataclasses
import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
import torchvision

from shards.sample import collate, cut_clip, decode_frames, decode_sound, uniform_draw
from shards.schema import ClipError, SampleInfo, Skipped
from tests.support.shard_fixtures import (
    INPUT,
    SIDE,
    frame_value,
    jpeg,
    make_sample,
    sound_values,
    wav_bytes,
)


def clip_of(info: SampleInfo, mjpg: bytes, wav: bytes | None, indices: list[int]) -> dict[str, Any]:
    return cut_clip(info, mjpg, wav, np.array(indices), INPUT).decode(INPUT)


def test_frames_come_in_the_order_asked_for_and_in_rgb() -> None:
    info, mjpg, _ = make_sample(3, num_frames=12)
    indices = np.array([1, 4, 4, 11])
    frames = decode_frames(mjpg, info.frame_offsets, indices)
    assert frames.shape == (4, SIDE, SIDE, 3)
    assert frames.dtype == np.uint8
    for frame, index in zip(frames, indices, strict=True):
        np.testing.assert_allclose(frame[5, 7], frame_value(3, int(index)), atol=3)


def test_decoded_pixels_are_those_of_another_decoder() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), (0, 0), 1.5)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    other = torchvision.io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    ours = decode_frames(data, (0, len(data)), np.array([0]))[0]
    # Both round the inverse transform their own way.
    assert np.abs(ours.astype(int) - other.permute(1, 2, 0).numpy()).max() <= 2


@pytest.mark.parametrize(
    "damage",
    [lambda image: b"\0" * len(image), lambda image: image[: len(image) // 2]],
    ids=["zeros", "cut-off"],
)
def test_a_damaged_image_is_refused_by_number(damage) -> None:  # type: ignore[no-untyped-def]
    good, bad = jpeg((10, 20, 30)), damage(jpeg((10, 20, 30)))
    offsets = (0, len(good), len(good) + len(bad))
    assert len(decode_frames(good + bad, offsets, np.array([0]))) == 1
    with pytest.raises(ClipError, match=r"mjpg: image 1 cannot be decoded") as error:
        decode_frames(good + bad, offsets, np.array([0, 1]))
    assert error.value.cause == "bad-image"


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (37, 99), (95, 200), (100, 110), (300, 310)])
def test_a_span_of_sound_is_what_soundfile_reads(start: int, stop: int) -> None:
    wav = wav_bytes(sound_values(2, 100))
    whole, _ = soundfile.read(io.BytesIO(wav), dtype="int16")
    np.testing.assert_array_equal(decode_sound(wav, start, stop), whole[start:stop])


def test_chunks_before_the_sound_are_passed_over() -> None:
    wav = wav_bytes(sound_values(0, 20))
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"  # odd length, padded
    padded = wav[:12] + odd + wav[12:36] + odd + wav[36:]
    np.testing.assert_array_equal(decode_sound(padded, 3, 9), sound_values(0, 20)[3:9])


def test_the_extensible_header_is_read() -> None:
    file = io.BytesIO()
    soundfile.write(file, sound_values(0, 20), 16000, "PCM_16", format="WAVEX")
    np.testing.assert_array_equal(decode_sound(file.getvalue(), 0, 20), sound_values(0, 20))


@pytest.mark.parametrize(("channels", "subtype"), [(2, "PCM_16"), (1, "PCM_24"), (1, "FLOAT")])
def test_other_sound_formats_are_refused(channels: int, subtype: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((20, channels), dtype=np.float32), 16000, subtype, format="WAV")
    with pytest.raises(ClipError, match="not 16-bit mono PCM"):
        decode_sound(file.getvalue(), 0, 20)


def test_what_is_no_wav_or_ends_early_is_refused() -> None:
    wav = wav_bytes(sound_values(0, 100))
    with pytest.raises(ClipError, match="not RIFF/WAVE"):
        decode_sound(b"ID3" + wav, 0, 10)
    with pytest.raises(ClipError, match="no data chunk"):
        decode_sound(wav[:30], 0, 10)
    with pytest.raises(ClipError, match="says 100 samples and holds 50"):
        decode_sound(wav[:144], 0, 100)


def test_picture_and_sound_of_a_clip_are_of_the_same_time() -> None:
    info, mjpg, wav = make_sample(1)
    clip = clip_of(info, mjpg, wav, [6, 8, 10, 12])
    assert clip["frames"].dtype == torch.uint8
    np.testing.assert_allclose(clip["frames"][0, 0, 0], frame_value(1, 6), atol=3)
    start = 6 * 16000 // 25
    expected = sound_values(1, 16000)[start : start + INPUT.clip_samples]
    assert clip["waveform"].dtype == torch.int16
    np.testing.assert_array_equal(clip["waveform"], expected)
    assert clip["num_samples"] == INPUT.clip_samples


def test_a_clip_at_the_end_is_padded_and_counts_its_sound() -> None:
    info, mjpg, wav = make_sample(1)
    clip = clip_of(info, mjpg, wav, [20, 22, 24, 24])
    num = 16000 - 20 * 640
    assert clip["num_samples"] == num
    assert clip["waveform"].shape == (INPUT.clip_samples,)
    assert not clip["waveform"][num:].any()
    assert clip["waveform"][:num].all()
    np.testing.assert_array_equal(clip["frames"][2], clip["frames"][3])


def test_a_clip_without_sound_is_silent() -> None:
    info, mjpg, _ = make_sample(1, sound=False)
    clip = clip_of(info, mjpg, None, [0, 2, 4, 6])
    assert clip["num_samples"] == 0
    assert not clip["waveform"].any()


def test_other_rates_and_sizes_than_stated_are_refused() -> None:
    info, mjpg, wav = make_sample(1, fps=30.0)
    with pytest.raises(ClipError, match="30 fps and 16000 Hz, but the model takes 25 fps"):
        clip_of(info, mjpg, wav, [0, 2, 4, 6])
    info, mjpg, wav = make_sample(1)
    other = dataclasses.replace(info, face_size=48)
    with pytest.raises(ClipError, match=r"sample 'id01/00001': image 0 is 32x32 pixels, not 48x48"):
        clip_of(other, mjpg, wav, [0, 2, 4, 6])
    with pytest.raises(ClipError, match="its mjpg ends at byte 100"):
        clip_of(info, mjpg[:100], wav, [0, 2, 4, 6])


def test_a_batch_has_the_agreed_parts_and_counts_what_was_skipped() -> None:
    indices = [0, 2, 4, 6]
    clips = [clip_of(*make_sample(n), indices) for n in range(2)]
    for number, clip in enumerate(clips):
        clip |= {"sample": number, "view": 0, "other": torch.ones(3)}
    batch = collate([clips[0], Skipped("no-sound"), clips[1], Skipped("no-sound")])
    assert batch["keys"] == ["id00/00000", "id01/00001"]
    assert batch["skipped"] == {"no-sound": 2}
    shapes = {
        name: (tuple(value.shape), value.dtype)
        for name, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
    assert shapes == {
        "frames": ((2, 4, SIDE, SIDE, 3), torch.uint8),
        "waveform": ((2, INPUT.clip_samples), torch.int16),
        "num_samples": ((2,), torch.int64),
        "sample": ((2,), torch.int64),
        "view": ((2,), torch.int64),
        "other": ((2, 3), torch.float32),
        "seen": ((2,), torch.bool),
        "heard": ((2,), torch.bool),
    }


def test_a_batch_of_nothing_or_of_unlike_clips_is_refused() -> None:
    indices = [0, 2, 4, 6]
    with pytest.raises(ClipError, match=r"every sample of a batch was skipped \(no-sound: 2\)"):
        collate([Skipped("no-sound"), Skipped("no-sound")])
    clips = [clip_of(*make_sample(n, side=32 + 16 * n), indices) for n in range(2)]
    with pytest.raises(ClipError, match="'id00/00000': 4x32x32x3, 'id01/00001': 4x48x48x3"):
        collate(clips)


def test_draws_are_the_same_on_every_machine() -> None:
    # Where a clip begins hangs on these; other numbers would be another training run.
    assert uniform_draw(0, 0, "a/0001", 0) == 0.5589493831460346
    assert uniform_draw(0, 0, "a/0001", 0) != uniform_draw(0, 0, "a/0001", 1)
    assert uniform_draw(1, 12) != uniform_draw(11, 2)
    assert uniform_draw("1") != uniform_draw(1)
    with pytest.raises(TypeError):  # what it looks like as text depends on the NumPy
        uniform_draw(np.int64(1))  # type: ignore[arg-type]


def test_draws_are_uniform_and_do_not_follow_from_their_neighbours() -> None:
    draws = np.array([uniform_draw(3, 0, f"sample/{number:05d}", 0) for number in range(20000)])
    assert 0 <= draws.min() <= draws.max() < 1
    # Five standard deviations of a binomial count with 20000 trials of 1/20.
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(20000 * 0.05 * 0.95)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 5 / np.sqrt(len(draws))
    next_epoch = np.array([uniform_draw(3, 1, f"sample/{n:05d}", 0) for n in range(20000)])
    assert abs(np.corrcoef(draws, next_epoch)[0, 1]) < 5 / np.sqrt(len(draws))
