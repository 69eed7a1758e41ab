"""The sizes of a network, found in its weights.

For: the authors' files, which do not say their sizes. Not for: our own checkpoints, which do.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from hicmae.settings import ModelConfig

# All published sizes have heads of 64 numbers, in encoders and decoders. Source: reference facts.
_HEAD_SIZE = 64


def find_sizes(tensors: Mapping[str, Tensor], options: Namespace | None, where: str) -> ModelConfig:
    """Sizes of the network that weights (under our names) belong to.

    Widths, depths and patch sizes are measured; heads are taken to have 64 numbers, as published;
    the size of the input comes from the options stored with the weights, or is the published one.

    Args:
        tensors: Weights of either network.
        options: What the authors' file says of its run, if it does.
        where: The file, for messages.

    Raises: ValueError: a tensor that every network has is missing, or sizes that only the user
        can know.
    """
    needed = ("encoder.video.project.weight", "encoder.audio.project.weight")
    missing = [name for name in needed if name not in tensors or tensors[name].ndim != 2]
    if missing:
        raise ValueError(f"{where}: has no {' and no '.join(missing)}: not the authors' network")
    width, tubelet_values = tensors[needed[0]].shape
    patch = math.isqrt(tensors[needed[1]].shape[1])
    found: dict[str, Any] = {
        "patch_size": patch,
        "tubelet_frames": tubelet_values // (3 * patch * patch),
        "encoder_dim": width,
        "encoder_heads": width // _HEAD_SIZE,
        "encoder_depth": _depth(tensors, "encoder.video.blocks"),
        "fusion_depth": _depth(tensors, "encoder.fusion.video"),
    }
    hidden = tensors.get("encoder.video.blocks.0.mlp.fc1.weight")
    if hidden is not None:
        found["mlp_ratio"] = hidden.shape[0] / width
    narrow = tensors.get("video_decoder.from_encoder.weight")
    if narrow is not None:
        found["decoder_dim"] = narrow.shape[0]
        found["decoder_heads"] = narrow.shape[0] // _HEAD_SIZE
        found["decoder_depth"] = _depth(tensors, "video_decoder.blocks")
    unknown = [
        f"{name} = {found[name]} is no multiple of {_HEAD_SIZE}"
        for name in ("encoder_dim", "decoder_dim")
        if found.get(name, 0) % _HEAD_SIZE
    ]
    default = ModelConfig()
    if found["encoder_depth"] != default.encoder_depth:
        unknown.append(f"encoder_depth = {found['encoder_depth']} is not {default.encoder_depth}")
    if unknown:
        raise ValueError(
            f"{where}: not a published size ({'; '.join(unknown)}), so its heads and feature "
            "layers cannot be known; give its sizes with --model FILE.yaml"
        )
    clip = {
        ours: getattr(options, theirs)
        for ours, theirs in (("image_size", "input_size"), ("num_frames", "num_frames"))
        if isinstance(getattr(options, theirs, None), int)
    }
    return replace(default, input=replace(default.input, **clip), **found)


def _depth(tensors: Mapping[str, Tensor], stack: str) -> int:
    """How many layers a stack has."""
    pattern = re.compile(re.escape(stack) + r"\.(\d+)\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})
