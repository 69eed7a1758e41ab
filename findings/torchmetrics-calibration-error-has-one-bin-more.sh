#!/usr/bin/env bash
# Calibration errors of N bins have N + 1 as soon as somebody is certain.
#
# One would guess: the expected calibration error with `n_bins=10` is that of ten equal bins of
# confidence, and whoever is certain (a probability of exactly 1) is in the last of them, as the
# definition has it: its bins include their upper end (Guo et al., 2017, arXiv 1706.04599).
# What happens: those with a probability of exactly 1 are in a bin of their own beyond the last one.
# Where the certain ones are too sure and the nearly certain not sure enough, a bin's errors no longer
# cancel: below, an expected error of 0.145 instead of 0.055; the largest error is that of a bin which
# no reliability diagram shows. All tasks (binary, multiclass) and norms do so.
# Versions: torchmetrics 1.9.0 with torch 2.11.0; scikit-learn 1.7.2's calibration_curve has N bins.
# Python 3.11, CPU.
# Why it matters here: probabilities of networks that are trained long round to 1 in float32 (from
# about 17 of logit difference on), and files with six digits round more of them. Reports print the
# error beside the diagram; finetune/reporting/classes.py computes both of the same bins
# (tests/finetune/test_calibration.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'torchmetrics==1.9.0' 'scikit-learn==1.7.2' 'numpy==2.3.4'

cat > show.py <<'PY'
import numpy as np
import sklearn
import torch
import torchmetrics
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

print(
    f"torch {torch.__version__.partition('+')[0]}, torchmetrics {torchmetrics.__version__},"
    f" scikit-learn {sklearn.__version__}"
)
# Five clips of which the network is certain, one of them wrong; five at 0.91, all right.
sure = np.array([1.0] * 5 + [0.91] * 5)
right = np.array([1, 1, 1, 1, 0] + [1] * 5)

accuracy, confidence = calibration_curve(right, sure, n_bins=10)
print("scikit-learn, 10 bins: bins with clips", len(accuracy), "accuracy", accuracy.round(3).tolist(),
      "confidence", confidence.round(3).tolist())
wanted = float(abs(accuracy - confidence)[0])
both = torch.tensor(np.stack([sure, 1 - sure], axis=1))
truth = torch.tensor(1 - right)  # the first class is predicted
found = {
    (kind, norm): round(float(value), 4)
    for norm in ("l1", "max")
    for kind, value in (
        ("multiclass", multiclass_calibration_error(both, truth, 2, n_bins=10, norm=norm)),
        ("binary", binary_calibration_error(torch.tensor(sure), torch.tensor(right), n_bins=10, norm=norm)),
    )
}
print(f"one bin has all of them, so both errors are {wanted:.3f}; torchmetrics says {found}")
assert len(accuracy) == 1 and abs(wanted - 0.055) < 1e-9
assert found == {
    ("multiclass", "l1"): 0.145, ("binary", "l1"): 0.145,
    ("multiclass", "max"): 0.2, ("binary", "max"): 0.2,
}, "changed"
PY
venv/bin/python show.py
