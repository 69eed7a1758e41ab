"""The table of pretraining losses: what each is given, what it gives, and which a run asks for.

A loss is one file: a function of ``LossInput`` and of its settings, registered under the name that
its term has in the log. Those of the paper are configured by the objective's own keys
(``video_weight``, ``temperature``, …), further ones by ``objective.losses``:

    objective:
      losses:
        my-loss: {weight: 0.1, margin: 0.2}

A batch keeps its size though samples could not be read, or lack a modality: black pictures and
silence stand in, so that a graph is compiled once and all processes gather equally many rows
(``equal_rows``). No loss counts what stands in, see ``Presence``. ``all_rows``, for other numbers,
waits until hosts have told theirs: a collective operation on tensors of different sizes ends in an
error, waits for ever or returns what was never sent.

Shape letters: B clips of this process, B' of all that share the step, N tokens, M hidden ones,
K kept ones, D width, P values of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from hicmae.masks import Masks
from hicmae.registry import Registry
from hicmae.settings import APART, WHOLE, ModelConfig, ObjectiveConfig, raise_all

_ABSENT: Any = None  # of a modality that the network is not trained on


class Presence(NamedTuple):
    """Of a batch of B clips, B being the same in all processes and in the k batches whose gradients
    an optimizer step accumulates.

    A mean over the clips that are there is the sum over them, divided by ``counts``: the mean of
    that over batches and processes is the mean over all clips of the step.
    """

    video: Tensor  # (B,) boolean, whether the clip has its picture
    audio: Tensor  # (B,) boolean, whether it has its sound
    everyone: Tensor  # (B',) boolean, whether it has both, of all processes, rank by rank
    accumulated: Tensor  # (k, B') boolean, the same of each batch of the step
    counts: Tensor  # (3,) float32: with picture, sound, both; mean over those, above 0
    absent: Tensor  # (3,) float32: of the same, 1 where none of those has any, else 0

    @property
    def both(self) -> Tensor:
        """(B,) boolean."""
        return self.video & self.audio

    @property
    def is_mixed(self) -> bool:
        """Whether a clip may lack one of the two: then each has a vector of its own."""
        return self.video is not self.audio

    def contrastable(self, *, shared: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Whether this process's clips have another one to be told apart from, and how many have.

        Args:
            shared: Whether the clips of all processes are told apart, or those of each.

        Returns: 0-d boolean: whether two or more that share negatives have both; 0-d float32: how
            many are contrasted, mean over processes and batches of the step, above 0; and 0-d
            float32: 1 where that is none in any of them, else 0.
        """
        num_parts = self.accumulated.numel() // len(self.video)
        together = len(self.accumulated) if shared else num_parts
        groups = self.accumulated.reshape(together, -1).sum(dim=1)  # clips with both
        used = torch.where(groups >= 2, groups, 0).sum().float()
        mine = (self.everyone if shared else self.both).sum()
        return mine >= 2, used.clamp(min=1) / num_parts, (used == 0).float()


class LossInput(NamedTuple):
    """What one step of the network offers its losses.

    Predictions and targets are of the hidden tokens that were decoded; targets have no gradients.
    The layers are the feature layers if decoders read them, and every one that a loss asks for.
    Where a network is trained on one modality alone, nothing of the other is there, and without
    reconstruction no prediction and no target.
    """

    presence: Presence  # of the B clips; a loss counts those that are there
    video_prediction: Tensor = _ABSENT  # (B, M, P) tubelets
    audio_prediction: Tensor = _ABSENT  # (B, M, P) filter-bank patches
    video_target: Tensor = _ABSENT  # (B, M, P)
    audio_target: Tensor = _ABSENT  # (B, M, P)
    video_masks: Masks = _ABSENT
    audio_masks: Masks = _ABSENT
    # Encoder layer (from 1): visible tokens (B, K, D), normed.
    video_layers: Mapping[int, Tensor] = _ABSENT
    audio_layers: Mapping[int, Tensor] = _ABSENT
    video_fused: Tensor = _ABSENT  # (B, K, D) output of the fusion encoder, normed
    audio_fused: Tensor = _ABSENT  # (B, K, D)


class LossOutput(NamedTuple):
    """What a loss gives.

    Terms are further 0-d numbers for the log, by what follows the loss's name and ``_`` there. The
    term ``absent`` is 1 where nothing of the step had a clip to compute the loss of, else 0: the
    log's mean of the loss, and of its terms ``accuracy…``, is over the other steps.
    """

    loss: Tensor  # 0-d, before its weight
    terms: Mapping[str, Tensor] = {}
    logits: tuple[Tensor, ...] = ()  # of each layer, where the loss contrasts


Loss = Callable[[LossInput, Any], LossOutput]
LOSSES: Registry[Loss] = Registry("pretraining loss")


@dataclass(frozen=True, kw_only=True)
class WeightedLoss:
    """A loss that a network is trained with."""

    name: str  # in the table, and of its term
    weight: float  # of it in the sum
    compute: Loss
    settings: Any

    @property
    def layers(self) -> tuple[int, ...]:
        """Encoder layers (from 1) that it reads: the field ``layers`` of its settings."""
        return tuple(getattr(self.settings, "layers", None) or ())

    @property
    def gathers(self) -> bool:
        """Whether it reads other processes' clips: the field ``negatives`` of its settings."""
        return getattr(self.settings, "negatives", "local") == "global"

    @property
    def reads_fusion(self) -> bool:
        """Whether it reads what the fusion encoder gives, besides what decoders make of it: the
        field ``fusion`` of its settings."""
        return bool(getattr(self.settings, "fusion", False))

    def is_in(self, stage: str) -> bool:
        """Whether a network is trained with it in a stage (``ObjectiveConfig.stages``)."""
        return stage == WHOLE or self.name in (("video", "audio") if stage == APART else (stage,))


def choose_losses(
    objective: ObjectiveConfig, config: ModelConfig, modalities: str = "audio-video"
) -> tuple[WeightedLoss, ...]:
    """The losses of an objective in the order in which they are summed: the paper's come first.

    Of one modality alone there is its own reconstruction, and no contrast.

    Raises: ValueError: an unknown loss, settings that it does not have, layers outside the encoder,
        no loss at all; all of them are named.
    """
    published: dict[str, tuple[float, dict[str, Any]]] = {
        "video": (objective.video_weight, {}),
        "audio": (objective.audio_weight, {}),
    }
    published = {
        name: loss
        for name, loss in published.items()
        if name in modalities and objective.reconstruction
    }
    if objective.contrast and modalities == "audio-video":
        published["contrast"] = (
            objective.contrast_weight,
            {
                "layers": objective.contrast_layers or config.feature_layers,
                "temperature": objective.temperature,
                "negatives": objective.negatives,
            },
        )
    chosen, problems = [], []
    for name, (weight, values) in published.items():
        chosen.append(_weighted(name, weight, values, f"objective: {name}"))
    for name, given in objective.losses.items():
        where = f"objective: losses.{name}"
        if name in ("video", "audio", "contrast"):
            keys = "contrast, contrast_weight, …" if name == "contrast" else f"{name}_weight"
            problems.append(f"{where}: is set by the objective's own keys ({keys})")
            continue
        values = {key: value for key, value in given.items() if key != "weight"}
        try:
            chosen.append(_weighted(name, float(given.get("weight", 1.0)), values, where))
        except ValueError as error:
            text = str(error)
            problems.append(text if text.startswith(where) else f"{where}: {text}")
    for loss in chosen:
        wrong = [layer for layer in loss.layers if not 1 <= layer <= config.encoder_depth]
        if wrong:
            key = "contrast_layers" if loss.name == "contrast" else f"losses.{loss.name}.layers"
            problems.append(
                f"objective: {key} = {loss.layers} name layers {wrong} "
                f"of an encoder that has 1..{config.encoder_depth}"
            )
    if objective.contrast and modalities == WHOLE and not published["contrast"][1]["layers"]:
        problems.append(
            "objective: contrast = true, and no layer to contrast: model.feature_layers is empty; "
            "name some with contrast_layers, or set contrast: false"
        )
    deepest = max((layer for loss in chosen for layer in loss.layers), default=0)
    idle = not objective.reconstruction and not any(loss.reads_fusion for loss in chosen)
    if chosen and not problems and idle and deepest < config.encoder_depth:
        problems.append(
            f"objective: without reconstruction no loss reads layers {deepest + 1} to"
            f" {config.encoder_depth} of the encoder; add the last to contrast_layers"
        )
    if not chosen and not problems:
        problems.append(
            f"objective: no loss is left to train {modalities} with; set reconstruction: true"
            + (", or contrast: true" if modalities == WHOLE else "")
        )
    for stage in (*objective.stages, WHOLE) if not problems else ():
        trained = [loss for loss in chosen if stage == WHOLE or loss.is_in(stage)]
        if trained and not any(loss.weight for loss in trained):
            where = "" if stage == WHOLE else f" of stage {stage}"
            names = ", ".join(loss.name for loss in trained)
            problems.append(f"objective: every weight{where} is 0 ({names}); raise one above 0")
    if objective.stages and modalities != WHOLE:
        problems.append(
            f"objective: stages are of a training on both modalities, and this one is on"
            f" {modalities}; leave stages out, or take data.modalities {WHOLE}"
        )
    raise_all("", problems)
    return tuple(chosen)


def find_presence(
    video: Tensor, audio: Tensor, step: Tensor | None = None, number: int = 0
) -> Presence:
    """From what this process has, (B,) boolean each; a collective call that no host waits in.

    ``step``, (k, 2, B), is the same of all batches that are accumulated with this one, which is
    the one of that number; none given: there is no other.
    """
    if step is None:
        step = torch.stack((video, audio))[None]
    own = torch.cat((step, step.all(dim=1, keepdim=True)), dim=1)  # (k, 3, B)
    everyone = equal_rows(own.permute(2, 0, 1))  # (B', k, 3)
    totals = everyone.sum(dim=(0, 1)).float()
    counts = totals.clamp(min=1) / len(step) * (len(video) / len(everyone))
    both = everyone[:, :, 2].T
    return Presence(video, audio, both[number], both, counts, (totals == 0).float())


def whole(batch: int, device: torch.device) -> Presence:
    """Of clips that are all there, in all processes."""
    processes = dist.get_world_size() if are_several() else 1
    everyone = torch.ones(batch * processes, dtype=torch.bool, device=device)
    own = everyone[:batch]
    counts = torch.full((3,), float(batch), device=device)
    return Presence(own, own, everyone, everyone[None], counts, torch.zeros_like(counts))


def are_several() -> bool:
    """Whether there are other processes to gather from."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def equal_rows(rows: Tensor) -> Tensor:
    """Rows (B, …) of all processes (B', …), rank by rank, with gradients; B is the same in all.

    The gradient of a process's rows is the sum over processes: where all of them compute the same
    loss of all rows, the mean of their parameters' gradients is that of one process with all rows.
    """
    return torch.cat(all_gather(rows.contiguous())) if are_several() else rows


def all_rows(rows: Tensor) -> Tensor:
    """As ``equal_rows`` of processes with 0 or more rows each, which may differ."""
    if not are_several():
        return rows
    # Where hosts have a way of their own, no device is waited for.
    beside = "cpu:" in dist.get_backend_config()
    mine = torch.tensor([len(rows)], device="cpu" if beside else rows.device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    counts = torch.cat(everyone).tolist()
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(counts) - len(rows)))
    parts = equal_rows(padded).chunk(len(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _weighted(name: str, weight: float, values: Mapping[str, Any], where: str) -> WeightedLoss:
    entry = LOSSES[name]
    settings = entry.configure(values, where)
    return WeightedLoss(name=name, weight=weight, compute=entry.make, settings=settings)
