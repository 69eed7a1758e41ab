"""What a training step holds on each device, computed beforehand: what a dry run prints.

With P parameters, N processes, w bytes of a weight in use and m of its fp32 master copy (w = 4
and m = 0 where weights are fp32; DeepSpeed's fp16 has w = 2 and m = 4), a step holds at its peak

- single, ddp: weights w·P, gradients w·P, AdamW's two running means 8·P (2·w·P in bf16-true);
- ZeRO 1: weights w·P, gradients w·P, running means and DeepSpeed's fp32 copy (8 + 4)·P/N;
- ZeRO 2: the same with gradients w·P/N;
- ZeRO 3: weights, gradients, means and copy over N, and the weights that are gathered at once,
  w·(``gathered_elements``, or the largest block if that is more);
- stages of ZeRO: buckets for sending, b·w each, of which two are in flight when they overlap;
- offloading moves the means, the copy and the gradients' shares to the host's memory; with
  parameters, the weights' shares too;

and besides, on every device, the batch with the three fp32 copies of its frames that targets are
made with, and what the forward pass keeps for the backward pass. The last is counted tensor by
tensor on a pass without content; it grows with the clips. Autocast keeps a cast copy of each
matrix among it. Kernels' scratch memory and the CUDA context (about half a GiB) are left out.

Source: ZeRO, arXiv 1910.02054, section 5; gradients of the step before live on through the forward
pass, because Lightning clears them just before the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hicmae.pretraining import HiCMAE
from hicmae.settings import InputConfig
from pretrain.data import PREFETCHED_BATCHES
from pretrain.settings import PretrainConfig
from pretrain.zero import AUTOCAST, EngineConfig


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one step at its peak, on the device but for ``host``."""

    weights: int
    gradients: int
    optimizer: int  # AdamW's running means and DeepSpeed's fp32 copy
    buckets: int  # for sending
    activations: int  # kept for the backward pass
    batch: int  # the clips and what targets are made with
    host: int  # what is offloaded, for each process

    @property
    def device(self) -> int:
        model = self.weights + self.gradients + self.optimizer
        return model + self.buckets + self.activations + self.batch


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """What of a network decides its footprint."""

    num_parameters: int
    largest_block: int  # parameters; ZeRO 3 gathers a block to compute it
    activations_per_clip: float  # bytes kept for the backward pass
    activations_fixed: float  # bytes kept whatever the number of clips
    batch_per_clip: int  # bytes: the clip, the network's input and copies of it


def measure_network(make: Callable[[], HiCMAE], *, precision: str) -> NetworkSize:
    """Run the network that will be trained without content, and count."""
    few, many = 2, 4
    with FakeTensorMode():
        network = make()
        kept = {clips: _kept_bytes(network, clips, precision) for clips in (few, many)}
    slope = (kept[many] - kept[few]) / (many - few)
    blocks = [
        sum(parameter.numel() for parameter in block.parameters())
        for module in network.modules()
        if isinstance(module, torch.nn.ModuleList)
        for block in module
    ]
    size = network.config.input
    return NetworkSize(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        largest_block=max(blocks),
        activations_per_clip=slope,
        activations_fixed=max(0.0, kept[few] - few * slope),
        batch_per_clip=_clip_bytes(size),
    )


def footprint(
    size: NetworkSize, engine: EngineConfig, *, precision: str, world_size: int, batch_size: int
) -> Footprint:
    """Peak memory of a step with ``batch_size`` clips a process; see the module's formula."""
    count, shared = size.num_parameters, size.num_parameters / world_size
    zero = engine.kind == "deepspeed"
    half = precision == "bf16-true" or (zero and precision == "16-mixed")
    width = 2 if half else 4  # bytes of a weight in use
    weights: float = width * count
    if engine.stage == 3:
        weights = width * (shared + min(count, max(size.largest_block, engine.gathered_elements)))
    gradients = width * (shared if engine.stage >= 2 else count)
    optimizer = (8 + 4) * shared if zero else 2 * width * count
    in_flight = 2 if engine.overlap else 1
    buckets = in_flight * width * min(engine.bucket_elements, count) if zero else 0
    host = 0.0
    if engine.offload_optimizer:
        host += optimizer + width * shared
        optimizer = 0
        gradients -= width * shared if engine.stage >= 2 else 0
    if engine.offload_parameters:
        host += width * shared
        weights -= width * shared
    return Footprint(
        weights=round(weights),
        gradients=round(gradients),
        optimizer=round(optimizer),
        buckets=round(buckets),
        activations=round(size.activations_fixed + batch_size * size.activations_per_clip),
        batch=batch_size * size.batch_per_clip,
        host=round(host),
    )


def reader_bytes(config: PretrainConfig, processes: int) -> int:
    """Shared memory of a node that the readers of its training processes fill.

    Each of the workers of a process holds the batches that are ready and the one that it makes,
    and the process those of a step that it has read ahead; frames as bytes and the sound as int16
    go through shared memory (``/dev/shm``).
    """
    ahead = config.accumulate - 1 if config.workers else 0
    batches = processes * (config.workers * (PREFETCHED_BATCHES + 1) + ahead)
    clip = _bytes_of_clip(config.model.input, config.data.modalities)
    return batches * config.data.batch_size * clip


def _kept_bytes(network: HiCMAE, clips: int, precision: str) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides the weights themselves."""
    size = network.config.input
    video = torch.empty(clips, 3, size.num_frames, size.image_size, size.image_size)
    fbank = torch.empty(clips, size.fbank_frames, size.mel_bins)
    own = [*network.parameters(), *network.buffers(), video, fbank]
    known = {item.untyped_storage()._cdata for item in own}
    # Storages are held, or a freed one's number would be given to another.
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor

    dtype = AUTOCAST.get(precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        network(video, fbank)
    return sum(storage.nbytes() for storage in kept.values())


def _bytes_of_clip(input: InputConfig, modalities: str = "audio-video") -> int:
    """uint8 frames and int16 sound."""
    pixels = 3 * input.num_frames * input.image_size**2
    return pixels * ("video" in modalities) + 2 * input.clip_samples * ("audio" in modalities)


def _clip_bytes(input: InputConfig) -> int:
    """Bytes of a clip on the device: as it was read, both as fp32, three copies."""
    pixels = 3 * input.num_frames * input.image_size**2
    bank = input.fbank_frames * input.mel_bins
    return _bytes_of_clip(input) + pixels * (4 + 3 * 4) + bank * 4
