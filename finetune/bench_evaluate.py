"""How fast a fold is tested on this machine: the command ``hicmae bench evaluate``.

For: clips a second of test views that are read from shards and predicted, the share of the
machine's matrix-product speed that this reaches, and whether it waits for its reader. Not for:
training (``finetune/bench.py``), nor reading alone by other ways (``hicmae bench loader``).
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.bench_setting import Setting
from hicmae.benchmarking.records import random_clips, write_figures
from hicmae.benchmarking.speed import timed
from hicmae.emotion import EmotionConfig
from hicmae.precision import Precision
from shards.bench_media import write_bench_shards
from shards.index import read_index
from shards.random_access import ShardDataset
from shards.sample import collate

_PRODUCTS = 3  # large matrix products before the test, and after it


def bench_evaluate(
    *,
    model: str = "base",
    num_outputs: int = 6,
    shards: Path | None = None,
    samples: int = 24,
    num_segments: int = 2,
    batch_size: int = 4,
    workers: int = 2,
    precision: Precision = "auto",
    accelerator: str = "auto",
    json: Path | None = None,
) -> dict[str, Any]:
    """Measure the test of a fold: views read from shards through the index, and predicted.

    First the whole, as ``finetune`` and ``evaluate`` test a fold, then the reader alone over the
    same views. The share of the peak is what the network has to compute a second of the whole.

    Args:
        model: Size of the network: a name out of configs/model (tiny, small, base) or a YAML file.
        num_outputs: Classes.
        shards: A folder of shards; none given: a temporary one of synthetic 160-pixel faces.
        samples: Samples to test, from the first on.
        num_segments: Views of a sample.
        batch_size: Views handled at once.
        workers: Reading processes; 0 reads in the measuring one.
        precision: As in fine-tuning; 16-mixed is not measured here.
        accelerator: auto, cpu or gpu.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second`` (views), ``loader_clips_per_second`` of
        the reader alone, ``data_wait_share`` of the time in which nothing was there to predict
        (of all batches after the first, before which the readers start), ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes`` and ``seconds``.

    Raises:
        ValueError: A number is out of range, there is no such device, or the shards cannot be
            read or hold too few samples for two batches.
    """
    if min(num_outputs, samples, num_segments, batch_size) < 1 or workers < 0:
        raise ValueError(
            f"num_outputs = {num_outputs}, samples = {samples}, num_segments = {num_segments}, "
            f"batch_size = {batch_size}, workers = {workers} (workers must be 0 or more, the "
            "others 1 or more)"
        )
    setting = Setting(model, EmotionConfig(num_outputs=num_outputs), precision, accelerator)
    with ExitStack() as stack:
        if shards is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hicmae-bench-"))
            shards = Path(scratch) / "shards"
            write_bench_shards(shards, samples)
        index = read_index(shards)
        rows = index.table.iloc[:samples]
        views = len(rows) * num_segments
        if views <= batch_size:
            raise ValueError(
                f"{shards}: {len(rows)} samples x num_segments = {num_segments} make one batch of "
                f"{batch_size}; lower batch_size or raise samples"
            )
        fps = float(rows["fps"].iloc[0])
        dataset = ShardDataset(
            index,
            input=replace(setting.sizes.input, fps=fps),
            rows=rows,
            views=num_segments,
            require_sound=False,
        )
        loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)
        _predict_one(setting, batch_size)  # warm
        for _ in range(_PRODUCTS):
            setting.peak.measure()
        whole = _run(loader, setting)
        for _ in range(_PRODUCTS):
            setting.peak.measure()
        alone = _run(loader, None)
    figures = setting.figures(whole["rate"], batch_size, backward=False) | {
        "loader_clips_per_second": alone["rate"],
        "data_wait_share": whole["wait"] / whole["seconds"],
        "seconds": {name: whole[name] for name in ("wait", "transforms", "network")},
        "workers": workers,
        "num_segments": num_segments,
        "samples": len(rows),
    }
    _print_test(figures, setting, views)
    write_figures(figures, json)
    return figures


@torch.no_grad()
def _predict_one(setting: Setting, batch_size: int) -> None:
    """Predict a batch of noise."""
    video, fbank = setting.plain(random_clips(setting.sizes.input, batch_size, setting.device))
    with setting.autocast():
        setting.network.eval()(video, fbank)


@torch.no_grad()
def _run(loader: DataLoader[Any], setting: Setting | None) -> dict[str, float]:
    """Read every view, and predict it where there is a network.

    Returns: clips a second (``rate``), ``seconds``, and of those ``wait``, ``transforms`` and
        ``network``, all without the first batch.
    """
    spent = {"wait": 0.0, "transforms": 0.0, "network": 0.0}
    batches = iter(loader)
    first = next(batches)
    if setting is not None:
        _test(first, setting, spent)
    spent = dict.fromkeys(spent, 0.0)
    clips, started = 0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        spent["wait"] += time.perf_counter() - asked
        if batch is None:
            break
        clips += len(batch["keys"])
        if setting is not None:
            _test(batch, setting, spent)
    seconds = time.perf_counter() - started
    return {**spent, "seconds": seconds, "rate": clips / seconds}


def _test(batch: dict[str, Any], setting: Setting, spent: dict[str, float]) -> None:
    """Predict a batch, and note the time."""
    there = {
        name: value.to(setting.device, non_blocking=True)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    transforming, (video, fbank) = timed(lambda: setting.plain(there), setting.device)

    def predict() -> Tensor:
        with setting.autocast():
            outputs: Tensor = setting.network(video, fbank)
        return outputs.float().softmax(dim=1).cpu()

    predicting, _ = timed(predict, setting.device)
    spent["transforms"] += transforming
    spent["network"] += predicting


def _print_test(figures: dict[str, Any], setting: Setting, views: int) -> None:
    """Show the figures of a test."""
    seconds = figures["seconds"]
    bound = "its reader" if figures["data_wait_share"] > 0.5 else "the network"
    Console(highlight=False, soft_wrap=True).print(
        f"Test of a fold: {figures['model']}, {figures['samples']} samples, {views} views, "
        f"{setting.precision}, {setting.name}, {figures['workers']} reading processes\n"
        f"{figures['clips_per_second']:.1f} clips/s; the reader alone "
        f"{figures['loader_clips_per_second']:.1f}; {figures['data_wait_share']:.0%} of the time "
        f"was waited for it (transforms {seconds['transforms']:.1f} s, network "
        f"{seconds['network']:.1f} s): bound by {bound}\n"
        f"{figures['flops_per_clip'] / 1e9:.1f} GFLOP a clip; {figures['fraction_of_peak']:.0%} of "
        f"{figures['matmul_peak_flops'] / 1e9:.0f} GFLOP/s; peak memory "
        f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB"
    )
