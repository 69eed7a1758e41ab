"""A stored input with the network's output: whether weights still compute what they did.

For: checking weights after a conversion, a download, an upgrade of PyTorch, on another machine.
Not for: how good the network is.

``probe.safetensors`` holds ``input.video`` (B, 3, T, H, W) and ``input.fbank`` (B, S, F), both
normalised; in pretraining ``input.video_mask`` and ``input.fbank_mask`` (B, N, True = hidden);
and what came out: ``output.logits`` and ``output.features``, or ``output.video_prediction`` and
``output.audio_prediction``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hicmae.emotion import EmotionModel
from hicmae.masks import random_masks, tube_masks
from hicmae.pretraining import HiCMAE

# Names in files of numbers that the authors' network gave -> names here.
_REFERENCE_INPUTS = {
    "video": "input.video",
    "audio": "input.fbank",
    "mask_video": "input.video_mask",
    "mask_audio": "input.fbank_mask",
}
_REFERENCE_OUTPUTS = {
    "pred_video": "output.video_prediction",
    "pred_audio": "output.audio_prediction",
    "features": "output.features",
    "logits": "output.logits",
}


def make_probe(network: HiCMAE | EmotionModel, *, seed: int = 0) -> dict[str, Tensor]:
    """Draw an input of one clip and note what the network, in float32 on its device, makes of it.

    Inputs are numbers that bfloat16 holds too, so that casting them changes nothing.
    """
    size, generator = network.config.input, torch.Generator().manual_seed(seed)
    side = size.image_size
    video = torch.randn(1, 3, size.num_frames, side, side, generator=generator)
    fbank = torch.randn(1, size.fbank_frames, size.mel_bins, generator=generator)
    probe = {
        "input.video": video.bfloat16().float(),
        "input.fbank": fbank.bfloat16().float(),
    }
    if isinstance(network, HiCMAE):
        objective = network.objective
        hidden = tube_masks(
            1, network.config.video_grid, objective.video_mask_ratio, generator=generator
        )
        probe["input.video_mask"] = _as_mask(hidden.masked, network.config.num_video_tokens)
        hidden = random_masks(
            1, network.config.num_audio_tokens, objective.audio_mask_ratio, generator=generator
        )
        probe["input.fbank_mask"] = _as_mask(hidden.masked, network.config.num_audio_tokens)
    return probe | run_probe(network, probe)


def read_probe(path: Path) -> dict[str, Tensor]:
    """Read a stored probe, or a file of numbers that the authors' network gave.

    Such a file has ``video`` (B, 3, T, H, W), ``audio`` (B, 1, S, F), in pretraining
    ``mask_video`` and ``mask_audio``, and ``pred_video`` and ``pred_audio``, or ``features`` and
    ``logits``; what else is in it is left out.

    Raises: ValueError: damaged, or without input or output. FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged probe ({error})") from error
    names = _REFERENCE_INPUTS | _REFERENCE_OUTPUTS
    probe = {
        names.get(name, name): value
        for name, value in tensors.items()
        if name in names or name.startswith(("input.", "output."))
    }
    if "input.fbank" in probe and probe["input.fbank"].ndim == 4:
        probe["input.fbank"] = probe["input.fbank"].squeeze(1)
    if not {"input.video", "input.fbank"} <= set(probe) or not any(
        name.startswith("output.") for name in probe
    ):
        raise ValueError(
            f"{path}: no probe (found {', '.join(sorted(tensors)[:6]) or 'nothing'}; wanted video, "
            "audio and what the network made of them)"
        )
    return probe


@torch.no_grad()
def run_probe(network: HiCMAE | EmotionModel, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the network makes of a probe's input; names begin with ``output.``.

    Raises: ValueError: the input is not of this network's shape.
    """
    training = network.training
    network.eval()
    try:
        video, fbank = probe["input.video"], probe["input.fbank"]
        if isinstance(network, EmotionModel):
            features = network.features(video, fbank)
            return {"output.features": features, "output.logits": network.head(features)}
        output = network(
            video,
            fbank,
            video_mask=probe["input.video_mask"],
            fbank_mask=probe["input.fbank_mask"],
        )
        return {
            "output.video_prediction": output.video_prediction,
            "output.audio_prediction": output.audio_prediction,
        }
    finally:
        network.train(training)


def largest_difference(
    network: HiCMAE | EmotionModel, probe: Mapping[str, Tensor], where: str
) -> float:
    """Largest absolute difference of what the network gives now from what is stored.

    Raises: ValueError: the probe is of another network.
    """
    wanted = {name: value for name, value in probe.items() if name.startswith("output.")}
    masks = [name for name in ("input.video_mask", "input.fbank_mask") if name not in probe]
    if isinstance(network, HiCMAE) and masks:
        raise ValueError(f"{where}: a pretraining network's probe has {', '.join(masks)} too")
    found = run_probe(network, probe)
    common = sorted(set(wanted) & set(found))
    wrong = [
        f"{name} is {tuple(found[name].shape)}, stored {tuple(wanted[name].shape)}"
        for name in common
        if found[name].shape != wanted[name].shape
    ]
    if not common:
        wrong.append(f"it stores {', '.join(sorted(wanted))}, the network gives {', '.join(found)}")
    if wrong:
        raise ValueError(f"{where}: the probe is of another network ({'; '.join(wrong)})")
    differences = [(found[name] - wanted[name].float()).abs().max().item() for name in common]
    # A number that is none must not pass for a small one.
    return max(differences) if all(value == value for value in differences) else float("nan")


def _as_mask(masked: Tensor, num_tokens: int) -> Tensor:
    """Index (B, M) of hidden tokens as a boolean mask (B, N)."""
    mask = torch.zeros(masked.shape[0], num_tokens, dtype=torch.bool)
    return mask.scatter(1, masked, True)
