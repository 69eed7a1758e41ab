"""Whole shards from elsewhere, kept on a local disk for all processes of a machine.

For: fetching a shard once, checked against its index, and forgetting old ones. Not for: reading
samples (``files.py``), or opening streams (``remote.py``).

A shard is kept under its SHA-256, so one that is there is the right one: a rebuilt collection has
other digests, two URLs of the same collection share their shards. It is written beside its name
and then renamed. A lock on each shard lets one process fetch while the others wait for it. When
there is more than allowed, the shards opened longest ago are removed; a process that still reads
one keeps its open file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from shards.errors import ClipError
from shards.index import INFO_NAME, TABLE_NAME, Index, read_index
from shards.reading.cache_config import CacheConfig
from shards.reading.remote import RemoteError, RemoteFolder
from shards.schema import ShardError

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
_ATTEMPTS = 3


class ShardCache:
    """The cache of one machine.

    Args:
        config: Where and how much.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        folder = config.folder or Path(platformdirs.user_cache_dir("hicmae")) / "shards"
        self.folder = Path(folder).absolute()

    def index(self, remote: RemoteFolder) -> Index:
        """Fetch the index of a folder, anew each time it is asked for.

        Raises:
            FileNotFoundError: It cannot be had.
            ShardError: It is not one that this program can read.
        """
        name = hashlib.sha256(remote.url.encode()).hexdigest()[:32]
        folder = self.folder / "indexes" / name
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock(name):
            for file in (INFO_NAME, TABLE_NAME):
                try:
                    self._download(remote, file, folder / file, None)
                except RemoteError as error:
                    raise FileNotFoundError(str(error)) from error
            try:
                return read_index(folder)
            except ShardError as error:
                raise ShardError(f"{remote}: {error}") from error

    def shard(self, remote: RemoteFolder, described: Mapping[str, Any]) -> Path:
        """The local copy of a shard, fetched if it is not there.

        Args:
            remote: Where it comes from.
            described: It, as ``index.json`` does: name, bytes, sha256.

        Raises:
            ClipError: It cannot be had, or is not the one that the index describes.
        """
        path = self._path(described)
        if not self._touch(path):
            with self._lock(str(described["sha256"])):
                if not self._touch(path):
                    self._fetch(remote, described, path)
                    self._make_room(path)
        return path

    def holds(self, described: Mapping[str, Any]) -> bool:
        """Whether a shard is there already."""
        return self._path(described).exists()

    def drop_damaged(self, described: Mapping[str, Any]) -> bool:
        """Remove the copy of a shard if its bytes are not those that were fetched.

        Returns: whether that was so, and the shard is to be opened again.
        """
        path = self._path(described)
        with self._lock(str(described["sha256"])):
            try:
                if _sha256(path) == described["sha256"]:
                    return False
            except FileNotFoundError:
                return True
            log.warning("%s: the copy of %s is damaged; fetched again", path, described["name"])
            path.unlink()
            return True

    def _path(self, described: Mapping[str, Any]) -> Path:
        return self.folder / f"{described['sha256']}.tar"

    def _lock(self, name: str) -> filelock.FileLock:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(folder / f"{name}.lock")

    def _touch(self, path: Path) -> bool:
        """Note that a shard is wanted now; False if it is not there."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, remote: RemoteFolder, described: Mapping[str, Any], path: Path) -> None:
        """Fetch a shard, trying again after failures that may pass."""
        name = described["name"]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._download(remote, name, path, described)
                return
            except RemoteError as error:
                if attempt == _ATTEMPTS:
                    message = f"{name}: {error}; {_ATTEMPTS} tries"
                    raise ClipError(message, "missing-shard") from error
                log.warning("%s: %s; trying again", name, error)
                time.sleep(self.config.retry_seconds * 2 ** (attempt - 1))

    def _download(
        self,
        remote: RemoteFolder,
        name: str,
        path: Path,
        described: Mapping[str, Any] | None,
    ) -> None:
        """Copy a file beside its name, check it against what is said of it, and rename it."""
        beside = path.with_name(f"{path.name}.part")
        digest = hashlib.sha256()
        try:
            with beside.open("wb") as file:

                def keep(block: bytes) -> None:
                    file.write(block)
                    digest.update(block)

                remote.copy(name, keep)
                size = file.tell()
            if described is not None and digest.hexdigest() != described["sha256"]:
                raise RemoteError(
                    f"{remote}: {name} is not the one that its index describes ({size} bytes, "
                    f"the index says {described['bytes']}; sha256 differs)"
                )
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def _make_room(self, newest: Path) -> None:
        """Remove the shards opened longest ago until the rest is small enough."""
        with self._lock("room"):
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
