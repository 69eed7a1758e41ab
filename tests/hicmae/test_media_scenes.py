"""Where one scene ends and another begins, and what becomes of a face there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hicmae.media import crops
from hicmae.media.crops import crop_every_face, crop_video
from hicmae.media.detection import Face
from hicmae.media.faces import FaceConfig
from hicmae.media.scenes import is_cut, thumbnail
from hicmae.media.video import open_video
from tests.support.media_files import write_recording

CUT, COUNT = 23, 50


def room(phase: float, shift: int = 0) -> np.ndarray:
    """A picture of soft patches of light, (120, 160, 3) uint8."""
    rows, columns = np.mgrid[:120, shift : 160 + shift]
    waves = np.sin(rows / 17 + phase) * np.cos(columns / 23 - 2 * phase)
    return np.stack([120 + 90 * waves, 110 + 60 * waves, 100 - 70 * waves], axis=-1).astype(
        np.uint8
    )


class SameFace:
    """Finds a face in the same place of every frame."""

    name = "same"

    def detect(self, frame: np.ndarray) -> list[Face]:
        return [Face(box=np.array([60, 40, 100, 80], dtype=np.float32), score=1.0)]


@pytest.fixture(scope="module")
def interview(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people in turn before the camera, one in each room."""
    frames = np.stack([room(0.0 if number < CUT else 2.0) for number in range(COUNT)])
    path = tmp_path_factory.mktemp("scenes") / "interview.mkv"
    return write_recording(path, frames, np.arange(COUNT) / 25, codec="ffv1")


@pytest.mark.parametrize("kept_bytes", [2**30, 0])
def test_every_face_ends_with_its_scene(
    interview: Path, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "_KEPT_BYTES", kept_bytes)
    config = FaceConfig(detector="yunet", detect_every=5)
    with open_video(interview) as video:
        faces = crop_every_face(video, np.arange(COUNT), SameFace(), config, 32)
        spans = [(track.first, track.first + len(track.boxes)) for track, _ in faces]
        assert [len(list(images)) for _, images in faces] == [end - begin for begin, end in spans]
    # The faces of frames 20 and 25 are the last and the first that the detector saw.
    assert spans == [(0, 21), (25, COUNT)]


def test_one_face_is_held_in_its_place_over_a_cut(interview: Path) -> None:
    config = FaceConfig(detector="yunet", detect_every=5)
    with open_video(interview) as video:
        track, _ = crop_video(video, np.arange(COUNT), SameFace(), config, 32)
    assert len(track.boxes) == COUNT
    assert track.coverage == 1


def test_a_flash_a_pan_and_grain_are_no_cuts_and_another_room_is() -> None:
    picture = room(0.0)
    before = thumbnail(picture)
    rng = np.random.default_rng(0)
    flash = np.clip(picture.astype(int) + 70, 0, 255).astype(np.uint8)
    grain = np.clip(picture + rng.normal(0, 40, picture.shape), 0, 255).astype(np.uint8)
    for after in (picture, flash, grain, room(0.0, shift=12)):
        assert not is_cut(before, thumbnail(after))
    assert is_cut(before, thumbnail(room(2.0)))
    assert is_cut(before, thumbnail(np.full_like(picture, 255)))
    assert not is_cut(thumbnail(np.zeros_like(picture)), thumbnail(np.zeros_like(picture)))


@pytest.mark.parametrize("shape", [(40, 50, 3), (1080, 1920, 3)])
def test_a_thumbnail_is_the_picture_in_small(shape: tuple[int, int, int]) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    ramp = (200 * columns / shape[1] + 50 * rows / shape[0])[..., None].repeat(3, axis=2)
    small = thumbnail(ramp.astype(np.uint8))
    assert small.shape == (32, 32, 3)
    places = (np.arange(32) + 0.5) / 32
    expected = 200 * places[None] + 50 * places[:, None]
    assert np.abs(small[..., 0] - expected).max() < 6
