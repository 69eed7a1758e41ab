"""Where a run goes on: its checkpoint, its place in the data, and its batches on other devices.

For: the meaning of ``--resume``. Not for: finding checkpoints (``pretrain/folder.py``) or loading
them, which Lightning and the engines do.

What is kept, however many processes go on: an optimizer step takes the same clips as it would have
taken, with the same random draws, because batches are numbered over all processes and one step
takes as many as before. Where the number of processes changes, ``accumulate`` is changed against
it. What differs then is the order of additions, so numbers agree but for rounding; and with
``negatives: global`` a clip is contrasted with those of the processes that there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretrain.digests import read_note
from pretrain.folder import newest_checkpoint, note_of


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """Where a run goes on.

    Attributes:
        checkpoint: What it goes on from; None: it begins.
        step: Optimizer steps that are done.
        first_batch: Batches that all processes together have taken.
        accumulate: Batches of each process in one optimizer step.
        lines: What the user should know.
    """

    checkpoint: Path | None = None
    step: int = 0
    first_batch: int = 0
    accumulate: int
    lines: tuple[str, ...] = ()


def find_resumption(out: Path, *, batch_size: int, accumulate: int, world_size: int) -> Resumption:
    """Look at the newest whole checkpoint of a run folder.

    Raises: ValueError: all checkpoints are damaged, or the clips of one optimizer step cannot be
        what they were.
    """
    checkpoint, lines = newest_checkpoint(out)
    if checkpoint is None:
        return Resumption(accumulate=accumulate)
    note = read_note(note_of(checkpoint))
    before, now = note["global_batch"], batch_size * world_size
    if before % now:
        raise ValueError(
            f"{checkpoint}: an optimizer step of this run takes {before} clips, which {world_size} "
            f"processes with data.batch_size = {batch_size} cannot share evenly; change "
            "hardware.devices or data.batch_size"
        )
    fitting = before // now
    if fitting != accumulate:
        lines.append(
            f"accumulate = {fitting} instead of {accumulate}: {world_size} processes take the same "
            f"{before} clips a step"
        )
    return Resumption(
        checkpoint=checkpoint,
        step=note["step"],
        first_batch=note["batches"] * note["batch_size"] // batch_size,
        accumulate=fitting,
        lines=tuple(lines),
    )
