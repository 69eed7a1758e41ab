"""Checkpoints to resume from, written while training goes on.

For: Lightning's way to files: a copy in memory, written by a thread, published by renaming, and
loaded again. Not for: when to save (``pretrain/checkpoints.py``) or which checkpoint to resume
from (``pretrain/folder.py``).

In ``checkpoints/`` a step has ``step-000100.ckpt``, the whole state, from which any number of
devices can go on; ``step-000100.json`` with lengths and digests; and, of a DeepSpeed run,
``step-000100.shards/``, each process's part. All are made in ``.step-000100.part/``; the ``.ckpt``
is renamed last, so a checkpoint that has its name is whole.
"""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from pretrain.digests import FileNote, force_folder, read_note, save_note, save_tensors
from pretrain.folder import note_of, shards_of, step_files, step_of

_SHARDS = "shards"
_POLL_SECONDS = 0.05


class CheckpointFiles(CheckpointIO):
    """Writes one checkpoint at a time, in a thread.

    Args:
        keep: How many checkpoints are kept, the newest ones.
        keep_every: Steps between checkpoints that are kept for good besides; 0: none.
        timeout_seconds: How long the first process waits for the shards of the others.
        portable: Writes the portable checkpoint of weights (by name) and step.
    """

    def __init__(
        self,
        *,
        keep: int,
        keep_every: int,
        timeout_seconds: float,
        portable: Callable[[Mapping[str, Tensor], int], None],
    ) -> None:
        self.keep = keep
        self.keep_every = keep_every
        self.timeout_seconds = timeout_seconds
        self.portable = portable
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._shards: list[tuple[Path, Any]] = []
        self._alone = threading.Event()  # the other processes are not waited for any more

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Take a copy and begin to write it; on the first process only."""
        self.save_part(checkpoint, Path(path), rank=0, layout={"processes": 1}, num_parts=1)

    def save_part(
        self,
        checkpoint: dict[str, Any] | None,
        path: Path,
        *,
        rank: int,
        layout: Mapping[str, Any],
        num_parts: int,
    ) -> None:
        """Take a copy of what this process has and begin to write it.

        Args:
            checkpoint: The whole state, on the first process.
            path: Where the whole goes.
            rank: Of this process.
            layout: What shards must agree on to be loaded again.
            num_parts: Processes that have shards, or 1.
        """
        assert self._pending is None, "finish() comes first"
        shards, self._shards = self._shards, []
        whole = None if checkpoint is None else host_copy(checkpoint)
        note = {"layout": dict(layout), "num_parts": num_parts}
        self._pending = self._thread.submit(self._write, whole, path, rank, note, shards)

    def finish(self) -> Exception | None:
        """Wait until what was begun is written.

        Returns: why it could not be, if so.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        error = pending.exception()
        assert error is None or isinstance(error, Exception)
        return error

    def abandon(self) -> None:
        """Wait for no other process from now on; what this one writes is finished."""
        self._alone.set()

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the whole state, to the CPU."""
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and what is beside it; the name that makes it one goes first."""
        path = Path(path)
        path.unlink(missing_ok=True)
        note_of(path).unlink(missing_ok=True)
        shutil.rmtree(shards_of(path), ignore_errors=True)

    def teardown(self) -> None:
        """End the thread; ``finish`` has been called."""
        self._thread.shutdown()

    def shard_folder(self, path: Path) -> Path:
        """Where shards are written to before the checkpoint is published."""
        return _part_of(path) / _SHARDS

    def shard_engine(self) -> Any:
        """What DeepSpeed is given to write shards with: it takes copies and writes nothing."""
        from pretrain.zero_shards import ShardEngine

        return ShardEngine(self._shards)

    def shards_for(self, path: Path, layout: Mapping[str, Any]) -> Path | None:
        """The shards beside a checkpoint, if there are any and they fit."""
        folder = shards_of(path)
        fits = read_note(note_of(path))["layout"] == dict(layout)
        return folder if fits and folder.is_dir() else None

    def _write(
        self,
        whole: dict[str, Any] | None,
        path: Path,
        rank: int,
        note: dict[str, Any],
        shards: list[tuple[Path, Any]],
    ) -> None:
        """Write this process's part; the first process then publishes all of them."""
        part = _part_of(path)
        files: dict[str, FileNote] = {}
        for place, data in shards:
            name = Path(shards_of(path).name) / place.relative_to(part / _SHARDS)
            files[name.as_posix()] = save_tensors(place, data)
        if whole is None:
            save_note(part / _rank_note(rank), {"files": files})
            return
        files[path.name] = save_tensors(part / path.name, whole)
        for other in range(1, note["num_parts"]):
            files |= self._part_note(part / _rank_note(other))
        step = int(whole["global_step"])
        weights = {
            name.removeprefix("model."): value for name, value in whole["state_dict"].items()
        }
        # Before the publication: a crash in between leaves weights that are too new, not too old.
        self.portable(weights, step)
        self.remove_checkpoint(path)
        if (part / _SHARDS).is_dir():
            (part / _SHARDS).replace(shards_of(path))
        facts = {"step": step, **whole["place"], "layout": note["layout"]}
        save_note(note_of(path), {**facts, "files": files})
        force_folder(path.parent)
        (part / path.name).replace(path)
        force_folder(path.parent)
        shutil.rmtree(part)
        for old in step_files(path.parent)[: -self.keep]:
            if not self.keep_every or step_of(old) % self.keep_every:
                self.remove_checkpoint(old)

    def _part_note(self, path: Path) -> dict[str, FileNote]:
        """What another process has written, when it has.

        Raises: OSError: it has not, in time.
        """
        deadline = time.monotonic() + self.timeout_seconds
        while not path.is_file():
            if time.monotonic() > deadline or self._alone.is_set():
                raise OSError(
                    f"{path.parent.name}: {path.stem} has not written its part of the checkpoint "
                    f"after {self.timeout_seconds:g} s (hardware.timeout_seconds); is the run "
                    "folder on a disk that all nodes share?"
                )
            time.sleep(_POLL_SECONDS)
        files: dict[str, FileNote] = read_note(path)["files"]
        return files


def host_copy(data: Any) -> Any:
    """A copy on the CPU that shares nothing with what it was made of."""
    if isinstance(data, Tensor):
        return data.detach().to("cpu", copy=True)
    if isinstance(data, dict):
        copied = copy.copy(data)
        for key, value in data.items():
            copied[key] = host_copy(value)
        return copied
    if type(data) in (list, tuple):
        return type(data)(host_copy(value) for value in data)
    return copy.deepcopy(data)


def _part_of(path: Path) -> Path:
    """Where a checkpoint is made."""
    folder = path.with_name(f".{path.stem}.part")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _rank_note(rank: int) -> str:
    return f"process-{rank:05d}.json"
