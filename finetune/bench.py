"""How fast a fine-tuning step is on this machine: the command ``hicmae bench finetune``.

For: clips a second of a step with every weight trained, by part, and the share of the machine's
matrix-product speed that it reaches, measured in the same run. Not for: testing
(``finetune/bench_evaluate.py``), reading (``hicmae bench loader``), pretraining
(``pretrain/bench.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from finetune.bench_setting import Setting
from finetune.mixing import mix_batch, soft_targets
from finetune.mixing_config import MixingConfig
from hicmae.benchmarking.records import print_parts, random_clips, write_figures
from hicmae.benchmarking.speed import median_parts, timed
from hicmae.emotion import EmotionConfig
from hicmae.parameters import parameter_groups
from hicmae.precision import Precision
from hicmae.transforms import AugmentConfig, ClipTransform

_AUGMENT = AugmentConfig.finetuning()
_MIXING = MixingConfig()
_PARTS = ("transforms", "forward", "backward", "optimizer")
# Of the published recipe.
_SMOOTHING = 0.1
_LAYER_DECAY = 0.75


def bench_finetune(
    *,
    model: str = "base",
    num_outputs: int = 6,
    batch_size: int = 4,
    steps: int = 10,
    warmup: int = 3,
    precision: Precision = "auto",
    accelerator: str = "auto",
    augment: AugmentConfig = _AUGMENT,
    mixing: MixingConfig = _MIXING,
    json: Path | None = None,
) -> dict[str, Any]:
    """Measure a full fine-tuning step on random clips, and print a table.

    Clips are changed, mixed and predicted as in the published recipe (layer-wise rates, drop path,
    label smoothing), and every weight is trained. Times are medians over the steps. The share of
    the peak is what the network has to compute (forward and backward) a second of the whole step,
    over the median speed of a large matrix product before each step and after the last.

    Args:
        model: Size of the network: a name out of configs/model (tiny, small, base) or a YAML file.
        num_outputs: Classes.
        batch_size: Clips of a step.
        steps: Steps that are measured.
        warmup: Steps before them that are not.
        precision: As in fine-tuning; 16-mixed is not measured here.
        accelerator: auto, cpu or gpu.
        augment: Random changes to the clips.
        mixing: Mixup and cutmix.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second``, ``step_seconds``, ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes``, ``seconds`` by part.

    Raises: ValueError: a number is out of range, or there is no such device.
    """
    if min(batch_size, steps, num_outputs) < 1 or warmup < 0:
        raise ValueError(
            f"batch_size = {batch_size}, steps = {steps}, num_outputs = {num_outputs}, warmup = "
            f"{warmup} (the first three must be 1 or more, warmup 0 or more)"
        )
    setting = Setting(model, EmotionConfig(num_outputs=num_outputs), precision, accelerator)
    device, network = setting.device, setting.network.train()
    transform = ClipTransform(setting.sizes.input, augment).to(device).train()
    batch = random_clips(setting.sizes.input, batch_size, device)
    labels = torch.arange(batch_size, device=device) % num_outputs
    optimizer = torch.optim.AdamW(
        parameter_groups(network, learning_rate=1e-4, weight_decay=0.05, layer_decay=_LAYER_DECAY),
        fused=True,
    )

    def transformed() -> tuple[Tensor | None, Tensor | None, Tensor]:
        with torch.no_grad():
            video, fbank = transform(batch)
            wanted = soft_targets(labels, num_outputs, smoothing=_SMOOTHING)
            return mix_batch(video, fbank, wanted, mixing)

    def loss() -> Tensor:
        with setting.autocast():
            outputs = network(video, fbank)
        return F.cross_entropy(outputs.float(), targets)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    rows = []
    for step in range(warmup + steps):
        if step >= warmup:
            setting.peak.measure()
        transforming, (video, fbank, targets) = timed(transformed, device)
        forwarding, result = timed(loss, device)
        backwarding, _ = timed(result.backward, device)
        updating, _ = timed(update, device)
        rows.append((transforming, forwarding, backwarding, updating))
    setting.peak.measure()
    seconds = median_parts(_PARTS, rows[warmup:])
    figures = setting.figures(batch_size / seconds["step"], batch_size, backward=True) | {
        "step_seconds": seconds["step"],
        "seconds": seconds,
        "steps": steps,
    }
    title = f"Fine-tuning step: {model}, {batch_size} clips, {setting.precision}, {setting.name}"
    print_parts(title, figures, Console(highlight=False, soft_wrap=True))
    write_figures(figures, json)
    return figures
