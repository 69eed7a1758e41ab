"""Looking at a checkpoint: what it is, and whether it is still what it was.

For: ``hicmae checkpoint info`` and ``verify``. Not for: changing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hicmae.checkpoint import PROBE, WEIGHTS, Checkpoint, file_sha256
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.probe import largest_difference, read_probe


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verification found; every check that failed raised instead.

    Args:
        num_tensors: Tensors that are there and have the right shape.
        digest: ``the same``, or ``none stored``.
        difference: Largest absolute difference from the stored output; none: no probe is stored.
    """

    num_tensors: int
    digest: str
    difference: float | None


def verify(checkpoint: Checkpoint, *, tolerance: float) -> Verdict:
    """Check a checkpoint: digest, names and shapes, finite values, labels, and its probe.

    Args:
        checkpoint: What to check.
        tolerance: Largest allowed difference from the stored output, absolute.

    Raises: ValueError: the first check that failed.
    """
    file = checkpoint.path / WEIGHTS
    wanted = checkpoint.weights_sha256
    if wanted is not None and (found := file_sha256(file)) != wanted:
        raise ValueError(
            f"{file}: has SHA-256 {found[:12]}…, its configuration says {wanted[:12]}…: changed or "
            "damaged since it was written; get it again"
        )
    network = build_network(checkpoint)
    broken = [name for name, value in checkpoint.tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{file}: infinite values or none at all in {', '.join(broken)}")
    labels = checkpoint.labels()
    if labels is not None and len(labels.names) != checkpoint.config["emotion"]["num_outputs"]:
        raise ValueError(
            f"{checkpoint.path}: names {len(labels.names)} labels for "
            f"{checkpoint.config['emotion']['num_outputs']} outputs"
        )
    probe, difference = checkpoint.path / PROBE, None
    if probe.is_file():
        difference = largest_difference(network, read_probe(probe), str(probe))
        if not difference <= tolerance:
            raise ValueError(
                f"{probe}: the network's output differs from the stored one by {difference:.2g} "
                f"(at most {tolerance:g}); --tolerance allows more"
            )
    return Verdict(
        num_tensors=len(checkpoint.tensors),
        digest="none stored" if wanted is None else "the same",
        difference=difference,
    )


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain data."""
    tensors = checkpoint.tensors.values()
    sizes = checkpoint.model_config()
    labels = checkpoint.labels()
    clip = sizes.input
    facts: dict[str, Any] = {
        "folder": str(checkpoint.path),
        "kind": checkpoint.kind,
        "parameters": sum(value.numel() for value in tensors),
        "bytes": sum(value.numel() * value.element_size() for value in tensors),
        "formats": sorted({str(value.dtype).removeprefix("torch.") for value in tensors}),
        "encoder": f"{sizes.encoder_depth} layers of width {sizes.encoder_dim}, "
        f"{sizes.fusion_depth} of fusion",
        "input": f"{clip.num_frames} frames of {clip.image_size} pixels at stride "
        f"{clip.frame_stride} ({clip.clip_seconds:.2f} s at {clip.fps:g} fps), "
        f"{clip.fbank_frames} x {clip.mel_bins} filter bank",
        "probe": (checkpoint.path / PROBE).is_file(),
        "weights_sha256": checkpoint.weights_sha256,
    }
    if checkpoint.kind == "emotion":
        facts["modalities"] = checkpoint.config["emotion"]["modalities"]
        facts["task"] = None if labels is None else labels.task
        facts["labels"] = None if labels is None else list(labels.names)
    kept = ("scores", "protocol", "data", "source", "averaged", "step", "version", "licence")
    return facts | {name: checkpoint.config[name] for name in kept if name in checkpoint.config}
