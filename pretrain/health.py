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

from hicmae.devices import send
from hicmae.encoder import EncoderOutput
from hicmae.objective.losses import Presence, are_several, whole
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
    ``feature_std_video_layer4`` and ``feature_rank_video_layer4`` (``spread``).

    A measured step holds a second copy of the parameters, runs the encoder once more, and waits for
    the device where eigenvalues are solved for.
    """

    def __init__(self, *, every: int, note: Callable[[Mapping[str, Tensor]], None]) -> None:
        self.every = every
        self.note = note
        self._before: dict[str, list[Tensor]] = {}
        self._gradients: dict[str, Tensor] = {}

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
        self._gradients = {
            f"gradient_norm_{part}": norm_of(found) for part, found in gradients.items() if found
        }

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        assert batch is not None
        numbers = self._norms(module.model) | self._gradients
        self._before, self._gradients = {}, {}
        with trainer.precision_plugin.forward_context():
            numbers |= feature_numbers(
                module.model, batch["video"], batch["fbank"], batch["presence"]
            )
        self.note(numbers)

    def _norms(self, model: HiCMAE) -> dict[str, Tensor]:
        parts = parts_of(model)
        squares = []
        for part, parameters in parts.items():
            now = [_own_share(item).detach() for item in parameters]
            squares.append(norm_of(now) ** 2)
            if self._before:
                changes = [new - old for new, old in zip(now, self._before[part], strict=True)]
                squares.append(norm_of(changes) ** 2)
        total = torch.stack(squares).reshape(len(parts), -1)  # (parts, 1 or 2)
        # Parameters may be offloaded.
        total = total.to(model.encoder.video.positions.device, non_blocking=True)
        if any(hasattr(item, "ds_tensor") for items in parts.values() for item in items):
            dist.all_reduce(total)  # each process holds a share of every parameter
        kinds = ("parameter_norm", "update_norm")[: total.shape[1]]
        numbers: dict[str, Tensor] = {}
        for column, name in enumerate(kinds):
            numbers[name] = total[:, column].sum().sqrt()
            for part, square in zip(parts, total[:, column], strict=True):
                numbers[f"{name}_{part}"] = square.sqrt()
        return numbers


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of a network by the part they are in."""
    parts: dict[str, list[nn.Parameter]] = {part: [] for part in _PARTS.values()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            start = next(start for start in _PARTS if name.startswith(start))
            parts[_PARTS[start]].append(parameter)
    return {part: found for part, found in parts.items() if found}


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all numbers of some tensors together, float32, 0-d."""
    norms = torch._foreach_norm([item.float() for item in tensors])
    return torch.stack(norms).norm()


@torch.no_grad()
def feature_numbers(
    model: HiCMAE, video: Tensor | None, fbank: Tensor | None, presence: Presence | None = None
) -> dict[str, Tensor]:
    """Spread of the pooled features of a batch, over all processes.

    Of normalised frames (B, 3, T, H, W) and filter banks (B, S, F), of the clips that have all.
    The tokens that are seen are chosen as in training, the same ones every time.

    Returns: 0-d each, of no number where no process has a clip.
    """
    clips = fbank if video is None else video
    assert clips is not None
    batch, device = len(clips), clips.device
    cells, patches = model.whole_masks(batch, torch.Generator().manual_seed(_MASK_SEED))
    encoded = model.encoder(
        video,
        fbank,
        video_keep=send(cells.keep, device),
        fbank_keep=send(patches.keep, device),
    )
    levels = _pooled(encoded, model.encoder.layers)
    present = (presence or whole(batch, device)).both
    spreads, ranks = spread(torch.stack(list(levels.values())), present)
    kinds = {"feature_std": spreads, "feature_rank": ranks}
    return {
        f"{kind}_{name}": value
        for kind, values in kinds.items()
        for name, value in zip(levels, values, strict=True)
    }


def _pooled(encoded: EncoderOutput, layers: Iterable[int]) -> dict[str, Tensor]:
    """Mean tokens (B, D), float32, by name: each asked-for layer, then the fused tokens."""
    found: dict[str, Tensor] = {}
    for name, tokens in (("video", encoded.video), ("audio", encoded.audio)):
        if tokens is None:
            continue
        for layer, values in zip(layers, tokens.layers, strict=True):
            found[f"{name}_layer{layer}"] = values.float().mean(dim=1)
        found[f"{name}_fused"] = tokens.fused.float().mean(dim=1)
    return found


def spread(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Whether features (L, B, D) of L levels differ from clip to clip, of all processes together.

    Each process adds up its own clips, and only sums are exchanged: (L, D) and (L, D, D).

    Args:
        features: Of this process, on its device.
        present: (B,) boolean, of which clips.

    Returns: (L,) float64 each, of no number where there is no clip or a feature is none.
        The standard deviation of L2-normalised features, mean over D, times the root of D: near 1
        where they point in all directions, 0 where all are the same.
        The effective rank, how many directions they use: e to the entropy of the shares of the
        singular values of features less their mean, which are the roots of the eigenvalues of their
        D × D scatter. At most B - 1 or D; 1 where they lie on a line, 0 where all are the same.
    Source: the collapse measure of SimSiam, arXiv 2011.10566, section 4.1; Roy and Vetterli, The
        effective rank, EUSIPCO 2007.
    """
    weight = present.double()[:, None]  # (B, 1)
    features = features.double()
    both = torch.stack((features, nn.functional.normalize(features, dim=2)))  # (2, L, B, D)
    count = _over_processes(weight.sum())
    mean = _over_processes((both * weight).sum(dim=2, keepdim=True)) / count.clamp(min=1)
    centred, unit = (both - mean) * weight  # (L, B, D) each
    scatter = _over_processes(centred.mT @ centred)  # (L, D, D)
    variance = _over_processes(unit.square().sum(dim=1)) / count  # (L, D)
    known = scatter.isfinite().all(dim=(1, 2)) & (count > 0)
    values = torch.linalg.eigvalsh(torch.where(known[:, None, None], scatter, 0.0))
    # What rounding leaves of identical features is no direction.
    squares = _over_processes((features * weight).square().sum(dim=(1, 2)))
    least = torch.finfo(torch.float32).eps * squares.sqrt()  # (L,)
    values = values.clamp(min=0).sqrt()  # (L, D) singular values
    values = torch.where(values > least[:, None], values, 0.0)
    total = values.sum(dim=1, keepdim=True)
    shares = values / torch.where(total > 0, total, 1.0)
    entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
    ranks = torch.where(total[:, 0] > 0, entropy.exp(), 0.0)
    spreads = variance.sqrt().mean(dim=1) * features.shape[2] ** 0.5
    return spreads, torch.where(known, ranks, torch.nan)


def _over_processes(sums: Tensor) -> Tensor:
    if are_several():
        dist.all_reduce(sums)
    return sums


def _own_share(parameter: nn.Parameter) -> Tensor:
    """What DeepSpeed's ZeRO 3 has left this process of a parameter; else all of it."""
    share: Tensor = getattr(parameter, "ds_tensor", parameter)
    return share
