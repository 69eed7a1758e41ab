"""Stacks of faces in .npy files: what they must be, and that they become samples and windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hicmae.media.errors import MediaError
from hicmae.media.face_stack import StackReader
from hicmae.media.faces import FaceConfig
from hicmae.prediction.command import gather
from hicmae.prediction.messages import WindowConfig
from shards.building.build import build_shards
from shards.index import read_index
from shards.settings import BuildConfig
from tests.hicmae.test_prediction_windows import cut
from tests.shards.test_inputs import read_samples

SKIN = (210, 150, 120)  # red, green, blue


def write_stack(path: Path, num_pictures: int = 50, seconds: float = 2.0) -> Path:
    """Faces as MERTools keeps them, blue first, each brighter than the one before; and a sound."""
    path.parent.mkdir(exist_ok=True)
    rising = np.arange(num_pictures)[:, None, None, None] // 2
    np.save(
        path, np.full((num_pictures, 48, 40, 3), SKIN[::-1], np.uint8) + rising.astype(np.uint8)
    )
    tone = 0.3 * np.sin(np.arange(round(seconds * 16000)) / 5)
    soundfile.write(path.with_suffix(".wav"), tone, 16000)
    return path


def config(**changes: object) -> BuildConfig:
    settings = {"faces": "none", "face_size": 32, "workers": 1, "image_fps": 25.0}
    return BuildConfig(**{"stack_colours": "bgr", **settings, **changes})  # type: ignore[arg-type]


def test_a_stack_with_its_sound_becomes_a_sample_and_windows(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "faces" / "a.npy")
    np.save(tmp_path / "faces" / "features.npy", np.zeros((50, 768), np.float32))
    result = build_shards([tmp_path / "faces"], tmp_path / "shards", config())
    # Features are no recording; the sound is the stack's.
    assert [ignored.name for ignored in result.ignored] == ["features.npy"]
    assert read_index(tmp_path / "shards").table["sound_state"].to_list() == ["present"]
    ((images, _),) = read_samples(tmp_path / "shards").values()
    first, last = (images[number].mean(axis=(0, 1))[::-1] for number in (0, -1))  # of OpenCV
    assert first == pytest.approx(SKIN, abs=3)
    assert last == pytest.approx(np.array(SKIN) + 24, abs=3)
    found = [source.path.name for source in gather([tmp_path / "faces"], tmp_path / "out")]
    assert found == ["a.npy", "a.wav"]  # as of folders of images
    asked = WindowConfig(image_fps=25, stack_colours="bgr")
    found, windows, _ = cut(path, asked, FaceConfig(faces="none", face_size=32))
    assert (found.has_sound, found.seconds, windows[-1].end_seconds) == (True, 2.0, 2.0)
    assert windows[0].clips[0].frames[0].mean(axis=(0, 1)) == pytest.approx(SKIN, abs=3)


def test_what_is_no_stack_of_faces_is_said_in_one_line(tmp_path: Path) -> None:
    path, pictures = tmp_path / "a.npy", np.full((20, 8, 8, 3), SKIN[::-1], np.uint8)
    ragged = np.empty(2, dtype=object)
    ragged[:] = [pictures[0], None]  # OpenCV read nothing of the second
    for array, told in (
        (pictures[..., 0], r"shape \(20, 8, 8\), not \(pictures, rows, columns, 3 colours\)"),
        (np.moveaxis(pictures, 3, 1), r"shape \(20, 3, 8, 8\)"),
        (pictures[:0], r"shape \(0, 8, 8, 3\)"),
        (pictures / 255, "holds float64 numbers"),
        (ragged, "objects: its pictures differ in size"),
    ):
        np.save(path, array)
        with pytest.raises(MediaError, match=told) as caught:
            StackReader(path, 25, "bgr")
        assert caught.value.cause == "unreadable"
    path.write_bytes(b"no array")
    with pytest.raises(MediaError, match="no stack of pictures"):
        StackReader(path, 25, "bgr")
    np.save(path, pictures)
    with pytest.raises(MediaError, match="a stack has no times; give its frame rate: --image_fps"):
        StackReader(path, None, "bgr")
    with pytest.raises(MediaError, match=r"--stack_colours bgr .* of skin it is bgr"):
        StackReader(path, 25, None)
    np.save(path, pictures[..., ::-1])
    with pytest.raises(MediaError, match="by the redness of skin it is rgb"):
        StackReader(path, 25, None)
    with pytest.raises(ValueError, match=r"stack_colours = 'gbr' \(bgr or rgb\)"):
        config(stack_colours="gbr")


def test_a_rate_that_does_not_fit_the_sound_is_refused_with_the_one_that_does(
    tmp_path: Path,
) -> None:
    sources = [write_stack(tmp_path / "a.npy"), write_stack(tmp_path / "b.npy", 75)]
    result = build_shards(sources, tmp_path / "shards", config())
    (refusal,) = result.refusals
    assert (refusal.cause, refusal.path) == ("no-rate", str(tmp_path / "b.npy"))
    assert "75 pictures at 25 a second last 3.00 s, their sound 2.00 s" in refusal.message
    assert "--image_fps 37.5 fits" in refusal.message
