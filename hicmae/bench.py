"""What the benches share: speed of the machine, operations of a network, time by stage, figures."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hicmae.devices import peak_memory_bytes
from hicmae.files import write_json
from hicmae.settings import InputConfig, ModelConfig, ObjectiveConfig

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from rich.table import Table

    from hicmae.emotion import EmotionConfig

Item = TypeVar("Item")

# Lightning's names of the number formats that have a product of matrices, and torch's.
_DTYPES = {"bf16-mixed": "bfloat16", "32-true": "float32"}


class MatrixPeak:
    """The speed of the largest sensible square matrix product in one number format.

    Args:
        precision: Lightning's name: bf16-mixed or 32-true.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        import torch

        side = 8192 if device.type == "cuda" else 2048
        dtype = getattr(torch, _DTYPES[precision])
        self._device = device
        self._left = torch.randn(side, side, device=device).to(dtype)
        self._right = torch.randn(side, side, device=device).to(dtype)
        self._out = torch.empty_like(self._left)
        self._multiply = partial(torch.mm, self._left, self._right, out=self._out)
        self._operations = 2 * side**3
        self._seconds: list[float] = []
        self._multiply()  # the first one also plans

    def measure(self) -> None:
        """Time one product more."""
        self._seconds.append(timed(self._multiply, self._device)[0])

    def other_memory_bytes(self) -> int:
        """Most memory used so far (``hicmae.devices``); of a GPU without the product's matrices."""
        found = peak_memory_bytes(self._device)
        if self._device.type == "cuda":
            found -= sum(each.nbytes for each in (self._left, self._right, self._out))
        return found

    @property
    def flops(self) -> float:
        """Operations a second: the median of what was measured."""
        return self._operations / statistics.median(self._seconds)

    @property
    def best_flops(self) -> float:
        """Operations a second of the fastest one."""
        return self._operations / min(self._seconds)


def check_precision(precision: str, command: str) -> None:
    """Refuse a number format that no bench has a matrix product for.

    Raises: ValueError.
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision = {precision} ({command} knows {', '.join(_DTYPES)})")


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that some work takes, the device's part included, and what it returns."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def median_parts(names: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """Median of each part over steps, and of the whole ``step``; seconds."""
    parts = {
        name: statistics.median(times)
        for name, times in zip(names, zip(*rows, strict=True), strict=True)
    }
    return {**parts, "step": statistics.median(sum(row) for row in rows)}


def step_flops(
    model: ModelConfig,
    objective: ObjectiveConfig,
    *,
    backward: bool = True,
    modalities: str = "audio-video",
) -> float:
    """Operations (a multiply-add is two) that the network needs for one clip of a training step.

    Counted on tensors without content. Attention and matrix products count, the rest does not.

    Args: backward: Whether the backward pass is counted too.
    """
    import torch

    from hicmae.pretraining import HiCMAE

    if not objective.reconstruction:
        with torch.device("meta"):
            encoder = HiCMAE(model, objective, modalities)
            seen, heard = (masks.keep for masks in encoder.draw_masks(_CLIPS, device="meta"))

        def contrasted(video: torch.Tensor, fbank: torch.Tensor) -> torch.Tensor:
            found = encoder.encoder(video, fbank, video_keep=seen, fbank_keep=heard)
            assert found.video is not None
            assert found.audio is not None
            return found.video.last.sum() + found.audio.last.sum()

        return _count(contrasted, model.input, backward)
    with torch.device("meta"):
        # The contrast is left out: it is next to nothing, and autocast refuses such tensors.
        network = HiCMAE(model, replace(objective, contrast=False), modalities)
    return _count(lambda video, fbank: network(video, fbank).loss, model.input, backward)


def emotion_flops(
    model: ModelConfig,
    emotion: EmotionConfig,
    *,
    backward: bool = True,
    seen: bool = True,
    heard: bool = True,
) -> float:
    """The same of one clip that is fine-tuned on, or, without ``backward``, predicted.

    Args: seen, heard: Whether it has a picture, and sound; one of them at least.
    """
    import torch

    from hicmae.emotion import EmotionModel

    with torch.device("meta"):
        network = EmotionModel(model, emotion)

    def predicted(video: torch.Tensor, fbank: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = network(video if seen else None, fbank if heard else None)
        return outputs.sum()

    return _count(predicted, model.input, backward)


class Stopwatch:
    """Processor time by stage, each moment counted for the innermost stage only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside for a stage, until another begins within it."""
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def iterate(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Count the making of items for a stage, and not what is done with them."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _switch(self) -> None:
        now = time.process_time()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def random_clips(input: InputConfig, batch_size: int, device: torch.device) -> dict[str, Any]:
    """Clips of noise at the size of a network, as a reader hands them over, on the device.

    Returns: ``frames`` (B, T, H, W, 3) uint8, ``waveform`` (B, samples) int16, ``num_samples``
        (B,) int64.
    """
    import torch

    shape = (batch_size, input.num_frames, input.image_size, input.image_size, 3)
    sound = torch.randint(-3000, 3000, (batch_size, input.clip_samples), dtype=torch.int16)
    return {
        "frames": torch.randint(0, 256, shape, dtype=torch.uint8).to(device),
        "waveform": sound.to(device),
        "num_samples": torch.full((batch_size,), input.clip_samples).to(device),
    }


def write_figures(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write figures as JSON, whole or not at all; no path, no file."""
    if path is not None:
        write_json(path, figures)


def figures_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for a terminal: what each row is about, and then numbers."""
    from rich.table import Table

    table = Table(title=title)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def print_parts(title: str, figures: Mapping[str, Any], console: Console) -> None:
    """Show ``seconds`` by part, and the line of speed, share of the peak, and memory."""
    rows = [
        (part, f"{1000 * seconds:.1f}", f"{seconds / figures['step_seconds']:.0%}")
        for part, seconds in figures["seconds"].items()
    ]
    console.print(figures_table(title, ("part", "milliseconds", "share"), rows))
    console.print(
        f"{figures['clips_per_second']:.1f} clips/s; {figures['flops_per_clip'] / 1e9:.1f} GFLOP a "
        f"clip; {figures['fraction_of_peak']:.0%} of {figures['matmul_peak_flops'] / 1e9:.3g} "
        f"GFLOP/s, the median of products between the steps (best "
        f"{figures['matmul_best_flops'] / 1e9:.3g}); peak memory "
        f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB"
    )
    if figures["fraction_of_peak"] > 1:
        console.print(
            f"The share says nothing here: a large product of {figures['precision']} is slower "
            "than the network's smaller ones, as where a machine computes that format in software."
        )


_CLIPS = 2  # that are counted and divided by


def _count(run: Callable[[Any, Any], torch.Tensor], size: InputConfig, backward: bool) -> float:
    """Operations of a clip, forward and perhaps backward."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        video = torch.empty(_CLIPS, 3, size.num_frames, size.image_size, size.image_size)
        fbank = torch.empty(_CLIPS, size.fbank_frames, size.mel_bins)
    # The counter knows no fused attention on CPUs; in the plain form it is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = run(video, fbank)
        if backward:
            result.backward()
    return counter.get_total_flops() / _CLIPS
