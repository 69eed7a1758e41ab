"""An exponential moving average of the weights, which is what is validated, tested and saved.

For: Lightning's callback with a decay that grows in the first steps. Not for: averaging
checkpoints of several runs (``hicmae checkpoint average``).
"""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Average the weights after every optimizer step.

    Lightning swaps the average in for validation and leaves it in the network after training; a
    saved fold holds both.

    Args:
        decay: Weight of the old average; after n steps it is at most (1 + n) / (10 + n).

    Source: the growing decay is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, decay: float) -> None:
        def average(old: Tensor, new: Tensor, num_averaged: Tensor | int) -> Tensor:
            number = float(num_averaged)
            return torch.lerp(new, old, min(decay, (1 + number) / (10 + number)))

        super().__init__(use_buffers=False, avg_fn=average)
