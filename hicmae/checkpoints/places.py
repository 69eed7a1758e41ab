"""Reading a checkpoint from wherever it is, and writing one that was made here.

For: the verbs. Not for: either half (``sources.py``, ``writing.py``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hicmae.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from hicmae.checkpoints.card import model_card
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.probe import make_probe
from hicmae.checkpoints.sources import locate


def read_from(source: str) -> Checkpoint:
    """The checkpoint of a folder, a web address or a name on the Hub.

    Raises: ValueError: nothing there, or damaged.
    """
    return load_checkpoint(locate(source))


def write_to(out: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint with a probe and a card of its own; one that is there is replaced."""
    placed = replace(checkpoint, path=out)
    write_checkpoint(
        out,
        checkpoint.tensors,
        kind=checkpoint.kind,
        config={**checkpoint.config, "probe": {"from": "this network"}},
        probe=make_probe(build_network(placed)),
        card=model_card(placed),
    )
