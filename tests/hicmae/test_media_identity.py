"""The same person after a cut: faces of different scenes joined by what they look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hicmae.files import file_sha256
from hicmae.media.faces import EMBEDDERS, Face, FaceConfig
from hicmae.media.identity import FILE_NAME, SFace, SFaceSettings, get_sface, same_people
from hicmae.prediction.messages import WindowConfig
from hicmae.registry import NoSettings
from shards.building.prepare import make_samples
from shards.manifest import ManifestRow
from shards.settings import BuildConfig
from tests.hicmae.test_prediction_windows import BOXES, cut
from tests.support.media_files import write_recording

RED, BLUE = (220, 40, 40), (40, 40, 220)
# Of each scene: whose face, its left edge, and how long it lasts, frames.
SCENES = ((RED, 20, 40), (BLUE, 60, 40), (RED, 90, 50))


class ByColour:
    """Takes the colour of a face for its identity."""

    name, same = "by_colour", 0.9

    def __init__(self, settings: NoSettings, *, offline: bool = False) -> None:
        pass

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        x0, y0, x1, y1 = face.box.astype(int)
        colour = frame[y0:y1, x0:x1].mean(axis=(0, 1))
        return np.asarray(colour / np.linalg.norm(colour))


@pytest.fixture
def by_colour() -> Iterator[str]:
    EMBEDDERS.register("by_colour")(ByColour)
    yield "by_colour"
    EMBEDDERS.unregister("by_colour")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Three scenes, the first and the last of one person; the boxes know scenes, not people."""
    frames, rows = [], ["frame,track,x0,y0,x1,y1"]
    for scene, (colour, left, count) in enumerate(SCENES):
        for _ in range(count):
            frame = np.zeros((96, 160, 3), np.uint8)
            frame[20:60, left : left + 40] = colour
            rows.append(f"{len(frames)},{scene},{left},20,{left + 40},60")
            frames.append(frame)
    sound = 0.3 * np.sin(np.arange(len(frames) * 640) / 7)
    path = write_recording(
        tmp_path / "film.mp4", np.stack(frames), np.arange(len(frames)) / 25, sound=sound,
        sound_rate=16000,
    )  # fmt: skip
    path.with_suffix(".csv").write_text("\n".join(rows))
    return path


def config(**changes: object) -> BuildConfig:
    settings = {"faces": "boxes", "face_size": 32, "face_margin": 0.0, "face_choice": "all"}
    return BuildConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_scenes_of_one_person_are_segments_of_one_face(
    film: Path, by_colour: str, tmp_path: Path
) -> None:
    row = ManifestRow(key="film", path=film, name="film.mp4")
    apart = make_samples(row, config(), tmp_path / "apart")
    together = make_samples(row, config(identity=by_colour), tmp_path / "together")
    assert [sample.info.key for sample in apart.samples] == [f"film_face{n}" for n in (0, 1, 2)]
    spans = {
        sample.info.key: (sample.info.start_seconds, sample.info.end_seconds)
        for sample in together.samples
    }
    assert spans == {
        "film_face0-000": (0.0, 1.6),
        "film_face0-001": (3.2, 5.2),
        "film_face1": (1.6, 3.2),
    }
    by_key = {sample.info.key: sample.mjpg.read_bytes() for sample in together.samples}
    before = [sample.mjpg.read_bytes() for sample in apart.samples]
    assert list(by_key.values()) == [before[0], before[2], before[1]]
    assert not together.refusals


def test_one_person_has_one_timeline_with_no_window_in_other_scenes(
    film: Path, by_colour: str
) -> None:
    found, windows, _ = cut(film, WindowConfig(identity=by_colour, hop=0.4))
    assert [track.name for track in found.tracks] == ["face0", "face1"]
    red = found.tracks[0]
    assert [(red.start_seconds, red.end_seconds)] == [(0.0, 5.2)]
    absent = red.found_by == "absent"
    assert (absent[:40].any(), absent[40:80].all(), absent[80:].any()) == (False, True, False)
    spans = [(w.start_seconds, w.end_seconds) for w in windows if w.track == "face0"]
    assert len(spans) == red.num_windows
    assert all(end <= 1.6 + 1e-6 or begin >= 3.2 - 1e-6 for begin, end in spans)
    assert {begin for begin, _ in spans} >= {0.0, 3.2}
    for window in windows:
        colour = window.clips[0].frames.mean(axis=(0, 1, 2))  # type: ignore[union-attr]
        assert (colour[0] > colour[2]) == (window.track == "face0")
    alone, _, _ = cut(film, WindowConfig())
    assert len(alone.tracks) == 3


def test_faces_seen_together_are_never_one_person() -> None:
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    near = np.array([0.8, 0.6])
    assert same_people([(0, 10), (5, 15), (20, 30)], [one, one, one], 0.5) == [0, 1, 0]
    assert same_people([(0, 10), (10, 20), (20, 30)], [one, other, near], 0.5) == [0, 1, 0]
    assert same_people([(0, 10), (10, 20), (20, 30)], [one, other, near], 0.9) == [0, 1, 2]


def write_stand_in(path: Path) -> str:
    """A network with SFace's input and output: 128 numbers from 7 x 7 places of its picture."""
    onnx = pytest.importorskip("onnx")
    helper, tensors = onnx.helper, onnx.numpy_helper
    weights = np.random.default_rng(0).normal(size=(3 * 49, 128)).astype(np.float32)
    kind = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node(
            "AveragePool", ["data"], ["places"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Flatten", ["places"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["fc1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("data", kind, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", kind, [1, 128])],
        [tensors.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(model, path)
    return file_sha256(path)


# Eyes, nose and corners of the mouth as YuNet gives them, left in the picture first.
LANDMARKS = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [70, 92]], dtype=np.float64)


def seen(turn: float, scale: float, *, swap: bool = False) -> tuple[np.ndarray, Face]:
    """A face of patches, turned (degrees) and scaled; ``swap``: with red for blue."""
    patches = np.random.default_rng(1).integers(0, 255, (7, 7, 3), dtype=np.uint8)
    picture = cv2.resize(patches, (112, 112), interpolation=cv2.INTER_CUBIC)
    move = cv2.getRotationMatrix2D((56, 56), turn, scale)
    move[:, 2] += (100, 80)
    frame = cv2.warpAffine(picture[:, :, ::-1] if swap else picture, move, (320, 320))
    points = LANDMARKS @ move[:, :2].T + move[:, 2]
    box = np.concatenate([points.min(0) - 20, points.max(0) + 20])
    return frame, Face(box=box, score=0.9, landmarks=points)


@pytest.mark.slow
def test_opencv_turns_a_face_upright_by_its_landmarks_before_it_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of ``SFace`` but the weights of the real network."""
    file = tmp_path / FILE_NAME
    monkeypatch.setattr("hicmae.media.identity.SHA256", write_stand_in(file))
    network = SFace(SFaceSettings(file=file))
    plain = network.embed(*seen(0, 1.0))
    assert plain.shape == (128,)
    assert abs(np.linalg.norm(plain) - 1) < 1e-9
    for turn, scale in ((25, 1.0), (-40, 1.5), (90, 0.8)):
        assert plain @ network.embed(*seen(turn, scale)) > 0.99, (turn, scale)
    assert plain @ network.embed(*seen(0, 1.0, swap=True)) < 0.98
    frame, face = seen(0, 1.0)
    assert face.landmarks is not None
    mirrored = replace(face, landmarks=face.landmarks[[1, 0, 2, 4, 3]])
    assert plain @ network.embed(frame, mirrored) < 0.98


def test_a_network_that_is_missing_or_another_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HICMAE_SFACE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{FILE_NAME}: SFace's network is not there; let"):
        get_sface(offline=True)
    (tmp_path / "other.onnx").write_bytes(b"another")
    monkeypatch.setenv("HICMAE_SFACE", str(tmp_path / "other.onnx"))
    with pytest.raises(ValueError, match=r"other.onnx: not SFace's network: sha256"):
        get_sface()
    for changes, told in (
        ({"identity": "sfac"}, r"identity = 'sfac' \(one of none, sface"),
        ({"identity": "sface", "faces": "yunet"}, "identity with face_choice = largest"),
        ({"identity": "sface", "face_choice": "all", "faces": "cascade"}, "it needs yunet"),
    ):
        with pytest.raises(ValueError, match=told):
            FaceConfig(**changes)  # type: ignore[arg-type]
    assert BOXES.identity == "none"
