"""Byte ranges of the tars of a folder, here or in the cache, and single images out of them."""

from __future__ import annotations

import os
import resource
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ClipError, ShardError
from shards.index import Index, read_index
from shards.reading.remote import CacheConfig, RemoteShards, ShardCache, as_remote
from shards.sample import decode_frames
from shards.schema import SampleInfo

# An epoch goes through many shards at once. A process may often have 1024 files, not all for us.
_MAX_OPEN = min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
_FETCHES_AT_ONCE = 4
_FAILED_SECONDS = 60.0  # before a shard that could not be fetched is tried again


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards, ready to be read.

    Args:
        index: Its index.
        described: Name → what ``index.json`` says of each shard: name, bytes, sha256.
        files: Its shards.
        name: How a message names it.
    """

    index: Index
    described: dict[str, dict[str, Any]]
    files: ShardFiles
    name: str


def open_folder(folder: Path | str, cache: CacheConfig | None = None) -> ShardFolder:
    """Open a folder of shards, wherever it is.

    Args:
        folder: A path; or an fsspec URL, or ``pipe:`` and a command with ``{}`` for the name of a
            file, whose index is fetched now and whose shards when they are read.
        cache: Where fetched shards are kept; none given: the user's cache folder.

    Raises:
        FileNotFoundError: No such folder.
        ShardError: It holds no index, or one that this program cannot read.
    """
    remote = as_remote(folder)
    if remote is None:
        index = read_index(folder)
        # A loader process may run in another directory.
        files = ShardFiles(index.folder.resolve())
        return ShardFolder(index, _described(index, str(folder)), files, str(folder))
    kept = ShardCache(cache or CacheConfig())
    index = kept.index(remote)
    described = _described(index, str(remote))
    files = ShardFiles(index.folder, RemoteShards(kept, remote, described))
    return ShardFolder(index, described, files, str(remote))


class ShardFiles:
    """The tars of a folder, opened when first read, in each process anew; picklable.

    Args:
        folder: Where they are, or where their index is.
        remote: Where they come from, if not from ``folder``.
    """

    def __init__(self, folder: Path, remote: RemoteShards | None = None) -> None:
        self.folder, self.remote = folder, remote
        self._handles: OrderedDict[str, int] = OrderedDict()
        self._fetches: dict[str, Future[Path]] = {}
        self._fetcher: ThreadPoolExecutor | None = None
        self._failures: dict[str, tuple[float, ClipError]] = {}
        self._checked: set[str] = set()
        self._process = os.getpid()

    def read(self, shard: str, offset: int, length: int, where: str) -> bytes:
        """Read a range of bytes.

        Args:
            shard: File name.
            offset: Of the first byte.
            length: How many.
            where: How an error names what is read.

        Raises:
            ClipError: No such shard, it ends before the range does, or reading fails.
        """
        handle = self._handle(shard, where)
        parts = []
        try:
            while length > 0:
                part = os.pread(handle, length, offset)
                if not part:
                    size = os.fstat(handle).st_size
                    raise ClipError(
                        f"{where}: its shard is truncated, it ends at byte {size} and {length} "
                        "bytes are missing; copy or build it again",
                        "truncated",
                    )
                parts.append(part)
                offset += len(part)
                length -= len(part)
        except OSError as error:
            raise ClipError(f"{where}: cannot be read ({error.strerror})", "unreadable") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def path(self, shard: str) -> Path:
        """Where a shard is on this machine, fetched if need be.

        Raises:
            ClipError: It cannot be fetched.
        """
        if self.remote is None:
            return self.folder / shard
        self._forget_parent()
        failure = self._failures.get(shard)
        if failure is not None and time.monotonic() - failure[0] < _FAILED_SECONDS:
            raise failure[1]
        fetch = self._fetches.pop(shard, None)
        try:
            if fetch is not None:
                fetch.result()  # and it may have gone since
            return self.remote.fetch(shard)
        except ClipError as error:
            self._failures[shard] = (time.monotonic(), error)
            raise

    def prefetch(self, shard: str) -> None:
        """Begin to fetch a shard that will be wanted soon, beside this, after those before it."""
        if self.remote is None:
            return
        self._forget_parent()
        if shard in self._handles or shard in self._fetches or self.remote.holds(shard):
            return
        if self._fetcher is None:
            self._fetcher = ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="fetch-shards")
        self._fetches[shard] = self._fetcher.submit(self.remote.fetch, shard)

    def mend(self, shard: str) -> bool:
        """Whether what was wrong with a shard may be put right by reading it again.

        That is so if it is a copy in the cache that went bad; it is then dropped. Each is looked
        at once in a process.
        """
        if self.remote is None or shard in self._checked:
            return False
        self._checked.add(shard)
        if not self.remote.drop_damaged(shard):
            return False
        if shard in self._handles:
            os.close(self._handles.pop(shard))
        return True

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "remote": self.remote}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["remote"])  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()

    def _forget_parent(self) -> None:
        """In a forked child: the handles are its own copies, the thread is not there."""
        if self._process != os.getpid():
            self.close()
            self._fetches, self._fetcher = {}, None
            self._process = os.getpid()

    def _handle(self, shard: str, where: str) -> int:
        self._forget_parent()
        handle = self._handles.get(shard)
        if handle is None:
            handle = self._open(shard, where)
            if len(self._handles) >= _MAX_OPEN:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[shard] = handle
        else:
            self._handles.move_to_end(shard)
        return handle

    def _open(self, shard: str, where: str) -> int:
        # Another process may remove a cached shard between the two steps, if the cache is small.
        for _ in range(3 if self.remote is not None else 1):
            try:
                return os.open(self.path(shard), os.O_RDONLY)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ClipError(
                    f"{where}: its shard cannot be opened ({error.strerror})", "unreadable"
                ) from error
        raise ClipError(
            f"{where}: no such shard, but the index of {self.folder} lists it; build it again",
            "missing-shard",
        )


def read_frame(
    index: Index, files: ShardFiles, row: int, info: SampleInfo, frame: int
) -> np.ndarray:
    """Read one image.

    Args:
        index: Of the folder.
        files: Of the same.
        row: Position of the sample in the index.
        info: Its json.
        frame: Number of the image within the sample.

    Returns: uint8 (H, W, 3), RGB.
    Raises: ClipError: It cannot be read.
    """
    shard, offset = index.table["shard"].iloc[row], int(index.table["mjpg_offset"].iloc[row])
    start, stop = info.frame_offsets[frame : frame + 2]
    where = f"{index.folder / shard}: sample {info.key!r}"
    jpeg = files.read(shard, offset + start, stop - start, where)
    frames = decode_frames(jpeg, (0, stop - start), np.array([0]), where)
    return np.asarray(frames[0], dtype=np.uint8)


def _described(index: Index, name: str) -> dict[str, dict[str, Any]]:
    """What ``index.json`` says of each shard, by name."""
    shards, kinds = index.info["shards"], {"name": str, "bytes": int, "sha256": str}
    if isinstance(shards, list):
        good = [
            shard
            for shard in shards
            if isinstance(shard, dict)
            and all(isinstance(shard.get(field), kind) for field, kind in kinds.items())
        ]
        if len(good) == len(shards):
            return {shard["name"]: shard for shard in good}
    raise ShardError(
        f"{name}: its index.json does not say {', '.join(kinds)} of every shard; build it again"
    )
