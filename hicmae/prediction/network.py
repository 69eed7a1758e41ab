"""The networks behind ``hicmae.load``: one checkpoint, or all folds of a run, and their average.

Shape letters: B clips of a batch, C outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hicmae.blocks import prepare_for_bf16
from hicmae.checkpoints.checkpoint import (
    WEIGHTS,
    Calibration,
    Checkpoint,
    Labels,
    is_checkpoint,
    load_checkpoint,
)
from hicmae.checkpoints.networks import build_network, preparation_of
from hicmae.checkpoints.portable import locate
from hicmae.config import to_dict
from hicmae.devices import choose_device, inference_precision
from hicmae.emotion import EmotionModel, clip_values
from hicmae.files import file_sha256
from hicmae.media.faces import FaceConfig
from hicmae.prediction.messages import Clip
from hicmae.transforms import ClipTransform


def load_ensemble(
    source: str | Path, *, device: str = "auto", precision: str = "auto"
) -> EmotionEnsemble:
    """Read a checkpoint, or those of all folds of a run; arguments as for ``hicmae.load``.

    Raises: ValueError: nothing there, damaged, not fine-tuned, folds that do not fit together, no
        such device, or another precision.
    """
    folder = locate(source)
    folders = _folds(folder) or [folder]
    checkpoints = [load_checkpoint(each) for each in folders]
    notes: list[str] = []
    if len(checkpoints) > 1:
        notes.append(f"the predictions of {len(checkpoints)} folds of {source} are averaged")
    labels = [_labels(checkpoint, notes) for checkpoint in checkpoints]
    calibrations = _calibrations(checkpoints, notes)
    smoothing = float(np.mean([checkpoint.smoothing_seconds() for checkpoint in checkpoints]))
    shift = float(np.mean([checkpoint.shift_seconds() for checkpoint in checkpoints]))
    if shift:
        where = f"{abs(shift):g} s {'after' if shift > 0 else 'before'} the middle of its window"
        notes.append(f"a value of a trace (--rate) stands {where}, where labels were in training")
    if smoothing:
        notes.append(
            f"traces (--rate) are means over {smoothing:g} s, as fine-tuning chose (--smoothing"
            " sets another time, 0 none)"
        )
    members = [_member(checkpoint) for checkpoint in checkpoints]
    preparation, note = preparation_of(checkpoints[0])
    notes += [note] if note else []
    for other, names, member in zip(checkpoints[1:], labels[1:], members[1:], strict=True):
        same = (
            member.config.input == members[0].config.input
            and member.emotion.modalities == members[0].emotion.modalities
            and (names.task, names.names) == (labels[0].task, labels[0].names)
            and [head.kind for head in names.heads] == [head.kind for head in labels[0].heads]
            and preparation_of(other)[0] == preparation
        )
        if not same:
            raise ValueError(
                f"{other.path}: differs from {checkpoints[0].path} in its input, its preparation "
                "or its labels, so their predictions cannot be averaged; name one of them"
            )
    return EmotionEnsemble(
        members,
        labels,
        preparation,
        source=str(source),
        calibrations=calibrations,
        smoothing_seconds=smoothing,
        shift_seconds=shift,
        notes=tuple(dict.fromkeys(notes)),
        device=device,
        precision=precision,
        digest=_digest(checkpoints),
    )


class EmotionEnsemble:
    """One or more fine-tuned networks with the same input and the same outputs.

    Args:
        labels: What their outputs stand for; of real values each member has its own mean and
            deviation.
        preparation: How the images of their input are made.
        source: Where they came from, as the user named it.
        calibrations: How sure each may be; none given: nobody has fitted that.
        smoothing_seconds: Window over which traces are averaged; of several the mean; 0: none.
        shift_seconds: How long after the middle of a window its value in a trace is; likewise.
        notes: What the user should know, a line each.
        device, precision: As of ``hicmae.load``.
        digest: Of weights and configuration of all.

    Raises: ValueError: no such device, or another precision.
    """

    def __init__(
        self,
        members: Sequence[EmotionModel],
        labels: Sequence[Labels],
        preparation: FaceConfig,
        *,
        source: str,
        calibrations: Sequence[Calibration] = (),
        smoothing_seconds: float = 0.0,
        shift_seconds: float = 0.0,
        notes: tuple[str, ...] = (),
        device: str = "auto",
        precision: str = "auto",
        digest: str = "",
    ) -> None:
        self.preparation, self.source, self.notes = preparation, source, notes
        self.digest = digest
        self.smoothing_seconds, self.shift_seconds = smoothing_seconds, shift_seconds
        self.device = choose_device(device)
        self.precision = inference_precision(precision, self.device)
        self.members = [member.to(self.device).eval() for member in members]
        self.num_parameters = sum(p.numel() for net in self.members for p in net.parameters())
        for member in self.members if self.precision == "bf16-mixed" else ():
            prepare_for_bf16(member)
        self.labels = _common_labels(labels)
        self._temperatures = [each.temperature for each in calibrations] or [1.0] * len(members)
        self.threshold = float(np.mean([each.threshold for each in calibrations] or [0.0]))
        self.config = members[0].config
        self.modalities = members[0].emotion.modalities
        self.transform = ClipTransform(self.config.input).to(self.device).eval()
        self._heads = [each.heads for each in labels]
        self._scales = [
            [torch.tensor(values, device=self.device) for values in (each.mean, each.std)]
            for each in labels
        ]

    @torch.inference_mode()
    def run(self, clips: Sequence[Clip], kinds: Sequence[str]) -> dict[str, np.ndarray]:
        """Predict clips.

        Args:
            clips: All with the same modalities.
            kinds: What to go by, of ``audio-video``, ``video`` and ``audio``.

        Returns: for each kind (B, 2, C) float32: the probabilities or real values, averaged over
            the members, and the logits, likewise.

        Raises: ValueError: an output that is no finite number.
        """
        video, fbank = self.transform(clip_batch(clips, self.device))
        shown = {"audio-video": (video, fbank), "video": (video, None), "audio": (None, fbank)}
        outputs = {kind: self._outputs(*shown[kind]) for kind in kinds}
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise ValueError(
                "the network's output is no finite number: its weights are damaged, or "
                f"{self.precision} is too coarse for them (--precision 32-true)"
            )
        return outputs

    def _outputs(self, video: Tensor | None, fbank: Tensor | None) -> np.ndarray:
        task, precision = self.labels.task, self.precision
        pairs = [
            clip_values(
                member,
                video,
                fbank,
                task=task,
                precision=precision,
                mean=mean,
                std=std,
                heads=heads,
                temperature=temperature,
            )
            for member, (mean, std), heads, temperature in zip(
                self.members, self._scales, self._heads, self._temperatures, strict=True
            )
        ]
        means = [torch.stack(each).mean(0) for each in zip(*pairs, strict=True)]
        return np.asarray(torch.stack(means, dim=1).cpu().numpy())  # (B, 2, C)


def clip_batch(clips: Sequence[Clip], device: torch.device) -> dict[str, Any]:
    """Clips with the same modalities as ``ClipTransform`` takes them, on a device."""
    batch: dict[str, Any] = {}
    frames = [clip.frames for clip in clips if clip.frames is not None]
    waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
    if frames:
        batch["frames"] = torch.from_numpy(np.stack(frames)).to(device)
    if waveforms:
        batch["waveform"] = torch.from_numpy(np.stack(waveforms)).to(device)
        batch["num_samples"] = torch.tensor([clip.num_samples for clip in clips], device=device)
    return batch


def _folds(folder: Path) -> list[Path]:
    """The checkpoints of a run's folds, in order; none where the folder is something else."""
    if is_checkpoint(folder) or is_checkpoint(folder / "checkpoints" / "last"):
        return []
    folds = [fold / "checkpoints" / "last" for fold in sorted(folder.glob("fold-*"))]
    return [fold for fold in folds if is_checkpoint(fold)]


def _digest(checkpoints: Sequence[Checkpoint]) -> str:
    said = [
        [each.weights_sha256 or file_sha256(each.path / WEIGHTS), to_dict(each.config)]
        for each in checkpoints
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _member(checkpoint: Checkpoint) -> EmotionModel:
    network = build_network(checkpoint)
    if not isinstance(network, EmotionModel):
        raise ValueError(
            f"{checkpoint.path}: is a pretrained network, which predicts no emotion; fine-tune it "
            "first (hicmae finetune), or give a fine-tuned one"
        )
    return network


def _calibrations(checkpoints: Sequence[Checkpoint], notes: list[str]) -> list[Calibration]:
    """How sure each may be, and a line that says so; none where one does not say."""
    given = [checkpoint.calibration() for checkpoint in checkpoints]
    found = [each for each in given if each is not None]
    if not found:
        return []
    if len(found) < len(given):
        notes.append(
            f"{len(found)} of {len(given)} folds are calibrated, which is left out: it takes all"
        )
        return []
    threshold = float(np.mean([each.threshold for each in found]))
    notes.append(
        f"calibrated on {sum(each.num_samples for each in found)} samples kept out of training "
        f"(temperature {', '.join(f'{each.temperature:.2f}' for each in found)}): where no class "
        f"reaches {threshold:.3f} the prediction is 'not sure' (--min_confidence sets another "
        "limit, 0 none)"
    )
    return found


def _common_labels(labels: Sequence[Labels]) -> Labels:
    """What the mean of the outputs stands for: thresholds of classes are averaged too."""
    first = labels[0]
    heads = tuple(
        replace(head, thresholds=tuple(np.mean([each.thresholds for each in of], axis=0).tolist()))
        if head.thresholds
        else head
        for head, of in zip(
            first.heads, zip(*(each.heads for each in labels), strict=True), strict=True
        )
    )
    return replace(first, heads=heads)


def _labels(checkpoint: Checkpoint, notes: list[str]) -> Labels:
    """What the outputs stand for; numbered where nobody has said."""
    labels = checkpoint.labels()
    if labels is not None:
        return labels
    count = int(checkpoint.config.get("emotion", {}).get("num_outputs", 0))
    notes.append(
        f"{checkpoint.path} does not say what its outputs stand for: they are taken for classes "
        "and numbered"
    )
    return Labels(
        task="classification", names=tuple(f"class{number}" for number in range(max(count, 1)))
    )
