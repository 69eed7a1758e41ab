"""``hicmae.load`` and what it gives: a checkpoint that predicts recordings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas

from hicmae.checkpoints.checkpoint import Labels
from hicmae.files import Closing
from hicmae.prediction.live import LiveFrame, LiveNetwork, LiveSound, Moment, predict_live
from hicmae.prediction.messages import Clip, Followed, Found, Window, WindowConfig
from hicmae.prediction.network import EmotionEnsemble, clip_batch, load_ensemble
from hicmae.prediction.process import DecodingProcess, Tell, read_windows
from hicmae.prediction.results import Prediction, Track
from hicmae.prediction.timelines import Span, own_spans

_KINDS = ("audio-video", "video", "audio")
_Shown = tuple[str, int, Clip]  # the track and the number of the window that a clip is of


def load(
    source: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
) -> EmotionPredictor:
    """A fine-tuned checkpoint, ready to predict recordings.

    Args:
        source: A checkpoint folder; a run of ``hicmae finetune`` (all its folds, whose predictions
            are averaged, or one: ``RUN/fold-1``); ``owner/name`` on the Hugging Face Hub; or
            ``https://…/folder``.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ….
        precision: ``auto`` (bf16 where the machine computes in it), ``32-true`` or ``bf16-mixed``.
        batch_size: Clips that the network is shown at once.

    Raises: ValueError: nothing there, damaged, not fine-tuned, or no such device.
    """
    network = load_ensemble(source, device=device, precision=precision)
    return EmotionPredictor(network, batch_size=batch_size)


class EmotionPredictor(Closing):
    """Predicts emotion over the time of recordings.

    Args: batch_size: Clips that the networks are shown at once.

    Attributes:
        source: Where the checkpoint is.
        labels: What the outputs stand for.
        input: One clip as the network sees it.
        modalities: What it reads: ``audio-video``, ``video`` or ``audio``.
        preparation: How its images are made.
        notes: What the user should know about the checkpoint, a line each.
        decoding: The process that reads recordings.
    """

    def __init__(self, network: EmotionEnsemble, *, batch_size: int = 8) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} (must be 1 or more)")
        self.network = network
        self.source, self.notes = network.source, network.notes
        self.labels, self.preparation = network.labels, network.preparation
        self.input, self.modalities = network.config.input, network.modalities
        self.batch_size = batch_size
        self.decoding = DecodingProcess()

    def predict(
        self,
        path: str | Path,
        *,
        window: float | None = None,
        hop: float = 1.0,
        config: WindowConfig | None = None,
        each_modality: bool = False,
        progress: Tell | None = None,
        on_window: Callable[[Window], None] | None = None,
        spans: Sequence[Span] | None = None,
        min_confidence: float | None = None,
    ) -> Prediction:
        """Predict one recording.

        Args:
            path: A video, a sound file, or a folder of images.
            window: Seconds that one value is about; none given: one clip of the network.
            hop: Seconds from one value to the next.
            config: All of the settings, instead of ``window`` and ``hop``.
            each_modality: Also predict from the picture and from the sound alone, where the
                network reads both and both are there.
            progress: Called with how far it is.
            on_window: Called with every window before the network is; for its filter bank
                (``filter_bank``) or its frames.
            spans: One value for each of these, in place of windows (``read_spans`` reads files);
                where they name several recordings, for those of this one.
            min_confidence: Where no class is as probable, the prediction is ``not sure``; none
                given: the threshold of the checkpoint's calibration, if it has one.

        Raises:
            ValueError: A confidence outside 0..1, or of real values; a span that ends before it
                begins.
            FileNotFoundError: There is no such file.
            PredictionError: It cannot be read, or does not hold what the network reads.
        """
        config = config if config is not None else WindowConfig(window=window, hop=hop)
        least = self.confidence(min_confidence)
        spans = None if spans is None else own_spans(spans, Path(path))
        read = read_windows(
            path,
            input=self.input,
            preparation=self.preparation,
            config=config,
            modalities=self.modalities,
            process=self.decoding,
            progress=progress,
            spans=spans,
            alone=True,
        )
        with read as stream:
            found = stream.found
            kinds = {each.name: self._kinds(each, found, each_modality) for each in found.tracks}
            windows: dict[str, list[list[Window]]] = {}
            outputs: dict[str, list[list[dict[str, np.ndarray]]]] = {}
            for each in found.tracks:
                windows[each.name] = [[] for _ in range(each.num_windows)]
                outputs[each.name] = [[] for _ in range(each.num_windows)]
            seconds = 0.0

            def clips() -> Iterator[_Shown]:
                for window in stream:
                    if on_window is not None:
                        on_window(window)
                    windows[window.track][window.number].append(replace(window, clips=()))
                    for clip in window.clips:
                        yield window.track, window.number, clip

            for batch in _batches(clips(), self.batch_size):
                started = time.monotonic()
                shown = kinds[batch[0][0]]
                values = self.network.run([clip for _, _, clip in batch], shown)
                for place, (track, number, _) in enumerate(batch):
                    outputs[track][number].append({kind: values[kind][place] for kind in shown})
                seconds += time.monotonic() - started
            finished = stream.finished
        assert finished is not None
        return Prediction(
            path=Path(path),
            seconds=found.seconds,
            width=found.width,
            height=found.height,
            fps=self.input.fps,
            labels=self.labels,
            modality=kinds[found.tracks[0].name][0],
            tracks=tuple(
                _track(each, self.labels, kinds[name], windows[name], outputs[name], least)
                for name, each in zip(kinds, found.tracks, strict=True)
            ),
            notes=(*found.notes, *finished.notes),
            spans=spans,
            missed=dict(found.missed),
            checkpoint=self.source,
            settings=config,
            stage_seconds={**finished.seconds, "network": seconds},
            decoder_memory_bytes=finished.peak_memory_bytes,
        )

    def live(
        self,
        source: Iterable[LiveFrame | LiveSound],
        *,
        hop: float = 1.0,
        config: WindowConfig | None = None,
        keep_up: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[Moment]:
        """Predict while it happens: one value every hop, about the last clip of the network.

        With a camera that OpenCV opens (add ``LiveSound`` for what a microphone hears)::

            def camera():
                capture = cv2.VideoCapture(0)
                while (read := capture.read())[0]:
                    yield hicmae.LiveFrame(seconds=time.monotonic(), pixels=read[1][..., ::-1])

            for moment in hicmae.load("runs/pretrained").live(camera()):
                print(moment.values, f"{moment.delay_seconds:.2f} s after it happened")

        Args:
            source: Pictures and sound in the order of their times, on one clock. It is read by a
                thread of its own, unless ``keep_up`` is off.
            hop: Seconds from one window to the next.
            config: Detector and choice of the face, ``all`` being the largest; its windows do not
                count.
            keep_up: Leave windows out, and count them, where the network is slower than the
                source; else every window comes, later and later.
            clock: What delays are measured with, seconds.

        Returns: what the network says of each window, until the source ends.

        Raises: ValueError: a picture or sound of another form, or no such detector.
        """
        network = LiveNetwork(self.network, config or WindowConfig())
        return predict_live(network, source, hop=hop, keep_up=keep_up, clock=clock)

    def confidence(self, asked: float | None) -> float:
        """The least probability of an answer: what is asked for, or else the checkpoint's own.

        Raises: ValueError: outside 0..1, or of real values.
        """
        if asked is None:
            return self.network.threshold
        if self.labels.heads:
            raise ValueError(
                "min_confidence is for one task of classes; this network has heads, whose"
                " probabilities have no scale in common"
            )
        if self.labels.task != "classification":
            raise ValueError("min_confidence is for classes; this network predicts real values")
        if not 0 <= asked <= 1:
            raise ValueError(f"min_confidence = {asked} (must lie in 0..1)")
        return asked

    def filter_bank(self, clip: Clip) -> np.ndarray:
        """The filter bank (S, F) of a clip's sound, normalised as the network is given it.

        Raises: ValueError: a clip without sound.
        """
        if clip.waveform is None:
            raise ValueError("filter bank: the clip has no sound")
        silent = Clip(frames=None, waveform=clip.waveform, num_samples=clip.num_samples)
        _, fbank = self.network.transform(clip_batch([silent], self.network.device))
        assert fbank is not None
        return np.asarray(fbank[0].cpu().numpy())

    def close(self) -> None:
        """End the decoding process; it starts again when it is needed."""
        self.decoding.close()

    def _kinds(self, track: Followed, found: Found, each: bool) -> list[str]:
        """What to go by in a track: first what is there."""
        if not track.is_face:
            return ["audio"]
        if not found.has_sound:
            return ["video"]
        return list(_KINDS) if each else ["audio-video"]


def _track(
    followed: Followed,
    labels: Labels,
    kinds: Sequence[str],
    windows: Sequence[Sequence[Window]],
    outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    min_confidence: float,
) -> Track:
    """The timeline of a track from the parts of its windows and, of each clip of each window, the
    outputs (2, C), values and logits, by what the network went by; the first of these is what
    counts.
    """
    assert all(windows), "every window that was announced has come"
    means = {
        kind: np.array(
            [np.mean([clip[kind] for clip in clips], axis=0, dtype=float) for clips in outputs]
        )
        for kind in kinds
    }
    spans = np.array(
        [
            [min(part.start_seconds for part in parts), max(part.end_seconds for part in parts)]
            for parts in windows
        ]
    )
    return Track(
        name=followed.name,
        labels=labels,
        start_seconds=followed.start_seconds,
        end_seconds=followed.end_seconds,
        spans=spans,
        values=means[kinds[0]][:, 0],
        logits=means[kinds[0]][:, 1],
        by_modality={kind: mean[:, 0] for kind, mean in means.items()},
        boxes=_boxes(followed),
        thumbnails=tuple(
            ((part.start_seconds + part.end_seconds) / 2, part.thumbnail)
            for part in itertools.chain(*windows)
            if part.thumbnail
        ),
        coverage=followed.coverage,
        span_numbers=followed.spans,
        min_confidence=min_confidence,
    )


def _batches(clips: Iterator[_Shown], size: int) -> Iterator[list[_Shown]]:
    """So many at once, all with picture or all without; a long window may be in several batches."""
    waiting: dict[bool, list[_Shown]] = {}
    for shown in clips:
        is_seen = shown[2].frames is not None
        waiting.setdefault(is_seen, []).append(shown)
        if len(waiting[is_seen]) == size:
            yield waiting.pop(is_seen)
    yield from waiting.values()


def _boxes(followed: Followed) -> pandas.DataFrame:
    count = len(followed.boxes)
    times = followed.start_seconds + np.arange(count) / followed.fps
    table = pandas.DataFrame({"seconds": times.astype(np.float32)})
    for number, name in enumerate(("x0", "y0", "x1", "y1")):
        table[name] = np.where(followed.found_by == "absent", np.nan, followed.boxes[:, number])
    angles = followed.angles
    table["angle"] = np.zeros(count, dtype=np.float32) if angles is None else angles
    table["found_by"] = pandas.Categorical(followed.found_by.astype(object))
    return table
