"""Any container and any frame rate comes out at one rate, picture and sound at the same time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.building.build import build_shards
from shards.index import read_index
from shards.sample import decode_sound
from shards.settings import BuildConfig
from tests.support.media_files import CODECS, flash_and_beep, onset, write_recording, write_sound

CONFIG = BuildConfig(faces="none", face_size=64, workers=1, min_seconds=0.2)
CONTAINERS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".flv", ".mpg", ".ogv", ".3gp")
FLASH_SECONDS, FPS, RATE = 1.48, 25, 16000


def read_samples(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (T, H, W, 3) and sound (n,) of every sample, by key."""
    index, samples = read_index(folder), {}
    for row in index.table.to_dict("records"):
        tar = (folder / row["shard"]).read_bytes()
        mjpg = tar[row["mjpg_offset"] : row["mjpg_offset"] + row["mjpg_length"]]
        wav = tar[row["wav_offset"] : row["wav_offset"] + row["wav_length"]]
        starts = [at for at in range(len(mjpg)) if mjpg.startswith(b"\xff\xd8\xff", at)]
        images = [
            cv2.imdecode(np.frombuffer(mjpg[at:], np.uint8), cv2.IMREAD_COLOR) for at in starts
        ]
        assert len(images) == row["num_frames"]
        sound = decode_sound(wav, 0, row["num_samples"]) if row["num_samples"] else np.zeros(0)
        samples[row["key"]] = np.stack(images), sound
    return samples


def numbered_frames(count: int) -> np.ndarray:
    """Frames (count, 64, 64, 3) of 4 x 4 black and white fields, the number in binary."""
    bits = np.arange(count)[:, None] >> np.arange(16) & 1
    fields = np.kron(bits.reshape(count, 4, 4), np.ones((16, 16), dtype=np.int64))
    return np.repeat(fields[..., None] * 255, 3, axis=-1).astype(np.uint8)


def numbers_of(images: np.ndarray) -> np.ndarray:
    """The numbers (T,) that frames show."""
    fields = images.reshape(len(images), 4, 16, 4, 16, 3).mean(axis=(2, 4, 5)) > 128
    return (fields.reshape(len(images), 16) << np.arange(16)).sum(axis=1)


@pytest.mark.slow
def test_a_flash_and_a_beep_stay_together_through_every_container(tmp_path: Path) -> None:
    frames, times, tone = flash_and_beep(3, FLASH_SECONDS)
    source = tmp_path / "videos"
    source.mkdir()
    for suffix in CONTAINERS:
        write_recording(source / f"{suffix[1:]}{suffix}", frames, times, sound=tone)
    assert set(CONTAINERS) <= set(CODECS)
    result = build_shards([source], tmp_path / "shards", CONFIG)
    assert not result.refusals
    samples = read_samples(tmp_path / "shards")
    assert sorted(samples) == sorted(suffix[1:] for suffix in CONTAINERS)
    for key, (images, sound) in samples.items():
        flash = float(np.argmax(images.mean(axis=(1, 2, 3)) > 128)) / FPS
        beep = onset(sound, RATE)
        assert abs(flash - FLASH_SECONDS) <= 1 / FPS + 1e-9, key
        assert abs(beep - FLASH_SECONDS) <= 1 / FPS + 1e-9, key
        assert abs(flash - beep) <= 1 / FPS, key


@pytest.mark.slow
def test_every_rate_comes_out_at_25_with_each_frame_the_nearest_in_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    steps = {
        **{str(fps): np.full(round(2 * fps), 1 / fps) for fps in (15, 24, 25, 29.97, 30, 50, 60)},
        "varying": rng.uniform(0.012, 0.12, 40),
        "dropped": np.array([0.04] * 10 + [0.4] + [0.04] * 20),
    }
    source = tmp_path / "videos"
    source.mkdir()
    shown = {}
    for name, intervals in steps.items():
        times = np.concatenate([[0], np.cumsum(intervals)[:-1]])
        key = name.replace(".", "_")
        shown[key] = np.round(times, 3)
        frames = numbered_frames(len(times))
        write_recording(source / f"{name}.mkv", frames, times, codec="libx264")
    assert not build_shards([source], tmp_path / "shards", CONFIG).refusals
    samples = read_samples(tmp_path / "shards")
    assert samples.keys() == shown.keys()
    for key, times in shown.items():
        found = numbers_of(samples[key][0])
        wanted = np.arange(len(found)) / FPS
        length = times[-1] + np.median(np.diff(times))
        assert abs(len(found) / FPS - length) <= 0.5 / FPS + 1e-3, key
        nearest = np.abs(times[:, None] - wanted).min(axis=0)
        # Ties within the rounding of the container's stamps may go either way.
        assert np.all(np.abs(times[found] - wanted) <= nearest + 2e-3), key


def test_sound_that_is_missing_silent_or_ends_early_is_said_and_never_invented(
    tmp_path: Path,
) -> None:
    frames, times, tone = flash_and_beep(2, 0)
    source = tmp_path / "videos"
    source.mkdir()
    write_recording(source / "none.mp4", frames, times)
    write_recording(source / "silent.mp4", frames, times, sound=0 * tone)
    write_recording(source / "early.mkv", frames, times, sound=tone[: len(tone) // 2])
    write_recording(source / "whole.mkv", frames, times, sound=tone)
    build_shards([source], tmp_path / "shards", CONFIG)
    table = read_index(tmp_path / "shards").table.set_index("key")
    assert table["sound_state"].to_dict() == {
        "early": "shorter",
        "none": "absent",
        "silent": "silent",
        "whole": "present",
    }
    # A sine of amplitude 1/2: 20 log10(0.5 / sqrt 2); of what is there, not of the padding.
    assert table.loc[["early", "whole"], "loudness_db"].tolist() == pytest.approx(
        [-9.03] * 2, abs=0.3
    )
    assert table.loc[["none", "silent"], "loudness_db"].isna().all()
    sound = read_samples(tmp_path / "shards")["early"][1]
    assert len(sound) == 2 * RATE
    assert np.abs(sound[: RATE - 400]).max() > 10000
    assert not sound[RATE + 2000 :].any()


def test_folders_of_images_are_recordings_with_the_sound_beside_them(tmp_path: Path) -> None:
    """OpenFace's names, with frames that it lost: they are filled by time, and nothing shifts."""
    source = tmp_path / "collection"
    folder = source / "people" / "anna_aligned"
    folder.mkdir(parents=True)
    lost = {1, 2, 3, 20, 21}
    for number, frame in enumerate(numbered_frames(50), start=1):
        if number not in lost:
            cv2.imwrite(str(folder / f"frame_det_00_{number:06d}.bmp"), frame)
    _, _, tone = flash_and_beep(2, 1.0, rate=RATE)
    write_sound(source / "people" / "anna.wav", tone, RATE)
    (source / "notes.txt").write_text("not a recording")
    config = BuildConfig(faces="none", face_size=64, workers=1, image_fps=25)
    result = build_shards([source], tmp_path / "shards", config)
    assert not result.refusals
    assert [path.name for path in result.ignored] == ["notes.txt"]
    index = read_index(tmp_path / "shards")
    images, sound = read_samples(tmp_path / "shards")["people/anna_aligned"]
    # Image k is frame k - 1, a lost one the nearest that is there.
    there = [number - 1 for number in range(1, 51) if number not in lost]
    expected = [min(there, key=lambda frame: (abs(frame - wanted), -frame)) for wanted in range(50)]
    np.testing.assert_array_equal(numbers_of(images), expected)
    assert abs(onset(sound, RATE) - 1.0) <= 0.5 / FPS
    assert index.table["face_coverage"][0] == pytest.approx(45 / 50)
    assert index.table["sound_state"][0] == "present"


def test_images_without_a_rate_or_with_a_damaged_one_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("norate", "damaged"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number, frame in enumerate(numbered_frames(20), start=1):
            cv2.imwrite(str(tmp_path / "frames" / name / f"{number}.png"), frame)
    damaged = tmp_path / "frames" / "damaged" / "7.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,fps,emotion\nframes/norate,,joy\nframes/damaged,25,joy\n")
    with pytest.raises(ValueError, match="all refused") as error:
        build_shards([manifest], tmp_path / "shards", CONFIG)
    refusals = {refusal.cause: refusal.message for refusal in error.value.result.refusals}  # type: ignore[attr-defined]
    assert refusals.keys() == {"no-rate", "damaged"}
    assert "frames/norate: images have no times; give their frame rate" in refusals["no-rate"]
    assert "frames/damaged/7.png: this image breaks off (60 bytes)" in refusals["damaged"]
