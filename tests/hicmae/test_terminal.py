"""An exception as one line, and which chatter of libraries is silenced."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hicmae.media.errors import MediaError
from hicmae.terminal import one_line, user_message


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
    assert one_line(" a\n   b\n\nc ") == "a b c"


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
        (PermissionError(13, "Permission denied", "a/b"), "a/b: permission denied"),
        (OSError(28, "No space left on device", "a/b"), "a/b: no space left on device"),
        (OSError(5, "Input/output error", "a/b"), None),
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


@pytest.mark.slow
def test_known_chatter_is_silenced_and_other_warnings_are_not() -> None:
    code = (
        "import warnings, logging; from hicmae.terminal import quieten; quieten();"
        "from pytorch_lightning.utilities import rank_zero_info as info;"
        "info('GPU available: False');"
        "warnings.warn('`isinstance(treespec, LeafSpec)` is deprecated', FutureWarning);"
        "warnings.warn('something new')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "GPU available" not in done.stdout + done.stderr
    assert "LeafSpec" not in done.stderr
    assert "something new" in done.stderr
