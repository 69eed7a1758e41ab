"""How fast fine-tuning is on this machine: ``hicmae bench finetune`` and ``bench evaluate``.

Clips a second of a training step, by part, and of a fold's test with its reader; and the share of
the machine's matrix-product speed that this reaches, measured in the same run.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.settings import MixingConfig
from hicmae.devices import Precision
from hicmae.processes import check_workers
from hicmae.settings import AugmentConfig
from hicmae.terminal import plain_console

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.utils.data import DataLoader

_AUGMENT = AugmentConfig.finetuning()
_MIXING = MixingConfig()
_PARTS = ("transforms", "forward", "backward", "optimizer")
# Of the published recipe.
_SMOOTHING = 0.1
_LAYER_DECAY = 0.75
Kind = tuple[bool, bool]  # of a clip: whether it has a picture, and sound
_WHOLE: dict[Kind, int] = {(True, True): 1}
_PRODUCTS = 3  # large matrix products before the test, and after it


def bench_finetune(
    *,
    model: str = "base",
    num_outputs: int = 6,
    batch_size: int = 4,
    steps: int = 10,
    warmup: int = 3,
    precision: Precision = "auto",
    device: str = "auto",
    cuda_graphs: bool = False,
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
        device: auto, cpu, cuda or cuda:N.
        cuda_graphs: As hardware.cuda_graphs in fine-tuning.
        augment: Random changes to the clips.
        mixing: Mixup and cutmix.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second``, ``step_seconds``, ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes``, ``seconds`` by part.

    Raises: ValueError: a number is out of range, or there is no such device.
    """
    import torch
    from torch.nn import functional

    from finetune.mixing import mix_batch, smoothed
    from hicmae.bench import median_parts, print_parts, random_clips, timed, write_figures
    from hicmae.devices import autocast
    from hicmae.graphs import Recorded
    from hicmae.optimization import parameter_groups
    from hicmae.transforms import ClipTransform

    if min(batch_size, steps, num_outputs) < 1 or warmup < 0:
        raise ValueError(
            f"batch_size = {batch_size}, steps = {steps}, num_outputs = {num_outputs}, warmup = "
            f"{warmup} (the first three must be 1 or more, warmup 0 or more)"
        )
    setting = Setting(model, num_outputs, precision, device)
    place, network = setting.device, setting.network.train()
    predict: Callable[..., Tensor] = network
    if cuda_graphs:
        predict = Recorded(network, network, lambda outputs: [outputs])
    transform = ClipTransform(setting.sizes.input, augment).to(place).train()
    batch = random_clips(setting.sizes.input, batch_size, place)
    labels = torch.arange(batch_size, device=place) % num_outputs
    optimizer = torch.optim.AdamW(
        parameter_groups(network, learning_rate=1e-4, weight_decay=0.05, layer_decay=_LAYER_DECAY),
        fused=True,
    )

    @torch.no_grad()
    def transformed() -> tuple[Tensor | None, Tensor | None, Tensor]:
        video, fbank = transform(batch)
        named = torch.nn.functional.one_hot(labels, num_outputs).float()
        wanted = smoothed(named, _SMOOTHING)
        return mix_batch(video, fbank, wanted, mixing)

    def loss() -> Tensor:
        with autocast(setting.precision, place):
            outputs = predict(video, fbank)
        return functional.cross_entropy(outputs.float(), targets)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    rows = []
    for step in range(warmup + steps):
        if step >= warmup:
            setting.peak.measure()
        transforming, (video, fbank, targets) = timed(transformed, place)
        forwarding, result = timed(loss, place)
        backwarding, _ = timed(result.backward, place)
        updating, _ = timed(update, place)
        rows.append((transforming, forwarding, backwarding, updating))
    setting.peak.measure()
    seconds = median_parts(_PARTS, rows[warmup:])
    figures = setting.figures(batch_size / seconds["step"], batch_size, backward=True) | {
        "step_seconds": seconds["step"],
        "seconds": seconds,
        "steps": steps,
    }
    title = f"Fine-tuning step: {model}, {batch_size} clips, {setting.precision}, {setting.name}"
    print_parts(title, figures, plain_console())
    write_figures(figures, json)
    return figures


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
    device: str = "auto",
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
        device: auto, cpu, cuda or cuda:N.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second`` (views), ``loader_clips_per_second`` of
        the reader alone, ``data_wait_share`` of the time in which nothing was there to predict
        (of all batches after the first, before which the readers start), ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes`` and ``seconds``.

    Raises:
        ValueError: A number is out of range, there is no such device, or the shards cannot be
            read or hold too few samples for two batches.
    """
    from torch.utils.data import DataLoader

    from hicmae.bench import random_clips, write_figures
    from shards.bench import write_bench_shards
    from shards.index import read_index
    from shards.reading.random_access import ShardDataset
    from shards.sample import collate

    if min(num_outputs, samples, num_segments, batch_size) < 1 or workers < 0:
        raise ValueError(
            f"num_outputs = {num_outputs}, samples = {samples}, num_segments = {num_segments}, "
            f"batch_size = {batch_size}, workers = {workers} (workers must be 0 or more, the "
            "others 1 or more)"
        )
    check_workers(workers)
    setting = Setting(model, num_outputs, precision, device)
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
            require_picture=False,
            require_sound=False,
        )
        loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)
        setting.predict(random_clips(setting.sizes.input, batch_size, setting.device))  # warm
        for _ in range(_PRODUCTS):
            setting.peak.measure()
        kinds: Counter[Kind] = Counter()
        whole = _run(loader, setting, kinds)
        for _ in range(_PRODUCTS):
            setting.peak.measure()
        alone = _run(loader, None)
    figures = setting.figures(whole["rate"], batch_size, backward=False, kinds=kinds) | {
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


class Setting:
    """The network, where it runs, and the speed of matrix products there.

    Raises: ValueError: no such device, or a number format that is not measured.
    """

    def __init__(self, model: str, num_outputs: int, precision: Precision, device: str) -> None:
        import torch

        from finetune.testing.machine import Running, make_machine
        from hicmae.bench import MatrixPeak
        from hicmae.config import load_model_config
        from hicmae.devices import device_name
        from hicmae.emotion import EmotionConfig, EmotionModel

        machine = make_machine(device, precision)
        self.device, self.precision, self.model = machine.device, machine.precision, model
        self.emotion = EmotionConfig(num_outputs=num_outputs)
        self.sizes = load_model_config(model)
        torch.manual_seed(0)
        self.network = EmotionModel(self.sizes, self.emotion)
        self.running = Running(self.network, self.sizes.input, self.emotion.modalities, machine)
        self.peak = MatrixPeak(self.precision, self.device)
        self.name = device_name(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def predict(self, batch: dict[str, Any]) -> dict[str, float]:
        """Predict a batch as a test does. Returns: seconds of ``transforms`` and ``network``."""
        from hicmae.bench import timed
        from hicmae.emotion import clip_values

        def predicted() -> Tensor:
            values, _ = clip_values(
                self.network,
                video,
                fbank,
                task="classification",
                precision=self.precision,
                seen=batch.get("seen"),
                heard=batch.get("heard"),
            )
            return values.cpu()

        transforming, (video, fbank) = timed(lambda: self.running.inputs(batch), self.device)
        predicting, _ = timed(predicted, self.device)
        return {"transforms": transforming, "network": predicting}

    def figures(
        self, rate: float, batch_size: int, *, backward: bool, kinds: Mapping[Kind, int] = _WHOLE
    ) -> dict[str, Any]:
        """What both benches say of ``rate`` clips a second, so many of each kind."""
        import torch

        from hicmae.bench import emotion_flops

        flops = sum(
            num * emotion_flops(self.sizes, self.emotion, backward=backward, seen=seen, heard=heard)
            for (seen, heard), num in kinds.items()
        ) / sum(kinds.values())
        return {
            "clips_per_second": rate,
            "flops_per_clip": flops,
            "matmul_peak_flops": self.peak.flops,
            "matmul_best_flops": self.peak.best_flops,
            "fraction_of_peak": flops * rate / self.peak.flops,
            "peak_memory_bytes": self.peak.other_memory_bytes(),
            "num_parameters": sum(item.numel() for item in self.network.parameters()),
            "model": self.model,
            "batch_size": batch_size,
            "precision": self.precision,
            "device": self.name,
            "torch": torch.__version__,
        }


def _run(
    loader: DataLoader[Any], setting: Setting | None, kinds: Counter[Kind] | None = None
) -> dict[str, float]:
    """Read every view, and predict it where there is a network; ``kinds`` of them are counted.

    Returns: clips a second (``rate``), ``seconds``, and of those ``wait``, ``transforms`` and
        ``network``, all without the first batch.
    """
    spent = {"wait": 0.0, "transforms": 0.0, "network": 0.0}
    batches = iter(loader)
    first = next(batches)
    if setting is not None:
        setting.predict(first)
    clips, started = 0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        spent["wait"] += time.perf_counter() - asked
        if batch is None:
            break
        clips += len(batch["keys"])
        if kinds is not None:
            kinds.update(zip(batch["seen"].tolist(), batch["heard"].tolist(), strict=True))
        if setting is not None:
            for part, seconds in setting.predict(batch).items():
                spent[part] += seconds
    seconds = time.perf_counter() - started
    return {**spent, "seconds": seconds, "rate": clips / seconds}


def _print_test(figures: dict[str, Any], setting: Setting, views: int) -> None:
    seconds = figures["seconds"]
    bound = "its reader" if figures["data_wait_share"] > 0.5 else "the network"
    plain_console().print(
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
