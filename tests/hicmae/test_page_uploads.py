"""Uploads lie in a private folder under names of our own, and go with it."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hicmae.page.uploads import UploadFolder, shown_name


def test_only_the_user_may_enter_and_names_say_nothing(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    paths = [folder.save(io.BytesIO(b"content")) for _ in range(2)]
    assert paths[0] != paths[1]
    for path in paths:
        assert path.parent == folder.path
        assert path.read_bytes() == b"content"
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone")

    folder = UploadFolder(tmp_path)
    with pytest.raises(OSError, match="gone"):
        folder.save(Broken())
    assert list(folder.path.iterdir()) == []
    folder.close()


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise KeyError", "os._exit(0)"])
def test_the_folder_goes_with_its_process_or_with_the_next_page(
    tmp_path: Path, ending: str
) -> None:
    code = (
        "import io, os, sys; from pathlib import Path\n"
        "from hicmae.page.uploads import UploadFolder\n"
        f"UploadFolder(Path({str(tmp_path)!r})).save(io.BytesIO(b'x'))\n{ending}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert len(list(tmp_path.iterdir())) == (ending == "os._exit(0)")  # which ends without asking
    (tmp_path / "hicmae-page-something").mkdir()
    other = UploadFolder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {other.path.name, "hicmae-page-something"}
    other.close()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\clips\\a b.mov", "a b.mov"),
        ("line\nbreak\x1b[31m.mp4", "linebreak[31m.mp4"),
        ("x" * 500, "x" * 120),
        ("", "recording"),
        (None, "recording"),
        ("a/", "recording"),
    ],
)
def test_a_name_is_shown_without_its_folders_and_tricks(given: str | None, shown: str) -> None:
    assert shown_name(given) == shown
