"""How fast prediction is on this machine, from a file to a timeline: ``hicmae bench predict``.

Measured with a drawn face that moves and speaks, 224 pixels at 25 frames a second, or with a given
recording.
"""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import cv2
import numpy as np

from hicmae.bench import figures_table, write_figures
from hicmae.devices import device_name, peak_memory_bytes
from hicmae.prediction.messages import Window, WindowConfig
from hicmae.terminal import plain_console

if TYPE_CHECKING:
    from hicmae.prediction.network import EmotionEnsemble
    from hicmae.prediction.results import Prediction

_CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
_STAGES = {
    "decoding": "decoding, twice (own process)",
    "faces": "finding faces (own process)",
    "images": "cutting out and JPEG (own process)",
    "sound": "sound (own process)",
    "network": "network",
}
_SIDE, _FPS, _RATE, _AAC_SAMPLES = 224, 25, 16000, 1024
_SKIN, _HAIR, _DARK, _LIP = (214, 168, 142), (62, 44, 34), (40, 30, 28), (168, 82, 82)


def bench_predict(
    *,
    model: str = "base",
    checkpoint: str | None = None,
    video: Path | None = None,
    seconds: float = 60.0,
    window: float | None = None,
    hop: float = 1.0,
    faces: str = "profile",
    device: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    batch_size: int = 8,
    json: Path | None = None,
) -> dict[str, Any]:
    """Measure prediction from end to end, and print a table.

    A recording is predicted as hicmae predict does it, after a short one that warms everything up;
    the models are loaded before. Decoding and faces run in a process of their own beside the
    network: their processor time is told, the network's by the clock, and the sum may be more
    than the whole.

    Args:
        model: Size of the network, with random weights.
        checkpoint: A fine-tuned checkpoint instead of one.
        video: A recording; none given: a drawn face that speaks, 224 pixels, 25 frames a second.
        seconds: Length of the drawn one.
        window: As in prediction.
        hop: As in prediction.
        faces: As in prediction.
        device: As in prediction.
        precision: As in prediction.
        batch_size: As in prediction.
        json: File for the figures.

    Returns: The figures: ``seconds_of_video``, ``seconds``, ``realtime_factor`` (the first over
        the second; above 1 is faster than real time), ``decoding_seconds``, ``faces_seconds``,
        ``images_seconds``, ``sound_seconds``, ``network_seconds``, ``core_seconds`` (processor time
        of both processes, which other work on the machine lengthens less),
        ``first_window_seconds``, ``num_windows``, ``num_tracks``, and ``peak_memory_bytes`` of both
        processes with each.

    Raises: ValueError: nothing to be seen in the recording, or wrong settings.
    """
    import torch

    from hicmae.prediction.model import EmotionPredictor
    from hicmae.prediction.network import load_ensemble

    if not seconds > 0:
        raise ValueError(f"seconds = {seconds} (must be positive)")
    config = WindowConfig(window=window, hop=hop, faces=faces)
    if checkpoint is None:
        network = _random_network(model, device, precision)
    else:
        network = load_ensemble(checkpoint, device=device, precision=precision)
    predictor = EmotionPredictor(network, batch_size=batch_size)
    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as scratch:
        warm = Path(scratch) / "warm.mp4"
        write_face_video(warm, predictor.input.clip_seconds + 1)
        predictor.predict(warm, config=config)
        if video is None:
            video = Path(scratch) / "face.mp4"
            write_face_video(video, seconds)
        first: list[float] = []

        def note(window: Window) -> None:
            if not first:
                first.append(time.monotonic() - began)

        began, busy = time.monotonic(), time.process_time()
        prediction = predictor.predict(video, config=config, on_window=note)
        taken, busy = time.monotonic() - began, time.process_time() - busy
    predictor.close()
    own_bytes = peak_memory_bytes()
    figures = {
        "seconds_of_video": prediction.seconds,
        "seconds": taken,
        "realtime_factor": prediction.seconds / taken,
        **{f"{stage}_seconds": prediction.stage_seconds.get(stage, 0.0) for stage in _STAGES},
        "core_seconds": busy
        + sum(each for stage, each in prediction.stage_seconds.items() if stage != "network"),
        "first_window_seconds": first[0] if first else taken,
        "num_windows": sum(len(track.values) for track in prediction.tracks),
        "num_tracks": len(prediction.tracks),
        "peak_memory_bytes": own_bytes + prediction.decoder_memory_bytes,
        "network_memory_bytes": own_bytes,
        "decoder_memory_bytes": prediction.decoder_memory_bytes,
        "model": checkpoint or model,
        "hop": hop,
        "window": window or predictor.input.clip_seconds,
        "precision": predictor.network.precision,
        "batch_size": batch_size,
        "device": device_name(predictor.network.device),
        "torch": torch.__version__,
    }
    _print(figures, prediction)
    write_figures(figures, json)
    return figures


def write_face_video(path: Path, seconds: float) -> None:
    """Write an MP4 (H.264 and AAC) of so many seconds.

    Raises: OSError: this PyAV cannot encode it.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 5, (8, _SIDE, _SIDE, 3)).astype(np.float32)
    with av.open(str(path), "w") as container:
        try:
            picture = container.add_stream("libx264", rate=_FPS, options={"preset": "veryfast"})
        except (av.FFmpegError, ValueError):
            raise OSError("this PyAV has no H.264 encoder; give a recording: --video") from None
        picture.height = picture.width = _SIDE
        picture.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=_RATE, layout="mono")
        done = 0
        for number in range(round(seconds * _FPS)):
            image = _draw(number / _FPS) + noise[number % len(noise)]
            frame = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(picture.encode(frame))
            while done < (number + 1) / _FPS * _RATE:
                container.mux(voice.encode(_sound(done, rng)))
                done += _AAC_SAMPLES
        container.mux(picture.encode())
        container.mux(voice.encode())


def _random_network(model: str, device: str, precision: str) -> EmotionEnsemble:
    """A network of this size that has learned nothing: it takes the same time."""
    import torch

    from hicmae.checkpoints.checkpoint import Labels
    from hicmae.config import load_model_config
    from hicmae.emotion import EmotionConfig, EmotionModel
    from hicmae.media.faces import FaceConfig
    from hicmae.prediction.network import EmotionEnsemble

    sizes = load_model_config(model)
    torch.manual_seed(0)
    return EmotionEnsemble(
        [EmotionModel(sizes, EmotionConfig(num_outputs=len(_CLASSES)))],
        [Labels(task="classification", names=_CLASSES)],
        FaceConfig.default(sizes.input),
        source=f"random {model}",
        device=device,
        precision=precision,
    )


def _print(figures: dict[str, Any], prediction: Prediction) -> None:
    title = (
        f"Prediction: {figures['model']}, {figures['seconds_of_video']:.1f} s of video, "
        f"a value each {figures['hop']:g} s, {figures['precision']}, {figures['device']}"
    )
    parts = {name: figures[f"{stage}_seconds"] for stage, name in _STAGES.items()}
    parts["processor time of both"] = figures["core_seconds"]
    parts["all, by the clock"] = figures["seconds"]
    rows = [
        (part, f"{taken:.2f}", f"{taken / figures['seconds_of_video']:.3f}")
        for part, taken in parts.items()
    ]
    console = plain_console()
    console.print(figures_table(title, ("part", "seconds", "of a second of video"), rows))
    console.print(
        f"{figures['realtime_factor']:.2f} times real time; {figures['num_windows']} windows of "
        f"{figures['num_tracks']} tracks, the first after {figures['first_window_seconds']:.1f} s; "
        f"peak memory {figures['network_memory_bytes'] / 2**30:.2f} GiB and "
        f"{figures['decoder_memory_bytes'] / 2**30:.2f} GiB (decoding)"
    )
    for note in prediction.notes:
        console.print(f"note: {note}", markup=False)


def _draw(time: float) -> np.ndarray:
    """The picture at a time: (224, 224, 3) float32 RGB."""
    shade = np.linspace(90, 150, _SIDE, dtype=np.float32)
    image = np.ascontiguousarray(np.broadcast_to(shade[:, None, None], (_SIDE, _SIDE, 3)))
    x, y = 112 + 18 * np.sin(0.7 * time), 118 + 8 * np.sin(1.1 * time)
    mouth = 4 + 5 * abs(np.sin(7.0 * time))

    def ellipse(dx: float, dy: float, wide: float, high: float, colour: tuple[int, ...]) -> None:
        centre = (round(x + dx), round(y + dy))
        axes = (max(1, round(wide)), max(1, round(high)))
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(0, 95, 75, 50, (70, 90, 130))
    ellipse(0, 50, 22, 35, tuple(round(0.85 * part) for part in _SKIN))
    ellipse(0, -14, 56, 66, _HAIR)
    ellipse(0, 4, 46, 60, _SKIN)
    for side in (-1, 1):
        ellipse(side * 19, -9, 10, 6, (238, 236, 232))
        ellipse(side * 19, -9, 5, 5, _DARK)
        ellipse(side * 19, -23, 12, 2.5, _HAIR)
        ellipse(side * 5, 17, 2.5, 1.5, _DARK)
        ellipse(side * 26, 16, 9, 7, tuple(round(0.97 * part) for part in _SKIN))
    ellipse(0, 8, 4, 12, tuple(round(0.92 * part) for part in _SKIN))
    ellipse(0, 35, 17, mouth, _LIP)
    ellipse(0, 35, 12, mouth / 2, _DARK)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def _sound(first: int, rng: np.random.Generator) -> av.AudioFrame:
    """A voice-like hum that swells four times a second, from a sample on."""
    time = (first + np.arange(_AAC_SAMPLES)) / _RATE
    swell = 0.15 * (1 + np.sin(2 * np.pi * 4 * time))
    hum = sum(np.sin(2 * np.pi * 130 * part * time) / part for part in range(1, 9))
    values = swell * hum * 0.4 + rng.normal(0, 0.003, len(time))
    frame = av.AudioFrame.from_ndarray(
        values[None].astype(np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts, frame.time_base = _RATE, first, Fraction(1, _RATE)
    return frame
