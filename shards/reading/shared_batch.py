"""Memory in which a loader process hands over its batches, used again and again.

``Lender`` is in the loader process, ``Borrower`` in the process that made the stream.

Torch gives every tensor that leaves a loader process shared memory of its own. The pages of it are
made and cleared when they are first written, which on a virtual machine took 13 ms for a batch of
8 clips (10 MB), as much as decoding seven of them. Here a block of memory is sent once; from then
on only its number is, and it is written anew when the batch in it is gone: when the last of the
batch's tensors, of their views and of their NumPy arrays has been freed by those who received it,
the first byte of the block says so.

A loader process that keeps a batch for itself after it was sent would see it change.
"""

from __future__ import annotations

import itertools
import math
import os
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch

from hicmae.processes import is_running

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]

_ALIGNMENT = 64  # bytes; those before the first tensor hold whether the block is lent
# If so many batches of one loader process are in use at once, more get memory of their own.
_MAX_BLOCKS = 8


class Borrower:
    """The blocks that loader processes have sent to this one, of one stream.

    Its copies in loader processes are but its name.
    """

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._lenders: dict[int, dict[int, torch.Tensor]] = {}
        _BORROWERS[self.name] = self

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "_lenders": {}}

    def block(
        self, lender: int, number: int, sent: torch.Tensor | None, kept: tuple[int, ...]
    ) -> torch.Tensor:
        """A block that is lent.

        Args:
            lender: Number of the process it comes from.
            number: Of the block, in that process.
            sent: The block itself, the first time.
            kept: The blocks that the process still has; others are forgotten.
        """
        if lender not in self._lenders:
            for process in [process for process in self._lenders if not is_running(process)]:
                del self._lenders[process]
        blocks = self._lenders.get(lender, {})
        if sent is not None:
            blocks[number] = sent
        self._lenders[lender] = {n: block for n, block in blocks.items() if n in kept}
        return blocks[number]


class Lender:
    """The blocks of this loader process."""

    def __init__(self, borrower: Borrower) -> None:
        self.borrower = borrower.name
        self.blocks: list[Block] = []
        self._numbers = itertools.count()

    def lend(self, layout: Layout) -> LentBatch:
        """Memory for a batch, its tensors not yet written."""
        sizes = [math.prod(shape) * kind.itemsize for shape, kind in layout.values()]
        ends = list(itertools.accumulate(map(_aligned, sizes), initial=_ALIGNMENT))
        block = self._free_block(ends[-1])
        batch = LentBatch()
        for (name, (shape, kind)), begin, size in zip(layout.items(), ends, sizes, strict=False):
            batch[name] = block.memory[begin : begin + size].view(kind).view(shape)
        if block in self.blocks:
            batch.lender, batch.block = self, block
        return batch

    def _free_block(self, size: int) -> Block:
        free = [block for block in self.blocks if not block.memory[0]]
        large = [block for block in free if len(block.memory) >= size]
        if large:
            block = large[0]
        else:
            self.blocks = [block for block in self.blocks if block not in free]
            block = Block(next(self._numbers), _shared(size))
            if len(self.blocks) < _MAX_BLOCKS:
                self.blocks.append(block)
        block.memory[0] = 1
        return block


@dataclass(eq=False)
class Block:
    """A piece of shared memory, and whether it was sent."""

    number: int
    memory: torch.Tensor = field(repr=False)
    is_sent: bool = False


class LentBatch(dict[str, Any]):
    """A batch whose tensors lie in a block; sent to another process it is an ordinary dict."""

    lender: Lender | None = None
    block: Block | None = None


_BORROWERS: weakref.WeakValueDictionary[str, Borrower] = weakref.WeakValueDictionary()
_ORPHANS: list[Borrower] = []


def _reduced(batch: LentBatch) -> tuple[Any, ...]:
    """How a batch is sent; called in the order of sending."""
    lender, block = batch.lender, batch.block
    if lender is None or block is None:
        return dict, (dict(batch),)
    start, items, places = block.memory.data_ptr(), {}, {}
    for name, value in batch.items():
        items[name] = value
        if (
            isinstance(value, torch.Tensor)
            and value.untyped_storage().data_ptr() == start
            and value.is_contiguous()
        ):
            items[name] = None
            places[name] = (value.data_ptr() - start, tuple(value.shape), value.dtype)
    sent, block.is_sent = None if block.is_sent else block.memory, True
    kept = tuple(block.number for block in lender.blocks)
    return _received, (lender.borrower, os.getpid(), block.number, sent, kept, items, places)


def _received(
    borrower: str,
    lender: int,
    number: int,
    sent: torch.Tensor | None,
    kept: tuple[int, ...],
    items: dict[str, Any],
    places: dict[str, tuple[int, tuple[int, ...], torch.dtype]],
) -> dict[str, Any]:
    """The batch, where it arrives."""
    owner = _BORROWERS.get(borrower)
    if owner is None:  # what made the stream is gone, or is a copy of it
        owner = Borrower()
        owner.name = borrower
        _BORROWERS[borrower] = owner
        _ORPHANS.append(owner)
    memory = owner.block(lender, number, sent, kept).numpy()
    lent = memory[:]  # an array of its own, which lives as long as any tensor of the batch
    weakref.finalize(lent, _give_back, memory, os.getpid()).atexit = False
    whole = torch.from_numpy(lent)
    for name, (begin, shape, kind) in places.items():
        size = math.prod(shape) * kind.itemsize
        items[name] = whole[begin : begin + size].view(kind).view(shape)
    return items


def _give_back(memory: np.ndarray, process: int) -> None:
    if os.getpid() == process:  # a forked child's copy of a batch is not the batch
        memory[0] = 0


def _shared(size: int) -> torch.Tensor:
    storage = torch.empty(0, dtype=torch.uint8)._typed_storage()._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


ForkingPickler.register(LentBatch, _reduced)
