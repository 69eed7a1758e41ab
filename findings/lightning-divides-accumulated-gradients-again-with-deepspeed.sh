#!/usr/bin/env bash
# With DeepSpeed in Lightning, gradients accumulated over four batches are a quarter of their mean.
#
# One would guess: `accumulate_grad_batches=4` gives the mean of four gradients with any strategy.
# What happens: Lightning divides the loss of each batch by 4 before its backward pass, and tells
# DeepSpeed of the 4, whose backward pass divides by it as well. The gradient that the optimizer
# sees is the sum over 16. AdamW, whose steps do not depend on the gradient's size, hides it; SGD
# takes steps of a quarter, a clipping norm of 1 clips at 4, and logged norms are too small.
# Versions: pytorch-lightning 2.6.6, DeepSpeed 0.19.8, torch 2.11.0. Python 3.11, CPU, gloo.
# Why it matters here: runs are moved between one process, DDP and ZeRO, and are to take the same
# steps. pretrain/zero.py has it divided once (tests/pretrain/test_zero.py, accumulation).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'pytorch-lightning==2.6.6' 'deepspeed==0.19.8' 'numpy==2.3.4' \
    'setuptools==80.9.0'

cat > show.py <<'PY'
import os

os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29573"}
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}

import deepspeed
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy

# Nothing is to be built with a C++ compiler, which has no part in it.
deepspeed.ops.__compatible_ops__[deepspeed.ops.op_builder.cpu.ShareMemCommBuilder.NAME] = False
SGD = {"zero_allow_untested_optimizer": True, "zero_optimization": {"stage": 1}}


class OnCPU(DeepSpeedStrategy):
    """Lightning's, without its check that there is a GPU."""

    root_device = torch.device("cpu", 0)

    def setup_environment(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()


class Network(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 1, bias=False)

    def training_step(self, batch, number):
        return self.layer(batch).mean()  # its gradient is 1 for each of four weights

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def step(batches, deepspeed):
    """Length of the one step of all batches together."""
    network = Network()
    before = network.layer.weight.detach().clone()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        strategy=OnCPU(config=dict(SGD), process_group_backend="gloo") if deepspeed else "auto",
        accumulate_grad_batches=batches,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network, torch.utils.data.DataLoader(torch.ones(batches, 4)))
    return float((before - network.layer.weight.detach()).norm())


versions = {m.__name__: m.__version__.partition("+")[0] for m in (torch, pl, deepspeed)}
found = {(engine, n): step(n, engine) for engine in (False, True) for n in (1, 4)}
print("FOUND", versions)
for (engine, n), length in found.items():
    print(f"FOUND {'DeepSpeed' if engine else 'plain':9} {n} batches: a step of {length:.3f}")
assert found[False, 1] == found[False, 4] == found[True, 1] == 2.0
assert found[True, 4] == 2.0 / 4
print("FOUND as described")
PY
venv/bin/python show.py >log 2>&1 || { cat log; exit 1; }
sed -n 's/^FOUND //p' log
