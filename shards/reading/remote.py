"""Folders of shards that are elsewhere, behind an fsspec URL or a command that prints a file, and
their shards' copies on a local disk for all processes of a machine.

WebDataset opens the commands, as it does for its own users (``pipe:curl -sL https://…/{}``), and
fails if one of them does; fsspec knows every other scheme.

A shard is kept under its SHA-256, so one that is there is the right one: a rebuilt collection has
other digests, two URLs of the same collection share their shards. A lock on each shard lets one
process fetch while the others wait for it. When there is more than allowed, the shards opened
longest ago are removed; a process that still reads one keeps its open file.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import platformdirs

from hicmae.files import DigestingFile, file_sha256, locked, whole_file
from hicmae.settings import outside, raise_all
from shards.schema import ClipError, ShardError

if TYPE_CHECKING:
    from shards.index import Index

Got = TypeVar("Got")

log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 3
# A web server that sends nothing for so long is given up; one that sends, however slowly, is not.
_SILENT_SECONDS = 300.0
_PIPE = "pipe:"
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where shards from elsewhere are kept; local ones are read where they are.

    Args:
        folder: Of the cache, shared by all runs of a machine; null: ``hicmae/shards`` in the
            user's cache folder.
        gigabytes: How much may stay there, 1e9 bytes; a shard in the making comes on top. What
            does not fit is fetched again every epoch.
        retry_seconds: Pause after a failed fetch, doubled after the next; three are tried.
    """

    folder: Path | None = None
    gigabytes: float = 100.0
    retry_seconds: float = 1.0

    def __post_init__(self) -> None:
        bounds = {"positive": "gigabytes", "0 or more": "retry_seconds"}
        raise_all("cache", outside(self, bounds))


class RemoteError(OSError):
    """A file elsewhere cannot be read; one line."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of shards and their index, elsewhere.

    Args:
        url: An fsspec URL of the folder (``s3://bucket/shards``, ``https://…``, ``file:///…``), or
            ``pipe:`` and a shell command in which ``{}`` stands for the name of a file.

    Raises: ValueError: a command without ``{}``.
    """

    url: str

    def __post_init__(self) -> None:
        if self.url.startswith(_PIPE) and "{}" not in self.url:
            raise ValueError(
                f"{self.url}: the command must have {{}} where the name of a file goes, such as "
                "pipe:curl -sfL https://host/shards/{}"
            )

    def __str__(self) -> str:
        return self.url

    def blocks(self, name: str) -> Iterator[bytes]:
        """A file of the folder in blocks, none of them empty.

        Raises: RemoteError: it cannot be opened, or reading it failed.
        """
        try:
            with self._open(name) as stream:
                while block := stream.read(_BLOCK_BYTES):
                    yield block
        except FileNotFoundError as error:
            # HTTP says so of a server that refuses, or does not answer, too.
            cause = error.__cause__
            why = "" if cause is None or isinstance(cause, type(error)) else f" ({_line(cause)})"
            raise RemoteError(
                f"{self.url}: {name} is not there, or cannot be reached{why}"
            ) from error
        except ImportError as error:
            package = _PACKAGES.get(self.url.split(":")[0])
            remedy = f"; pip install {package}" if package else ""
            raise RemoteError(f"{self.url}: cannot be opened ({_line(error)}){remedy}") from error
        # Every file system has errors of its own, many of them no OSError.
        except Exception as error:
            raise RemoteError(f"{self.url}: {name} cannot be read ({_line(error)})") from error

    def _open(self, name: str) -> Any:
        if self.url.startswith(_PIPE):
            from webdataset.gopen import gopen

            return gopen(self.url.replace("{}", shlex.quote(name)), "rb")
        import fsspec

        stream: dict[str, Any] = {}
        if self.url.startswith(("http://", "https://")):
            import aiohttp

            # As a stream: fsspec's buffered reader asks for ranges, which not every web server
            # knows. Left alone, a file must be there within five minutes, whatever its size.
            patience = aiohttp.ClientTimeout(sock_connect=30.0, sock_read=_SILENT_SECONDS)
            stream = {"block_size": 0, "client_kwargs": {"timeout": patience}}
        return fsspec.open(f"{self.url.rstrip('/')}/{name}", "rb", **stream)


def as_remote(folder: Path | str) -> RemoteFolder | None:
    """A folder that is elsewhere; None for a path.

    ``file://`` counts as elsewhere: its shards are copied into the cache, as suits a slow mount.
    """
    if isinstance(folder, str) and (folder.startswith(_PIPE) or "://" in folder):
        return RemoteFolder(folder)
    return None


class RemoteShards:
    """The shards of a folder that is elsewhere, and their copies in the cache of this machine.

    Attributes: described: Name → what ``index.json`` says of a shard: name, bytes, sha256. To be
        set before any is fetched.
    """

    def __init__(self, remote: RemoteFolder, config: CacheConfig) -> None:
        self.remote, self.config = remote, config
        folder = config.folder or Path(platformdirs.user_cache_dir("hicmae")) / "shards"
        self.folder = Path(folder).absolute()
        self.described: Mapping[str, Mapping[str, Any]] = {}

    def index(self) -> Index:
        """Fetch the index of the folder, anew each time it is asked for.

        Raises: FileNotFoundError, ShardError: as ``read_index``; or it cannot be had.
        """
        from shards.index import INFO_NAME, TABLE_NAME, read_index  # which import pandas

        name = hashlib.sha256(self.remote.url.encode()).hexdigest()[:32]
        folder = self.folder / "indexes" / name

        def fetched() -> Index:
            for file in (INFO_NAME, TABLE_NAME):
                self._download(file, folder / file, None)
            return read_index(folder)

        with self._locked(name):
            try:
                return self._try("the index", fetched)
            except RemoteError as error:
                raise FileNotFoundError(str(error)) from error
            except ShardError as error:
                raise ShardError(f"{self.remote}: {error}") from error

    def fetch(self, shard: str) -> Path:
        """The local copy of a shard, fetched if it is not there.

        Raises:
            ClipError: It cannot be had, or is not the one that the index describes.
            ValueError: The cache cannot be written.
        """
        path = self._path(shard)
        try:
            if not self._touch(path):
                with self._locked(path.stem):
                    if not self._touch(path):
                        for left in self.folder.glob(f".{path.name}.*.part"):
                            left.unlink()  # by a process that was killed
                        described = self.described[shard]
                        self._try(shard, lambda: self._download(shard, path, described))
                        self._make_room(path)
        except RemoteError as error:
            raise ClipError(f"{shard}: {error}", "missing-shard") from error
        except OSError as error:
            # No fault of the shard, which nobody is to skip for it.
            raise ValueError(
                f"{self.folder}: the cache cannot hold {shard} ({error.strerror or _line(error)}); "
                f"make room, lower cache.gigabytes = {self.config.gigabytes:g}, or choose another "
                "cache.folder"
            ) from error
        return path

    def holds(self, shard: str) -> bool:
        """Whether a shard is there already."""
        return self._path(shard).exists()

    def drop_damaged(self, shard: str) -> bool:
        """Remove the copy of a shard if its bytes are not those that were fetched.

        Returns: whether that was so, and the shard is to be opened again.
        """
        path = self._path(shard)
        with self._locked(path.stem):
            try:
                if file_sha256(path) == path.stem:
                    return False
            except FileNotFoundError:
                return True
            log.warning("%s: the copy of %s is damaged; fetched again", path, shard)
            path.unlink()
            return True

    def _path(self, shard: str) -> Path:
        return self.folder / f"{self.described[shard]['sha256']}.tar"

    def _locked(self, name: str) -> AbstractContextManager[None]:
        return locked(self.folder / "locks" / f"{name}.lock")

    def _touch(self, path: Path) -> bool:
        """Note that a shard is wanted now; False if it is not there."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _try(self, name: str, get: Callable[[], Got]) -> Got:
        """Have something of the folder; what came in part, or as it was being changed, anew."""
        attempt = 1
        while True:
            try:
                return get()
            except (RemoteError, ShardError) as error:
                if attempt == _ATTEMPTS:
                    raise type(error)(f"{error}; {_ATTEMPTS} tries") from error
                log.warning("%s: %s; trying again", name, error)
                time.sleep(self.config.retry_seconds * 2 ** (attempt - 1))
                attempt += 1

    def _download(self, name: str, path: Path, described: Mapping[str, Any] | None) -> None:
        """Copy a file and check it against what is said of it."""
        with whole_file(path) as beside, beside.open("wb") as file:
            copy = DigestingFile(file.write)
            for block in self.remote.blocks(name):
                copy.write(block)
            if described is not None and copy.sha256 != described["sha256"]:
                raise RemoteError(
                    f"{self.remote}: {name} is not the one that its index describes "
                    f"({copy.num_bytes} bytes, the index says {described['bytes']}; sha256 differs)"
                )

    def _make_room(self, newest: Path) -> None:
        """Remove the shards opened longest ago until the rest is small enough."""
        with self._locked("room"):
            found = []
            for path in self.folder.glob("*.tar"):
                try:
                    about = path.stat()
                except FileNotFoundError:  # a damaged copy, dropped just now
                    continue
                found.append((about.st_mtime_ns, about.st_size, path))
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.config.gigabytes * 1e9:
                    break
                if path != newest:
                    path.unlink(missing_ok=True)
                    total -= size


def _line(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return "it sent nothing for too long"
    said = " ".join(str(error).split())
    wordless = not said or "message=''" in said  # aiohttp's, of redirections in a circle
    return f"{type(error).__name__} {said}".strip() if wordless else said
