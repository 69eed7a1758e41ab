"""The reconstruction decoder of pretraining: from visible tokens to the values of hidden ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hicmae.blocks import Block, CrossBlock, sinusoid_positions, xavier_linears
from hicmae.masks import Masks
from hicmae.settings import ModelConfig


class ReconstructionDecoder(nn.Module):
    """Predicts the values of hidden tokens of one modality.

    The first layer is a plain block; layer i >= 1 is a cross block that reads the i-th skip
    feature counted from the deepest, as long as there are any; further layers are plain.

    Args:
        config: Sizes.
        num_tokens: Tokens of the modality.
        num_values: Numbers to predict for each hidden token.
        num_skips: Skip features that ``forward`` will be given.

    Raises: ValueError: more skip features than layers to read them.
    Source: HiCMAE, section 3.3; reference facts, network section.
    """

    positions: Tensor

    def __init__(
        self, config: ModelConfig, *, num_tokens: int, num_values: int, num_skips: int
    ) -> None:
        super().__init__()
        if num_skips >= config.decoder_depth:
            raise ValueError(
                f"model: decoder_depth = {config.decoder_depth} reads at most "
                f"{config.decoder_depth - 1} feature layers, found {num_skips}; "
                "choose fewer feature_layers, or a deeper decoder"
            )
        dim = config.decoder_dim
        self.from_encoder = nn.Linear(config.encoder_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.register_buffer("positions", sinusoid_positions(num_tokens, dim), persistent=False)
        self.blocks = nn.ModuleList(
            (CrossBlock if 1 <= layer <= num_skips else Block)(
                dim,
                config.decoder_heads,
                mlp_ratio=config.mlp_ratio,
                eps=config.layer_norm_eps,
            )
            for layer in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(dim, num_values)
        self.apply(xavier_linears)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, skips: Sequence[Tensor], masks: Masks) -> Tensor:
        """Predict hidden values.

        Args:
            tokens: Fused visible tokens (B, K, D).
            skips: Visible tokens of encoder layers (B, K, D), shallow first.
            masks: Which tokens are visible and hidden.

        Returns: (B, M, P) values of the hidden tokens, in the order of ``masks.masked``.
        """
        visible_positions = self.positions[masks.keep]  # (B, K, d)
        visible = self.from_encoder(tokens) + visible_positions
        hidden = self.mask_token + self.positions[masks.masked]  # (B, M, d)
        sequence = torch.cat((visible, hidden.to(visible.dtype)), dim=1)  # (B, N, d)
        contexts = [self.from_encoder(skip) + visible_positions for skip in reversed(skips)]
        for layer, block in enumerate(self.blocks):
            if isinstance(block, CrossBlock):
                sequence = block(sequence, contexts[layer - 1])
            else:
                sequence = block(sequence)
        return self.head(self.norm(sequence[:, masks.keep.shape[1] :]))
