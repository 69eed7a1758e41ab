"""What the benches of fine-tuning and of testing have in common.

For: the network, where it runs, the speed of matrix products there. Not for: measuring
(``finetune/bench.py``, ``finetune/bench_evaluate.py``).
"""

from __future__ import annotations

from typing import Any

import torch

from hicmae.benchmarking.flops import emotion_flops
from hicmae.benchmarking.speed import (
    MatrixPeak,
    check_precision,
    choose_device,
    device_name,
    peak_memory_bytes,
)
from hicmae.config import load_model_config
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.precision import Precision, resolve_precision
from hicmae.transforms import ClipTransform


class Setting:
    """The network, where it runs, and the speed of matrix products there.

    Raises: ValueError: no such device, or a number format that is not measured.
    """

    def __init__(
        self, model: str, emotion: EmotionConfig, precision: Precision, accelerator: str
    ) -> None:
        self.device = choose_device(accelerator)
        self.precision = resolve_precision(precision, accelerator=self.device.type)
        check_precision(self.precision, "this bench")
        self.model = model
        self.emotion = emotion
        self.sizes = load_model_config(model)
        torch.manual_seed(0)
        self.network = EmotionModel(self.sizes, emotion).to(self.device)
        self.plain = ClipTransform(self.sizes.input).to(self.device).eval()
        self.peak = MatrixPeak(self.precision, self.device)
        self.name = device_name(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def autocast(self) -> torch.autocast:
        """Around the network, as the trainer puts it."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"
        )

    def figures(self, rate: float, batch_size: int, *, backward: bool) -> dict[str, Any]:
        """What both benches say of ``rate`` clips a second."""
        flops = emotion_flops(self.sizes, self.emotion, backward=backward)
        return {
            "clips_per_second": rate,
            "flops_per_clip": flops,
            "matmul_peak_flops": self.peak.flops,
            "matmul_best_flops": self.peak.best_flops,
            "fraction_of_peak": flops * rate / self.peak.flops,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "num_parameters": sum(item.numel() for item in self.network.parameters()),
            "model": self.model,
            "batch_size": batch_size,
            "precision": self.precision,
            "device": self.name,
            "torch": torch.__version__,
        }
