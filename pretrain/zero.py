"""DeepSpeed's ZeRO under Lightning, on GPUs and between CPU processes over gloo.

For: the strategy and its precision, what goes into DeepSpeed's configuration. Not for: the
consolidated state of a sharded run (``pretrain/zero_state.py``), writing it
(``pretrain/checkpoint_files.py``), nor choosing an engine (``pretrain/engines.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy
from pytorch_lightning.strategies.parallel import ParallelStrategy

from pretrain.checkpoint_files import CheckpointFiles
from pretrain.engines import EngineConfig
from pretrain.processes import Launcher
from pretrain.zero_state import gather_optimizer, gather_weights, scatter_optimizer

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def zero_config(
    engine: EngineConfig, *, precision: str, batch_size: int, on_cpu: bool
) -> dict[str, Any]:
    """What DeepSpeed is told.

    Args:
        engine: Stage, offloading, sizes.
        precision: Lightning's name.
        batch_size: Clips that one process handles at once.
        on_cpu: Whether it computes on CPUs, which need no pinned memory.
    """
    zero: dict[str, Any] = {
        "stage": engine.stage,
        "overlap_comm": engine.overlap,
        "contiguous_gradients": True,
        "reduce_bucket_size": engine.bucket_elements,
        "allgather_bucket_size": engine.bucket_elements,
        # Gradients go to the process that keeps them; by default DeepSpeed sends them to all,
        # which is twice as much, and lets each throw the others' away.
        "use_multi_rank_bucket_allreduce": False,
    }
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
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "zero_optimization": zero,
        # PyTorch's AdamW, fused, updates on a CPU too; DeepSpeed's own wants a compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # bf16 is autocast over fp32 weights, as with one device; fp16 has fp16 weights, fp32
        # master weights, and DeepSpeed's own loss scaling.
        "bf16": {"enabled": precision == "bf16-true"},
        "fp16": {"enabled": precision == "16-mixed"},
    }


class ZeroPrecision(DeepSpeedPrecision):
    """Computes as with one device: autocast, over weights as DeepSpeed keeps them.

    DeepSpeed turns off an autocast that is around it, so the module enters ``forward_context``
    inside.

    Args:
        precision: Lightning's name.
    """

    def convert_input(self, data: Any) -> Any:
        """Batches are bytes; what is made of them stays fp32, and autocast casts."""
        return data

    @contextmanager
    def train_step_context(self) -> Iterator[None]:
        """Nothing around DeepSpeed."""
        yield

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Autocast where the precision is mixed."""
        dtype = _AUTOCAST.get(self.precision)
        if dtype is None:
            yield
            return
        kind = "cpu" if not torch.cuda.is_available() else self._device_type()
        with torch.autocast(kind, dtype=dtype):
            yield

    @staticmethod
    def _device_type() -> str:
        from deepspeed.accelerator import get_accelerator

        return str(get_accelerator().device_name())


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy, which here also runs on CPUs and whose checkpoints go on anywhere.

    A checkpoint is saved as if one device had trained: whole fp32 weights and the state of
    PyTorch's AdamW, gathered to the first process. Beside it stand the processes' own shards. A
    run on as many processes with the same engine goes on from them, any other from the whole.

    Args:
        config: Of DeepSpeed.
        keep_shards: Whether shards are written.
        settings: Of Lightning's strategy: environment, backend, timeout.
    """

    def __init__(self, config: dict[str, Any], *, keep_shards: bool, **settings: Any) -> None:
        super().__init__(config=config, **settings)
        self.keep_shards = keep_shards
        self._resumed_from: Path | None = None

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
        """Lightning's, without its check of GPU numbers on CPUs, and with its timeout for all."""
        _time_out_after(self._timeout)
        if super().root_device.type != "cpu":
            super().setup_distributed()
            return
        self.set_world_ranks()
        _use_gloo_alone()
        self._init_deepspeed_distributed()

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
        """Hand the whole, and this process's shards, to the writer of checkpoints."""
        files = self._files
        path = Path(filepath)
        if self.keep_shards:
            engine = self.deepspeed_engine
            engine.checkpoint_engine = files.shard_engine()
            engine.save_checkpoint(str(files.shard_folder(path)), tag="checkpoint", client_state={})
        if self.is_global_zero or self.keep_shards:
            files.save_part(
                checkpoint if self.is_global_zero else None,
                path,
                rank=self.global_rank,
                layout=self.layout,
                num_parts=self.world_size if self.keep_shards else 1,
            )

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the whole; where shards go is decided once the engine is there."""
        self._resumed_from = Path(checkpoint_path)
        return self._files.load_checkpoint(checkpoint_path, weights_only=weights_only)

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
        """Take the shards if they were made by as many processes with this engine, else the
        whole state, of which each process keeps its part.
        """
        assert self.lightning_module is not None
        assert self._resumed_from is not None
        shards = self._files.shards_for(self._resumed_from, self.layout)
        if shards is not None:
            self.deepspeed_engine.load_checkpoint(
                str(shards), tag="checkpoint", load_lr_scheduler_states=False
            )
        else:
            scatter_optimizer(self.deepspeed_engine, self.lightning_module, checkpoint)

    @property
    def layout(self) -> dict[str, Any]:
        """What must be the same for shards to fit."""
        assert isinstance(self.config, dict)
        return {
            "processes": self.world_size,
            "stage": self.config["zero_optimization"]["stage"],
            "offload": "offload_optimizer" in self.config["zero_optimization"],
            "fp16": self.config["fp16"]["enabled"],
        }

    @property
    def _files(self) -> CheckpointFiles:
        assert isinstance(self.checkpoint_io, CheckpointFiles)
        return self.checkpoint_io


def _time_out_after(timeout: timedelta | None) -> None:
    """Let the groups that DeepSpeed makes give up on a process when the first group does.

    It makes them without a timeout, for which PyTorch takes half an hour with gloo.
    """
    from deepspeed.comm.torch import TorchBackend

    def new_group(self: TorchBackend, ranks: list[int]) -> Any:
        return torch.distributed.new_group(ranks, timeout=timeout)

    TorchBackend.new_group = new_group


def _use_gloo_alone() -> None:
    """Keep DeepSpeed from compiling its own exchange over shared memory.

    It spins on a process that has died, without end, and a compilation that was killed leaves a
    lock that every later run waits for; gloo gives up after its timeout.
    """
    import deepspeed
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
