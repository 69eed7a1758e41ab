"""Crops aligned by the eyes hold them in their place and do not tremble; every face is followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hicmae.media.crops import crop_every_face, crop_faces, crop_video
from hicmae.media.detection import Face
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.tracking import EYE_DISTANCE, EYE_RISE, face_tracks

FPS, SIZE = 25, 160


class Head:
    """A head that sways, nods its head to the side and comes nearer: two bright eyes on grey.

    As a reader it gives the frames; as a detector it finds the head, some pixels off at random.
    """

    name = "head"
    path = Path("head.mp4")
    start_seconds = 0.0
    height, width = 360, 480

    def __init__(self, count: int = 100, jitter: float = 0.0) -> None:
        times = np.arange(count) / FPS
        self.timestamps = self.frame_clock = times
        self.duration_seconds = count / FPS
        self.side = 150 + 25 * np.sin(2 * np.pi * 0.3 * times)
        self.angle = 0.3 * np.sin(2 * np.pi * 0.4 * times)
        centre = np.stack([240 + 40 * np.sin(2 * np.pi * 0.5 * times), 180 + 20 * times], axis=1)
        across = np.stack([np.cos(self.angle), np.sin(self.angle)], axis=1)
        down = np.stack([-across[:, 1], across[:, 0]], axis=1)
        middle = centre - EYE_RISE * self.side[:, None] * down
        half = EYE_DISTANCE / 2 * self.side[:, None] * across
        self.centre, self.eyes = centre, np.stack([middle - half, middle + half], axis=1)
        self._noise = np.random.default_rng(1).normal(0, jitter, (count, 6))

    def __len__(self) -> int:
        return len(self.timestamps)

    def frames(self, indices: object) -> object:
        for index in indices:  # type: ignore[attr-defined]
            frame = np.full((self.height, self.width), 60.0)
            for x, y in self.eyes[index]:
                left, top = int(x) - 20, int(y) - 20
                rows, columns = np.mgrid[top : top + 40, left : left + 40] + 0.5
                frame[top : top + 40, left : left + 40] += 180 * np.exp(
                    -((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2)
                )
            frame[0, 0] = index  # so that the detector knows which one it sees
            yield np.repeat(frame.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)

    def detect(self, frame: np.ndarray) -> list[Face]:
        index = int(frame[0, 0, 0])
        noise, half = self._noise[index], self.side[index] / 2
        centre = self.centre[index] + noise[:2]
        return [
            Face(
                box=np.concatenate([centre - half, centre + half]).astype(np.float32),
                score=1.0,
                eyes=(self.eyes[index] + noise[2:].reshape(2, 2)).astype(np.float32),
            )
        ]


def eyes_in(crop: np.ndarray) -> np.ndarray:
    """Where the two bright spots of a crop are (2, 2), pixels, left first."""
    bright = np.clip(crop[..., 0].astype(float) - 100, 0, None)
    columns = np.arange(SIZE) + 0.5
    found = []
    for half in (slice(0, SIZE // 2), slice(SIZE // 2, SIZE)):
        part = bright[:, half]
        found.append([part.sum(0) @ columns[half], part.sum(1) @ columns] / part.sum())
    return np.array(found)


def aligned(head: Head, **config: object) -> np.ndarray:
    """Where the eyes are in every crop (T, 2, 2)."""
    settings = FaceConfig(align="eyes", **{"margin": 0.3, **config})  # type: ignore[arg-type]
    _, crops = crop_video(head, range(len(head)), head, settings, SIZE)  # type: ignore[arg-type]
    return np.stack([eyes_in(crop) for crop in crops])


def test_eyes_are_level_in_their_place_and_at_their_distance() -> None:
    eyes = aligned(Head(40), detect_every=1, smoothing_seconds=0.0)
    distance, rise = EYE_DISTANCE / 1.3 * SIZE, EYE_RISE / 1.3 * SIZE
    expected = [[80 - distance / 2, 80 - rise], [80 + distance / 2, 80 - rise]]
    np.testing.assert_allclose(eyes, np.broadcast_to(expected, eyes.shape), atol=0.25)


@pytest.mark.parametrize("detect_every", [1, 5])
def test_crops_do_not_tremble_though_the_detector_does(detect_every: int) -> None:
    head = Head(jitter=2.0)
    rough, smooth = (
        aligned(head, detect_every=detect_every, smoothing_seconds=seconds)
        for seconds in (0.0, 0.2)
    )

    def tremor(eyes: np.ndarray) -> float:
        """Root mean square of what the eyes move from one frame to the next, pixels."""
        return float(np.sqrt((np.diff(eyes, axis=0) ** 2).mean()))

    assert tremor(smooth) < 0.25
    assert tremor(smooth) < tremor(rough) / 2
    # Nor do they drift: the head's own movements (100 pixels of it) are followed.
    assert np.abs(smooth - smooth.mean(axis=0)).max() < 5


def test_a_head_turned_aside_does_not_come_nearer() -> None:
    """The eyes of a profile are close together; the box keeps its height."""
    box = np.array([100, 100, 180, 220], dtype=np.float32)
    eyes = np.array([[150, 148], [158, 148]], dtype=np.float32)
    config = FaceConfig(align="eyes", margin=0.0, smoothing_seconds=0)
    (track,) = face_tracks({0: [Face(box=box, score=1, eyes=eyes)]}, np.zeros(1), config)
    assert 100 < track.boxes[0, 2] - track.boxes[0, 0] <= 120


def test_a_turned_square_shows_what_lies_in_it() -> None:
    """Against a picture made of numbers: bilinear sampling at the turned places, by hand."""
    rows, columns = np.mgrid[:120, :160]
    picture = (127 + 100 * np.sin(rows / 15) * np.cos(columns / 17)).astype(np.uint8)
    frame = np.repeat(picture[..., None], 3, axis=2)
    box, angle = np.array([[40.0, 20.0, 104.0, 84.0]]), 0.3
    for size in (96, 24):
        crop = crop_faces([frame], box, size, np.array([angle]))[0, ..., 0]
        at = ((np.arange(size) + 0.5) / size - 0.5) * 64
        u, v = np.meshgrid(at, at)
        x = 72 + np.cos(angle) * u - np.sin(angle) * v - 0.5
        y = 52 + np.sin(angle) * u + np.cos(angle) * v - 0.5
        expected = 127 + 100 * np.sin(y / 15) * np.cos(x / 17)
        assert np.abs(crop - expected).max() < 5


class TwoFaces(Head):
    """Anna from the beginning; Ben from frame 40 to 80, and for a moment at frame 10."""

    def detect(self, frame: np.ndarray) -> list[Face]:
        index = int(frame[0, 0, 0])
        anna = Face(box=np.array([30, 100, 110, 180], np.float32), score=1.0)
        ben = Face(box=np.array([300, 80, 420, 200], np.float32), score=1.0)
        return [anna, ben] if 40 <= index <= 80 or index == 10 else [anna]


@pytest.mark.parametrize("kept_bytes", [0, 2**30])
def test_every_face_is_followed_for_as_long_as_it_is_seen(
    kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hicmae.media.crops._KEPT_BYTES", kept_bytes)
    reader = TwoFaces()
    indices = np.repeat(np.arange(100), 2)
    config = FaceConfig(margin=0.0, smoothing_seconds=0)
    faces = crop_every_face(reader, indices, reader, config, 32)  # type: ignore[arg-type]
    assert [(track.first, len(track.boxes)) for track, _ in faces] == [(0, 200), (20, 2), (80, 82)]
    assert [round(float(track.boxes[0, 0])) for track, _ in faces] == [30, 300, 300]
    assert all(track.coverage == 1 for track, _ in faces)
    for track, crops in reversed(faces):  # in whatever order they are asked for
        assert len(list(crops)) == len(track.boxes)


def test_only_faces_in_the_region_count() -> None:
    reader = TwoFaces()
    config = FaceConfig(margin=0.0, smoothing_seconds=0)
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    places = []
    for region in (left, right):
        track, _ = crop_video(reader, range(100), reader, config, 32, region)  # type: ignore[arg-type]
        places.append(float(track.boxes[50, 0]))
    assert places == [30, 300]
    with pytest.raises(MediaError, match="head found no face"):
        crop_video(reader, range(30, 39), reader, config, 32, right)  # type: ignore[arg-type]
