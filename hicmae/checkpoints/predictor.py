"""What every export shares: the network with fixed inputs, the comparison, the writing.

For: ``export.py``. Not for: any format.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.checkpoint import Checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.probe import make_probe
from hicmae.emotion import EmotionModel

_PROBE_CLIPS = 3  # not the number of clips that the network is traced with


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how it compares with the network in PyTorch.

    Args:
        file: Where it is.
        num_bytes: Its size.
        difference: Largest absolute difference of a logit on the probe's clips.
        agreement: Share of the probe's clips with the same largest logit.
        size_ratio: Its size over that of the float32 weights.
    """

    file: Path
    num_bytes: int
    difference: float
    agreement: float
    size_ratio: float


class Predictor(nn.Module):
    """A network with exactly the inputs it reads, in a fixed order."""

    def __init__(self, network: EmotionModel) -> None:
        super().__init__()
        self.network = network
        modalities = network.emotion.modalities
        self.names = {
            "audio-video": ("video", "fbank"),
            "video": ("video",),
            "audio": ("fbank",),
        }[modalities]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (B, num_outputs) of the inputs in ``names``."""
        given = dict(zip(self.names, inputs, strict=True))
        return self.network(given.get("video"), given.get("fbank"))

    def example(self, num_clips: int) -> tuple[Tensor, ...]:
        """Different clips, the same every time."""
        probes = [make_probe(self.network, seed=seed) for seed in range(num_clips)]
        return tuple(torch.cat([probe[f"input.{name}"] for probe in probes]) for name in self.names)

    def dynamic_shapes(self) -> tuple[tuple[dict[int, Any], ...]]:
        """The number of clips may be any."""
        batch = torch.export.Dim("batch", min=1)
        return (tuple({0: batch} for _ in self.names),)


def predictor(checkpoint: Checkpoint) -> Predictor:
    """The network to export.

    Raises: ValueError: a pretrained network, which predicts nothing.
    """
    network = build_network(checkpoint)
    if not isinstance(network, EmotionModel):
        raise ValueError(
            f"{checkpoint.path}: is a pretrained network, which has no labels; fine-tune it first, "
            "or use --format reference"
        )
    return Predictor(network).eval()


@torch.no_grad()
def compare(
    network: Predictor,
    other: Callable[..., Tensor],
    file: Path,
    out: Path,
    *,
    tolerance: float | None,
) -> Exported:
    """Compare an export with the network on several clips, and on one.

    Args:
        network: In PyTorch.
        other: The export, with the same inputs.
        file: What was written.
        out: What it will be called.
        tolerance: Largest allowed difference of a logit; none: any, it is only measured.

    Raises: ValueError: a logit differs by more than is allowed.
    """
    clips = network.example(_PROBE_CLIPS)
    wanted, found = network(*clips), other(*clips)
    alone = other(*(item[:1] for item in clips))
    differences = [(found - wanted).abs().max().item(), (alone - wanted[:1]).abs().max().item()]
    difference = max(differences)
    if not all(value == value for value in differences) or (
        tolerance is not None and difference > tolerance
    ):
        raise ValueError(
            f"{out}: the exported network's logits differ from PyTorch's by {difference:.2g}"
            f"{'' if tolerance is None else f' (at most {tolerance:g})'}; not written"
        )
    same = (found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().item()
    floats = 4 * sum(value.numel() for value in network.state_dict().values())
    size = file.stat().st_size
    return Exported(
        file=out,
        num_bytes=size,
        difference=difference,
        agreement=same,
        size_ratio=size / floats,
    )


@contextlib.contextmanager
def written(out: Path, write: Callable[[Path], None], *, suffix: str) -> Iterator[Path]:
    """Write beside the place; what was written gets its name when the checks inside pass.

    Args:
        out: The place.
        write: Writes to the path it is given.
        suffix: What that path ends in: some libraries look at it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}{suffix}")
    try:
        write(beside)
        yield beside
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress and warnings about themselves from the terminal."""
    chatter, before = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(chatter),
            contextlib.redirect_stderr(chatter),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
