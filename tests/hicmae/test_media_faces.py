"""Faces have one configuration; detectors are opened by name; a face is followed over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from hicmae.config import from_dict, load_yaml
from hicmae.media import yunet
from hicmae.media.faces import Face, FaceConfig, detector_names, open_detector
from hicmae.media.tracking import (
    FaceTrack,
    centre_track,
    face_track,
    face_tracks,
    link,
    runs_of,
)
from hicmae.media.video import open_video
from hicmae.settings import InputConfig
from shards.settings import BuildConfig

FPS = 25


def box_at(x: float, y: float, side: float) -> Face:
    half = side / 2
    return Face(box=np.array([x - half, y - half, x + half, y + half], np.float32), score=1.0)


def follow(
    detections: Mapping[int, list[Face]],
    count: int,
    times: np.ndarray | None = None,
    **config: object,
) -> FaceTrack:
    settings = FaceConfig(**{"face_margin": 0.0, "face_smoothing_seconds": 0.0, **config})  # type: ignore[arg-type]
    times = np.arange(count) / FPS if times is None else times
    track = face_track(detections, times, (200, 300), settings)
    assert track is not None
    return track


def centres(track: FaceTrack) -> np.ndarray:
    return (track.boxes[:, :2] + track.boxes[:, 2:]) / 2


def test_between_detections_the_box_moves_evenly() -> None:
    detections = {i: [box_at(50 + 2 * i, 80, 40 + i)] for i in range(0, 21, 5)}
    track = follow(detections, 21)
    np.testing.assert_allclose(centres(track)[:, 0], 50 + 2 * np.arange(21), atol=1e-4)
    np.testing.assert_allclose(track.boxes[:, 2] - track.boxes[:, 0], 40 + np.arange(21), atol=1e-4)
    assert track.coverage == 1
    assert np.flatnonzero(track.found_by == "detected").tolist() == [0, 5, 10, 15, 20]
    assert runs_of(track.found_by)[:3] == (("detected", 1), ("interpolated", 4), ("detected", 1))


def test_unequal_times_are_interpolated_by_time() -> None:
    times = np.array([0, 0.1, 0.9, 1.0])
    track = follow({0: [box_at(100, 80, 60)], 3: [box_at(120, 80, 60)]}, 4, times=times)
    np.testing.assert_allclose(centres(track)[:, 0], [100, 102, 118, 120], atol=1e-4)


def test_a_face_that_is_lost_for_a_while_is_bridged_and_counted() -> None:
    detections = {i: [box_at(100, 80, 40)] if i < 20 or i >= 40 else [] for i in range(5, 60, 5)}
    track = follow(detections, 60)
    assert track.coverage == pytest.approx(7 / 11)
    assert runs_of(track.found_by)[0] == ("held", 5)
    assert ("interpolated", 24) in runs_of(track.found_by)
    assert runs_of(track.found_by)[-1] == ("held", 4)
    np.testing.assert_allclose(centres(track), [[100, 80]] * 60, atol=1e-4)


def test_boxes_are_square_with_the_margin_asked_for() -> None:
    face = Face(box=np.array([10, 20, 50, 80], np.float32), score=1.0)
    track = follow({0: [face]}, 1, face_margin=0.5)
    np.testing.assert_allclose(track.boxes, [[30 - 45, 50 - 45, 30 + 45, 50 + 45]])


@pytest.mark.parametrize(("seconds", "share"), [(0.2, 0.4), (0.4, 0.28)])
def test_jitter_is_smoothed_over_the_time_asked_for(seconds: float, share: float) -> None:
    x = 100 + np.random.default_rng(0).normal(0, 3, 500)
    detections = {i: [box_at(x[i], 80, 50)] for i in range(500)}
    rough, smooth = follow(detections, 500), follow(detections, 500, face_smoothing_seconds=seconds)
    np.testing.assert_allclose(centres(rough)[:, 0], x, atol=1e-4)
    # What white noise keeps of its deviation: the root of the energy of 2 g - g * g, by frequency.
    frequency = np.fft.fftfreq(4096, 1 / FPS)
    gain = 1 - (1 - np.exp(-2 * (np.pi * frequency * seconds) ** 2)) ** 2
    expected = np.sqrt(np.mean(gain**2))
    assert expected < share
    assert centres(smooth)[:, 0].std() / 3 == pytest.approx(expected, rel=0.15)


def test_smoothing_neither_lags_behind_nor_flattens_a_movement_of_the_head() -> None:
    times = np.arange(100) / FPS
    steady, swaying = 50 + 1.5 * np.arange(100), 150 + 20 * np.sin(2 * np.pi * 0.5 * times)
    for x, most in ((steady, 1e-3), (swaying, 0.04 * 20)):
        track = follow(
            {i: [box_at(x[i], 80, 50)] for i in range(100)}, 100, face_smoothing_seconds=0.2
        )
        assert np.abs(centres(track)[:, 0] - x).max() <= most
    once = gaussian_filter1d(swaying, 0.2 * FPS, mode="nearest")
    assert np.abs(once - swaying)[20:80].max() > 0.1 * 20  # what a plain Gaussian would do


def two_faces(order: int) -> dict[int, list[Face]]:
    """A small face in the middle and a large one at the side, both moving."""
    return {
        i: [box_at(150 + i / 5, 100, 40), box_at(60 - i / 5, 80, 70)][:: order if i % 2 else 1]
        for i in range(0, 30, 5)
    }


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("policy", "side", "x"), [("largest", 70, 60), ("central", 40, 150)])
def test_of_several_faces_the_policy_names_one_and_stays_with_it(
    policy: str, side: float, x: float, order: int
) -> None:
    track = follow(two_faces(order), 26, face_choice=policy)
    np.testing.assert_allclose(track.boxes[:, 2] - track.boxes[:, 0], side, atol=1e-3)
    assert centres(track)[0, 0] == pytest.approx(x)


def test_a_face_seen_for_a_moment_does_not_win_over_one_that_stays() -> None:
    detections = {i: [box_at(60, 80, 40)] for i in range(0, 50, 5)}
    detections[20].append(box_at(220, 100, 90))
    assert centres(follow(detections, 50))[25, 0] == pytest.approx(60)


def test_another_face_elsewhere_is_not_the_same_one() -> None:
    detections = {i: [box_at(60 if i < 50 else 240, 80, 40)] for i in range(0, 75, 5)}
    track = follow(detections, 75)
    assert track.coverage == pytest.approx(10 / 15)
    np.testing.assert_allclose(centres(track)[:, 0], 60, atol=1e-4)
    assert runs_of(track.found_by)[-1] == ("held", 29)


@pytest.mark.parametrize(
    ("seconds", "between", "least"),  # of overlap: intersection over union
    [(0.2, 0, 0.2), (1.0, 4, 0.2), (1.2, 5, 0.5), (9.0, 0, 0.2)],
)
def test_how_much_two_boxes_overlap_makes_them_one_face(
    seconds: float, between: int, least: float
) -> None:
    """Little shortly before, and where nothing was looked at meanwhile; more after a long gap."""
    times = np.linspace(0, seconds, between + 2)
    for overlap, is_one in ((least + 0.02, True), (least - 0.02, False)):
        moved = 40 * (1 - overlap) / (1 + overlap)
        detections: dict[int, list[Face]] = {i: [] for i in range(1, between + 1)}
        detections |= {0: [box_at(100, 80, 40)], between + 1: [box_at(100 + moved, 80, 40)]}
        assert (len(link(detections, times, 1.0)) == 1) == is_one
        gone = between == 5
        assert (len(link(detections, times, 1.0, rejoin=False)) == 1) == (is_one and not gone)


def test_central_is_near_the_middle_of_the_width_and_of_the_height_for_long() -> None:
    detections = {i: [box_at(200, 100, 40), box_at(100, 150, 40)] for i in range(0, 50, 5)}
    detections[20].append(box_at(150, 100, 40))  # exactly there, for a moment
    assert centres(follow(detections, 50, face_choice="central"))[0].tolist() == [200, 100]
    detections = {i: [box_at(100, 100, 40), box_at(200, 150, 40)] for i in range(0, 50, 5)}
    assert centres(follow(detections, 50, face_choice="central"))[0].tolist() == [100, 100]


def test_faces_that_begin_together_are_numbered_from_left_to_right() -> None:
    lefts = {"b": 90, "a": 240, "": 150, None: 30}
    faces = [dataclasses.replace(box_at(x, 80, 40), track=track) for track, x in lefts.items()]
    chains = link({0: [faces[1]], 1: faces}, np.arange(2) / FPS, 1.0)
    assert [chain.boxes[0, 0] for chain in chains] == [220, 10, 70, 130]
    assert [chain.places for chain in chains] == [[0, 1], [1], [1], [1]]


def test_a_face_without_eyes_among_those_with_some_keeps_its_box_and_is_upright() -> None:
    level, turned = np.array([[90, 74], [110, 74]]), np.array([[140, 80], [150, 90]])
    eyes = {0: level, 1: None, 2: turned}
    faces = {
        at: [dataclasses.replace(box_at(100 + at, 80, 40), eyes=own)] for at, own in eyes.items()
    }
    track = follow(faces, 3, align="eyes")
    assert track.angles is not None
    assert track.angles == pytest.approx([0, 0, np.pi / 4])
    assert track.boxes[1].tolist() == [81, 60, 121, 100]


def test_a_track_says_how_large_its_face_is_where_its_mouth_is_and_shows_some_of_it() -> None:
    landmarks = np.array([[30, 40], [50, 42], [40, 55], [32, 70], [48, 72]], np.float32)
    heights = (40, 44, 90, 40, 44, 90, 44, 44, 44)
    faces = [
        Face(box=np.array([20, 30, 50, 30 + height], np.float32), score=1.0, landmarks=landmarks)
        for height in heights
    ]

    def followed(faces: list[Face]) -> FaceTrack:
        times = np.arange(len(faces)) / FPS
        detections = {number: [face] for number, face in enumerate(faces)}
        (track,) = face_tracks(detections, times, FaceConfig(sync=True, face_margin=0.5))
        return track

    def marks(faces: list[Face]) -> np.ndarray:
        found = followed(faces).marks
        assert found is not None
        return found

    assert followed(faces).face_pixels == 44
    assert [number for number, _ in followed(faces).portraits] == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(marks(faces), [[[40, 41], [40, 71]]] * 9, atol=1e-4)
    shaken = [
        dataclasses.replace(faces[0], landmarks=landmarks + 2 * (-1) ** number)
        for number in range(41)
    ]
    assert np.abs(np.diff(marks(shaken)[10:-10], axis=0)).max() < 0.2
    # Of a detector without landmarks: from the middle of the box, in shares of its longer side.
    plain = [dataclasses.replace(faces[0], landmarks=None)] * 9
    expected = [[[35, 50 - 0.12 * 40], [35, 50 + 0.226 * 40]]] * 9
    np.testing.assert_allclose(marks(plain), expected, atol=1e-4)


def test_without_a_detector_the_middle_square_is_taken_and_without_a_face_nothing() -> None:
    assert face_track({0: [], 5: []}, np.arange(6) / FPS, (200, 300), FaceConfig()) is None
    track = centre_track(3, (200, 300))
    np.testing.assert_allclose(track.boxes, [[50, 0, 250, 200]] * 3)
    assert (track.coverage, runs_of(track.found_by)) == (1.0, (("centre", 3),))
    assert "detected" not in track.found_by
    assert open_detector("none") is None


def test_settings_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"detect_every = 0 .*margin = -1"):
        FaceConfig(detect_every=0, face_margin=-1)
    with pytest.raises(ValueError, match="align = eyes with faces = cascade, which finds no"):
        FaceConfig(faces="cascade", align="eyes")
    with pytest.raises(ValueError, match=r"detector: unknown key 'min_scor'; did you mean 'min_sc"):
        FaceConfig(detector={"min_scor": 0.5})
    with pytest.raises(ValueError, match=r"min_score = 2.* lie within 0..1. .with faces = yunet"):
        FaceConfig(detector={"min_score": 2})
    with pytest.raises(ValueError, match=r"first_side = 32 .must lie within 64..320. .with faces"):
        FaceConfig(detector={"first_side": 32})
    with pytest.raises(ValueError, match=r"smallest_face = 0 .* .with faces = cascade"):
        FaceConfig(faces="cascade", detector={"smallest_face": 0})
    with pytest.raises(ValueError, match="detector is given with faces = none, which detects"):
        FaceConfig(faces="none", detector={"min_score": 0.5})
    for box in ((0, 0, 10, 20), (0, 5, 5, 5), (-1, 0, 9, 10)):
        with pytest.raises(ValueError, match=r"box = .* \(must be a square x0, y0, x1, y1\)"):
            FaceConfig(faces="none", box=box)
    with pytest.raises(ValueError, match="choose among yunet, cascade, boxes, none"):
        open_detector("mtcnn")
    with pytest.raises(ValueError, match=r"'yunnet'; did you mean 'yunet'\? \(one of yunet, cas"):
        FaceConfig(faces="yunnet")
    with pytest.raises(ValueError, match="face detector yunet: unknown key 'score'"):
        open_detector("yunet", {"score": 0.5})
    assert detector_names() == ["yunet", "cascade", "boxes", "none"]


@pytest.mark.parametrize(
    ("first_side", "found_from", "looked"),
    [(None, 0, [320]), (160, 0, [160]), (160, 200, [160, 320]), (160, 999, [160, 320])],
)
def test_a_frame_is_looked_at_again_where_no_face_is_found_in_a_smaller_one(
    first_side: int | None,
    found_from: int,
    looked: list[int],
    yunet_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides = []

    def look(self: object, frame: np.ndarray, longest_side: int) -> list[Face]:
        sides.append(longest_side)
        box = np.array([0, 0, longest_side, longest_side], dtype=np.float32)
        return [Face(box=box, score=1.0)] if longest_side >= found_from else []

    monkeypatch.setattr(yunet.YunetDetector, "_look", look)
    settings = {"file": str(yunet_file)} | ({"first_side": first_side} if first_side else {})
    detector = open_detector("yunet", settings)
    assert detector is not None
    found = detector.detect(np.zeros((90, 160, 3), dtype=np.uint8))
    assert sides == looked
    assert [face.box[2] for face in found] == ([] if found_from == 999 else [looked[-1]])


def test_faces_that_are_small_in_a_large_picture_are_found_at_a_longer_side(
    yunet_file: Path, clips_dir: Path
) -> None:
    with open_video(clips_dir / "talking/01-01-01-01-01-01-01.mp4") as reader:
        frame = next(reader.frames([0]))
    wide = np.full((720, 1280, 3), 110, dtype=np.uint8)
    found = []
    for side in (320, 960):
        detector = open_detector("yunet", {"file": str(yunet_file), "longest_side": side})
        assert detector is not None
        (face,) = detector.detect(frame)
        width = 28 / (face.box[2] - face.box[0])  # of a face of 28 pixels
        small = cv2.resize(frame, None, fx=width, fy=width, interpolation=cv2.INTER_AREA)
        wide[300 : 300 + len(small), 500 : 500 + small.shape[1]] = small
        found.append([face.box[2] - face.box[0] for face in detector.detect(wide)])
    assert found[0] == []
    assert found[1] == [pytest.approx(28, abs=6)]


def test_a_wrong_network_is_refused_by_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "net.onnx"
    wrong.write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"^.*net\.onnx: not YuNet's network.*8f2383e4.*\Z"):
        open_detector("yunet", {"file": str(wrong)})


def test_the_network_is_looked_for_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, named, cached = (tmp_path / name for name in ("given", "named", "cache"))
    cached.mkdir()
    in_cache = cached / yunet.FILE_NAME
    for path in (given, named, in_cache):
        path.write_bytes(b"x")
    monkeypatch.setattr(yunet.platformdirs, "user_cache_dir", lambda name: str(cached))
    # As if installed: nothing lies beside the package.
    monkeypatch.setattr(yunet, "__file__", str(tmp_path / "a/b/c/yunet.py"))
    monkeypatch.setenv("HICMAE_YUNET", str(named))
    assert yunet.find_yunet(given) == given
    assert yunet.find_yunet() == named
    monkeypatch.delenv("HICMAE_YUNET")
    assert yunet.find_yunet() == in_cache
    in_cache.unlink()
    with pytest.raises(FileNotFoundError, match=r"HICMAE_YUNET, or use --faces cascade") as caught:
        yunet.find_yunet()
    assert "\n" not in str(caught.value)
    # What was named is never replaced by another file.
    monkeypatch.setenv("HICMAE_YUNET", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        yunet.find_yunet()


@pytest.mark.parametrize("detector", ["yunet", "cascade"])
def test_pictures_without_faces_have_none(detector: str, yunet_file: Path) -> None:
    finder = open_detector(detector, {"file": str(yunet_file)} if detector == "yunet" else {})
    assert finder is not None
    assert finder.name == detector
    for shape in ((1, 1), (3, 500), (500, 3), (30, 300), (120, 160), (720, 1280)) * 4:
        assert finder.detect(np.full((*shape, 3), 128, dtype=np.uint8)) == []


def test_what_is_not_said_is_what_results_were_made_with() -> None:
    """Another default changes every number of those who name no setting: raise it knowingly."""
    config = FaceConfig()
    assert (config.face_size, config.fps, config.jpeg_quality, config.chroma) == (
        160,
        25,
        90,
        "420",
    )
    assert (config.faces, config.face_choice, config.align) == ("yunet", "largest", "none")
    assert (config.face_margin, config.face_smoothing_seconds) == (0.3, 0.2)
    assert (config.face_gap_seconds, config.detect_every) == (1.0, 5)
    assert (config.min_coverage, config.silence_db) == (0.1, -70)


def test_a_build_and_every_profile_give_one(repository: Path) -> None:
    for field in dataclasses.fields(FaceConfig):
        default = getattr(FaceConfig(), field.name)
        assert getattr(BuildConfig(), field.name) == default, field.name
    profiles = sorted((repository / "configs" / "shards").glob("*.yaml"))
    read = 0
    for path in profiles:
        values = load_yaml(path)
        names = {field.name for field in dataclasses.fields(BuildConfig)}
        if not set(values) <= names:
            continue  # a corpus to render, not a build
        build = from_dict(BuildConfig, values, where=path.name)
        preparation = FaceConfig.of_build(build.recorded(), where=path.name)
        assert preparation.face_size == build.face_size
        assert preparation.box == build.box
        read += 1
    assert read >= 4

    with pytest.raises(ValueError, match=r"config.json: data.build: face_size = 'big'"):
        FaceConfig.of_build({"face_size": "big"}, where="config.json: data.build")
    default = FaceConfig.default(InputConfig(image_size=96, fps=30.0))
    assert (default.face_size, default.fps, default.faces) == (96, 30.0, "yunet")
