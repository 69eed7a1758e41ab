"""Networks over clips: the transform, the forward pass, the average of an ensemble.

For: batches of clips of one kind. Not for: recordings, or which clips make a window.

Shape letters: B clips of a batch, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hicmae.checkpoints.labels import Labels
from hicmae.emotion import EmotionModel
from hicmae.precision import resolve_precision
from hicmae.prediction.messages import Clip
from hicmae.transforms import ClipTransform


class EmotionEnsemble:
    """One or more fine-tuned networks with the same input and the same outputs.

    Args:
        members: The networks.
        labels: What their outputs stand for; of real values each member has its own mean and
            deviation.
        device: Where they run: ``auto``, ``cpu``, ``cuda``, ….
        precision: ``auto`` (bf16 where the machine computes in it), ``32-true`` or ``bf16-mixed``.

    Raises: ValueError: no such device, or another precision.
    """

    def __init__(
        self,
        members: Sequence[EmotionModel],
        labels: Sequence[Labels],
        *,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.precision = resolve_precision(precision, accelerator=self.device.type)
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"precision = {precision} (allowed: auto, 32-true, bf16-mixed)")
        self.members = [member.to(self.device).eval() for member in members]
        self.labels = labels[0]
        self.config = members[0].config
        self.modalities = members[0].emotion.modalities
        self.transform = ClipTransform(self.config.input).to(self.device).eval()
        self._scales = [
            (
                torch.tensor(each.mean, device=self.device),
                torch.tensor(each.std, device=self.device),
            )
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
        video, fbank = self.transform(self.batch(clips))
        shown = {"audio-video": (video, fbank), "video": (video, None), "audio": (None, fbank)}
        outputs = {kind: self._outputs(*shown[kind]) for kind in kinds}
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise ValueError(
                "the network's output is no finite number: its weights are damaged, or "
                f"{self.precision} is too coarse for them (--precision 32-true)"
            )
        return outputs

    def batch(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Clips of one kind as ``ClipTransform`` takes them, on the device."""
        batch: dict[str, Any] = {}
        frames = [clip.frames for clip in clips if clip.frames is not None]
        waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
        if frames:
            batch["frames"] = torch.from_numpy(np.stack(frames)).to(self.device)
        if waveforms:
            batch["waveform"] = torch.from_numpy(np.stack(waveforms)).to(self.device)
            counts = [clip.num_samples for clip in clips]
            batch["num_samples"] = torch.tensor(counts, device=self.device)
        return batch

    def _outputs(self, video: Tensor | None, fbank: Tensor | None) -> np.ndarray:
        values, logits = [], []
        for member, (mean, std) in zip(self.members, self._scales, strict=True):
            with self._autocast():
                outputs = member(video, fbank)
            outputs = outputs.float()
            logits.append(outputs)
            if self.labels.task == "classification":
                values.append(outputs.softmax(dim=1))
            else:
                values.append(outputs * std + mean)
        both = torch.stack([torch.stack(values).mean(0), torch.stack(logits).mean(0)], dim=1)
        return np.asarray(both.cpu().numpy())  # (B, 2, C)

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def pick_device(name: str) -> torch.device:
    """A device by name.

    Raises: ValueError: there is none of that name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device = {name} (allowed: auto, cpu, cuda, cuda:0, …)") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name}: no CUDA device found; use cpu or auto")
    return device
