"""Where a folder of shards is made before it is put in its place: ``OUT.partial`` beside ``OUT``.

One process is at work in it at a time, and what a killed one made is kept. It holds ``shards``
(what becomes ``OUT`` by one rename), ``journal.jsonl``, a folder of staged samples, ``lock``, and
for a moment ``old``, which is what ``OUT`` was.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path

from hicmae.files import sync_to_disk
from shards.index import INFO_NAME, JOURNAL_NAME, TABLE_NAME
from shards.receipts.receipt import RECEIPT_JSON, RECEIPT_PAGE, RECEIPT_PICTURES
from shards.settings import REFUSED_NAME

SUFFIX = ".partial"

# What a build writes besides tars.
_OURS = {INFO_NAME, TABLE_NAME, REFUSED_NAME, RECEIPT_JSON, RECEIPT_PAGE, RECEIPT_PICTURES}


class Workplace:
    """The folder ``OUT.partial``, locked while in use. Use it as a context manager.

    Args:
        out: The folder that is wanted.

    Raises (on entering):
        ValueError: Another process is at work there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        place = out.resolve()  # a link to a folder on another disk is followed
        self.place = place
        self.folder = place.with_name(place.name + SUFFIX)
        self.shards = self.folder / "shards"
        self.journal = self.folder / JOURNAL_NAME
        self._old = self.folder / "old"
        self._lock: int | None = None

    def __enter__(self) -> Workplace:
        while self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            if self.folder.exists() and {path.name for path in self.folder.iterdir()} == {"lock"}:
                self.remove()  # nothing was begun
            os.close(self._lock)
            self._lock = None

    def staging(self) -> Path:
        """A new folder for staged samples; those of killed builds go.

        Its name is new every time: a worker that outlived its build may still write into an old
        one.
        """
        for leftover in self.folder.glob("staging-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="staging-", dir=self.folder))

    def clear(self) -> None:
        """Forget what was made so far, and keep the lock."""
        self.journal.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def put_in_place(self) -> None:
        """Make ``shards`` the wanted folder by a rename, and remove the rest.

        A process killed between the renames leaves all that is needed to do them again.
        """
        for path in (*self.shards.rglob("*"), self.shards):
            sync_to_disk(path)
        if self.place.exists():
            self.place.rename(self._old)
        self.shards.rename(self.place)
        sync_to_disk(self.place.parent)
        self.remove()

    def remove(self) -> None:
        """Remove ``OUT.partial`` itself; the journal, which tells what the rest is, last."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in (self.journal, self.folder / "lock"):
                path.unlink()
        self.journal.unlink(missing_ok=True)
        (self.folder / "lock").unlink(missing_ok=True)
        self.folder.rmdir()

    def _locked(self) -> int | None:
        """Lock the folder; None if it was removed meanwhile."""
        path = self.folder / "lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                owner = os.read(handle, 200).decode("utf-8", "replace").strip()
                os.close(handle)
                raise ValueError(
                    f"{self.out}: another process builds it ({owner or 'unknown'}); wait for "
                    "it, or give another folder"
                ) from None
            # A file system without locks: go on, as without any.
        if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
            os.close(handle)
            return None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return handle


def check_out(out: Path, overwrite: bool) -> bool:
    """Refuse a folder that holds something else; returns whether a build is to be replaced.

    Raises:
        ValueError: It is a file, has a name that is not free, or holds what is not to be lost.
    """
    if out.name.endswith(SUFFIX):
        raise ValueError(f"{out}: names that end in {SUFFIX} are those of unfinished builds")
    if not out.exists():
        return False
    if not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder")
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if name not in _OURS and not name.endswith(".tar")]
    if others:
        raise ValueError(
            f"{out}: holds what no build writes ({', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}); give a new or empty folder"
        )
    built = any(name != REFUSED_NAME for name in names)
    if built and not overwrite:
        raise ValueError(f"{out}: holds shards already; pass --overwrite to replace them")
    return built
