"""Engines: how several devices train one network, and DeepSpeed's ZeRO under Lightning.

An engine is data out of ``configs/engines``; ``trainer_settings`` turns it into what Lightning's
trainer is told, on GPUs and between CPU processes over gloo. The checkpoint of an engine that
shares is saved as if one device had trained, whole weights and AdamW's state by parameter, and is
shared out again when a run goes on, on any number of devices. All functions that gather are
collective calls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from pytorch_lightning.strategies.parallel import ParallelStrategy
from torch import Tensor, nn

from hicmae.config import config_path, config_root, from_dict, load_yaml
from hicmae.optimization import trainer_precision
from hicmae.settings import outside, raise_all
from pretrain.cluster import main_timeout
from pretrain.processes import Launcher, Processes
from pretrain.settings import HardwareConfig

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_MOMENTS = ("exp_avg", "exp_avg_sq")
# The module holds the network as ``model``; names in the optimizer's groups are the network's.
_PREFIX = "model."


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How several devices train one network.

    Args:
        kind: ``single``: one device; ``ddp``: every device holds everything; ``deepspeed``: they
            share what ``stage`` says.
        stage: Of ZeRO: 1 shares the optimizer's state, 2 the gradients too, 3 the weights too.
        offload_optimizer: Whether the optimizer's state, and its step, are on the CPU.
        offload_parameters: Whether weights that are not in use are on the CPU; stage 3 only.
        bucket_elements: Numbers that are sent at once; twice as many take memory.
        overlap: Whether gradients are sent while the backward pass goes on.
        communication: Number format in which ``deepspeed`` sends gradients: ``auto`` is the
            format that they have; bf16 sends half of fp32's bytes, and rounds each sum.
        persistent_elements: Weights of fewer numbers stay whole on every device; stage 3 only.
        gathered_elements: Numbers of shared weights that are whole at once, those of the next
            layers among them; stage 3 only. One layer's are whole however many they are.

    Source: ZeRO, arXiv 1910.02054; offloading, arXiv 2101.06840.
    """

    kind: Literal["single", "ddp", "deepspeed"]
    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = 50_000_000
    overlap: bool = True
    communication: Literal["auto", "fp32", "bf16"] = "auto"
    persistent_elements: int = 100_000
    gathered_elements: int = 10_000_000

    def __post_init__(self) -> None:
        problems = []
        stages = (1, 2, 3) if self.kind == "deepspeed" else (0,)
        if self.stage not in stages:
            allowed = ", ".join(map(str, stages))
            problems.append(f"stage = {self.stage} (kind {self.kind} allows {allowed})")
        if self.offload_optimizer and self.kind != "deepspeed":
            problems.append(f"offload_optimizer with kind {self.kind} (needs deepspeed)")
        if self.offload_parameters and self.stage != 3:
            problems.append(f"offload_parameters at stage {self.stage} (needs stage 3)")
        if self.communication != "auto" and self.kind != "deepspeed":
            problems.append(f"communication with kind {self.kind} (needs deepspeed)")
        names = "persistent_elements gathered_elements"
        problems += outside(self, {"1 or more": "bucket_elements", "0 or more": names})
        raise_all("engine", problems)


def load_engine(name_or_path: str, *, world_size: int) -> EngineConfig:
    """Read an engine: a name out of ``configs/engines``, a YAML file, or ``auto``.

    Raises:
        ValueError: No such engine, a file that is none, or ``single`` for several processes.
        FileNotFoundError: No such file.
    """
    name = name_or_path
    if name == "auto":
        name = "single" if world_size == 1 else "zero1"
    if re.fullmatch(r"[\w-]+", name) and not Path(name).is_file():
        known = sorted(file.stem for file in (config_root() / "engines").glob("*.yaml"))
        if name not in known:
            raise ValueError(
                f"hardware.strategy = {name}: no such engine (engines: auto, {', '.join(known)}; "
                "or give a YAML file)"
            )
        name = f"configs/engines/{name}.yaml"
    path = config_path(name)
    engine = from_dict(EngineConfig, load_yaml(path), str(path))
    if engine.kind == "single" and world_size > 1:
        raise ValueError(
            f"hardware.strategy = {name_or_path}: trains on one device, there are {world_size}; "
            "take auto, ddp or zero1, or --hardware.devices 1"
        )
    return engine


def check_engine(
    engine: EngineConfig, hardware: HardwareConfig, *, precision: str, device: torch.device
) -> None:
    """Check that an engine goes with what it is to train.

    Raises: ValueError: why it cannot, and what can.
    """
    if engine.kind == "deepspeed" and precision == "16-mixed" and device.type == "cpu":
        raise ValueError(
            f"precision = 16-mixed with ZeRO {engine.stage} on a CPU: DeepSpeed keeps weights in "
            "fp16 there, for which PyTorch has no layer norm on CPUs; take bf16-mixed, or "
            "hardware.strategy single or ddp"
        )
    if hardware.bf16_residual and precision != "bf16-mixed":
        raise ValueError(
            f"hardware.bf16_residual = true with precision = {precision}: is for bf16-mixed; take "
            "that precision, or hardware.bf16_residual false"
        )
    for name in ("compile", "cuda_graphs"):
        if getattr(hardware, name) and engine.stage == 3:
            raise ValueError(
                f"hardware.{name} = true with ZeRO 3: weights are shared out among the processes, "
                f"and come to each layer as it runs; take zero1 or zero2, or hardware.{name} false"
            )


def trainer_settings(
    engine: EngineConfig,
    *,
    processes: Processes,
    device: torch.device,
    precision: str,
    batch_size: int,
    timeout_seconds: int,
    checkpoint_io: CheckpointIO,
    clip_norm: float | None = None,
) -> dict[str, Any]:
    """What Lightning's trainer is told of an engine, its devices, the number format, and what is
    not its own to do.

    ``precision`` is Lightning's name, ``batch_size`` the clips that one process handles at once,
    ``timeout_seconds`` the longest that it waits for another, and ``clip_norm`` the largest norm
    of a gradient.
    """
    on_cpu = device.type == "cpu"
    alone_on = [device.index] if device.index and processes.world_size == 1 else None
    settings: dict[str, Any] = {
        "accelerator": "cpu" if on_cpu else "gpu",
        "devices": alone_on or processes.devices,
        "num_nodes": processes.num_nodes,
        # Steps are counted; rows, checkpoints, the bar and who reads which clips are ours.
        "max_epochs": -1,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    shared: dict[str, Any] = {
        "cluster_environment": processes.environment(),
        "process_group_backend": "gloo" if on_cpu else None,
        "timeout": main_timeout(timeout_seconds, device),
    }
    if not on_cpu and processes.devices > 1 and torch.cuda.device_count() == 1:
        # Each process sees one GPU, its own; Lightning would look for that of its number.
        shared["parallel_devices"] = [torch.device("cuda", 0)] * processes.devices
        settings["devices"] = 1
    if engine.kind == "deepspeed":
        if on_cpu:
            # DeepSpeed asks the machine what it computes on; one with GPUs would say otherwise.
            os.environ["DS_ACCELERATOR"] = "cpu"
        config = zero_config(
            engine,
            precision=precision,
            batch_size=batch_size,
            on_cpu=on_cpu,
            clip_norm=clip_norm,
        )
        # It brings the number format and is not told it a second time.
        return settings | {
            "strategy": ZeroStrategy(config=config, **shared),
            "plugins": [checkpoint_io, ZeroPrecision(precision)],  # type: ignore[arg-type]
        }
    number_format, scaling = trainer_precision(precision, device)
    settings |= {"precision": number_format, "plugins": [checkpoint_io, *scaling]}
    if engine.kind == "ddp":
        # Buffers are constants (positions, windows): sending them each step would be for nothing.
        ddp = _DDP(gradient_as_bucket_view=True, broadcast_buffers=False, **shared)
        return settings | {"strategy": ddp}
    # Lightning would take a job of SLURM for the launcher, and requeue it.
    settings["plugins"].append(processes.environment())
    return settings


def zero_config(
    engine: EngineConfig,
    *,
    precision: str,
    batch_size: int,
    on_cpu: bool,
    clip_norm: float | None = None,
) -> dict[str, Any]:
    """What DeepSpeed is told; ``on_cpu``: it computes on CPUs, which need no pinned memory."""
    zero: dict[str, Any] = {
        "stage": engine.stage,
        "overlap_comm": engine.overlap,
        "contiguous_gradients": True,
        "reduce_bucket_size": engine.bucket_elements,
        "allgather_bucket_size": engine.bucket_elements,
    }
    if on_cpu:
        # Gradients go to the process that keeps them; by default DeepSpeed sends a bucket to all,
        # which is twice as much, and lets each throw the others' away. On GPUs that is the faster:
        # one call for a bucket instead of one for each process that keeps a part of it.
        zero["use_multi_rank_bucket_allreduce"] = False
    if engine.stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": engine.persistent_elements,
            # DeepSpeed gathers ahead at every layer, and keeps what is used again soon, up to these
            # numbers: by default a thousand million, with which networks of this size stay whole
            # from the first layer forward to the last one backward.
            "stage3_max_live_parameters": engine.gathered_elements,
            "stage3_prefetch_bucket_size": engine.gathered_elements // 4,
            "stage3_max_reuse_distance": 0,
        }
    device = {"device": "cpu", "pin_memory": not on_cpu}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = dict(device)
    if engine.offload_parameters:
        zero["offload_param"] = dict(device)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size,
        # Left out, it is 1 from DeepSpeed 0.19.3 on.
        "gradient_clipping": clip_norm or 0.0,
        # It would wait for the device at every step; the run measures its own speed.
        "timers": {"throughput": {"enabled": False}},
        "zero_optimization": zero,
        # PyTorch's AdamW, fused, updates on a CPU too; DeepSpeed's own wants a compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # bf16 is autocast over fp32 weights, as with one device; fp16 has fp16 weights, fp32
        # master weights, and DeepSpeed's own loss scaling.
        "bf16": {"enabled": precision == "bf16-true"},
        "fp16": {"enabled": precision == "16-mixed"},
    }
    if engine.communication != "auto":
        config["communication_data_type"] = engine.communication
    return config


class ZeroPrecision(DeepSpeedPrecision):
    """Computes as with one device: autocast, over weights as DeepSpeed keeps them.

    DeepSpeed turns off an autocast that is around it, so the module enters ``forward_context``
    inside.
    """

    def convert_input(self, data: Any) -> Any:
        """Batches are bytes; what is made of them stays fp32, and autocast casts."""
        return data

    def backward(  # type: ignore[override]  # as Lightning's own
        self, tensor: Tensor, model: pl.LightningModule, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Lightning has divided the loss by the batches of a step; DeepSpeed is not to again."""
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @contextmanager
    def train_step_context(self) -> Iterator[None]:
        yield

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Autocast where the precision is mixed."""
        dtype = AUTOCAST.get(self.precision)
        if dtype is None:
            yield
            return
        from deepspeed.accelerator import get_accelerator

        with torch.autocast(str(get_accelerator().device_name()), dtype=dtype):
            yield


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy, which here also runs on CPUs and whose checkpoints go on anywhere."""

    @property
    def root_device(self) -> torch.device:
        """This process's device; a CPU has the index that DeepSpeed takes for the local rank."""
        assert self.parallel_devices is not None
        device: torch.device = self.parallel_devices[self.local_rank]
        return device if device.type != "cpu" else torch.device("cpu", self.local_rank)

    def setup_environment(self) -> None:
        """Lightning's, without its refusal of CPUs."""
        ParallelStrategy.setup_environment(self)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        """Lightning's, with its timeout for all, and without its check of GPU numbers.

        Those do not begin at 0 on CPUs, nor where each process sees one GPU.
        """
        _time_out_after(self._timeout)
        self.set_world_ranks()
        if self.root_device.type == "cpu":
            _use_gloo_alone()
        self._init_deepspeed_distributed()

    def teardown(self) -> None:
        """Lightning's; what this process trains next has PyTorch's own linear layers again."""
        super().teardown()
        _restore_linear()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights in fp32, on the CPU; a collective call."""
        assert self.lightning_module is not None
        return gather_weights(self.lightning_module, keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The whole state as PyTorch's AdamW of one device has it; a collective call."""
        assert self.lightning_module is not None
        return gather_optimizer(
            self.deepspeed_engine, self.lightning_module, keep=self.is_global_zero
        )

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Hand the whole, which the first process has gathered, to the writer of checkpoints."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the whole; it is shared out once the engine is there."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Weights are loaded before DeepSpeed shares them out."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The state of the optimizer is ours to restore."""
        return True

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the whole weights into the network, as one device would."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process keeps its part of the whole state."""
        assert self.lightning_module is not None
        scatter_optimizer(self.deepspeed_engine, self.lightning_module, checkpoint)


def gather_weights(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The weights in fp32, on the CPU; where they are not to be kept, nothing comes back."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            value = safe_get_full_fp32_param(parameter)
        else:  # what is frozen DeepSpeed has no fp32 copy of
            with GatheredParameters([parameter]):
                value = parameter.float().clone()
        if keep:
            weights[name] = value.detach().to("cpu", copy=True)
    if keep:
        weights |= {name: value.detach().to("cpu", copy=True) for name, value in _buffers(module)}
    return weights


def gather_optimizer(engine: Any, module: nn.Module, *, keep: bool) -> dict[str, Any]:
    """The state of AdamW as one device would have it.

    Parameters are numbered as the optimizer's groups list them, which is how PyTorch does it; the
    groups are ``hicmae.optimization.parameter_groups``, in which every parameter has its name.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    base = engine.optimizer.optimizer
    steps = [state["step"] for state in base.state.values() if "step" in state]
    everywhere: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everywhere, bool(steps))
    taken = any(everywhere)  # one whose part is empty knows of no step
    _link_moments(engine.optimizer)
    parameters = dict(module.named_parameters())
    state: dict[int, dict[str, Any]] = {}
    groups, number = [], 0
    for group in base.param_groups:
        first = number
        for name in group["names"]:
            if taken:
                parameter = parameters[_PREFIX + name]
                moments = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
                if keep:
                    state[number] = {
                        "step": torch.tensor(float(steps[0])),
                        **{key: value.to("cpu", copy=True) for key, value in moments.items()},
                    }
            number += 1
        settings = {key: value for key, value in group.items() if key != "params"}
        groups.append({**settings, "params": list(range(first, number))})
    scaler = engine.optimizer.loss_scaler
    whole = {"state": state, "param_groups": groups, "loss_scaler": _numbers(scaler)}
    return whole if keep else {}


def scatter_optimizer(engine: Any, module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Give each process its part of a checkpoint of one device, whose weights are loaded."""
    whole = checkpoint["optimizer_states"][0]
    optimizer = engine.optimizer
    base = optimizer.optimizer
    scaler = whole.get("loss_scaler", {})
    if scaler.get("dynamic") == optimizer.loss_scaler.dynamic:  # else of another precision's
        vars(optimizer.loss_scaler).update(scaler)
    by_name: dict[str, int] = {}
    for group in whole["param_groups"]:
        by_name.update(zip(group["names"], group["params"], strict=True))
    flat_parts = _flat_parts(optimizer)
    if whole["state"]:
        # One for all: a run in stages may have begun to train some of them later than others.
        step = max(float(state["step"]) for state in whole["state"].values())
        fused = bool(base.param_groups[0].get("fused"))
        for part in flat_parts:
            base.state[part] = {
                "step": torch.tensor(step, device=part.device if fused else "cpu"),
                **{key: torch.zeros_like(part) for key in _MOMENTS},
            }
        _link_moments(optimizer)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:  # the weights are loaded, and that is all of it
            continue
        _set(parameter, checkpoint["state_dict"][name], None)
        state = whole["state"].get(by_name[name.removeprefix(_PREFIX)], {})
        for key in _MOMENTS:
            if key in state:
                _set(parameter, state[key], key)


class _DDP(DDPStrategy):
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


def _time_out_after(timeout: timedelta | None) -> None:
    """Let the groups that DeepSpeed makes give up on a process when the first group does.

    It makes them without a timeout, for which PyTorch takes half an hour with gloo.
    """
    from deepspeed.comm.torch import TorchBackend

    def new_group(self: TorchBackend, ranks: list[int]) -> Any:
        return torch.distributed.new_group(ranks, timeout=timeout)

    TorchBackend.new_group = new_group


def _restore_linear() -> None:
    """Undo what ZeRO 3 has done to ``torch.nn.functional.linear``, which lasts for the process.

    A network that is compiled with DeepSpeed's function (0.19.8, torch 2.11.0) has weights whose
    gradients are zero, without a word.
    """
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses

    replaced = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", None)
    if replaced is not None:
        torch.nn.functional.linear = replaced


def _use_gloo_alone() -> None:
    """Keep DeepSpeed from compiling its own exchange over shared memory.

    It spins on a process that has died, without end, and a compilation that was killed leaves a
    lock that every later run waits for; gloo gives up after its timeout.
    """
    import deepspeed
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False


def _set(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Set this process's part of the fp32 weights (no key) or of a moment."""
    from deepspeed import utils

    if not hasattr(parameter, "ds_id"):  # stages 1 and 2
        value = value.to(parameter.device)
        if key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        return
    # Stage 3 cuts each parameter into equal parts, the last one padded.
    partition: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
    size, rank = partition.numel(), torch.distributed.get_rank()
    padded = torch.zeros(size * torch.distributed.get_world_size(), dtype=value.dtype)
    padded[: value.numel()] = value.flatten()
    own = padded[size * rank : size * (rank + 1)].to(partition.device)
    if key is None:
        utils.safe_set_local_fp32_param(parameter, own)
    else:
        utils.safe_set_local_optimizer_state(parameter, own, key)


def _link_moments(optimizer: Any) -> None:
    """Let parameters find their moments at stages 1 and 2.

    DeepSpeed does so once, when the first group has taken its first step and the others have none
    yet; their parameters then have no moments for good.
    """
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _flat_parts(optimizer: Any) -> list[Tensor]:
    stage3 = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    return list(stage3 if stage3 is not None else optimizer.single_partition_of_fp32_groups)


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """What a state dict holds besides parameters."""
    names = {name for name, _ in module.named_parameters()}
    return [(name, value) for name, value in module.state_dict().items() if name not in names]


def _numbers(scaler: Any) -> dict[str, float | int | bool]:
    return {
        name: value for name, value in vars(scaler).items() if isinstance(value, bool | int | float)
    }
