"""The queue of the page and its uploads: bounded, private, and nothing is left behind."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hicmae.page.jobs import JobQueue, QueueFullError, UploadFolder, for_visitors, shown_name
from hicmae.page.settings import Limits
from tests.support.page_fixtures import SlowAnalyst


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def analyst() -> SlowAnalyst:
    return SlowAnalyst()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(analyst: SlowAnalyst, clock: Clock) -> Iterator[JobQueue]:
    queue = JobQueue(analyst, Limits(waiting=2), clock=clock)
    yield queue
    queue.close()


def upload(folder: Path, text: str = "good") -> Path:
    """A file that waits to be looked at."""
    path = folder / f"{len(list(folder.iterdir()))}-{text}"
    path.write_text(text)
    return path


def until(condition: Callable[[], bool]) -> None:
    """Wait for something another thread does."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def state(jobs: JobQueue, id: str) -> str:
    status = jobs.status(id)
    return "gone" if status is None else status["state"]


def test_recordings_are_looked_at_in_their_order_and_deleted(
    jobs: JobQueue, analyst: SlowAnalyst, tmp_path: Path
) -> None:
    first, second = (jobs.add(upload(tmp_path, text), text) for text in ("first", "second"))
    until(lambda: state(jobs, first.id) == "running")
    status = jobs.status(second.id)
    assert status is not None
    assert (status["state"], status["ahead"]) == ("waiting", 1)
    until(lambda: (jobs.status(first.id) or {})["stage"] == "Waiting")
    analyst.go.set()
    until(lambda: state(jobs, second.id) == "done")
    assert analyst.seen == [b"first", b"second"]
    assert list(tmp_path.iterdir()) == []


def test_no_more_wait_than_may(jobs: JobQueue, tmp_path: Path) -> None:
    for _ in range(3):  # one in work, two that wait
        jobs.add(upload(tmp_path), "a")
    with pytest.raises(QueueFullError):
        jobs.require_room()
    with pytest.raises(QueueFullError):
        jobs.add(tmp_path / "other", "b")


def test_a_bad_recording_is_an_error_that_names_it_as_the_user_does(
    jobs: JobQueue, analyst: SlowAnalyst, tmp_path: Path
) -> None:
    analyst.go.set()
    job = jobs.add(upload(tmp_path, "bad header; pass --faces none"), "mine.mp4")
    until(lambda: state(jobs, job.id) == "failed")
    assert job.error == {"cause": "error", "message": "bad header"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("found no face; if these are crops, pass --faces none", "found no face"),
        (
            "where none is it is 'not sure' (--min_confidence 0: never)",
            "where none is it is 'not sure'",
        ),
        ("no sound - no face 1/2; see https://a.b/c", "no sound - no face 1/2; see https://a.b/c"),
        ("it misses: /home/me/.cache/yunet.onnx: not there", "it misses: yunet.onnx: not there"),
        ("pass --faces yunet", "pass --faces yunet"),
    ],
)
def test_a_visitor_is_told_no_option_and_no_folder(line: str, shown: str) -> None:
    assert for_visitors(line) == shown


def test_a_bug_ends_one_recording_and_not_the_page(
    jobs: JobQueue, analyst: SlowAnalyst, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    analyst.go.set()
    job, next_one = jobs.add(upload(tmp_path, "bug"), "a"), jobs.add(upload(tmp_path), "b")
    until(lambda: state(jobs, next_one.id) == "done")
    assert job.error is not None
    assert job.error["cause"] == "bug"
    assert "TypeError: a bug" in caplog.text


def test_one_that_is_given_up_ends_at_once_and_is_deleted(
    jobs: JobQueue, analyst: SlowAnalyst, tmp_path: Path
) -> None:
    running, waiting = jobs.add(upload(tmp_path), "a"), jobs.add(upload(tmp_path), "b")
    until(lambda: state(jobs, running.id) == "running")
    assert jobs.forget(waiting.id)
    assert not waiting.path.exists()
    assert jobs.forget(running.id)
    until(lambda: not running.path.exists())
    assert not jobs.forget(running.id)
    assert analyst.seen == []


def test_an_upload_whose_page_is_gone_is_dropped(
    jobs: JobQueue, clock: Clock, tmp_path: Path
) -> None:
    """Browsers let a page that is out of sight ask once a minute, which was not enough."""
    running, waiting = jobs.add(upload(tmp_path), "a"), jobs.add(upload(tmp_path), "b")
    until(lambda: state(jobs, running.id) == "running")
    for minute in (1, 2, 3, 4):
        clock.now = 61.0 * minute
        assert state(jobs, waiting.id) == "waiting"
    until(lambda: not running.path.exists())
    assert state(jobs, running.id) == "gone"


def test_results_are_kept_for_a_while_and_not_too_many(
    jobs: JobQueue, analyst: SlowAnalyst, clock: Clock, tmp_path: Path
) -> None:
    analyst.go.set()
    ids = []
    for _ in range(18):
        ids.append(jobs.add(upload(tmp_path), "a").id)
        until(lambda: state(jobs, ids[-1]) == "done")
    assert state(jobs, ids[0]) == "gone"
    assert state(jobs, ids[-1]) == "done"
    clock.now = 601.0
    assert state(jobs, ids[-1]) == "gone"


def test_closing_drops_everything(analyst: SlowAnalyst, tmp_path: Path) -> None:
    jobs = JobQueue(analyst, Limits())
    for _ in range(3):
        jobs.add(upload(tmp_path), "a")
    jobs.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["megabytes", "seconds", "keep_minutes", "patience_seconds"])
def test_limits_that_allow_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"limits: {name} = 0.0 \(must be positive\)"):
        Limits(**{name: 0.0})


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


@pytest.mark.parametrize("ending", ["raise KeyError", "os._exit(0)"])
def test_the_folder_goes_with_its_process_or_with_the_next_page(
    tmp_path: Path, ending: str
) -> None:
    code = (
        "import io, os, sys; from pathlib import Path\n"
        "from hicmae.page.jobs import UploadFolder\n"
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
