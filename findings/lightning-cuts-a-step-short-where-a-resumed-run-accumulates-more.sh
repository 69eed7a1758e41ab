#!/usr/bin/env bash
# Gone on with and more batches a step, Lightning's first step is of a part of them.
#
# One would guess: a checkpoint that was saved after whole steps, gone on with under
# `accumulate_grad_batches=4` in place of 2 (half the processes, the same batch in all), takes 4
# batches for its first step as for all others.
# What happens: steps end where the number of batches since the epoch began is a multiple of 4, and
# that number comes from the checkpoint. After three steps of 2 batches the next step is of 2 more,
# divided by 4: half a step, and every step after it ends two batches off. Nothing says so.
# Versions: pytorch-lightning 2.6.6, torch 2.11.0. Python 3.11, CPU.
# Why it matters here: a run moved from eight GPUs to four goes on with the same global batches.
# pretrain/module.py counts from whole steps (tests/pretrain).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'pytorch-lightning==2.6.6' 'numpy==2.3.4' 'setuptools==80.9.0'

cat > show.py <<'PY'
import pytorch_lightning as pl
import torch


class Network(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.steps = 0, []

    def training_step(self, batch, number):
        self.batches += 1
        return self.weight.sum()  # its gradient is 1 in every batch

    def on_before_optimizer_step(self, optimizer):
        self.steps.append((self.batches, float(self.weight.grad)))
        self.batches = 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(accumulate, steps, checkpoint=None):
    """Batches of each step, and its gradient."""
    network = Network()
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(torch.ones(64, 1))
    trainer.fit(network, loader, ckpt_path=checkpoint, weights_only=False)
    trainer.save_checkpoint("saved.ckpt")
    return network.steps


print("FOUND pytorch-lightning", pl.__version__, "torch", torch.__version__.partition("+")[0])
before = train(2, 3)
after = train(4, 6, "saved.ckpt")
print("FOUND 2 batches a step, three steps: (batches, gradient)", before)
print("FOUND 4 batches a step, gone on with: (batches, gradient)", after)
assert before == [(2, 1.0)] * 3
assert after == [(2, 0.5), (4, 1.0), (4, 1.0)]
print("FOUND as described")
PY
venv/bin/python show.py >log 2>&1 || { cat log; exit 1; }
sed -n 's/^FOUND //p' log
