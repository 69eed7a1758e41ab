"""Faces of a recording are followed, cut out exactly and without trembling, scene by scene."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from scipy.ndimage import map_coordinates

from hicmae.media import recording
from hicmae.media.crops import FaceCutter, crop_face, decode_jpeg, encode_jpeg
from hicmae.media.errors import MediaError
from hicmae.media.faces import Face, FaceConfig
from hicmae.media.tracking import (
    EYE_DISTANCE,
    EYE_RISE,
    FaceTrack,
    SceneCuts,
    face_tracks,
    is_cut,
    runs_of,
    thumbnail,
)
from hicmae.media.video import open_video
from tests.support.media_files import cut_faces, cut_square, frames_of, write_recording

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
    crop = cut_square(picture, box, size)
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
    crop = cut_square(picture, (40, 20, 168, 148), 32)
    part = picture[20:148, 40:168].astype(float)
    expected = part.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop, expected, atol=0.51)


def test_sharpness_is_that_of_the_usual_crop_however_often_frames_repeat() -> None:
    """The median over the frames that there are: neither the largest nor one that is repeated."""
    picture = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    sides = np.array([64, 128, 128, 128, 384])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1).astype(np.float32)
    for repeats in ([1, 1, 1, 1, 1], [9, 1, 1, 1, 1]):
        indices = np.repeat(np.arange(5), repeats)
        found_by = np.full(len(indices), "detected")
        track = FaceTrack(boxes=boxes[indices], found_by=found_by, coverage=1.0)
        cutter = FaceCutter(track, indices, FaceConfig(face_size=32))
        expected = picture[:128, :128].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(cutter.cut(picture, len(indices) - 2), expected, atol=0.51)
        wide = crop_face(picture, boxes[4], 0.0, 32, 4.0)
        np.testing.assert_array_equal(cutter.cut(picture, len(indices) - 1), wide)


def test_images_have_the_chroma_and_the_quality_asked_for() -> None:
    picture = smooth_picture()
    for chroma in ("420", "444"):
        jpegs = [encode_jpeg(picture, quality=quality, chroma=chroma) for quality in (50, 90, 98)]
        assert [simplejpeg.decode_jpeg_header(jpeg)[3] for jpeg in jpegs] == [chroma] * 3
        assert np.all(np.diff([len(jpeg) for jpeg in jpegs]) > 0)
        assert np.abs(decode_jpeg(jpegs[-1]).astype(int) - picture).mean() < 3


@pytest.mark.parametrize("size", [16, 200])
@pytest.mark.parametrize("shift", [(-60, 0), (60, 0), (0, -60), (0, 60), (-500, -500), (500, 500)])
def test_outside_the_frame_its_border_goes_on(size: int, shift: tuple[int, int]) -> None:
    picture = np.full((64, 64, 3), 100, dtype=np.uint8)
    picture[:, 0] = picture[:, -1] = 100
    box = (*shift, shift[0] + 64, shift[1] + 64)
    assert np.all(cut_square(picture, box, size) == 100)


@pytest.mark.parametrize("kept_bytes", [0, 2**30])
def test_a_moving_face_stays_in_the_middle_of_its_crops(
    moving: Path, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_KEPT_BYTES", kept_bytes)
    finder = BrightSquare()
    config = FaceConfig(face_margin=1.0, face_smoothing_seconds=0, detect_every=5)
    reader = open_video(moving)
    indices = np.repeat(np.arange(COUNT), 2)
    ((track, faces),) = cut_faces(reader, indices, finder, config, 48)
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
        cut_faces(open_video(path), range(5), BrightSquare(), FaceConfig(), 32)
    assert caught.value.cause == "no-face"


def test_without_a_detector_the_middle_is_cut(moving: Path) -> None:
    reader = open_video(moving)
    ((track, faces),) = cut_faces(reader, [0, 1, 1, 7], None, FaceConfig(faces="none"), 96)
    stacked = np.stack(list(faces))
    np.testing.assert_array_equal(stacked, frames_of(reader, [0, 1, 1, 7])[:, :, 32:128])
    assert runs_of(track.found_by) == (("centre", 4),)


FPS, SIZE = 25, 160


class Head:
    """A head that sways, nods its head to the side and comes nearer: two bright eyes on grey.

    As a reader it gives the frames; as a detector it finds the head, some pixels off at random.
    """

    name = "head"
    path = Path("head.mp4")
    origin_seconds = start_seconds = 0.0
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
    settings = FaceConfig(align="eyes", **{"face_margin": 0.3, **config})  # type: ignore[arg-type]
    ((_, crops),) = cut_faces(head, range(len(head)), head, settings, SIZE)  # type: ignore[arg-type]
    return np.stack([eyes_in(crop) for crop in crops])


def test_eyes_are_level_in_their_place_and_at_their_distance() -> None:
    eyes = aligned(Head(40), detect_every=1, face_smoothing_seconds=0.0)
    distance, rise = EYE_DISTANCE / 1.3 * SIZE, EYE_RISE / 1.3 * SIZE
    expected = [[80 - distance / 2, 80 - rise], [80 + distance / 2, 80 - rise]]
    np.testing.assert_allclose(eyes, np.broadcast_to(expected, eyes.shape), atol=0.25)


@pytest.mark.parametrize("detect_every", [1, 5])
def test_crops_do_not_tremble_though_the_detector_does(detect_every: int) -> None:
    head = Head(jitter=2.0)
    rough, smooth = (
        aligned(head, detect_every=detect_every, face_smoothing_seconds=seconds)
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
    config = FaceConfig(align="eyes", face_margin=0.0, face_smoothing_seconds=0)
    (track,) = face_tracks({0: [Face(box=box, score=1, eyes=eyes)]}, np.zeros(1), config)
    assert 100 < track.boxes[0, 2] - track.boxes[0, 0] <= 120


def test_a_turned_square_shows_what_lies_in_it() -> None:
    """Against a picture made of numbers: bilinear sampling at the turned places, by hand."""
    rows, columns = np.mgrid[:120, :160]
    picture = (127 + 100 * np.sin(rows / 15) * np.cos(columns / 17)).astype(np.uint8)
    frame = np.repeat(picture[..., None], 3, axis=2)
    box, angle = (40.0, 20.0, 104.0, 84.0), 0.3
    for size in (96, 24):
        crop = cut_square(frame, box, size, angle)[..., 0]
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
    monkeypatch.setattr("hicmae.media.recording._KEPT_BYTES", kept_bytes)
    reader = TwoFaces()
    indices = np.repeat(np.arange(100), 2)
    config = FaceConfig(face_choice="all", face_margin=0.0, face_smoothing_seconds=0)
    faces = cut_faces(reader, indices, reader, config, 32)  # type: ignore[arg-type]
    assert [(track.first, len(track.boxes)) for track, _ in faces] == [(0, 200), (20, 2), (80, 82)]
    assert [round(float(track.boxes[0, 0])) for track, _ in faces] == [30, 300, 300]
    assert all(track.coverage == 1 for track, _ in faces)
    for track, crops in reversed(faces):  # in whatever order they are asked for
        assert len(list(crops)) == len(track.boxes)


def test_only_faces_in_the_region_count() -> None:
    reader = TwoFaces()
    config = FaceConfig(face_margin=0.0, face_smoothing_seconds=0)
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    places = []
    for region in (left, right):
        ((track, _),) = cut_faces(reader, range(100), reader, config, 32, region)  # type: ignore[arg-type]
        places.append(float(track.boxes[50, 0]))
    assert places == [30, 300]
    with pytest.raises(MediaError, match="head found no face"):
        cut_faces(reader, range(30, 39), reader, config, 32, right)  # type: ignore[arg-type]


CUT, NUM_FRAMES = 23, 50


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
    frames = np.stack([room(0.0 if number < CUT else 2.0) for number in range(NUM_FRAMES)])
    path = tmp_path_factory.mktemp("scenes") / "interview.mkv"
    return write_recording(path, frames, np.arange(NUM_FRAMES) / 25, codec="ffv1")


@pytest.mark.parametrize("kept_bytes", [2**30, 0])
def test_every_face_ends_with_its_scene(
    interview: Path, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_KEPT_BYTES", kept_bytes)
    config = FaceConfig(face_choice="all", detect_every=5)
    with open_video(interview) as video:
        faces = cut_faces(video, np.arange(NUM_FRAMES), SameFace(), config, 32)
        spans = [(track.first, track.first + len(track.boxes)) for track, _ in faces]
        assert [len(list(images)) for _, images in faces] == [end - begin for begin, end in spans]
    # The faces of frames 20 and 25 are the last and the first that the detector saw.
    assert spans == [(0, 21), (25, NUM_FRAMES)]


def test_one_face_is_held_in_its_place_over_a_cut(interview: Path) -> None:
    config = FaceConfig(detect_every=5)
    with open_video(interview) as video:
        ((track, _),) = cut_faces(video, np.arange(NUM_FRAMES), SameFace(), config, 32)
    assert len(track.boxes) == NUM_FRAMES
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


def head(seed: float) -> np.ndarray:
    """A face of broad spots (40, 40, 3) uint8, another one for each seed; 1.5: half 1, half 2."""
    both = (np.random.default_rng(int(seed + half)) for half in (0, 0.5))
    spots = np.mean([one.uniform(0, 255, (5, 5, 1)) for one in both], axis=0).repeat(3, axis=2)
    return cv2.resize(spots, (40, 40), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def film(*scenes: tuple[float, ...], light: int = 0, turn: int = 0) -> set[int]:
    """Where scenes of ten frames begin in one room, of heads side by side.

    Args:
        scenes: The seeds of their heads.
        light: That comes on with each scene.
        turn: By which heads turn with each frame, pixels.
    """
    cuts, rng = SceneCuts(), np.random.default_rng(0)
    for place, seeds in enumerate(scene for scene in scenes for _ in range(10)):
        frame, faces = room(0.0) + rng.normal(0, 2, room(0.0).shape) + light * (place // 10), []
        for number, seed in enumerate(seeds):
            left = 20 + 60 * number
            frame[20:60, left : left + 40] = np.roll(head(seed), turn * place, axis=1)
            faces.append(Face(box=np.array([left, 20, left + 40, 60]), score=1.0))
        cuts.see(place, frame.clip(0, 255).astype(np.uint8), faces)
    return cuts.places


def test_a_cut_has_little_in_common_with_the_picture_before_and_differs_by_much() -> None:
    rng = np.random.default_rng(0)
    # Two patterns of length 1 about 0 that have nothing in common.
    _, first, other = np.linalg.qr(np.column_stack([np.ones(1024), rng.normal(size=(1024, 2))]))[
        0
    ].T

    def grey(pattern: np.ndarray) -> np.ndarray:
        return np.repeat((128 + pattern).reshape(32, 32, 1), 3, axis=2).astype(np.float32)

    for common, cut in ((0.45, False), (0.35, True)):
        after = common * first + np.sqrt(1 - common**2) * other
        assert is_cut(grey(1500 * first), grey(1500 * after)) == cut
    turned = np.abs(2 * first).mean()
    for change, cut in ((14.5, False), (15.5, True)):
        assert is_cut(grey(first * change / turned), grey(-first * change / turned)) == cut
    assert is_cut(np.zeros((32, 32, 3), np.float32), np.full((32, 32, 3), 200, np.float32))


def test_another_face_in_the_place_of_one_is_a_cut_in_the_same_room() -> None:
    assert film((1,), (2,), (3,)) == {10, 20}
    assert film((1,), (1,), (1,), light=40) == set(), "a lamp is no cut"
    assert film((1,), turn=2) == set(), "nor a head that turns"
    assert film((1, 2), (1, 3)) == set(), "nor one of two people who is another"
    assert film((1, 2), (3, 4)) == {10}
    assert film((1,), ()) == set()
    assert film((1,), (1.5,)) == set(), "nor one that is somewhat like the one before"
    assert film((1,), (1.5,), light=12) == {10}, "but where the room has changed as well"


@pytest.mark.parametrize("shape", [(40, 50, 3), (1080, 1920, 3)])
def test_a_thumbnail_is_the_picture_in_small(shape: tuple[int, int, int]) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    ramp = (200 * columns / shape[1] + 50 * rows / shape[0])[..., None].repeat(3, axis=2)
    small = thumbnail(ramp.astype(np.uint8))
    assert small.shape == (32, 32, 3)
    places = (np.arange(32) + 0.5) / 32
    expected = 200 * places[None] + 50 * places[:, None]
    assert np.abs(small[..., 0] - expected).max() < 6
