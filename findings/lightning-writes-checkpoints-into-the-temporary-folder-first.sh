#!/usr/bin/env bash
# A checkpoint of Lightning takes its room in /tmp before it has any in the run folder.
#
# One would guess: `ModelCheckpoint(dirpath=RUN)` writes into RUN, whose disk was chosen for it, and
# what a kill leaves half written lies there too.
# What happens: the checkpoint is made whole in memory, then written into the machine's folder for
# temporary files under a name without meaning, and moved from there; onto another disk that is a
# second writing of all bytes. Where /tmp is a small partition or held in memory, training ends for
# want of room that the run's disk has; the error names a file in /tmp, and a kill leaves it there.
# Versions: pytorch-lightning 2.6.6, fsspec 2026.9.0, torch 2.11.0. Python 3.11, CPU.
# Why it matters here: a fold of the base network is a gigabyte an epoch, and nodes of clusters have
# small /tmp. finetune/fold.py saves beside the run's own files, and pretrain/checkpoints.py is a
# CheckpointIO of its own.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'pytorch-lightning==2.6.6' 'fsspec==2026.9.0' 'numpy==2.3.4'
mkdir scratch

cat > show.py <<'PY'
import sys
from pathlib import Path

import fsspec
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

HERE = Path.cwd()
moved = []


def note(event, arguments):
    if event == "shutil.move":
        source, target = map(Path, arguments[:2])
        moved.append((source.parent.name, target.parent.name, source.stat().st_size))


class Network(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1000, 1000)

    def training_step(self, batch, number):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = pl.Trainer(
    max_epochs=1,
    accelerator="cpu",
    devices=1,
    logger=False,
    callbacks=[ModelCheckpoint(dirpath=HERE / "run")],
    enable_progress_bar=False,
    enable_model_summary=False,
)
sys.addaudithook(note)
trainer.fit(Network(), torch.utils.data.DataLoader(torch.ones(4, 1000)))
print(f"FOUND lightning {pl.__version__}, fsspec {fsspec.__version__}, torch {torch.__version__}")
(checkpoint,) = (HERE / "run").iterdir()
for source, target, size in moved:
    print(f"FOUND {size} bytes were written in {source}, then moved to {target}")
size = checkpoint.stat().st_size
assert moved == [("scratch", "run", size)] and size > 4_000_000
print("FOUND as described")
PY
TMPDIR="$work/scratch" venv/bin/python show.py >log 2>&1 || { cat log; exit 1; }
sed -n 's/^FOUND //p' log
