"""An exception as one line, and which chatter of libraries is silenced."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hicmae.media.errors import MediaError
from hicmae.terminal import one_line, settle, user_message


class _TwoArguments(ValueError):
    """An error that torch cannot make again from its message alone."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")


def in_worker(kind: str, message: str) -> str:
    """What torch makes of an error in a worker process."""
    return (
        f"Caught {kind.rsplit('.', 1)[-1]} in DataLoader worker process 1.\n"
        "Original Traceback (most recent call last):\n"
        '  File "worker.py", line 1, in loop\n'
        "    data = fetch()\n"
        f"{kind}: {message}\n"
    )


def test_a_line_break_in_a_message_becomes_a_space() -> None:
    assert one_line(" a\n   b\n\nc\r\nd ") == "a b c d"
    assert one_line("clip \x1b[31m.mp4") == "clip \N{REPLACEMENT CHARACTER}[31m.mp4"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("plain"), "plain"),
        (ValueError(), "ValueError"),
        (MediaError("damaged", "a.mp4", "frame 3"), "a.mp4: frame 3"),
        (FileNotFoundError("no such run"), "no such run"),
        (
            FileNotFoundError(2, "No such file or directory", "a/b"),
            "a/b: no such file or directory",
        ),
        (
            PermissionError(13, "Permission denied", "a/b"),
            "a/b: permission denied (its owner can allow it with `chmod`; or use another place)",
        ),
        (
            OSError(28, "No space left on device", "a/b"),
            "a/b: no space left on device (free some, or write to another disk)",
        ),
        (OSError(9, "Bad file descriptor"), None),
        (OSError("a: cannot be written"), "a: cannot be written"),
        (RuntimeError("a bug"), None),
        (KeyError("a bug"), None),
        (ValueError(in_worker("ValueError", "a.tar: no wav")), "a.tar: no wav"),
        (RuntimeError(in_worker(f"{__name__}._TwoArguments", "x: y")), "x: y"),
        (RuntimeError(in_worker("ZeroDivisionError", "division by zero")), None),
        (RuntimeError(in_worker("no.such.Module", "x")), None),
    ],
)
def test_only_what_a_user_can_mend_becomes_a_line(error: Exception, message: str | None) -> None:
    assert user_message(error) == message


@pytest.mark.parametrize(
    "name",
    [
        "EPERM",
        "EROFS",
        "EDQUOT",
        "ENAMETOOLONG",
        "EIO",
        "ESTALE",
        "EMFILE",
        "ENFILE",
        "ENOLCK",
        "EFBIG",
        "EILSEQ",
        "EBUSY",
    ],
)
def test_every_error_of_a_file_system_is_a_line_with_path_and_remedy(name: str) -> None:
    number = getattr(errno, name)
    line = user_message(OSError(number, os.strerror(number), "a/b"))
    assert line is not None
    assert re.fullmatch(rf"a/b: {os.strerror(number).lower()} \(.+\)", line)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_terminal_that_lacks_letters_gets_question_marks() -> None:
    code = "import sys; from hicmae.__main__ import main; sys.exit(main(['predict', '--help']))"
    done = run_python(code, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "owner/name" in done.stdout


def test_a_user_without_a_name_gets_his_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("HOME", "somewhere")  # so that it is put back
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("hicmae.terminal.getpass.getuser", unknown)
    settle()
    name = os.environ["USER"]
    assert name == f"uid{os.getuid()}"
    assert Path(os.environ["HOME"]).name == f"hicmae-{name}"


def test_sockets_find_room_below_a_long_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 90)
    folder.mkdir()
    code = (
        "from hicmae.terminal import settle; settle();"
        "import tempfile, multiprocessing.connection as c;"
        "print(tempfile.gettempdir()); c.Listener(family='AF_UNIX').close();"
        "tempfile.NamedTemporaryFile(delete=False)"
    )
    done = run_python(code, TMPDIR=str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.glob("tmp*")), "what is written still lies where the user wants it"
    assert not os.path.lexists(done.stdout.strip()), "the link is gone with its process"


@pytest.mark.slow
def test_known_chatter_is_silenced_and_other_warnings_are_not() -> None:
    code = (
        "import warnings, logging; from hicmae.terminal import quieten; quieten();"
        "from pytorch_lightning.utilities import rank_zero_info as info;"
        "info('GPU available: False');"
        "warnings.warn('`isinstance(treespec, LeafSpec)` is deprecated', FutureWarning);"
        "warnings.warn('`torch.distributed.all_gather_into_tensor` is deprecated', FutureWarning);"
        "warnings.warn('something new')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "GPU available" not in done.stdout + done.stderr
    assert "LeafSpec" not in done.stderr
    assert "all_gather" not in done.stderr
    assert "something new" in done.stderr
