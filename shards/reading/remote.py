"""Folders of shards that are elsewhere: behind an fsspec URL, or a command that prints a file.

For: telling such a folder from a path, and reading its files. Not for: keeping what came
(``cache.py``).

WebDataset opens the commands, as it does for its own users (``pipe:curl -sL https://…/{}``), and
fails if one of them does; fsspec knows every other scheme.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20
_PIPE = "pipe:"
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


class RemoteError(OSError):
    """A file elsewhere cannot be read; one line."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of shards and their index, elsewhere.

    Args:
        url: An fsspec URL of the folder (``s3://bucket/shards``, ``https://…``, ``file:///…``), or
            ``pipe:`` and a shell command in which ``{}`` stands for the name of a file.

    Raises:
        ValueError: A command without ``{}``.
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

    def copy(self, name: str, sink: Callable[[bytes], None]) -> None:
        """Read a file of the folder from beginning to end.

        Args:
            name: Of the file.
            sink: Called with each block of it, in order.

        Raises:
            RemoteError: It cannot be opened, or reading it failed.
        """
        blocks = self._blocks(name)
        while True:
            try:
                block = next(blocks, b"")
            except FileNotFoundError as error:
                # HTTP says so of a server that does not answer, too.
                raise RemoteError(
                    f"{self.url}: {name} is not there, or cannot be reached"
                ) from error
            except ImportError as error:
                package = _PACKAGES.get(self.url.split(":")[0])
                remedy = f"; pip install {package}" if package else ""
                message = f"{self.url}: cannot be opened ({_line(error)}){remedy}"
                raise RemoteError(message) from error
            # Every file system has errors of its own, many of them no OSError.
            except Exception as error:
                raise RemoteError(f"{self.url}: {name} cannot be read ({_line(error)})") from error
            if not block:
                return
            sink(block)

    def _blocks(self, name: str) -> Iterator[bytes]:
        """The file in blocks, none of them empty."""
        with self._open(name) as stream:
            while block := stream.read(_BLOCK):
                yield block

    def _open(self, name: str) -> Any:
        if self.url.startswith(_PIPE):
            from webdataset.gopen import gopen

            return gopen(self.url.replace("{}", shlex.quote(name)), "rb")
        import fsspec

        return fsspec.open(f"{self.url.rstrip('/')}/{name}", "rb")


def as_remote(folder: Path | str) -> RemoteFolder | None:
    """A folder that is elsewhere; None for a path.

    ``file://`` counts as elsewhere: its shards are copied into the cache, as suits a slow mount.
    """
    if isinstance(folder, str) and (folder.startswith(_PIPE) or "://" in folder):
        return RemoteFolder(folder)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
