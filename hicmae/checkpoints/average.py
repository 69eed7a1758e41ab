"""The mean of several checkpoints' weights (a model soup, or the last of one run)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hicmae.checkpoint import WEIGHTS, Checkpoint, file_sha256, load_checkpoint, misfits

# What was measured with one network's weights does not hold for the mean.
_MEASURED = ("scores", "protocol", "step", "probe", "source")


def average(folders: Sequence[Path]) -> Checkpoint:
    """Average the weights of checkpoints of the same network, in float64, one at a time.

    Returns: a checkpoint that lies nowhere yet; its configuration is the first one's, without
        scores, and names the digests of what was averaged.
    Raises: ValueError: fewer than two, or networks, kinds or labels that differ.
    """
    if len(folders) < 2:
        raise ValueError(f"an average needs two checkpoints or more, found {len(folders)}")
    first = load_checkpoint(folders[0])
    sums = {name: value.double() for name, value in first.tensors.items()}
    sources = [{"folder": str(folders[0]), "sha256": file_sha256(first.path / WEIGHTS)}]
    for folder in folders[1:]:
        other = load_checkpoint(folder)
        _check(first, other)
        for name, value in other.tensors.items():
            sums[name] += value.double()
        sources.append({"folder": str(folder), "sha256": file_sha256(other.path / WEIGHTS)})
    tensors: dict[str, Tensor] = {
        name: (value / len(folders)).to(first.tensors[name].dtype) for name, value in sums.items()
    }
    assert all(torch.is_floating_point(value) for value in tensors.values())
    kept = {name: part for name, part in first.config.items() if name not in _MEASURED}
    return Checkpoint(
        path=first.path, kind=first.kind, config=kept | {"averaged": sources}, tensors=tensors
    )


def _check(first: Checkpoint, other: Checkpoint) -> None:
    """Refuse to average what does not belong together."""
    problems = misfits(first.tensors, other.tensors)[:6]
    if first.kind != other.kind:
        problems = [f"one is of kind {first.kind}, the other {other.kind}"]
    elif first.model_config() != other.model_config():
        problems.append("their sections 'model' differ")
    elif first.labels() != other.labels():
        problems.append("their labels differ")
    if problems:
        raise ValueError(
            f"{first.path} and {other.path}: cannot be averaged ({'; '.join(problems)})"
        )
