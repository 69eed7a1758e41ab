"""Files and folders that are there whole or not at all, their digests, and locks between processes.

Every writer of this project goes through ``whole_file`` or ``whole_folder``: what is written lies
beside its place under a hidden name until it is complete, and is then renamed into it, so that
neither a killed process nor a full disk leaves half of something under the real name.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import functools
import glob
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import filelock

LOCK = ".lock"  # in the folder of a run, which stays there
PARTS = ".*.[0-9]*.part"  # what ``whole_file`` leaves beside its place when its process is killed

_MEMBER = re.compile(r"audio|video|audio-video|ensemble|checkpoints|last|(seed|network|fold)-.*")
_LONGEST_CELL = 2**24  # characters; a trace of an annotator an hour long has 10^5
_Made = TypeVar("_Made")
_NAME_BYTES = 255  # of a file's name, on the file systems of Linux, macOS and Windows


class Closing:
    """Something that ``close`` ends, at the end of a ``with`` block too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


@contextmanager
def whole_file(path: Path, *, sync: bool = False, suffix: str = "") -> Iterator[Path]:
    """Write a file beside its place; it is renamed into it when everything is written.

    Args:
        path: Where it goes; what is there is replaced. Its parents are made.
        sync: Whether the data, and then the name, are on the disk before this ends, so that they
            outlive the machine: where losing the file would lose work.
        suffix: How the name ends that is written to, for libraries that tell the format by it.

    Yields: the path to write to; it is gone again if anything is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tail = f".{os.getpid()}.part{suffix}"
    hidden = _hidden(path.name, tail)
    beside = path.with_name(hidden + tail)
    with naming(path, hidden):
        try:
            yield beside
            beside.chmod(0o644)  # safetensors, and tempfile, write for their owner alone
            if sync:
                sync_to_disk(beside)
            beside.replace(path)
            if sync:
                sync_to_disk(path.parent)
        finally:
            with suppress(OSError):  # or it would hide what went wrong
                beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write text as UTF-8 with the line ends that it has, whole or not at all."""
    with whole_file(path, sync=sync) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Find out that a file cannot be written before what it is to hold is made.

    Args: folder: Whether it is a folder that files are to be written into.
    Raises: OSError: the file, or its folder, cannot; it is named. ValueError: what should be a
        folder is a file.
    """
    nearest = path.absolute() if folder else path.absolute().parent
    try:
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise ValueError(f"{path}: {nearest} is a file, not a folder")
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=nearest, buffering=0) as file:
            file.write(b"\n")  # which a full disk does not take
    except OSError as error:
        error.filename = str(path)
        raise


def text_of(path: Path) -> str:
    """Read a text that a program or a person has written.

    Raises: ValueError: it is not UTF-8; the file is named.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start}); it is damaged, or"
            " to be saved as UTF-8"
        ) from error


def csv_records(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Records of a CSV with the numbers of their (last) lines, without blanks around cells; those
    without content are left out.

    Raises: csv.Error: a cell that is too long, or a quotation mark that is never closed, or that a
        backslash escapes, as pandas and MySQL can write it.
    """
    csv.field_size_limit(_LONGEST_CELL)  # of the process; its own, 2^17, is short of a long trace

    skips = delimiter != " "
    lines = io.StringIO(text, newline="").readlines()
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skips, strict=True)
    try:
        found = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        number = reader.line_num
        if "unexpected end" in str(error):  # which would swallow every row behind it
            raise csv.Error("a quotation mark is never closed") from error
        if '\\"' in lines[number - 1]:  # one mark would be lost, and the others kept
            told = f'line {number} has a quotation mark as \\", which is "" in a CSV'
            raise csv.Error(told) from error
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skips)
        found = [(reader.line_num, cells) for cells in reader]
    if delimiter == " ":  # several are one
        found = [(number, [cell for cell in cells if cell]) for number, cells in found]
    stripped = ((number, [cell.strip() for cell in cells]) for number, cells in found)
    return [(number, cells) for number, cells in stripped if any(cells)]


def with_a_point(cell: object) -> str:
    """The remedy for a cell that would be a number if its comma were a point; else nothing."""
    is_one = re.fullmatch(r"[-+]?[0-9]+,[0-9]+", text := str(cell))
    return f"; write {text.replace(',', '.')}, with a point" if is_one else ""


def write_json(path: Path, data: Any, *, sync: bool = False) -> None:
    """Write data as indented JSON, whole or not at all.

    Raises: ValueError: a number that is not finite, which JSON has no name for.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", sync=sync)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder beside its place; it is renamed into it when everything is written.

    Args: folder: Where it goes; what is there is replaced. Its parents are made. What killed
        processes left of it is removed.
    Yields: an empty folder to write into; it is gone again if anything is raised.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = _hidden(folder.name, ".12345678.part-old")
    with naming(folder, hidden):
        _mend_leftovers(folder, hidden)
        beside = folder.with_name(f"{hidden}.{secrets.token_hex(4)}.part")
        aside = beside.with_name(beside.name + "-old")
        with ExitStack() as end:  # a signal may come between any two lines
            end.callback(shutil.rmtree, beside, ignore_errors=True)
            beside.mkdir(mode=0o700)
            handle = os.open(beside, os.O_RDONLY)
            end.callback(os.close, handle)
            with suppress(OSError):  # where there are no locks, nothing is taken for left
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield beside
            beside.chmod(0o755)
            end.callback(_put_back, aside, folder)
            if folder.exists():  # cannot be replaced in one step
                folder.replace(aside)
            beside.replace(folder)


def _put_back(aside: Path, folder: Path) -> None:
    """Of a folder that was moved away: to its place if nothing came there, else it is removed."""
    with suppress(OSError):
        if folder.exists():
            remove(aside)
        else:
            aside.replace(folder)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove all that is in a folder."""
    for path in [*folder.iterdir()]:
        remove(path)


def _mend_leftovers(folder: Path, hidden: str) -> None:
    """Remove what ``whole_folder`` was killed over, or put it back if it is all there is of the
    folder; who is at work holds a lock on his own.
    """
    for path in sorted(folder.parent.glob(f"{glob.escape(hidden)}.????????.part*")):
        if path.suffix == ".part-old" and path.with_suffix(".part").exists():
            continue  # of one who is at work
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.suffix == ".part-old":
                    _put_back(path, folder)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _hidden(name: str, tail: str) -> str:
    """The beginning of a hidden name for what is called ``name``: with a tail behind it, it must
    not be longer than file systems allow, and where it is cut, no letter may be.
    """
    room = _NAME_BYTES - 1 - len(os.fsencode(tail))
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return f".{name}"


@contextmanager
def naming(path: Path, hidden: str = "\0") -> Iterator[None]:
    """Say in errors of the system which file could not be written: a write says no name at all.

    Errors of libraries that have wrapped one become one again.

    Args:
        path: What the user knows it by.
        hidden: The beginning of the name under which it lies beside its place until it is whole.
    """
    try:
        yield
    except OSError as error:
        said = str(path) if error.filename is None else os.fsdecode(error.filename)
        below = Path(said).parts[len(path.parent.parts) :]
        if below and Path(said).is_relative_to(path.parent) and below[0].startswith(hidden):
            said = str(path.joinpath(*below[1:]))
        if error.errno is not None:
            try:
                error.filename = said
                if "[errno " in (error.strerror or ""):  # pyarrow's, with the hidden name
                    error.strerror = os.strerror(error.errno)
            except AttributeError:  # PyAV's have a name that cannot be changed
                raise OSError(error.errno, os.strerror(error.errno), said) from error
        raise
    except Exception as error:
        # safetensors tells the number of an error; torch.save, of which file nothing else is known.
        if re.search(r"PytorchStreamWriter failed|inline_container|iostream error", str(error)):
            raise OSError(
                f"{path}: cannot be written (a full or failing disk, or a quota); write to another"
            ) from error
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and outlive the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> tuple[Any, ...]:
    """What is another when a file is, as far as can be told without reading it."""
    status = path.stat()
    return path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns


def kept_while_unchanged(make: Callable[[Path], _Made]) -> Callable[[Path], _Made]:
    """Keep what a function makes of the file that it read last, while that is as it was."""
    kept: dict[tuple[Any, ...], _Made] = {}

    @functools.wraps(make)
    def made(path: Path) -> _Made:
        try:
            state = file_state(path)
        except OSError:
            return make(path)  # which says what is wrong
        if state not in kept:
            found = make(path)
            kept.clear()
            kept[state] = found
        return kept[state]

    return made


class DigestingFile:
    """A binary file for writing that digests what goes through it.

    Args: write: Takes each block, such as a file's ``write``.

    Attributes: num_bytes: How many came so far.
    """

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, block: bytes) -> int:
        """Write and digest a block."""
        self._digest.update(block)
        self.num_bytes += len(block)
        self._write(block)
        return len(block)

    def flush(self) -> None:
        """Nothing is held back here."""

    @property
    def sha256(self) -> str:
        """Digest of all blocks so far, hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process, however that ends.

    Args: path: The lock's own file, which stays: removed, a third process would lock another one of
        its name. Its parents are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path):
        yield


def check_replaceable(
    out: Path, what: str, *marks: str, others: Collection[str], overwrite: bool
) -> None:
    """Refuse a place where something is that would be lost.

    Args:
        what: May be replaced, in words: ``checkpoint``.
        marks: Files that all of these have.
        others: Patterns of what else is theirs; hidden files are nobody's.

    Raises: ValueError: what is there, and what to do.
    """
    if (out.is_dir() and not any(out.iterdir())) or not (out.exists() or out.is_symlink()):
        return
    if not all((out / mark).is_file() for mark in marks):
        raise ValueError(f"{out}: is there and holds no {what}; name another folder")
    if not overwrite:
        raise ValueError(
            f"{out}: holds a {what}; pass --overwrite to replace it, or name another folder"
        )
    for name in sorted(path.name for path in out.iterdir()):
        if not any(fnmatchcase(name, pattern) for pattern in (".*", *marks, *others)):
            raise ValueError(
                f"{out}: holds {name} beside a {what}, and that would be lost; move it, or name"
                " another folder"
            )


def telling_name(folder: Path) -> str:
    """Name of a run's folder, behind those above it where it only says which of a command's runs,
    folds or checkpoints it is: ``runs/emotion/video/seed-0`` is ``emotion/video/seed-0``.
    """
    path = folder.resolve() if folder.exists() else folder
    names = list(path.parts)
    while len(names) > 1 and _MEMBER.fullmatch(names[-1]):
        names.pop()
    return Path(*path.parts[len(names) - 1 :]).as_posix()


def portable(name: str) -> str:
    """A name as part of a file's; names that differ may become the same."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def only_writer(folder: Path) -> IO[bytes]:
    """Be the only process that writes into a folder, until what is returned is closed.

    The lock is the process's own: children that it has forked do not hold it, and it is gone when
    the process is, however that ended. Where the file system has no locks, nobody is kept out; nor
    is a job that SLURM has requeued by the lock of its earlier self, which a file server may go on
    holding for a node that is gone.

    Raises: ValueError: another process writes there, which is named.
    """
    path, job = folder / LOCK, os.environ.get("SLURM_JOB_ID", "")
    try:
        file = path.open("ab", buffering=0)
        # Now, for closing the file again would give up the lock.
        holder = path.read_text(encoding="utf-8", errors="replace")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            is_own = "SLURM_RESTART_COUNT" in os.environ and holder.split()[-1:] == [job]
            if error.errno in (errno.EACCES, errno.EAGAIN) and not is_own:
                file.close()
                raise ValueError(
                    f"{folder}: another process writes into it now ({holder or 'unknown'}); wait"
                    " for its end, stop it, or name another folder (if there is none on any"
                    f" machine, delete {path})"
                ) from None
        file.truncate(0)
        me = f"process {os.getpid()} on {socket.gethostname()}" + f", job {job}" * bool(job)
        file.write(me.encode())
    except OSError as error:
        error.filename = str(folder)  # the lock in it has a hidden name
        raise
    return file
