"""The authors' parameter names and layouts, to ours and back.

For: their published files, pretraining and fine-tuning network alike. Not for: reading the files
(``pickles.py``) or checking what is in them (``convert.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from hicmae.settings import ModelConfig

# Names: the authors' on the left, ours on the right; a regular expression each.
_REFERENCE_NAMES = (
    (r"^encoder\.patch_embed\.proj\.", "encoder.video.project."),
    (r"^encoder_audio\.patch_embed\.proj\.", "encoder.audio.project."),
    (r"^encoder_fusion\.blocks_audio\.", "encoder.fusion.audio."),
    (r"^encoder_fusion\.blocks\.", "encoder.fusion.video."),
    (r"^encoder_fusion\.norm_audio\.", "encoder.fusion.audio_norm."),
    (r"^encoder_fusion\.norm\.", "encoder.fusion.video_norm."),
    (r"^encoder_audio\.", "encoder.audio."),
    (r"^encoder\.(?=blocks|norm)", "encoder.video."),
    (r"^encoder_to_decoder_audio\.", "audio_decoder.from_encoder."),
    (r"^encoder_to_decoder\.", "video_decoder.from_encoder."),
    (r"^mask_token_audio$", "audio_decoder.mask_token"),
    (r"^mask_token$", "video_decoder.mask_token"),
    (r"^decoder_audio\.", "audio_decoder."),
    (r"^decoder\.", "video_decoder."),
    (r"^video_layer_weights$", "video_fusion.layer_logits"),
    (r"^audio_layer_weights$", "audio_fusion.layer_logits"),
    (r"^fc_norm\.", "norm."),
    (r"\.cross_norm1\.", ".cross_norm."),
    (r"\.cross_norm2\.", ".context_norm."),
    (r"\.cross_attn\.q_bias$", ".cross_attention.query.bias"),
    (r"\.cross_attn\.v_bias$", ".cross_attention.value_bias"),
    (r"\.cross_attn\.q\.", ".cross_attention.query."),
    (r"\.cross_attn\.kv\.", ".cross_attention.key_value."),
    (r"\.cross_attn\.proj\.", ".cross_attention.out."),
    (r"\.attn\.q_bias$", ".attention.query_bias"),
    (r"\.attn\.v_bias$", ".attention.value_bias"),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.out."),
)
# The same the other way: ours on the left. The bias of the cross-attention's query is a parameter
# of its own in their files.
_OUR_NAMES = (
    (r"^encoder\.video\.project\.", "encoder.patch_embed.proj."),
    (r"^encoder\.audio\.project\.", "encoder_audio.patch_embed.proj."),
    (r"^encoder\.fusion\.audio\.", "encoder_fusion.blocks_audio."),
    (r"^encoder\.fusion\.video\.", "encoder_fusion.blocks."),
    (r"^encoder\.fusion\.audio_norm\.", "encoder_fusion.norm_audio."),
    (r"^encoder\.fusion\.video_norm\.", "encoder_fusion.norm."),
    (r"^encoder\.audio\.", "encoder_audio."),
    (r"^encoder\.video\.", "encoder."),
    (r"^audio_decoder\.from_encoder\.", "encoder_to_decoder_audio."),
    (r"^video_decoder\.from_encoder\.", "encoder_to_decoder."),
    (r"^audio_decoder\.mask_token$", "mask_token_audio"),
    (r"^video_decoder\.mask_token$", "mask_token"),
    (r"^audio_decoder\.", "decoder_audio."),
    (r"^video_decoder\.", "decoder."),
    (r"^video_fusion\.layer_logits$", "video_layer_weights"),
    (r"^audio_fusion\.layer_logits$", "audio_layer_weights"),
    (r"^norm\.", "fc_norm."),
    (r"\.cross_norm\.", ".cross_norm1."),
    (r"\.context_norm\.", ".cross_norm2."),
    (r"\.cross_attention\.query\.bias$", ".cross_attn.q_bias"),
    (r"\.cross_attention\.value_bias$", ".cross_attn.v_bias"),
    (r"\.cross_attention\.query\.", ".cross_attn.q."),
    (r"\.cross_attention\.key_value\.", ".cross_attn.kv."),
    (r"\.cross_attention\.out\.", ".cross_attn.proj."),
    (r"\.attention\.query_bias$", ".attn.q_bias"),
    (r"\.attention\.value_bias$", ".attn.v_bias"),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
)


def reference_name(name: str) -> str:
    """Our name of a parameter of the authors' files (pretraining or fine-tuning network)."""
    return _renamed(name, _REFERENCE_NAMES)


def their_name(name: str) -> str:
    """The authors' name of one of our parameters."""
    return _renamed(name, _OUR_NAMES)


def from_reference(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the authors' weights to this project's names and layouts.

    Their patch projections are convolutions, (D, C, t, h, w) and (D, 1, h, w); ours are matrices
    over values in the order (frame, row, column, channel). Their mask tokens are (1, 1, D). No
    value is changed.
    """
    translated = {}
    for name, value in tensors.items():
        if name.endswith("patch_embed.proj.weight") and value.ndim in (4, 5):
            pattern = "d c t h w -> d (t h w c)" if value.ndim == 5 else "d c h w -> d (h w c)"
            value = rearrange(value, pattern)
        elif name.startswith("mask_token"):
            value = value.flatten()
        translated[reference_name(name)] = value
    return translated


def to_reference(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Translate our weights to the authors' names and layouts; the inverse of ``from_reference``.

    Args:
        tensors: Weights of either network.
        config: Its sizes, which say how a patch projection folds back into a convolution.
    """
    patch, translated = config.patch_size, {}
    for name, value in tensors.items():
        theirs = their_name(name)
        if theirs == "encoder.patch_embed.proj.weight":
            value = rearrange(
                value, "d (t h w c) -> d c t h w", t=config.tubelet_frames, h=patch, w=patch
            )
        elif theirs == "encoder_audio.patch_embed.proj.weight":
            value = rearrange(value, "d (h w c) -> d c h w", h=patch, w=patch)
        elif theirs.startswith("mask_token"):
            value = value[None, None]
        translated[theirs] = value.contiguous()
    return translated


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Apply every rule of a table, in order."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name
