"""Our step turn about with that of the authors' network: ``hicmae bench step --against FOLDER``.

The checkout of their code is the user's own; it is imported and run, and nothing of it is here.
Steps take turns in one process, so that other work on the machine slows both, and are measured by
the clock and by processor time, which other work disturbs less.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hicmae.bench import timed
from hicmae.devices import autocast
from hicmae.encoder import fbank_patches, tubelets
from hicmae.objective.reconstruction import audio_target, video_target
from hicmae.pretraining import HiCMAE

_MODULE = "modeling_pretrain_av"
_PARTS = ("modeling_finetune_av", _MODULE)
_OLD_NAMES = ("timm.models.registry", "timm.models.layers")


def time_against(
    folder: Path,
    network: HiCMAE,
    video: Tensor,
    fbank: Tensor,
    *,
    precision: str,
    steps: int,
    warmup: int,
) -> dict[str, Any]:
    """Time steps (forward, targets, backward, AdamW) of both networks on the same clips.

    Args:
        folder: A checkout of the authors' code.
        network: Ours, of size small or base and with the paper's objective.
        video: (B, 3, T, H, W) normalised frames.
        fbank: (B, S, F) normalised filter banks.
        precision: ``32-true`` or ``bf16-mixed``.
        steps: Of each that are measured.
        warmup: Of each before them.

    Returns: ``ratio`` and ``processor_ratio``: medians over the turns of their time over ours, by
        the clock and in processor time; ``seconds`` and ``processor_seconds`` of each; on a GPU
        ``step_memory_bytes`` of each, what a step takes beside weights and AdamW's state.
    Raises: ValueError: the folder holds no such code, or not of this size.
    """
    theirs = load_reference(folder, network).to(video.device).train()
    losses: dict[str, Callable[[], Tensor]] = {
        "theirs": lambda: _their_loss(theirs, network, video, fbank),
        "ours": lambda: network(video, fbank).loss,
    }
    optimizers = {
        # As each trains: the authors' recipe has torch's AdamW as it is by default.
        "theirs": torch.optim.AdamW(theirs.parameters(), lr=1e-4, betas=(0.9, 0.95)),
        "ours": torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True),
    }

    def step(name: str) -> None:
        with autocast(precision, video.device):
            loss = losses[name]()
        loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    seconds: dict[str, list[float]] = {name: [] for name in losses}
    busy: dict[str, list[float]] = {name: [] for name in losses}
    memory: dict[str, int] = {}
    for turn in range(warmup + steps):
        for name in losses:
            if on_gpu := video.device.type == "cuda":
                held = torch.cuda.memory_allocated(video.device)
                torch.cuda.reset_peak_memory_stats(video.device)
            began = time.process_time()
            taken, _ = timed(lambda name=name: step(name), video.device)  # type: ignore[misc]
            if turn >= warmup:
                seconds[name].append(taken)
                busy[name].append(time.process_time() - began)
                if on_gpu:
                    memory[name] = torch.cuda.max_memory_allocated(video.device) - held
    return {
        "ratio": _ratio(seconds),
        "processor_ratio": _ratio(busy),
        "seconds": seconds,
        "processor_seconds": busy,
        "step_memory_bytes": memory,
    }


def check_checkout(folder: Path) -> None:
    """Raises: ValueError: the authors' pretraining network is not there."""
    if not (folder / f"{_MODULE}.py").is_file():
        raise ValueError(f"--against {folder}: no {_MODULE}.py there (it is a checkout of HiCMAE)")


def load_reference(folder: Path, ours: HiCMAE) -> nn.Module:
    """The authors' pretraining network of our size, with random weights. Raises: ValueError."""
    size = ours.config
    name = f"pretrain_hicmae_dim{size.encoder_dim}_patch16_{size.input.image_size}_a256"
    check_checkout(folder)
    with _their_modules(folder):
        make = getattr(importlib.import_module(_MODULE), name, None)
        if make is None:
            raise ValueError(f"--against {folder}: has no {name} (take --model base or small)")
        network: nn.Module = make(
            pretrained=False,
            encoder_depth=size.encoder_depth,
            encoder_depth_audio=size.encoder_depth,
            decoder_depth=size.decoder_depth,
            decoder_depth_audio=size.decoder_depth,
            encoder_fusion_depth=size.fusion_depth,
            return_intermediate_features=[layer - 1 for layer in size.feature_layers],
        )
    return network


def _their_loss(theirs: nn.Module, ours: HiCMAE, video: Tensor, fbank: Tensor) -> Tensor:
    """The paper's loss of their network, its targets in their order: of all, then the hidden."""
    size, objective = ours.config, ours.objective
    hidden = ours.hidden(ours.draw_masks(len(video), device=video.device))
    with torch.no_grad():
        pieces = tubelets(video, size.tubelet_frames, size.patch_size)
        pictures = video_target(
            pieces,
            tubelet_frames=size.tubelet_frames,
            image_std=size.input.image_std,
            frame_difference=objective.frame_difference,
        )
        wanted = [pictures, audio_target(fbank_patches(fbank, size.patch_size))]
        wanted = [
            target[mask].unflatten(0, (len(video), -1))
            for target, mask in zip(wanted, hidden, strict=True)
        ]
    seen, heard, *logits = theirs(video, hidden[0], fbank[:, None], hidden[1])
    partner = torch.arange(len(video), device=video.device)
    contrast = sum(
        (F.cross_entropy(there, partner) + F.cross_entropy(back, partner)) / 2
        for there, back in zip(*logits, strict=True)
    )
    loss: Tensor = F.mse_loss(seen, wanted[0]) + F.mse_loss(heard, wanted[1])
    return loss + objective.contrast_weight * contrast


@contextmanager
def _their_modules(folder: Path) -> Iterator[None]:
    """Have their files found, and what they import of a timm that is long gone."""
    before = {name: sys.modules.get(name) for name in (*_OLD_NAMES, *_PARTS)}
    registry, layers = (types.ModuleType(name) for name in _OLD_NAMES)
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    for name in ("trunc_normal_", "drop_path", "to_2tuple"):
        setattr(layers, name, getattr(timm.layers, name))
    sys.modules.update(zip(_OLD_NAMES, (registry, layers), strict=True))
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _ratio(seconds: dict[str, list[float]]) -> float:
    turns = zip(seconds["theirs"], seconds["ours"], strict=True)
    return statistics.median(theirs / ours for theirs, ours in turns)
