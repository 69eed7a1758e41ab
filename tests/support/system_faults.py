"""Errors of the file system at any write, for tests of what a verb says then."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE]
ERRORS += [errno.EACCES, errno.ENAMETOOLONG, errno.EFBIG, errno.EILSEQ]


class Faults:
    """Makes the n-th call that changes something below a folder fail with an error of the system:
    opening for writing, writing, making a folder, renaming, setting a mode. Of the writes to one
    file the 1st, 2nd, 4th, 8th and so on count: weights are thousands, all of one line of code.

    Attributes:
        folder: Below it calls count; none: nowhere.
        at: Which of them fails.
        number: Of the error.
        calls: How many came.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.folder: Path | None = None
        self.at = self.number = self.calls = 0
        self._makes = os.mkdir
        patch.setattr(io, "open", self._opening(io.open))
        patch.setattr(builtins, "open", self._opening(builtins.open))
        for name in ("mkdir", "replace", "chmod"):
            patch.setattr(os, name, self._changing(getattr(os, name)))

    def arm(self, folder: Path, at: int) -> str:
        """Begin to count; gives what the error will say."""
        self.folder, self.at, self.calls = folder, at, 0
        self.number = ERRORS[at % len(ERRORS)]
        return os.strerror(self.number).lower()

    def step(self, *names: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.number, os.strerror(self.number), *names)

    def _counts(self, path: Any) -> bool:
        known = self.folder is not None and isinstance(path, str | Path)
        return known and Path(path).is_relative_to(self.folder)

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if not self._counts(file) or not set(mode) & set("wax+"):
                return real(file, mode, *rest, **named)
            self.step(str(file))
            return _FailingFile(real(file, mode, *rest, **named), self.step)

        return opened

    def _changing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(path: Any, *rest: Any, **named: Any) -> Any:
            there = real is self._makes and Path(path).is_dir()  # which is no error
            if self._counts(path) and not there:
                self.step(str(path))
            return real(path, *rest, **named)

        return changed


class _FailingFile:
    """A file that can be opened and not be written to; as with the real ones, no name is told."""

    def __init__(self, file: Any, fail: Callable[[], None]) -> None:
        self._file, self._fail, self._writes = file, fail, 0

    def write(self, block: Any) -> int:
        self._writes += 1
        if self._writes & (self._writes - 1) == 0:
            self._fail()
        return int(self._file.write(block))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _FailingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
