"""What a pretrained network makes of hidden parts of a recording, as the page shows it.

For: reconstructions of some windows of each face, in the form of ``answers.py``. Not for: making
them (``hicmae/reconstruction.py``).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hicmae.media.preparation import Preparation
from hicmae.page.analysis import progress_to, relative_boxes, require_length, thinned
from hicmae.page.bank import WholeBank
from hicmae.page.jobs import Report
from hicmae.page.pictures import bank_range, bank_url, frame_url, jpeg_url
from hicmae.prediction.messages import Clip, Followed, Found, Window
from hicmae.prediction.process import DecodingProcess
from hicmae.prediction.reading import read_windows
from hicmae.prediction.settings import WindowConfig
from hicmae.pretraining import HiCMAE
from hicmae.reconstruction import Reconstruction, reconstruct
from hicmae.transforms import ClipTransform

# Windows of a face that are reconstructed, spread over it, and frames of each that are shown.
_MOST_WINDOWS = 4
_SHOWN_FRAMES = 8


class ReconstructionAnalyst:
    """Looks at recordings with a pretrained network.

    Args:
        network: It.
        name: What it is called.
        preparation: How the images of its input are made.
        config: Its windows.
        most_seconds: Longest recording that is looked at.
        device: Where the network runs.
        notes: What the user should know about the checkpoint.
    """

    def __init__(
        self,
        network: HiCMAE,
        *,
        name: str,
        preparation: Preparation,
        config: WindowConfig,
        most_seconds: float,
        device: torch.device,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._network, self._name, self._notes = network.to(device).eval(), name, notes
        self._preparation, self._config = preparation, config
        self._most_seconds, self._device = most_seconds, device
        self._transform = ClipTransform(network.config.input).to(device).eval()
        self._process = DecodingProcess()

    def describe(self) -> dict[str, Any]:
        """See ``hicmae.page.answers.Model``."""
        return {
            "name": self._name,
            "kind": "pretraining",
            "task": "none",
            "labels": [],
            "modalities": "audio-video",
            "num_parameters": sum(p.numel() for p in self._network.parameters()),
            "window_seconds": self._network.config.input.clip_seconds,
            "hop_seconds": self._config.hop,
        }

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """See ``hicmae.page.answers.Prediction``.

        Raises: PredictionError, ValueError: the recording cannot be used, or is too long.
        """
        input = self._network.config.input
        bank = WholeBank(input.sample_rate)
        with read_windows(
            path,
            input=input,
            preparation=self._preparation,
            config=self._config,
            process=self._process,
            progress=progress_to(report, self._most_seconds),
        ) as stream:
            found = stream.found
            require_length(found.seconds, self._most_seconds)
            if not found.tracks[0].is_face or not found.has_sound:
                lacking = "sound" if found.tracks[0].is_face else "face"
                raise ValueError(
                    "this network is a pretrained one, which reads picture and sound together, "
                    f"and there is no {lacking} in the recording"
                )
            tracks = {followed.name: _empty(followed, found) for followed in found.tracks}
            chosen = {followed.name: _chosen(followed.num_windows) for followed in found.tracks}
            began, network_seconds = time.monotonic(), 0.0
            for window in stream:
                began = time.monotonic()
                self._take(window, tracks[window.track], chosen[window.track], bank)
                network_seconds += time.monotonic() - began
            finished = stream.finished
        assert finished is not None
        return {
            "kind": "pretraining",
            "task": "none",
            "labels": [],
            "seconds": found.seconds,
            "width": found.width,
            "height": found.height,
            "has_sound": found.has_sound,
            "notes": [*self._notes, *found.notes, *finished.notes],
            "tracks": list(tracks.values()),
            "filter_bank": bank.picture(),
            "timings": {**finished.seconds, "network": network_seconds},
        }

    def close(self) -> None:
        """End the decoding process."""
        self._process.close()

    def _take(
        self, window: Window, track: dict[str, Any], chosen: set[int], bank: WholeBank
    ) -> None:
        """Take a window: its filter bank, and if it is one of those, its reconstruction."""
        clip = window.clips[0]
        new = bank.wants(window.start_seconds, clip)
        track["windows"].append({"start": window.start_seconds, "end": window.end_seconds})
        if not new and window.number not in chosen:
            return
        video, fbank = self._inputs(clip)
        if new:
            bank.add(window.start_seconds, clip, fbank[0].cpu().numpy())
        if window.number in chosen:
            track["thumbnail"] = jpeg_url(window.thumbnail)
            made = reconstruct(self._network, video, fbank, seed=window.number)
            track["reconstructions"].append(
                {"start": window.start_seconds, "end": window.end_seconds} | _shown(made)
            )

    def _inputs(self, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network is given of a clip: (1, 3, T, H, W) and (1, S, F)."""
        assert clip.frames is not None
        assert clip.waveform is not None
        batch = {
            "frames": torch.from_numpy(clip.frames[None]).to(self._device),
            "waveform": torch.from_numpy(clip.waveform[None]).to(self._device),
            "num_samples": torch.tensor([clip.num_samples], device=self._device),
        }
        video, fbank = self._transform(batch)
        assert video is not None
        assert fbank is not None
        return video, fbank


def _chosen(num_windows: int) -> set[int]:
    """Windows that are reconstructed."""
    count = min(_MOST_WINDOWS, num_windows)
    return set(np.linspace(0, num_windows - 1, count).round().astype(int).tolist())


def _empty(followed: Followed, found: Found) -> dict[str, Any]:
    """A track before its first window."""
    kept, rate = thinned(len(followed.boxes), followed.fps)
    angles = None if followed.angles is None else followed.angles[kept]
    size = {"width": found.width, "height": found.height}
    return {
        "name": followed.name,
        "is_face": True,
        "start": followed.start_seconds,
        "end": followed.end_seconds,
        "coverage": followed.coverage,
        "box_rate": rate,
        "boxes": relative_boxes(followed.boxes[kept], angles, **size),
        "thumbnail": "",
        "summary": {},
        "windows": [],
        "reconstructions": [],
    }


def _shown(made: Reconstruction) -> dict[str, Any]:
    """One reconstruction as pictures, with the error of its hidden pixels."""
    frames, masked, filled = (
        each[0].numpy() for each in (made.frames, made.masked_frames, made.filled_frames)
    )
    places = np.linspace(0, len(frames) - 1, min(_SHOWN_FRAMES, len(frames))).round().astype(int)
    hidden = (masked != frames).any(axis=-1)  # a pixel that happens to be that grey is no loss
    banks = [each[0].numpy() for each in (made.fbank, made.masked_fbank, made.filled_fbank)]
    low, high = bank_range(banks[0])
    return {
        "original": [frame_url(frames[place]) for place in places],
        "masked": [frame_url(masked[place]) for place in places],
        "filled": [frame_url(filled[place]) for place in places],
        "fbank": [bank_url(bank, low=low, high=high) for bank in banks],
        "error": float(np.square(filled - frames)[hidden].mean()),
    }
