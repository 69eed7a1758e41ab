"""Portable checkpoints: a folder of weights and the configuration that made them.

A checkpoint is ``model.safetensors`` and ``config.json``; it knows its own sizes. Here too is the
translation between this project's parameter names and those of the authors' published files.
Not for: optimizer states and resuming, which Lightning's own files keep.

Deviation: the reference ignores names that do not match; here every difference is an error.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hicmae.config import from_dict
from hicmae.encoder import AudioVisualEncoder
from hicmae.settings import ModelConfig

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
Kind = Literal["pretraining", "emotion"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Its folder.
        kind: What network the weights are of.
        config: Named sections; ``model`` is always there.
        tensors: Weights by parameter name.
    """

    path: Path
    kind: Kind
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def model_config(self) -> ModelConfig:
        """Sizes of the network that the weights belong to."""
        return from_dict(ModelConfig, self.config["model"], where=f"{self.path / CONFIG}: model")


def save_checkpoint(
    folder: Path, model: nn.Module, *, kind: Kind, config: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder, beside its place and then renamed into it.

    Args:
        folder: Where it goes; a checkpoint that is there is replaced.
        model: HiCMAE or EmotionModel.
        kind: Which of them.
        config: Sections by name, dataclasses or plain values; must have ``model``.
    """
    assert "model" in config, "a checkpoint carries the sizes of its network"
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, beside / WEIGHTS)
        sections = {
            name: dataclasses.asdict(part)
            if dataclasses.is_dataclass(part) and not isinstance(part, type)
            else part
            for name, part in config.items()
        }
        document = {"format_version": FORMAT_VERSION, "kind": kind, **sections}
        (beside / CONFIG).write_text(json.dumps(document, indent=2) + "\n")
        beside.chmod(0o755)
        if folder.exists():
            # A folder cannot be replaced in one step: the old one is moved away, then removed.
            aside = beside.with_name(beside.name + "-old")
            folder.replace(aside)
            beside.replace(folder)
            shutil.rmtree(aside)
        else:
            beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder, or the newest one of a run folder (``checkpoints/last``).

    Raises: ValueError: nothing there, unreadable, or of a format this version does not know.
    """
    folder = Path(path)
    for candidate in (folder, folder / "checkpoints" / "last"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return _read(candidate)
    found = "no such folder" if not folder.exists() else f"found no {WEIGHTS} with {CONFIG}"
    raise ValueError(
        f"{folder}: {found} there or in checkpoints/last; give a run folder or a checkpoint folder"
    )


def _read(folder: Path) -> Checkpoint:
    try:
        document = dict(json.loads((folder / CONFIG).read_text()))
        version, kind = document.pop("format_version"), document.pop("kind")
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: damaged configuration ({error})") from error
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: damaged weights ({error})") from error
    if version != FORMAT_VERSION or kind not in ("pretraining", "emotion"):
        raise ValueError(
            f"{folder / CONFIG}: format {version} of kind {kind!r} is not known here "
            f"(format {FORMAT_VERSION}, pretraining or emotion); upgrade hicmae"
        )
    if "model" not in document:
        raise ValueError(f"{folder / CONFIG}: damaged configuration (no section 'model')")
    return Checkpoint(path=folder, kind=kind, config=document, tensors=tensors)


def load_encoder(encoder: AudioVisualEncoder, checkpoint: Checkpoint) -> None:
    """Load the encoder's weights from a checkpoint of either kind, strictly.

    Raises: ValueError: a missing, extra or misshapen tensor; all are named.
    """
    prefix = "encoder."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    load_weights(encoder, tensors, where=f"{checkpoint.path / WEIGHTS}: encoder")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights strictly into a module.

    Raises: ValueError: missing, extra or misshapen tensors, each named in one line.
    """
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"extra {name}" for name in tensors if name not in own]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:6])
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(
            f"{where}: {len(problems)} tensors do not fit this network ({shown}{more}); "
            "use the sizes that the checkpoint was made with"
        )
    module.load_state_dict(tensors)


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


def reference_name(name: str) -> str:
    """Our name of a parameter of the authors' files (pretraining or fine-tuning network)."""
    for pattern, ours in _REFERENCE_NAMES:
        name = re.sub(pattern, ours, name)
    return name


def from_reference(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the authors' weights to this project's names and layouts.

    Their patch projections are convolutions, (D, C, t, h, w) and (D, 1, h, w); ours are matrices
    over values in the order (frame, row, column, channel). Their mask tokens are (1, 1, D).
    """
    translated = {}
    for name, value in tensors.items():
        if name.endswith("patch_embed.proj.weight"):
            pattern = "d c t h w -> d (t h w c)" if value.ndim == 5 else "d c h w -> d (h w c)"
            value = rearrange(value, pattern)
        elif name.startswith("mask_token"):
            value = value.flatten()
        translated[reference_name(name)] = value
    return translated
