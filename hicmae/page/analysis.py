"""What a network says about a recording, as the page shows it, in the form of ``server.py``.

Of a fine-tuned network predictions of both modalities and of each alone; of a pretrained one what
it makes of hidden parts of some windows of each face. Pictures are data: URLs, which a page shows
without asking for another file.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import torch

from hicmae.checkpoints.checkpoint import Checkpoint, load_checkpoint
from hicmae.checkpoints.networks import build_network, preparation_of
from hicmae.checkpoints.portable import locate
from hicmae.config import to_dict
from hicmae.devices import choose_device
from hicmae.files import telling_name
from hicmae.heads import rounded, said
from hicmae.media.faces import FaceConfig
from hicmae.page.jobs import Report, for_visitors
from hicmae.page.settings import Limits
from hicmae.prediction.live import LiveNetwork
from hicmae.prediction.messages import Clip, Followed, Found, StageProgress, Window, WindowConfig
from hicmae.prediction.model import EmotionPredictor, load
from hicmae.prediction.network import clip_batch
from hicmae.prediction.process import DecodingProcess, read_windows
from hicmae.prediction.results import Prediction, Track
from hicmae.prediction.windows import find_detector
from hicmae.pretraining import HiCMAE
from hicmae.reconstruction import Reconstruction, reconstruct
from hicmae.transforms import ClipTransform

STAGES = {"faces": "Looking for faces", "windows": "Looking and listening"}
# Boxes a second that the page is sent; it draws what is between them.
_BOX_RATE = 12.5
_CORNERS = ["x0", "y0", "x1", "y1"]
# Windows of a face that are reconstructed, spread over it, and frames of each that are shown.
_MOST_WINDOWS = 4
_SHOWN_FRAMES = 8
_JPEG_QUALITY = 85
# Beyond this many columns a filter bank is averaged over time: a screen has no more.
_MOST_COLUMNS = 6000
# Frames of 25 ms, 10 ms apart, see ``hicmae.transforms.fbank``.
_ROWS_PER_SECOND = 100
_ROW_SECONDS = 0.025
_PRETRAINED = {"kind": "pretraining", "task": "none", "labels": []}


def open_analyst(
    source: str,
    windows: WindowConfig,
    limits: Limits,
    *,
    device: str,
    precision: str,
    tell: Callable[..., object] = lambda *lines: None,
) -> EmotionAnalyst | ReconstructionAnalyst:
    """Load a checkpoint for the page.

    Args:
        source: As for ``hicmae.load``, or a pretrained one.
        windows: Stretches of time that one prediction is about.
        device: ``auto``, ``cpu``, ``cuda``, ….
        precision: Of a fine-tuned network; a pretrained one runs in float32.
        tell: Is given what who starts the page should know, a line each.

    Raises: ValueError: nothing there, damaged, no such device, or a network whose images were made
        with lists of boxes. FileNotFoundError: its detector's file is not to be had.
    """
    folder = locate(source)
    # A run of several folds is fine-tuned; it has no checkpoint of its own.
    found = None if any(folder.glob("fold-*")) else load_checkpoint(folder)
    if found is None or found.kind == "emotion":
        predictor = load(source, device=device, precision=precision)
        if "video" in predictor.modalities:
            tell(*_detector_notes(windows.prepared(predictor.preparation), windows.offline))
        notes = _shown_notes(predictor.notes, source, folder)
        tell(*notes)
        return EmotionAnalyst(predictor, notes, windows, limits.seconds)
    tell(*_detector_notes(windows.prepared(preparation_of(found)[0]), windows.offline))
    name = _name(source)
    return ReconstructionAnalyst(found, name, windows, limits.seconds, choose_device(device))


class EmotionAnalyst:
    """Looks at recordings of up to so many seconds with a fine-tuned network."""

    def __init__(
        self,
        predictor: EmotionPredictor,
        notes: list[str],
        config: WindowConfig,
        most_seconds: float,
    ) -> None:
        self._predictor, self._notes = predictor, notes
        self._config, self._most_seconds = config, most_seconds
        labels = predictor.labels
        self._about = {
            "kind": "emotion",
            "task": labels.task,
            "labels": list(labels.names),
            "heads": to_dict(labels.heads),
            "scales": labels.scales,
            "sizes": labels.sizes,
            "min_confidence": predictor.confidence(None),
        }

    def describe(self) -> dict[str, Any]:
        """See ``hicmae.page.server.Model``."""
        predictor = self._predictor
        return self._about | {
            "name": _name(predictor.source),
            "modalities": predictor.modalities,
            "num_parameters": predictor.network.num_parameters,
            "window_seconds": self._config.window or predictor.input.clip_seconds,
            "hop_seconds": self._config.hop,
        }

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """See ``hicmae.page.server.Prediction``.

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
        return self._about | {
            "seconds": prediction.seconds,
            "width": prediction.width,
            "height": prediction.height,
            "has_sound": has_sound,
            "notes": [*self._notes, *map(for_visitors, prediction.notes)],
            "tracks": [_predicted(track, prediction) for track in prediction.tracks],
            "filter_bank": bank.picture(),
            "timings": dict(prediction.stage_seconds),
        }

    def live(self) -> LiveNetwork:
        """See ``hicmae.page.jobs.Analyst``."""
        return LiveNetwork(self._predictor.network, self._config)

    def close(self) -> None:
        """End the decoding process."""
        self._predictor.close()


class ReconstructionAnalyst:
    """Looks at recordings of up to so many seconds with a pretrained network."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        config: WindowConfig,
        most_seconds: float,
        device: torch.device,
    ) -> None:
        network = build_network(checkpoint)
        assert isinstance(network, HiCMAE)
        if network.modalities != "audio-video":
            raise ValueError(
                f"{name}: was pretrained on {network.modalities} alone, and the page shows what a "
                "network makes of picture and sound; fine-tune it first"
            )
        self._network, self._name = network.to(device).eval(), name
        self._preparation, note = preparation_of(checkpoint)
        self._notes = _shown_notes([note] if note else [], name, checkpoint.path)
        self._config, self._most_seconds, self._device = config, most_seconds, device
        self._transform = ClipTransform(network.config.input).to(device).eval()
        self._process = DecodingProcess()

    def describe(self) -> dict[str, Any]:
        """See ``hicmae.page.server.Model``."""
        return _PRETRAINED | {
            "name": self._name,
            "modalities": "audio-video",
            "num_parameters": sum(p.numel() for p in self._network.parameters()),
            "window_seconds": self._network.config.input.clip_seconds,
            "hop_seconds": self._config.hop,
        }

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """See ``hicmae.page.server.Prediction``.

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
            tracks = {
                each.name: _entry(each, each.boxes, each.angles, each.fps, found)
                | {"thumbnail": "", "summary": {}, "windows": [], "reconstructions": []}
                for each in found.tracks
            }
            chosen = {each.name: _spread(_MOST_WINDOWS, each.num_windows) for each in found.tracks}
            network_seconds = 0.0
            for window in stream:
                began = time.monotonic()
                self._take(window, tracks[window.track], chosen[window.track], bank)
                network_seconds += time.monotonic() - began
            finished = stream.finished
        assert finished is not None
        return _PRETRAINED | {
            "seconds": found.seconds,
            "width": found.width,
            "height": found.height,
            "has_sound": found.has_sound,
            "notes": [*self._notes, *map(for_visitors, (*found.notes, *finished.notes))],
            "tracks": list(tracks.values()),
            "filter_bank": bank.picture(),
            "timings": {**finished.seconds, "network": network_seconds},
        }

    def live(self) -> LiveNetwork:
        """See ``hicmae.page.jobs.Analyst``."""
        raise ValueError("a pretrained network says nothing about emotion; it has to be fine-tuned")

    def close(self) -> None:
        """End the decoding process."""
        self._process.close()

    def _take(
        self, window: Window, track: dict[str, Any], chosen: list[int], bank: WholeBank
    ) -> None:
        """Take a window: its filter bank, and if it is one of those, its reconstruction."""
        clip, span = window.clips[0], {"start": window.start_seconds, "end": window.end_seconds}
        new = bank.wants(window.start_seconds, clip)
        track["windows"].append(span)
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
            track["reconstructions"].append(span | _shown(made))


class WholeBank:
    """Grows to the right with each window that reaches further than those before; the clips' sound
    has ``sample_rate`` Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._rows: list[np.ndarray] = []
        self._start: float | None = None
        self._end = 0.0

    def wants(self, start: float, clip: Clip) -> bool:
        """Whether a clip that begins at a time, seconds, says something new."""
        num_rows = self._num_rows(clip)
        return num_rows > 0 and start + num_rows / _ROWS_PER_SECOND > self._end + 0.005

    def add(self, start: float, clip: Clip, bank: np.ndarray) -> None:
        """Take what is new in a filter bank (S, F) of a clip that ``wants`` was asked about."""
        if self._start is None:
            self._start = self._end = start
        gap = round((start - self._end) * _ROWS_PER_SECOND)
        if gap > 0:  # no window looked there
            self._rows.append(np.full((gap, bank.shape[1]), np.nan, dtype=np.float32))
        num_rows = self._num_rows(clip)
        self._rows.append(bank[max(0, -gap) : num_rows])
        self._end = start + num_rows / _ROWS_PER_SECOND

    def picture(self) -> dict[str, object] | None:
        """The picture with its span in seconds; None without sound."""
        bank = np.concatenate(self._rows) if self._rows else np.zeros((0, 1))
        if not len(bank) or np.isnan(bank).all():
            return None
        low, high = bank_range(bank)
        url = bank_url(bank, low=low, high=high)
        return {"picture": url, "start": self._start, "end": self._end}

    def _num_rows(self, clip: Clip) -> int:
        """Frames that are of sound; behind them are zeros that fill the network's input."""
        if clip.waveform is None:
            return 0
        seconds = clip.num_samples / self._sample_rate
        return max(0, int((seconds - _ROW_SECONDS) * _ROWS_PER_SECOND + 1e-6) + 1)


def _name(source: str) -> str:
    """What the page calls a checkpoint."""
    return telling_name(Path(source))


def _detector_notes(config: FaceConfig, offline: bool) -> list[str]:
    """Open the detector once before anybody comes, and say if it is another."""
    if config.faces == "boxes":
        raise ValueError(
            "faces = boxes: the network's images were made with lists of boxes, which an upload"
            " does not bring; give another detector, such as --faces yunet"
        )
    return [note for note in find_detector(config, offline)[1:] if note]


def _shown_notes(notes: Sequence[str], source: str, folder: Path) -> list[str]:
    """Lines about a checkpoint without its folders and options; the page has no traces."""
    shown = [note for note in notes if "(--rate)" not in note]
    for place in (source, str(folder.resolve()), str(folder)):
        if place != _name(place):
            shown = [note.replace(place, _name(source)) for note in shown]
    return [for_visitors(note) for note in shown]


def jpeg_url(jpeg: bytes) -> str:
    """A JPEG as a data: URL; nothing for none."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""


def frame_url(frame: np.ndarray) -> str:
    """A frame (H, W, 3), RGB in 0..1, as a data: URL."""
    image = (255 * np.clip(frame, 0, 1)).round().astype(np.uint8)
    jpeg = _encoded(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return jpeg_url(jpeg)


def bank_url(bank: np.ndarray, *, low: float, high: float) -> str:
    """A filter bank (S, F) as a data: URL of a PNG, low notes below; ``low`` is darkest, ``high``
    brightest, NaN grey.
    """
    step = -(-len(bank) // _MOST_COLUMNS)
    if step > 1:
        whole = len(bank) // step * step
        bank = bank[:whole].reshape(-1, step, bank.shape[1]).mean(axis=1)
    hidden = np.isnan(bank)
    shares = np.clip((np.nan_to_num(bank) - low) / max(high - low, 1e-6), 0, 1)
    image = cv2.applyColorMap((255 * shares).astype(np.uint8), cv2.COLORMAP_MAGMA)
    image[hidden] = 128
    png = _encoded(".png", np.ascontiguousarray(image.transpose(1, 0, 2)[::-1]), [])
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def bank_range(bank: np.ndarray) -> tuple[float, float]:
    """What to show darkest and brightest: nearly all of the values lie between them."""
    low, high = np.nanpercentile(bank, (1, 99.5))
    return float(low), float(high)


def _progress_to(report: Report, most_seconds: float) -> Any:
    """What tells a report how far the decoding is, and refuses recordings that are too long."""

    def tell(progress: StageProgress) -> None:
        # While a sound file is measured nobody knows its length: the share done is then 0.
        known = math.isfinite(progress.total)
        _require_length(progress.total if known else progress.done, most_seconds, known=known)
        stage = STAGES.get(progress.stage, progress.stage)
        report(stage, progress.done / max(progress.total, 1e-6))

    return tell


def _require_length(seconds: float, most_seconds: float, *, known: bool = True) -> None:
    """Raises: ValueError: a recording of so many seconds, or more if not ``known``, is too long, by
    a second or more: of less, no player's clock tells.
    """
    if seconds >= most_seconds + 1:
        length = f"{seconds:.0f} s long" if known else f"longer than {most_seconds:g} s"
        raise ValueError(
            f"the recording is {length} (this page takes up to {most_seconds:g} s; "
            "`hicmae predict` takes any length)"
        )


def _predicted(track: Track, prediction: Prediction) -> dict[str, Any]:
    """A track with its outputs, by everything that there is and by picture and sound alone."""
    values = {"both": track.values, **track.by_modality}
    values = {name: values[name] for name in ("both", "video", "audio") if name in values}
    heads = prediction.labels.heads

    def outputs(of: dict[str, np.ndarray]) -> dict[str, Any]:
        told = {"said": {name: said(heads, v) for name, v in of.items()}} if heads else {}
        return {name: rounded(v) for name, v in of.items()} | told

    table = track.boxes if len(track.boxes) else pandas.DataFrame(columns=[*_CORNERS, "angle"])
    boxes, angles = table[_CORNERS].to_numpy(float), table["angle"].to_numpy(float)
    thumbnails = track.thumbnails
    return _entry(track, boxes, angles, prediction.fps, prediction) | {
        "thumbnail": jpeg_url(thumbnails[len(thumbnails) // 2][1]) if thumbnails else "",
        "summary": outputs({name: v.mean(axis=0) for name, v in values.items()}),
        "windows": [
            {"start": float(start), "end": float(end)}
            | outputs({name: v[number] for name, v in values.items()})
            for number, (start, end) in enumerate(track.spans)
        ],
    }


def _entry(
    track: Track | Followed,
    boxes: np.ndarray,
    angles: np.ndarray | None,
    fps: float,
    of: Prediction | Found,
) -> dict[str, Any]:
    """What is told of a track in any case.

    The boxes (T, 4), x0, y0, x1, y1 in pixels, and angles (T,) in radians, at so many a second,
    become every n-th one's centre, width and height as shares of the picture, and degrees
    clockwise.
    """
    step = max(1, round(fps / _BOX_RATE))
    size = np.array([of.width, of.height]).clip(1)
    low, high = boxes[::step, :2].astype(float), boxes[::step, 2:].astype(float)
    turned = np.zeros(len(boxes)) if angles is None else np.degrees(np.nan_to_num(angles))
    rows = np.column_stack([(low + high) / 2 / size, (high - low) / size, turned[::step]])
    return {
        "name": track.name,
        "is_face": len(boxes) > 0,
        "start": track.start_seconds,
        "end": track.end_seconds,
        "coverage": track.coverage,
        "box_rate": fps / step,
        "boxes": rows.round(4).tolist(),
    }


def _spread(most: int, count: int) -> list[int]:
    """Some of so many places, at equal distances, the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()


def _shown(made: Reconstruction) -> dict[str, Any]:
    """One reconstruction as pictures, with the error of its hidden pixels."""
    frames, masked, filled = (each[0].numpy() for each in made.pictures or ())
    places = _spread(_SHOWN_FRAMES, len(frames))
    hidden = (masked != frames).any(axis=-1)  # a pixel that happens to be that grey is no loss
    banks = [each[0].numpy() for each in made.banks or ()]
    low, high = bank_range(banks[0])
    return {
        "original": [frame_url(frames[place]) for place in places],
        "masked": [frame_url(masked[place]) for place in places],
        "filled": [frame_url(filled[place]) for place in places],
        "fbank": [bank_url(bank, low=low, high=high) for bank in banks],
        "error": float(np.square(filled - frames)[hidden].mean()),
    }


def _encoded(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    assert done, suffix
    return bytes(data.tobytes())
