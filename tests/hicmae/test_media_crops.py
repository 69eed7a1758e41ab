"""Crops show exactly what is in the box, and long recordings are cut like short ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from hicmae.media import crops
from hicmae.media.crops import crop_faces, crop_video
from hicmae.media.detection import Face
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.video import open_video
from tests.support.media_files import write_recording

COUNT = 30
TIMES = np.arange(COUNT) / 25


class BrightSquare:
    """Finds the one bright square of a dark frame."""

    name = "bright"

    def __init__(self) -> None:
        self.num_calls = 0

    def detect(self, frame: np.ndarray) -> list[Face]:
        self.num_calls += 1
        rows, columns = np.nonzero(frame.mean(axis=2) > 128)
        if not len(rows):
            return []
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return [Face(box=np.array(box, dtype=np.float32), score=1.0)]


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    """A square of 24 pixels moving 2 pixels a frame, losslessly."""
    frames = np.zeros((COUNT, 96, 160, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[30:54, 20 + 2 * number : 44 + 2 * number] = 255
    return write_recording(tmp_path / "clip.mkv", frames, TIMES, codec="ffv1")


def smooth_picture(height: int = 120, width: int = 160) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / 9) * np.cos(columns / 11), np.sin((rows + columns) / 13), rows / height
    return (127 + 120 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "box", [(20, 30, 60, 70), (20.25, 30.5, 51.75, 62), (-20, -13.5, 40, 46.5)]
)
def test_enlarged_crops_show_the_box_to_a_fraction_of_a_pixel(box: tuple[float, ...]) -> None:
    picture, size = smooth_picture(), 64
    crop = crop_faces([picture], np.array([box]), size)[0]
    step = (box[2] - box[0]) / size
    at = (np.arange(size) + 0.5) * step - 0.5
    grid = np.meshgrid(box[1] + at, box[0] + at, indexing="ij")
    expected = np.stack(
        [
            map_coordinates(picture[..., c].astype(float), grid, order=1, mode="nearest")
            for c in range(3)
        ],
        axis=-1,
    )
    assert np.abs(crop - expected).max() <= 6  # OpenCV keeps 1/32 of a pixel


def test_shrunk_crops_average_the_pixels_of_the_box() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    crop = crop_faces([picture], np.array([[40, 20, 168, 148]]), 32)[0]
    part = picture[20:148, 40:168].astype(float)
    expected = part.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop, expected, atol=0.51)


@pytest.mark.parametrize("size", [16, 200])
@pytest.mark.parametrize("shift", [(-60, 0), (60, 0), (0, -60), (0, 60), (-500, -500), (500, 500)])
def test_outside_the_frame_its_border_goes_on(size: int, shift: tuple[int, int]) -> None:
    picture = np.full((64, 64, 3), 100, dtype=np.uint8)
    picture[:, 0] = picture[:, -1] = 100
    box = np.array([[*shift, shift[0] + 64, shift[1] + 64]], dtype=float)
    assert np.all(crop_faces([picture], box, size) == 100)


def test_nothing_in_gives_nothing_out() -> None:
    assert crop_faces([], np.zeros((0, 4)), 16).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("kept_bytes", [0, 2**30])
def test_a_moving_face_stays_in_the_middle_of_its_crops(
    moving: Path, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "_KEPT_BYTES", kept_bytes)
    finder = BrightSquare()
    config = FaceConfig(margin=1.0, smoothing_seconds=0, detect_every=5)
    reader = open_video(moving)
    indices = np.repeat(np.arange(COUNT), 2)
    track, faces = crop_video(reader, indices, finder, config, 48)
    stacked = np.stack(list(faces))
    assert finder.num_calls == 7
    assert stacked.shape == (2 * COUNT, 48, 48, 3)
    assert len(track.boxes) == len(track.found_by) == 2 * COUNT
    expected = np.zeros((48, 48))
    expected[12:36, 12:36] = 255
    for crop in stacked:
        np.testing.assert_allclose(crop.mean(axis=2), expected, atol=2)
    np.testing.assert_array_equal(stacked[::2], stacked[1::2])


def test_a_recording_without_a_face_is_refused(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "clip.mp4", np.zeros((5, 48, 64, 3), np.uint8), TIMES[:5])
    with pytest.raises(MediaError, match="found no face in 2 of its frames") as caught:
        crop_video(open_video(path), range(5), BrightSquare(), FaceConfig(), 32)
    assert caught.value.cause == "no-face"


def test_without_a_detector_the_middle_is_cut(moving: Path) -> None:
    reader = open_video(moving)
    track, faces = crop_video(reader, [0, 1, 1, 7], None, FaceConfig(detector="none"), 96)
    stacked = np.stack(list(faces))
    np.testing.assert_array_equal(stacked, reader.read([0, 1, 1, 7])[:, :, 32:128])
    assert track.runs == (("centre", 4),)
