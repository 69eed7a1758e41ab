"""Low-rank updates of frozen matrices (LoRA), merged into plain weights when training is over.

The update is a parametrization of ``weight``, so whatever reads a layer's weight, a module's
``forward`` or ``functional.linear``, sees the sum. After ``merge_lora`` nothing of it is left but
the numbers: names and shapes are those of a network that never had one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Names of the linear layers (last part) by what they are.
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv": ("qkv", "query", "key_value"),
    "out": ("out",),
    "mlp": ("fc1", "fc2"),
}


class _LowRankUpdate(nn.Module):
    """Adds ``alpha / rank`` times the product of two thin matrices to a weight (out, in).

    Source: LoRA, arXiv 2106.09685: ``up`` starts at zero, so training starts at the old network.
    Deviation: there inputs are dropped token by token; here column by column of the update, the
        same for all tokens of a step, because the update is added to the weight itself.
    """

    def __init__(self, weight: Tensor, *, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.scale = alpha / rank
        self.dropout = dropout
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight (out, in)."""
        down: Tensor = self.down
        if self.training and self.dropout > 0:
            seen = torch.ones(1, down.shape[1], dtype=down.dtype, device=down.device)
            down = down * nn.functional.dropout(seen, self.dropout)
        return weight + self.scale * (self.up @ down)


def add_lora(
    network: nn.Module, *, rank: int, alpha: float, dropout: float, projections: Sequence[str]
) -> None:
    """Freeze a network but for low-rank updates of its linear layers.

    Layers that are frozen already (of an absent modality) get none.

    Args:
        alpha: The update is multiplied by alpha over rank.
        dropout: Share of the inputs that an update does not see in a step.
        projections: Keys of ``PROJECTIONS``.

    Raises: ValueError: a rank above the smaller side of a matrix.
    """
    names = {name for key in projections for name in PROJECTIONS[key]}
    chosen = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
        and name.rpartition(".")[2] in names
        and layer.weight.requires_grad
    ]
    for name, layer in chosen:
        if rank > min(layer.weight.shape):
            raise ValueError(
                f"lora: rank = {rank} exceeds the smaller side of {name}, whose shape is"
                f" {tuple(layer.weight.shape)}; lower the rank"
            )
    network.requires_grad_(False)
    for _, layer in chosen:
        update = _LowRankUpdate(layer.weight, rank=rank, alpha=alpha, dropout=dropout)
        parametrize.register_parametrization(layer, "weight", update)


@torch.no_grad()
def merge_lora(network: nn.Module) -> None:
    """Put the updated weights in the place of the old ones; nothing else of the update stays."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            layer.eval()  # the whole update, without dropout
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
