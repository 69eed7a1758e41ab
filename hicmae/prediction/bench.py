"""How fast prediction is on this machine, from a file to a timeline: ``hicmae bench predict``.

For: seconds of video per second, and what part of it is decoding, faces and the network. Not for:
the network alone (``hicmae bench step``) or building shards (``hicmae bench build``).
"""

from __future__ import annotations

import json as jsonlib
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from hicmae.checkpoints.labels import Labels
from hicmae.config import load_model_config
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.media.preparation import Preparation
from hicmae.prediction.bench_video import write_face_video
from hicmae.prediction.ensemble import Loaded, load_members
from hicmae.prediction.memory import peak_memory_bytes
from hicmae.prediction.messages import Window
from hicmae.prediction.model import EmotionPredictor
from hicmae.prediction.results import Prediction
from hicmae.prediction.settings import Detector, WindowConfig

_CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
_STAGES = {
    "decoding": "decoding, twice (own process)",
    "faces": "finding faces (own process)",
    "images": "cutting out and JPEG (own process)",
    "sound": "sound (own process)",
    "network": "network",
}


def bench_predict(
    *,
    model: str = "base",
    checkpoint: str | None = None,
    video: Path | None = None,
    seconds: float = 60.0,
    window: float | None = None,
    hop: float = 1.0,
    faces: Detector = "profile",
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
    if not seconds > 0:
        raise ValueError(f"seconds = {seconds} (must be positive)")
    config = WindowConfig(window=window, hop=hop, faces=faces)
    loaded = _random(model) if checkpoint is None else load_members(checkpoint)
    predictor = EmotionPredictor(loaded, device=device, precision=precision, batch_size=batch_size)
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
        **_memory(prediction),
        "model": checkpoint or model,
        "hop": hop,
        "window": window or predictor.input.clip_seconds,
        "precision": predictor.network.precision,
        "batch_size": batch_size,
        "device": _device_name(predictor.network.device),
        "torch": torch.__version__,
    }
    _print(figures, prediction)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        beside = json.with_name(f".{json.name}.part")
        beside.write_text(jsonlib.dumps(figures, indent=2) + "\n", encoding="utf-8")
        beside.replace(json)
    return figures


def _random(model: str) -> Loaded:
    """A network of this size that has learned nothing: it takes the same time."""
    sizes = load_model_config(model)
    torch.manual_seed(0)
    return Loaded(
        source=f"random {model}",
        members=[EmotionModel(sizes, EmotionConfig(num_outputs=len(_CLASSES)))],
        labels=[Labels(task="classification", names=_CLASSES)],
        preparation=Preparation.default(sizes.input),
    )


def _memory(prediction: Prediction) -> dict[str, int]:
    own, decoder = peak_memory_bytes(), prediction.decoder_memory_bytes
    return {
        "peak_memory_bytes": own + decoder,
        "network_memory_bytes": own,
        "decoder_memory_bytes": decoder,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _print(figures: dict[str, Any], prediction: Prediction) -> None:
    """Show the figures as a table."""
    table = Table(
        title=f"Prediction: {figures['model']}, {figures['seconds_of_video']:.1f} s of video, "
        f"a value each {figures['hop']:g} s, {figures['precision']}, {figures['device']}"
    )
    table.add_column("part")
    table.add_column("seconds", justify="right")
    table.add_column("of a second of video", justify="right")
    for stage, title in _STAGES.items():
        taken = figures[f"{stage}_seconds"]
        table.add_row(title, f"{taken:.2f}", f"{taken / figures['seconds_of_video']:.3f}")
    taken = figures["core_seconds"]
    share = taken / figures["seconds_of_video"]
    table.add_row("processor time of both", f"{taken:.2f}", f"{share:.3f}")
    whole = figures["seconds"]
    table.add_row("all, by the clock", f"{whole:.2f}", f"{whole / figures['seconds_of_video']:.3f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"{figures['realtime_factor']:.2f} times real time; {figures['num_windows']} windows of "
        f"{figures['num_tracks']} tracks, the first after {figures['first_window_seconds']:.1f} s; "
        f"peak memory {figures['network_memory_bytes'] / 2**30:.2f} GiB and "
        f"{figures['decoder_memory_bytes'] / 2**30:.2f} GiB (decoding)"
    )
    for note in prediction.notes:
        console.print(f"note: {note}", markup=False)
