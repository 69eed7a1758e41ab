"""``hicmae.load`` and what it gives: a checkpoint that predicts recordings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas

from hicmae.checkpoints.checkpoint import Labels
from hicmae.prediction.messages import Clip, Followed, Found, Window, WindowConfig
from hicmae.prediction.network import EmotionEnsemble, clip_batch, load_ensemble
from hicmae.prediction.process import DecodingProcess, Tell, WindowStream, read_windows
from hicmae.prediction.results import Prediction, Track

_KINDS = ("audio-video", "video", "audio")


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


class EmotionPredictor:
    """Predicts emotion over the time of recordings.

    Args:
        network: The networks and what their checkpoints say.
        batch_size: Clips that they are shown at once.

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

    def __enter__(self) -> EmotionPredictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

        Raises:
            FileNotFoundError: There is no such file.
            PredictionError: It cannot be read, or does not hold what the network reads.
        """
        config = config if config is not None else WindowConfig(window=window, hop=hop)
        with self.windows(path, config=config, progress=progress) as stream:
            found = stream.found
            kinds = self._kinds(found, each_modality)
            collected = {track.name: Collected(track, self.labels, kinds) for track in found.tracks}
            seconds = 0.0
            for batch in _batches(stream, collected, self.batch_size, on_window):
                started = time.monotonic()
                outputs = self.network.run([clip for _, _, clip in batch], kinds)
                for place, (track, number, _) in enumerate(batch):
                    collected[track].add(number, {k: outputs[k][place] for k in kinds})
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
            modality=kinds[0],
            tracks=tuple(each.track() for each in collected.values()),
            notes=(*found.notes, *finished.notes),
            checkpoint=self.source,
            settings=config,
            stage_seconds={**finished.seconds, "network": seconds},
            decoder_memory_bytes=finished.peak_memory_bytes,
        )

    def windows(
        self,
        path: str | Path,
        *,
        config: WindowConfig | None = None,
        progress: Tell | None = None,
    ) -> WindowStream:
        """The windows of a recording, as the network is shown them; see ``read_windows``."""
        return read_windows(
            path,
            input=self.input,
            preparation=self.preparation,
            config=config,
            modalities=self.modalities,
            process=self.decoding,
            progress=progress,
        )

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

    def _kinds(self, found: Found, each: bool) -> list[str]:
        """What to go by: first what is there."""
        if not found.tracks[0].is_face:
            return ["audio"]
        if not found.has_sound:
            return ["video"]
        return list(_KINDS) if each else ["audio-video"]


class Collected:
    """One track while its windows come in.

    Args:
        followed: What is known of it before.
        labels: What the outputs stand for.
        kinds: What the network goes by, the first being the one that counts.
    """

    def __init__(self, followed: Followed, labels: Labels, kinds: Sequence[str]) -> None:
        self._followed, self._labels, self._kinds = followed, labels, kinds
        windows, outputs = followed.num_windows, len(labels.names)
        self._spans = np.zeros((windows, 2))
        self._num_clips = np.zeros(windows, dtype=np.int64)
        self._sums = {kind: np.zeros((windows, 2, outputs)) for kind in kinds}
        self._added = np.zeros(windows, dtype=np.int64)
        self._thumbnails: list[tuple[float, bytes]] = []

    def begin(self, window: Window) -> None:
        """Take what is known of a window before the network has seen it."""
        span = window.start_seconds, window.end_seconds
        self._spans[window.number] = span
        self._num_clips[window.number] = len(window.clips)
        if window.thumbnail:
            self._thumbnails.append((sum(span) / 2, window.thumbnail))

    def add(self, number: int, outputs: Mapping[str, np.ndarray]) -> None:
        """Take the outputs (2, C) of one clip of a window: values and logits, by kind."""
        for kind, values in outputs.items():
            self._sums[kind][number] += values
        self._added[number] += 1

    def track(self) -> Track:
        """The timeline, when every clip has come in."""
        assert (self._added == self._num_clips).all(), "every clip is seen once"
        assert (self._num_clips > 0).all(), "every window that was announced has come"
        followed, counts = self._followed, self._num_clips[:, None, None]
        means = {kind: sums / counts for kind, sums in self._sums.items()}
        first = means[self._kinds[0]]
        return Track(
            name=followed.name,
            labels=self._labels,
            start_seconds=followed.start_seconds,
            end_seconds=followed.end_seconds,
            spans=self._spans,
            values=first[:, 0],
            logits=first[:, 1],
            by_modality={kind: mean[:, 0] for kind, mean in means.items()},
            boxes=_boxes(followed),
            thumbnails=tuple(self._thumbnails),
            coverage=followed.coverage,
        )


def _batches(
    stream: WindowStream,
    collected: Mapping[str, Collected],
    size: int,
    on_window: Callable[[Window], None] | None,
) -> Iterator[list[tuple[str, int, Clip]]]:
    """Clips with track and number of their window; a long window may be in several batches."""
    batch: list[tuple[str, int, Clip]] = []
    for window in stream:
        if on_window is not None:
            on_window(window)
        collected[window.track].begin(window)
        for clip in window.clips:
            batch.append((window.track, window.number, clip))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _boxes(followed: Followed) -> pandas.DataFrame:
    count = len(followed.boxes)
    times = followed.start_seconds + np.arange(count) / followed.fps
    table = pandas.DataFrame({"seconds": times.astype(np.float32)})
    for number, name in enumerate(("x0", "y0", "x1", "y1")):
        table[name] = followed.boxes[:, number]
    angles = followed.angles
    table["angle"] = np.zeros(count, dtype=np.float32) if angles is None else angles
    table["found_by"] = pandas.Categorical(followed.found_by.astype(object))
    return table
