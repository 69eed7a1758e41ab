"""Whether the network still learns: norms of its parts, and how many directions features use.

A collapse shows here before it shows in the loss: the standard deviation and the effective rank
of a layer's pooled features fall towards nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hicmae.encoder import EncoderOutput
from hicmae.masks import random_masks, tube_masks
from hicmae.objective.gathering import all_rows
from hicmae.pretraining import HiCMAE
from pretrain.module import Batch, PretrainModule, StepCallback

_PARTS = {
    "encoder.video.": "video_encoder",
    "encoder.audio.": "audio_encoder",
    "encoder.fusion.": "fusion",
    "video_decoder.": "video_decoder",
    "audio_decoder.": "audio_decoder",
}
_MASK_SEED = 0


class Health(StepCallback):
    """Measures every so often and hands the numbers to the meter's next row.

    ``parameter_norm`` after the step and ``update_norm``, what the step changed, each also by
    part (``update_norm_video_encoder``, …), and ``gradient_norm_<part>`` where gradients lie with
    the parameters (DeepSpeed keeps them to itself). For each asked-for layer of both encoders and
    for the fused tokens, over the clips of the newest batch of all processes:
    ``feature_std_video_layer4`` and ``feature_rank_video_layer4`` (see ``feature_std`` and
    ``effective_rank``).

    A measured step holds a second copy of the parameters and runs the encoder once more.
    """

    def __init__(self, *, every: int, note: Callable[[Mapping[str, float]], None]) -> None:
        self.every = every
        self.note = note
        self._before: dict[str, list[Tensor]] = {}
        self._gradients: dict[str, float] = {}

    def before_step(self, trainer: pl.Trainer, module: PretrainModule, optimizer: Any) -> None:
        if (trainer.global_step + 1) % self.every or self._before:
            return
        self._before = {
            part: [_own_share(item).detach().clone() for item in parameters]
            for part, parameters in parts_of(module.model).items()
        }
        gradients = {
            part: [item.grad for item in parameters if item.grad is not None]
            for part, parameters in parts_of(module.model).items()
        }
        norms = {part: norm_of(found) for part, found in gradients.items() if found}
        self._gradients = {f"gradient_norm_{part}": float(norm) for part, norm in norms.items()}

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        assert batch is not None
        numbers = self._norms(module.model) | self._gradients
        self._before, self._gradients = {}, {}
        with trainer.precision_plugin.forward_context():
            numbers |= feature_numbers(
                module.model, batch["video"], batch["fbank"], count=len(batch["keys"])
            )
        self.note(numbers)

    def _norms(self, model: HiCMAE) -> dict[str, float]:
        parts = parts_of(model)
        squares = []
        for part, parameters in parts.items():
            now = [_own_share(item).detach() for item in parameters]
            squares.append(norm_of(now) ** 2)
            if self._before:
                changes = [new - old for new, old in zip(now, self._before[part], strict=True)]
                squares.append(norm_of(changes) ** 2)
        total = torch.stack(squares).reshape(len(parts), -1)  # (parts, 1 or 2)
        total = total.to(model.encoder.video.positions.device)  # parameters may be offloaded
        if any(_is_sharded(item) for items in parts.values() for item in items):
            dist.all_reduce(total)  # each process holds a share of every parameter
        kinds = ("parameter_norm", "update_norm")[: total.shape[1]]
        numbers: dict[str, float] = {}
        for column, name in enumerate(kinds):
            numbers[name] = float(total[:, column].sum().sqrt())
            for part, square in zip(parts, total[:, column].tolist(), strict=True):
                numbers[f"{name}_{part}"] = square**0.5
        return numbers


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of a network by the part they are in."""
    parts: dict[str, list[nn.Parameter]] = {part: [] for part in _PARTS.values()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            start = next(start for start in _PARTS if name.startswith(start))
            parts[_PARTS[start]].append(parameter)
    return parts


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all numbers of some tensors together, float32, 0-d."""
    norms = torch._foreach_norm([item.float() for item in tensors])
    return torch.stack(norms).norm()


@torch.no_grad()
def feature_numbers(
    model: HiCMAE, video: Tensor, fbank: Tensor, *, count: int | None = None
) -> dict[str, float]:
    """Spread of the pooled features of a batch, over all processes.

    Of normalised frames (B, 3, T, H, W) and filter banks (B, S, F). The tokens that are seen are
    chosen as in training, the same ones every time.

    Args:
        count: Clips of the batch; the others stand in for those that were all bad.

    Returns: nothing where no process has a clip.
    """
    config, objective = model.config, model.objective
    generator = torch.Generator().manual_seed(_MASK_SEED)
    cells = tube_masks(
        len(video), config.video_grid, objective.video_mask_ratio, generator=generator
    )
    patches = random_masks(
        len(video), config.num_audio_tokens, objective.audio_mask_ratio, generator=generator
    )
    encoded = model.encoder(
        video,
        fbank,
        video_keep=cells.keep.to(video.device),
        fbank_keep=patches.keep.to(video.device),
    )
    levels = _pooled(encoded, model.encoder.layers)
    rows = torch.stack(list(levels.values()), dim=1)[:count]  # (B, levels, D)
    features = all_rows(rows).double().cpu().transpose(0, 1)  # (levels, B', D)
    numbers: dict[str, float] = {}
    if not features.shape[1]:
        return numbers
    for name, level in zip(levels, features, strict=True):  # (B', D)
        numbers[f"feature_std_{name}"] = feature_std(level)
        numbers[f"feature_rank_{name}"] = effective_rank(level)
    return numbers


def _pooled(encoded: EncoderOutput, layers: Iterable[int]) -> dict[str, Tensor]:
    """Mean tokens (B, D), float32, by name: each asked-for layer, then the fused tokens."""
    found: dict[str, Tensor] = {}
    for name, tokens in (("video", encoded.video), ("audio", encoded.audio)):
        assert tokens is not None
        for layer, values in zip(layers, tokens.layers, strict=True):
            found[f"{name}_layer{layer}"] = values.float().mean(dim=1)
        found[f"{name}_fused"] = tokens.fused.float().mean(dim=1)
    return found


def feature_std(features: Tensor) -> float:
    """Standard deviation of L2-normalised features (B, D), mean over D, times the root of D.

    Near 1 where features point in all directions, 0 where all are the same.

    Source: the collapse measure of SimSiam, arXiv 2011.10566, section 4.1.
    """
    unit = nn.functional.normalize(features, dim=1)
    return float(unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5)


def effective_rank(features: Tensor) -> float:
    """How many directions features (B, D) use: e to the entropy of the singular values' shares.

    Of features less their mean, so at most B - 1 or D; 1 where they lie on a line, 0 where all
    are the same.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007.
    """
    centred = features - features.mean(dim=0)
    values = torch.linalg.svdvals(centred)
    # What rounding leaves of identical features is no direction.
    values = values[values > torch.finfo(torch.float32).eps * features.norm()]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed's ZeRO 3 has left this process a share of it only."""
    return hasattr(parameter, "ds_tensor")


def _own_share(parameter: nn.Parameter) -> Tensor:
    share: Tensor = getattr(parameter, "ds_tensor", parameter)
    return share
