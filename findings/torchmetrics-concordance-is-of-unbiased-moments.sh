#!/usr/bin/env bash
# The same predictions have two concordance correlations (CCC), by which library one asks.
#
# One would guess: it has one, like Pearson's correlation, on which all libraries agree: whether
# its variances and covariance are divided by n or by n - 1 makes no difference to a ratio of them.
# What happens: the squared distance of the means is in that ratio too, undivided. So with n - 1
# (torchmetrics) the CCC is larger than with n (audmetric, the field's own library). Of six clips
# below: 0.853 and 0.843. To count every clip twice changes the one and leaves the other; with many
# clips both come together. The documentation of torchmetrics gives the formula with variances and
# does not say which.
# Versions: torchmetrics 1.9.0 with torch 2.11.0; audmetric 1.4.2; scipy 1.16.3. Python 3.11, CPU.
# Why it matters here: a CCC by speaker, of a short recording or of a training batch is one of few
# samples, and challenges publish differences of 0.01. The authors of HiCMAE divide by n - 1 too, so
# hicmae/metrics.py and the loss (finetune/losses.py) do, and say so.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'torchmetrics==1.9.0' 'audmetric==1.4.2' 'scipy==1.16.3' 'numpy==2.3.4'

cat > show.py <<'PY'
import importlib.metadata

import audmetric
import numpy as np
import torch
from scipy.stats import pearsonr
from torchmetrics.functional.regression import concordance_corrcoef, pearson_corrcoef

for name in ("torch", "torchmetrics", "audmetric", "scipy"):
    print(name, importlib.metadata.version(name).partition("+")[0])

true = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
said = np.array([1.0, 1.5, 2.0, 4.0, 4.0, 9.0])


def both(times):
    """The CCC of torchmetrics and of audmetric, every clip counted so many times."""
    truth, saying = np.tile(true, times), np.tile(said, times)
    one = concordance_corrcoef(torch.tensor(saying), torch.tensor(truth)).item()
    return one, audmetric.concordance_cc(truth, saying)


def by_hand(divisor):
    covariance = ((true - true.mean()) * (said - said.mean())).sum() / divisor
    spread = (((true - true.mean()) ** 2).sum() + ((said - said.mean()) ** 2).sum()) / divisor
    return 2 * covariance / (spread + (true.mean() - said.mean()) ** 2)


pearson = pearson_corrcoef(torch.tensor(said), torch.tensor(true)).item()
print(f"Pearson: torchmetrics {pearson:.6f}, scipy {pearsonr(true, said)[0]:.6f}")
assert abs(pearson - pearsonr(true, said)[0]) < 1e-9
found = {times: both(times) for times in (1, 2, 1000)}
for times, (one, other) in found.items():
    print(f"CCC of six clips, each {times} times: torchmetrics {one:.6f}, audmetric {other:.6f}")
assert abs(found[1][0] - by_hand(len(true) - 1)) < 1e-9
assert abs(found[1][1] - by_hand(len(true))) < 1e-9
assert found[1][0] - found[1][1] > 0.01
assert abs(found[2][0] - found[1][0]) > 0.004
assert abs(found[2][1] - found[1][1]) < 1e-9
assert abs(found[1000][0] - found[1000][1]) < 1e-5
print("as described")
PY
venv/bin/python show.py
