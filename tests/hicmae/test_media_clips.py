"""Real recordings open with their true cause, times and faces; nothing hangs and nothing dies."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from pebble import ProcessPool

from hicmae.media.container import LFS_POINTER
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig, open_detector
from hicmae.media.sound import read_sound
from hicmae.media.video import constant_rate_indices, open_video
from hicmae.processes import forking
from tests.support.media_files import cut_faces, frames_of, opened

DEADLINE_SECONDS = 120


def rows_of(clips_dir: Path, kind: str) -> list[dict[str, str]]:
    with (clips_dir / "MANIFEST.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith(f"{kind}/")]
    if not rows:
        pytest.skip(f"{clips_dir} has no {kind} recordings")
    return rows


def look(path: str, num_frames: int) -> dict[str, object]:
    """Read up to ``num_frames`` frames spread over a recording, and its sound."""
    found: dict[str, object] = {}
    try:
        with open_video(path) as reader:
            count = len(reader)
            spread = np.unique(np.linspace(0, count - 1, min(num_frames, count)).astype(int))
            frames = frames_of(reader, spread)
            ascending = bool(np.all(np.diff(reader.timestamps) >= 0))
            shape, seconds, decoder = frames.shape[1:], reader.duration_seconds, reader.decoder.name
        found |= {"shape": shape, "seconds": seconds, "ascending": ascending, "decoder": decoder}
    except MediaError as error:
        found["video"] = error.cause
    try:
        sound = read_sound(path)
        found |= {"sound_seconds": sound.duration_seconds, "rms_db": sound.rms_db}
    except MediaError as error:
        found["sound"] = error.cause
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    """Not forked from this process: that would inherit threads of encoders of other tests."""
    with ProcessPool(max_workers=2, context=forking()) as made:
        yield made


def looked_at(
    pool: ProcessPool, clips_dir: Path, rows: list[dict[str, str]], num_frames: int
) -> list[dict[str, object]]:
    futures = [
        pool.schedule(look, args=(str(path), num_frames), timeout=DEADLINE_SECONDS)
        for path in (clips_dir / row["file"] for row in rows)
    ]
    return [future.result() for future in futures]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["awkward", "talking"])
def test_every_recording_opens_or_is_refused_by_its_cause(
    pool: ProcessPool, clips_dir: Path, kind: str
) -> None:
    rows = rows_of(clips_dir, kind)
    for row, found in zip(rows, looked_at(pool, clips_dir, rows, 12), strict=True):
        name = row["file"]
        head = (clips_dir / name).read_bytes()[: len(LFS_POINTER)]
        if not head:
            assert found == {"video": "empty-file", "sound": "empty-file"}, name
        elif head == LFS_POINTER:
            assert found == {"video": "lfs-pointer", "sound": "lfs-pointer"}, name
        elif row["container"] == "unreadable":
            assert found == {"video": "unreadable", "sound": "unreadable"}, name
        elif row["video"] == "-":
            assert found["video"] == "no-video", name
        elif "video" in found:
            assert found["video"] == "damaged", name
            assert "damaged" in row["what"], name
        else:
            assert found["ascending"], name
            if row["duration_s"] != "unknown" and kind == "talking":
                assert found["seconds"] == pytest.approx(float(row["duration_s"]), abs=0.15), name
        if row["audio"] == "none":
            refusals = {"no-sound", "unreadable", "empty-file", "lfs-pointer"}
            assert found.get("sound") in refusals, name
        elif row["audio_rms_db"]:
            # The list averages the power of the channels; the mean of two is up to 3 dB (alike:
            # 0 dB) lower, less where they differ.
            level = float(row["audio_rms_db"])
            assert level - 6 <= float(str(found["rms_db"])) <= level + 1, name


def test_a_few_real_recordings_open(clips_dir: Path) -> None:
    rows = rows_of(clips_dir, "talking")
    for row in sorted(rows, key=lambda row: (clips_dir / row["file"]).stat().st_size)[:4]:
        found = look(str(clips_dir / row["file"]), 4)
        assert found["ascending"], row["file"]
        assert float(str(found["sound_seconds"])) > 0.5, row["file"]


@pytest.mark.slow
def test_both_decoders_give_the_same_frames_at_the_same_places(clips_dir: Path) -> None:
    rng = np.random.default_rng(0)
    for row in rows_of(clips_dir, "talking"):
        path = clips_dir / row["file"]
        first, second = open_video(path), opened(path, "pyav")
        if first.decoder.name == "pyav" or first.height > 800:
            continue
        wanted = np.unique(rng.integers(0, len(first), 6))
        near = np.unique(
            np.clip(np.concatenate([wanted - 1, wanted, wanted + 1]), 0, len(first) - 1)
        )
        small = frames_of(second, near)[:, ::4, ::4].astype(int)
        there = dict(zip(near.tolist(), small, strict=True))
        for index, frame in zip(wanted.tolist(), frames_of(first, wanted), strict=True):
            distance = {
                i: np.abs(frame[::4, ::4] - there[i]).mean() for i in there if abs(i - index) < 2
            }
            assert distance[index] <= min(distance.values()) + 0.05, (row["file"], index)


@pytest.mark.slow
def test_talking_faces_are_found_and_framed(clips_dir: Path, yunet_file: Path) -> None:
    cv2.setNumThreads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    config, finder = FaceConfig(), open_detector("yunet", {"file": str(yunet_file)})
    assert finder is not None
    for row in rows_of(clips_dir, "talking"):
        with open_video(clips_dir / row["file"]) as reader:
            if reader.height > 800:
                continue
            last = reader.start_seconds + reader.duration_seconds
            first = reader.timestamps[0]
            indices = constant_rate_indices(reader.timestamps, 25, first, last, last=last)[:50]
            ((track, crops),) = cut_faces(reader, indices, finder, config, 160)
            crops = list(crops)
        assert len(crops) == len(track.boxes) == len(indices)
        assert track.coverage >= 0.9, row["file"]
        again = [finder.detect(crop) for crop in crops[:: max(1, len(crops) // 4)]]
        hits = [faces for faces in again if faces]
        assert len(hits) >= len(again) - 1, row["file"]
        for faces in hits:
            box = max(faces, key=lambda face: face.score).box
            middle = (box[:2] + box[2:]) / 2
            assert np.all(np.abs(middle - 80) < 30), row["file"]
            assert 0.45 < (box[3] - box[1]) / 160 < 1.05, row["file"]


@pytest.mark.slow
def test_the_cascade_finds_the_face_of_a_small_frame_where_it_is_in_the_large_one(
    clips_dir: Path,
) -> None:
    detector = open_detector("cascade")
    assert detector is not None
    differences = []
    rows = [row for row in rows_of(clips_dir, "talking") if "224x224" in row["video"]]
    for row in rows:
        with open_video(clips_dir / row["file"]) as reader:
            frame = next(reader.frames([len(reader) // 2]))
        for side in (96, 160):
            small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
            both = [(detector.detect(frame), 224), (detector.detect(small), side)]
            boxes = [
                max(faces, key=lambda face: face.score).box / size for faces, size in both if faces
            ]
            if len(boxes) == 2:
                differences.append(np.abs(boxes[0] - boxes[1]).max())
    assert len(differences) > 1.5 * len(rows)  # of twice as many frames
    assert max(differences) < 0.08
