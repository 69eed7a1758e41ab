"""What a training step keeps and sends on each device: computed beforehand, and counted.

``footprint`` is what a dry run prints; ``Traffic`` and ``kept_bytes`` count the same in a step
that runs, for ``hicmae bench step --engines``.

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

Sent bytes are counted as the ZeRO paper counts them: what one process sends for a collective over
many processes. That is the bytes of the tensor for a reduce-scatter, an all-gather, a reduce or a
broadcast, and twice those for an all-reduce, which is the first two one after the other. With W
bytes of weights in use a step sends

- single: nothing;
- ddp: gradients all-reduced, 2·W;
- ZeRO 1 and 2: gradients reduced to who keeps them, new weights gathered, W + W;
- ZeRO 3: weights gathered in the forward and again in the backward pass, gradients reduced, 3·W;
  those too small to share are gathered once, after the optimizer's step, and those that are whole
  when the forward pass ends are still whole when the backward pass begins.

Source: ZeRO, arXiv 1910.02054, sections 5 and 7 (with few processes the wires carry less,
(N - 1) / N); gradients of the step before live on
through the forward pass, because Lightning clears them just before the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hicmae.pretraining import HiCMAE
from hicmae.settings import InputConfig
from pretrain.zero import EngineConfig

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_SENDS = {0: 2, 1: 2, 2: 2, 3: 3}  # times the weights, by stage; 0 is ddp


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one step at its peak.

    Attributes:
        weights: On the device.
        gradients: On the device.
        optimizer: AdamW's running means and DeepSpeed's fp32 copy, on the device.
        buckets: For sending, on the device.
        activations: Kept for the backward pass, on the device.
        batch: The clips and what targets are made with, on the device.
        host: What is offloaded, in the host's memory, for each process.
    """

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    activations: int
    batch: int
    host: int

    @property
    def device(self) -> int:
        """All that is on the device."""
        model = self.weights + self.gradients + self.optimizer
        return model + self.buckets + self.activations + self.batch


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """What of a network decides its footprint.

    Attributes:
        num_parameters: All.
        largest_block: Parameters of the largest block, which ZeRO 3 gathers to compute it.
        activations_per_clip: Bytes kept for the backward pass, of each clip.
        activations_fixed: Bytes kept whatever the number of clips.
        batch_per_clip: Bytes of a clip, as bytes, as the network's input and as copies of it.
    """

    num_parameters: int
    largest_block: int
    activations_per_clip: float
    activations_fixed: float
    batch_per_clip: int


def measure_network(make: Callable[[], HiCMAE], *, precision: str) -> NetworkSize:
    """Run a network without content, and count.

    Args:
        make: Makes the network as it will be trained.
        precision: Lightning's name; decides what autocast casts.
    """
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
    """Peak memory of a step; see the module's formula.

    Args:
        size: Of the network.
        engine: How devices share.
        precision: Lightning's name.
        world_size: Processes.
        batch_size: Clips that one process handles at once.
    """
    count, shared = size.num_parameters, size.num_parameters / world_size
    zero = engine.kind == "deepspeed"
    width = weight_width(engine, precision)
    states = model_states(
        count,
        engine,
        precision=precision,
        world_size=world_size,
        num_whole=min(count, max(size.largest_block, engine.gathered_elements))
        if engine.stage == 3
        else 0,
    )
    weights, gradients, optimizer = states["weights"], states["gradients"], states["optimizer"]
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


def model_states(
    num_parameters: int,
    engine: EngineConfig,
    *,
    precision: str,
    world_size: int,
    num_whole: int = 0,
) -> dict[str, float]:
    """Bytes of ``weights``, ``gradients`` and ``optimizer`` of one process; see the formula.

    Args:
        num_parameters: Of the network.
        engine: How devices share.
        precision: Lightning's name.
        world_size: Processes.
        num_whole: Parameters that stage 3 holds whole beside the shares: those of the layer that
            is computed, or those too small to share.
    """
    shared = num_parameters / world_size
    width = weight_width(engine, precision)
    zero = engine.kind == "deepspeed"
    return {
        "weights": width * (shared + num_whole if engine.stage == 3 else num_parameters),
        "gradients": width * (shared if engine.stage >= 2 else num_parameters),
        "optimizer": (8 + 4) * shared if zero else 2 * width * num_parameters,
    }


def expected_sent_bytes(
    engine: EngineConfig,
    weight_bytes: float,
    *,
    whole_bytes: float = 0.0,
    gathered_bytes: float = 0.0,
) -> float:
    """Bytes that a process should send in a step with one batch; see the module's docstring.

    Args:
        engine: How processes share.
        weight_bytes: Of the whole network, as it is computed with.
        whole_bytes: Of those, of weights that stage 3 does not share.
        gathered_bytes: Of the shared ones, how much of them stage 3 has whole at once.
    """
    if engine.kind == "single":
        return 0.0
    once = 0.0
    if engine.stage == 3:
        once = whole_bytes + min(gathered_bytes, weight_bytes - whole_bytes)
    return _SENDS[engine.stage] * weight_bytes - once


def weight_width(engine: EngineConfig, precision: str) -> int:
    """Bytes of a weight in use."""
    half = precision.endswith("-true") and precision != "32-true"
    return 2 if half or (engine.kind == "deepspeed" and precision == "16-mixed") else 4


class Traffic(TorchDispatchMode):
    """Counts the bytes of every collective call while it is entered.

    Attributes:
        sent_bytes: So far, as the module's docstring counts.
        calls: Collective calls by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note a collective, and let everything pass."""
        if func.namespace == "c10d":
            name = func._opname
            # A result and its parts are two arguments; the larger is what is spoken of.
            size = max((sum(map(_nbytes, _tensors(arg))) for arg in args), default=0)
            if name != "barrier":
                self.sent_bytes += 2 * size if name.startswith("allreduce") else size
                self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def kept_bytes(network: nn.Module, optimizer: Any) -> dict[str, int]:
    """What this process keeps between the backward pass and the optimizer's step.

    Args:
        network: Its parameters may be shared out by DeepSpeed.
        optimizer: PyTorch's, or DeepSpeed's around it.

    Returns: bytes of ``weights``, ``gradients`` and ``optimizer`` (running means, and DeepSpeed's
        own copy of the weights), wherever they are; storage that is shared counts once, with the
        first of these.
    """
    counted: set[int] = set()

    def total(tensors: Iterable[Tensor | None]) -> int:
        size = 0
        for tensor in tensors:
            if tensor is None or not tensor.numel():
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in counted:
                counted.add(storage.data_ptr())
                size += storage.nbytes()
        return size

    parameters = list(network.parameters())
    base = getattr(optimizer, "optimizer", optimizer)
    masters = [parameter for group in base.param_groups for parameter in group["params"]]
    whole = [parameter.data for parameter in parameters]
    parts = [getattr(parameter, "ds_tensor", None) for parameter in parameters]
    gradients = [parameter.grad for parameter in (*parameters, *masters)]
    for name in ("averaged_gradients", "grad_partitions_flat_buffer"):
        gradients += _tensors(getattr(optimizer, name, None))
    copies = _tensors(getattr(optimizer, "fp32_partitioned_groups_flat", None))
    return {
        "weights": total([*whole, *parts]),
        "gradients": total(gradients),
        "optimizer": total([*masters, *copies, *_tensors(list(base.state.values()))]),
    }


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

    dtype = _AUTOCAST.get(precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        network(video, fbank)
    return sum(storage.nbytes() for storage in kept.values())


def _clip_bytes(input: InputConfig) -> int:
    """Bytes of a clip on the device: uint8 frames, int16 sound, both as fp32, three copies."""
    pixels = 3 * input.num_frames * input.image_size**2
    bank = input.fbank_frames * input.mel_bins
    return pixels * (1 + 4 + 3 * 4) + input.clip_samples * 2 + bank * 4


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of nested lists and dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * torch.empty((), dtype=tensor.dtype).element_size()
