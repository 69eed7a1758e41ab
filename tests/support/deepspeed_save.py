"""Saves a small network sharded, as DeepSpeed does; run by torchrun in processes of its own.

For: a real ZeRO folder for the tests of its conversion, and beside it what its parts stand for,
as DeepSpeed's own engine gives it. Usage: FOLDER STAGE CHECKPOINT.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import Tensor, nn

from hicmae.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.probe import make_probe
from hicmae.pretraining import HiCMAE


class Holder(nn.Module):
    """Holds the network under the name that the Lightning modules give it."""

    def __init__(self, network: HiCMAE) -> None:
        super().__init__()
        self.model = network

    def forward(self, video: Tensor, fbank: Tensor) -> Tensor:
        """The loss of clips."""
        return self.model(video, fbank).loss


def main() -> None:
    """Take one step, so that the parts hold other weights than the start, and save."""
    folder, stage = Path(sys.argv[1]), int(sys.argv[2])
    # Built by a compiler on first use, under a lock that a killed build leaves behind.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    rank = torch.distributed.get_rank()
    network = build_network(load_checkpoint(sys.argv[3]))
    assert isinstance(network, HiCMAE)
    clip = make_probe(network, seed=rank)
    engine, *_ = deepspeed.initialize(
        model=Holder(network),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        },
    )
    torch.manual_seed(rank)
    engine.backward(engine(clip["input.video"], clip["input.fbank"]))
    engine.step()
    engine.save_checkpoint(str(folder), tag="checkpoint")
    weights = {
        name: safe_get_full_fp32_param(value).detach().clone()
        for name, value in engine.module.model.named_parameters()
    }
    if rank == 0:
        save_file(weights, folder / "expected.safetensors")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads would otherwise outlive the group


if __name__ == "__main__":
    main()
