"""Byte ranges of the tars of a folder.

For: reading a member by the index's offset and length. Not for: knowing what the bytes mean.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

from shards.errors import ClipError

_MAX_OPEN = 64


class ShardFiles:
    """The tars of a folder, opened when first read, in each process anew; picklable.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: OrderedDict[str, int] = OrderedDict()
        self._process = os.getpid()

    def read(self, shard: str, offset: int, length: int, where: str) -> bytes:
        """Read a range of bytes.

        Args:
            shard: File name.
            offset: Of the first byte.
            length: How many.
            where: How an error names what is read.

        Raises:
            ClipError: No such shard, or it ends before the range does.
        """
        handle = self._handle(shard, where)
        parts = []
        while length > 0:
            part = os.pread(handle, length, offset)
            if not part:
                size = os.fstat(handle).st_size
                raise ClipError(
                    f"{where}: its shard ends at byte {size}, {length} bytes are missing; copy or "
                    "build it again",
                    "truncated",
                )
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()

    def _handle(self, shard: str, where: str) -> int:
        if self._process != os.getpid():  # a forked child: these are its own copies
            self.close()
            self._process = os.getpid()
        handle = self._handles.get(shard)
        if handle is None:
            path = self.folder / shard
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise ClipError(
                    f"{where}: no such shard, but the index of {self.folder} lists it; build it "
                    "again",
                    "missing-shard",
                ) from None
            if len(self._handles) >= _MAX_OPEN:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[shard] = handle
        else:
            self._handles.move_to_end(shard)
        return handle
