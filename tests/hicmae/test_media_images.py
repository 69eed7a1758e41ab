"""Numbered images are frames of a recording, their numbers its times; so are stacks in .npy."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.images import (
    StackReader,
    is_sequence,
    is_stack,
    list_images,
    natural_order,
    open_images,
    read_image,
    sound_beside,
)
from hicmae.prediction.command import gather
from hicmae.prediction.messages import WindowConfig
from shards.building.build import build_shards
from shards.index import read_index
from shards.settings import BuildConfig
from tests.hicmae.test_prediction_windows import cut
from tests.shards.test_inputs import read_samples

SKIN = (210, 150, 120)  # red, green, blue


def write_images(folder: Path, names: list[str], level: int | None = None) -> Path:
    """Grey images of 20 x 30 pixels; image k has level 10 k unless one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        value = 10 * number if level is None else level
        cv2.imwrite(str(folder / name), np.full((20, 30, 3), value, dtype=np.uint8))
    return folder


def frames_of(folder: Path) -> list[tuple[int, ...]]:
    return [sequence.frames for sequence in list_images(folder)]


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        (["1.jpg", "2.jpg", "10.jpg"], (0, 1, 9)),
        (["0.png", "1.png", "3.png"], (0, 1, 3)),
        (["frame_det_00_000003.bmp", "frame_det_00_000004.bmp"], (2, 3)),
        # OpenFace counts from the film's beginning however late the face comes.
        (["frame_det_00_000200.bmp", "frame_det_00_000201.bmp"], (199, 200)),
        # Anything else that begins so late is an excerpt.
        (["clip_4321.jpg", "clip_4322.jpg", "clip_4325.jpg"], (0, 1, 4)),
        (["00025_3_a.jpg", "00025_4_a.jpg"], (2, 3)),
        (["left.jpg", "right.jpg"], (0, 1)),
    ],
)
def test_the_last_number_of_a_name_is_its_frame(
    tmp_path: Path, names: list[str], frames: tuple[int, ...]
) -> None:
    assert frames_of(write_images(tmp_path, names)) == [frames]


def test_several_faces_of_one_folder_are_several_sequences(tmp_path: Path) -> None:
    names = [f"frame_det_{face:02d}_{number:06d}.bmp" for face in (0, 1) for number in (1, 2, 3)]
    write_images(tmp_path, names[:-1])
    assert frames_of(tmp_path) == [(0, 1, 2), (0, 1)]
    assert [len(reader) for reader in open_images(tmp_path, 25)] == [3, 2]


def test_names_in_natural_order() -> None:
    assert sorted(["f10", "f9", "e", "2"], key=natural_order) == ["2", "e", "f9", "f10"]


def test_what_cannot_be_a_sequence_is_said(tmp_path: Path) -> None:
    twice = write_images(tmp_path / "twice", ["1.jpg", "01.jpg"])
    with pytest.raises(MediaError, match=r"01\.jpg and 1\.jpg are both frame 1"):
        list_images(twice)
    clock = write_images(tmp_path / "clock", ["101530.jpg", "114520.jpg", "235959.jpg"])
    with pytest.raises(MediaError, match=r"do not count frames \(3 images, 101530\.\.235959\)"):
        list_images(clock)
    # Of two images 2 x 50 + 1000 numbers may lie between them.
    (far,) = list_images(write_images(tmp_path / "far", ["1.jpg", "1101.jpg"]))
    assert far.frames == (0, 1100)
    with pytest.raises(MediaError, match=r"do not count frames \(2 images, 1\.\.1102\)"):
        list_images(write_images(tmp_path / "further", ["1.jpg", "1102.jpg"]))
    with pytest.raises(MediaError, match="a folder without images"):
        open_images(tmp_path, 25)
    assert not is_sequence(write_images(tmp_path / "album", ["anna.jpg", "ben.jpg"]))
    assert is_sequence(write_images(tmp_path / "frames", ["f1.jpg", "f2.jpg"]))


def test_gaps_in_the_numbers_are_time(tmp_path: Path) -> None:
    write_images(tmp_path, ["3.png", "4.png", "8.png"])
    (reader,) = open_images(tmp_path, 25)
    np.testing.assert_allclose(reader.timestamps, [2 / 25, 3 / 25, 7 / 25])
    assert reader.start_seconds == 0
    assert reader.duration_seconds == pytest.approx(8 / 25)
    assert (reader.height, reader.width, len(reader)) == (20, 30, 3)
    levels = [int(frame[0, 0, 0]) for frame in reader.frames([0, 1, 1, 2])]
    assert levels == [0, 10, 10, 20]


def test_a_rate_must_be_known_and_openface_says_it(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "anna_aligned", ["frame_det_00_000001.bmp"] * 1)
    write_images(folder, ["frame_det_00_000002.bmp"])
    with pytest.raises(MediaError, match="give their frame rate") as error:
        open_images(folder)
    assert error.value.cause == "no-rate"
    rows = [f"{frame}, 0, {(frame - 1) / 29.97:.3f}, 0.98, 1" for frame in range(1, 61)]
    header = "frame, face_id, timestamp, confidence, success"
    (tmp_path / "anna.csv").write_text("\n".join([header, *rows]))
    assert open_images(folder)[0].fps == pytest.approx(29.97, rel=1e-3)


def test_images_of_other_sizes_are_brought_to_the_first_ones(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"], level=77)
    cv2.imwrite(str(tmp_path / "2.png"), np.full((41, 61, 3), 90, dtype=np.uint8))
    frames = list(open_images(tmp_path, 25)[0].frames([0, 1]))
    assert frames[1].shape == (20, 30, 3)
    assert np.all(frames[1] == 90)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_image_is_named(
    tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"0007.{suffix}"
    cv2.imwrite(str(path), pixels)
    assert read_image(path).shape == (64, 64, 3)
    if suffix != "jpg":
        np.testing.assert_array_equal(read_image(path), pixels[..., ::-1])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=rf"0007\.{suffix}: this image (is|breaks)") as error:
        read_image(path)
    assert error.value.cause == "damaged"
    assert not capfd.readouterr().err
    path.unlink()
    with pytest.raises(MediaError, match="this image cannot be read"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_whose_middle_is_overwritten_is_damaged_and_an_untidy_one_is_not(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"0007.{suffix}"
    cv2.imwrite(str(path), pixels)
    data, expected = path.read_bytes(), read_image(path)
    half = len(data) // 2
    path.write_bytes(data[:half] + b"\xff\xd7" * 30 + data[half + 60 :])
    with pytest.raises(MediaError, match=rf"0007\.{suffix}: this image is") as error:
        read_image(path)
    assert error.value.cause == "damaged"
    assert not capfd.readouterr().err
    if suffix == "jpg":  # as webcams write: bytes that belong nowhere, before a marker
        path.write_bytes(data.replace(b"\xff\xda", b"abc\xff\xda", 1))
        np.testing.assert_array_equal(read_image(path), expected)


def test_the_sound_of_a_folder_lies_beside_it_or_in_it(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "00025", ["1.jpg", "2.jpg"])
    assert sound_beside(folder) is None
    (folder / "._voice.wav").touch()  # of a Mac, on disks that are not its own
    assert sound_beside(folder) is None
    inside = folder / "voice.wav"
    inside.touch()
    assert sound_beside(folder) == inside
    beside = tmp_path / "00025.m4a"
    beside.touch()
    assert sound_beside(folder) == beside
    aligned = write_images(tmp_path / "00025_aligned", ["1.jpg", "2.jpg"])
    assert sound_beside(aligned) == beside
    loud = tmp_path / "loud"
    loud.mkdir()
    (beside := tmp_path / "loud.WAV").touch()
    assert sound_beside(loud) == beside


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


def stack_config(**changes: object) -> BuildConfig:
    settings = {"faces": "none", "face_size": 32, "workers": 1, "image_fps": 25.0}
    return BuildConfig(**{"stack_colours": "bgr", **settings, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_stack_with_its_sound_becomes_a_sample_and_windows(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "faces" / "a.npy")
    np.save(tmp_path / "faces" / "features.npy", np.zeros((50, 768), np.float32))
    result = build_shards([tmp_path / "faces"], tmp_path / "shards", stack_config())
    # Features are no recording; the sound is the stack's.
    assert [ignored.name for ignored in result.ignored] == ["features.npy"]
    assert read_index(tmp_path / "shards").table["sound_state"].to_list() == ["present"]
    ((images, _),) = read_samples(tmp_path / "shards").values()
    first, last = (images[number].mean(axis=(0, 1))[::-1] for number in (0, -1))  # of OpenCV
    assert first == pytest.approx(SKIN, abs=3)
    assert last == pytest.approx(np.array(SKIN) + 24, abs=3)
    found = [source.path.name for source in gather([tmp_path / "faces"], tmp_path / "out")]
    assert found == ["a.npy"]  # as of folders of images, whose sound is none of its own
    asked = WindowConfig(image_fps=25, stack_colours="bgr")
    found, windows, _ = cut(path, asked, FaceConfig(faces="none", face_size=32))
    assert (found.has_sound, found.seconds, windows[-1].end_seconds) == (True, 2.0, 2.0)
    assert windows[0].clips[0].frames[0].mean(axis=(0, 1)) == pytest.approx(SKIN, abs=3)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    assert not is_stack(tmp_path / "a.npy")


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
        stack_config(stack_colours="gbr")


@pytest.mark.slow
def test_a_rate_that_does_not_fit_the_sound_is_refused_with_the_one_that_does(
    tmp_path: Path,
) -> None:
    sources = [write_stack(tmp_path / "a.npy"), write_stack(tmp_path / "b.npy", 75)]
    result = build_shards(sources, tmp_path / "shards", stack_config())
    (refusal,) = result.refusals
    assert (refusal.cause, refusal.path) == ("no-rate", str(tmp_path / "b.npy"))
    assert "75 pictures at 25 a second last 3.00 s, their sound 2.00 s" in refusal.message
    assert "--image_fps 37.5 fits" in refusal.message
