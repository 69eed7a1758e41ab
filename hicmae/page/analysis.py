"""What a network says about a recording, as the page shows it, in the form of ``answers.py``.

Of a fine-tuned network predictions of both modalities and of each alone; of a pretrained one what
it makes of hidden parts of some windows of each face.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.sources import locate
from hicmae.devices import choose_device
from hicmae.media.faces import FaceConfig
from hicmae.page.jobs import Limits, Report
from hicmae.page.pictures import WholeBank, bank_range, bank_url, frame_url, jpeg_url
from hicmae.prediction.messages import Followed, Found, StageProgress, Window, WindowConfig
from hicmae.prediction.model import EmotionPredictor, load
from hicmae.prediction.network import clip_batch, preparation_of
from hicmae.prediction.process import DecodingProcess, read_windows
from hicmae.prediction.results import Prediction, Track
from hicmae.pretraining import HiCMAE
from hicmae.reconstruction import Reconstruction, reconstruct
from hicmae.transforms import ClipTransform

STAGES = {"faces": "Looking for faces", "windows": "Looking and listening"}
# Boxes a second that the page is sent; it draws what is between them.
_BOX_RATE = 12.5
# What the page calls them, and what the network does.
_KINDS = {"both": "audio-video", "video": "video", "audio": "audio"}
# Windows of a face that are reconstructed, spread over it, and frames of each that are shown.
_MOST_WINDOWS = 4
_SHOWN_FRAMES = 8


def open_analyst(
    source: str, windows: WindowConfig, limits: Limits, *, device: str, precision: str
) -> EmotionAnalyst | ReconstructionAnalyst:
    """Load a checkpoint for the page.

    Args:
        source: As for ``hicmae.load``, or a pretrained one.
        windows: Stretches of time that one prediction is about.
        limits: Of the page.
        device: ``auto``, ``cpu``, ``cuda``, ….
        precision: Of a fine-tuned network; a pretrained one runs in float32.

    Raises: ValueError: nothing there, damaged, or no such device.
    """
    folder = locate(source)
    # A run of several folds is fine-tuned; it has no checkpoint of its own.
    found = None if any(folder.glob("fold-*")) else load_checkpoint(folder)
    if found is None or found.kind == "emotion":
        predictor = load(source, device=device, precision=precision)
        return EmotionAnalyst(predictor, windows, most_seconds=limits.seconds)
    network = build_network(found)
    assert isinstance(network, HiCMAE)
    preparation, note = preparation_of(found)
    return ReconstructionAnalyst(
        network,
        name=Path(source).name or source,
        preparation=preparation,
        config=windows,
        most_seconds=limits.seconds,
        device=choose_device(device),
        notes=(note,) if note else (),
    )


class EmotionAnalyst:
    """Looks at recordings with a fine-tuned network.

    Args:
        predictor: The network.
        config: Its windows.
        most_seconds: Longest recording that is looked at.
    """

    def __init__(
        self, predictor: EmotionPredictor, config: WindowConfig, *, most_seconds: float
    ) -> None:
        self._predictor, self._config, self._most_seconds = predictor, config, most_seconds

    def describe(self) -> dict[str, Any]:
        """See ``hicmae.page.answers.Model``."""
        members = self._predictor.network.members
        input = self._predictor.input
        return {
            "name": Path(str(self._predictor.source)).name or str(self._predictor.source),
            "kind": "emotion",
            "task": self._predictor.labels.task,
            "labels": list(self._predictor.labels.names),
            "modalities": self._predictor.modalities,
            "num_parameters": sum(p.numel() for net in members for p in net.parameters()),
            "window_seconds": self._config.window or input.clip_seconds,
            "hop_seconds": self._config.hop,
        }

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """See ``hicmae.page.answers.Prediction``.

        Raises: PredictionError, ValueError: the recording cannot be used, or is too long.
        """
        bank = WholeBank(self._predictor.input.sample_rate)
        has_sound = False

        def look(window: Window) -> None:
            nonlocal has_sound
            clip = window.clips[0]
            has_sound = has_sound or clip.waveform is not None
            if bank.wants(window.start_seconds, clip):
                bank.add(window.start_seconds, clip, self._predictor.filter_bank(clip))

        prediction = self._predictor.predict(
            path,
            config=self._config,
            each_modality=True,
            progress=_progress_to(report, self._most_seconds),
            on_window=look,
        )
        return {
            "kind": "emotion",
            "task": prediction.labels.task,
            "labels": list(prediction.labels.names),
            "seconds": prediction.seconds,
            "width": prediction.width,
            "height": prediction.height,
            "has_sound": has_sound,
            "notes": [*self._predictor.notes, *prediction.notes],
            "tracks": [_track(track, prediction) for track in prediction.tracks],
            "filter_bank": bank.picture(),
            "timings": dict(prediction.stage_seconds),
        }

    def close(self) -> None:
        """End the decoding process."""
        self._predictor.close()


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
        preparation: FaceConfig,
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
            progress=_progress_to(report, self._most_seconds),
        ) as stream:
            found = stream.found
            _require_length(found.seconds, self._most_seconds)
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
        video, fbank = self._transform(clip_batch([clip], self._device))
        assert video is not None
        assert fbank is not None
        if new:
            bank.add(window.start_seconds, clip, fbank[0].cpu().numpy())
        if window.number in chosen:
            track["thumbnail"] = jpeg_url(window.thumbnail)
            made = reconstruct(self._network, video, fbank, seed=window.number)
            track["reconstructions"].append(
                {"start": window.start_seconds, "end": window.end_seconds} | _shown(made)
            )


def _progress_to(report: Report, most_seconds: float) -> Any:
    """What tells a report how far the decoding is, and refuses recordings that are too long."""

    def tell(progress: StageProgress) -> None:
        # While a sound file is measured nobody knows its length: the share done is then 0.
        known = math.isfinite(progress.total)
        _require_length(progress.total if known else progress.done, most_seconds)
        report(
            STAGES.get(progress.stage, progress.stage), progress.done / max(progress.total, 1e-6)
        )

    return tell


def _require_length(seconds: float, most_seconds: float) -> None:
    """Raises: ValueError: a recording of so many seconds is too long."""
    if seconds > most_seconds:
        raise ValueError(
            f"the recording is {seconds:.0f} s long (this page takes up to {most_seconds:g} s; "
            "`hicmae predict` takes any length)"
        )


def _relative_boxes(
    boxes: np.ndarray, angles: np.ndarray | None, *, width: int, height: int
) -> list[tuple[float, ...]]:
    """Boxes (T, 4) x0, y0, x1, y1 in pixels, and angles (T,) in radians, as the page has them.

    Returns: centre x, centre y, width, height as shares of the picture, and degrees clockwise.
    """
    x0, y0, x1, y1 = boxes.astype(np.float64).T
    turned = np.zeros(len(boxes)) if angles is None else np.degrees(angles)
    columns = (
        (x0 + x1) / 2 / width,
        (y0 + y1) / 2 / height,
        (x1 - x0) / width,
        (y1 - y0) / height,
        turned,
    )
    return [tuple(round(float(v), 4) for v in row) for row in zip(*columns, strict=True)]


def _thinned(num_boxes: int, rate: float) -> tuple[slice, float]:
    """Which boxes the page is sent (every n-th), and how many a second these are."""
    step = max(1, round(rate / _BOX_RATE))
    return slice(0, num_boxes, step), rate / step


def _track(track: Track, prediction: Prediction) -> dict[str, Any]:
    values = {name: track.by_modality.get(kind) for name, kind in _KINDS.items()}
    # A recording with one modality: what the network went by is all there is.
    alone = {"video": "video", "audio": "audio"}.get(prediction.modality)
    values["both"] = track.values
    if alone is not None:
        values[alone] = track.values
    boxes, rate = _boxes(track.boxes, prediction)
    return {
        "name": track.name,
        "is_face": bool(len(track.boxes)),
        "start": track.start_seconds,
        "end": track.end_seconds,
        "coverage": track.coverage,
        "box_rate": rate,
        "boxes": boxes,
        "thumbnail": _middle(track.thumbnails),
        "summary": {name: _numbers(v.mean(axis=0)) for name, v in values.items() if v is not None},
        "windows": [
            {"start": float(start), "end": float(end)}
            | {name: _numbers(v[number]) for name, v in values.items() if v is not None}
            for number, (start, end) in enumerate(track.spans)
        ],
    }


def _boxes(table: pandas.DataFrame, prediction: Prediction) -> tuple[list[Any], float]:
    if len(table) < 2 or not prediction.width:
        rate = 1.0
        kept = slice(0, len(table))
    else:
        seconds = table["seconds"].to_numpy()
        rate = (len(seconds) - 1) / float(seconds[-1] - seconds[0])
        kept, rate = _thinned(len(table), rate)
    if not len(table) or not prediction.width:
        return [], rate
    some = table.iloc[kept]
    boxes = some[["x0", "y0", "x1", "y1"]].to_numpy()
    angles = some["angle"].to_numpy(dtype=float)
    size = {"width": prediction.width, "height": prediction.height}
    return _relative_boxes(boxes, np.nan_to_num(angles), **size), rate


def _middle(thumbnails: tuple[tuple[float, bytes], ...]) -> str:
    return jpeg_url(thumbnails[len(thumbnails) // 2][1]) if thumbnails else ""


def _numbers(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _chosen(num_windows: int) -> set[int]:
    count = min(_MOST_WINDOWS, num_windows)
    return set(np.linspace(0, num_windows - 1, count).round().astype(int).tolist())


def _empty(followed: Followed, found: Found) -> dict[str, Any]:
    kept, rate = _thinned(len(followed.boxes), followed.fps)
    angles = None if followed.angles is None else followed.angles[kept]
    size = {"width": found.width, "height": found.height}
    return {
        "name": followed.name,
        "is_face": True,
        "start": followed.start_seconds,
        "end": followed.end_seconds,
        "coverage": followed.coverage,
        "box_rate": rate,
        "boxes": _relative_boxes(followed.boxes[kept], angles, **size),
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
