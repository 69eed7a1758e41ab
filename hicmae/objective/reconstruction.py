"""The reconstruction loss of pretraining."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reconstruction(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements of hidden tokens (B, M, P), 0-d float32.

    Source: HiCMAE, equation of the reconstruction loss; reference facts, objective section.
    """
    return F.mse_loss(prediction.float(), target.float())
