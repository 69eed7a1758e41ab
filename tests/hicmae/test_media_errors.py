"""What is no recording is refused by its cause, in one line, and never followed elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hicmae.media.errors import CAUSES, MediaError
from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from tests.support.media_files import counting_frames, write_planes, write_recording, write_sound

STILL = cv2.imencode(".png", counting_frames(1)[0])[1].tobytes()
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n"


def refused(path: Path) -> MediaError:
    with pytest.raises(MediaError) as caught:
        open_video(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("empty.webm", b"", "empty-file"),
        ("pointer.mp4", LFS.encode(), "lfs-pointer"),
        ("text.mp4", b"this is not a film\n" * 50, "unreadable"),
        ("text.txt", b"this is not a film\n" * 50, "unreadable"),
        ("header.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2\0\0\0\x08free\0\0\0\x08mdat", None),
        ("noise.mkv", np.random.default_rng(0).bytes(5000), "unreadable"),
        ("face.png", STILL, "unreadable"),
        ("face.jpg", STILL, "unreadable"),
        ("face.mp4", STILL, "unreadable"),
    ],
)
def test_files_that_are_no_recordings_are_named_by_their_cause(
    tmp_path: Path, name: str, content: bytes, cause: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(path)
    assert error.cause in ({cause} if cause else {"unreadable", "no-video"})
    assert str(error).startswith(str(path))
    with pytest.raises(MediaError):
        read_sound(path)


def test_colours_that_nothing_converts_are_named_with_the_remedy(tmp_path: Path) -> None:
    planes = [np.full((32, 32), 128, np.uint8), *(np.full((16, 16), 128, np.uint8),) * 2]
    path = write_planes(
        tmp_path / "ycgco.mp4", [planes] * 3, "yuv420p", "libx264", colours=(1, 1, 8, 1)
    )
    found = refused(path)
    assert found.cause == "unreadable"
    assert "no colours of matrix 8" in found.problem
    assert "zscale" in found.problem


def test_sound_alone_is_no_video_whatever_it_is_called(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.wav", np.zeros(16000), 16000)
    path = path.rename(tmp_path / "sound.mov")
    error = refused(path)
    assert error.cause == "no-video"
    assert "found audio" in str(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile '{}'\n"),
    ],
)
def test_a_list_that_names_other_files_is_not_followed(
    tmp_path: Path, name: str, content: str
) -> None:
    target = write_recording(tmp_path / "clip.mp4", counting_frames(5), np.arange(5) / 25)
    path = tmp_path / name
    path.write_text(content.format(target.name))
    assert refused(path).cause == "unreadable"


@pytest.mark.parametrize("name", ["-i.mp4", "pipe:0", "a b'\"$(id);.mp4", "concat:x|y", "é\n.mp4"])
def test_hostile_names_are_only_names(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_recording(tmp_path / "clip.mp4", counting_frames(5), np.arange(5) / 25)
    made.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(open_video(name)) == 5
    (tmp_path / name).write_bytes(b"")
    assert refused(Path(name)).cause == "empty-file"


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"clip\.mp4: no such file"):
        open_video(tmp_path / "clip.mp4")
    assert refused(tmp_path).cause == "unreadable"


def test_an_error_comes_back_whole_from_another_process() -> None:
    error = MediaError("damaged", Path("a\nb.mp4"), "frame 3\nis lost")
    again = pickle.loads(pickle.dumps(error))
    assert (again.cause, str(again)) == ("damaged", "a b.mp4: frame 3 is lost")
    with pytest.raises(ValueError, match="none of empty-file"):
        MediaError("other", "clip.mp4", "")
    assert all(cause == cause.lower() and " " not in cause for cause in CAUSES)
