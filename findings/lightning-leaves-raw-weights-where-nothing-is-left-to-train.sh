#!/usr/bin/env bash
# A network whose weights are averaged has the raw ones where `fit` resumes a training that is done.
#
# One would guess: after `fit` with `EMAWeightAveraging` the network has the average, whether the
# training ran in one piece or was killed behind its last epoch and resumed.
# What happens: the average is put into the network at the end of the training. Resumed from the
# checkpoint of the last epoch there is nothing to train, that end is not reached, and the network
# is left with the weights of the last step, silently. The checkpoint itself holds both.
# Versions: pytorch-lightning 2.6.6, torch 2.11.0. Python 3.11, CPU.
# Why it matters here: a fold that is killed while it is tested would be tested with other weights
# than its notes say. finetune/fold.py puts the average in at the end of `fit` (tested in
# tests/finetune/test_killed.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'pytorch-lightning==2.6.6' 'numpy==2.3.4'

cat > show.py <<'PY'
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint


class Network(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)

    def training_step(self, batch, number):
        return -self.layer(batch).mean()  # each step of SGD adds 1 to the weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder, resumed=None):
    """The weight of a network after two epochs of two steps."""
    network = Network()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        callbacks=[EMAWeightAveraging(decay=0.5), ModelCheckpoint(folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.ones(2, 1), batch_size=1)
    trainer.fit(network, data, ckpt_path=resumed, weights_only=True)
    return network.layer.weight.item()


print("FOUND pytorch-lightning", pl.__version__, "torch", torch.__version__.partition("+")[0])
whole, again = fit("first"), fit("second", resumed="first/last.ckpt")
saved = torch.load("first/last.ckpt", weights_only=True)["state_dict"]["layer.weight"].item()
print(f"FOUND in one piece {whole}, resumed behind the last epoch {again}, in the file {saved}")
assert (whole, saved) == (3.125, 3.125)  # the average of 1, 2, 3 and 4
assert again == 4.0
print("FOUND as described")
PY
venv/bin/python show.py >log 2>&1 || { cat log; exit 1; }
sed -n 's/^FOUND //p' log
