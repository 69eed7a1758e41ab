"""The authors' files to checkpoint folders, and back, to the last bit.

Their pickles are read without running what is in them, names and layouts are translated both ways,
and the sizes that the files do not say are measured in the weights.

Deviation: the reference loads what fits and keeps quiet about the rest; here every missing, extra
or misshapen tensor is named and nothing is written.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from hicmae import __version__
from hicmae.checkpoints.card import model_card
from hicmae.checkpoints.checkpoint import (
    Checkpoint,
    Kind,
    Labels,
    check_finite,
    load_checkpoint,
    load_weights,
    misfits,
    write_files,
)
from hicmae.checkpoints.portable import largest_difference, make_probe, read_probe
from hicmae.config import to_dict
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.files import file_sha256, whole_file, whole_folder
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig

LICENCE_NOTE = (
    "Converted from weights that somebody else trained: their licence, and those of the data they "
    "saw, hold for these too; ask their makers before using them for more than research."
)
TOLERANCE = 1e-4  # absolute, float32; that of the numbers to meet
# What PyTorch raises of a file that is not one of its own, or cut off: bytes that happen to look
# like a pickle pop from an empty stack, read beyond their end, or name what is not there.
_DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
)
# All published sizes have heads of 64 numbers, in encoders and decoders. Source: reference facts.
_HEAD_SIZE = 64

_Names = Sequence[tuple[str, str]]
# The authors' names and ours. The first beginning that fits is exchanged, and then the first part.
_BEGINNINGS = (
    ("encoder.patch_embed.proj.", "encoder.video.project."),
    ("encoder_audio.patch_embed.proj.", "encoder.audio.project."),
    ("encoder_fusion.blocks_audio.", "encoder.fusion.audio."),
    ("encoder_fusion.blocks.", "encoder.fusion.video."),
    ("encoder_fusion.norm_audio.", "encoder.fusion.audio_norm."),
    ("encoder_fusion.norm.", "encoder.fusion.video_norm."),
    ("encoder_audio.", "encoder.audio."),
    ("encoder.blocks.", "encoder.video.blocks."),
    ("encoder.norm.", "encoder.video.norm."),
    ("encoder_to_decoder_audio.", "audio_decoder.from_encoder."),
    ("encoder_to_decoder.", "video_decoder.from_encoder."),
    ("mask_token_audio", "audio_decoder.mask_token"),
    ("mask_token", "video_decoder.mask_token"),
    ("decoder_audio.", "audio_decoder."),
    ("decoder.", "video_decoder."),
    ("video_layer_weights", "video_fusion.layer_logits"),
    ("audio_layer_weights", "audio_fusion.layer_logits"),
    ("fc_norm.", "norm."),
)
# The bias of the cross-attention's query is a parameter of its own in their files.
_PARTS = (
    (".cross_norm1.", ".cross_norm."),
    (".cross_norm2.", ".context_norm."),
    (".cross_attn.q_bias", ".cross_attention.query.bias"),
    (".cross_attn.v_bias", ".cross_attention.value_bias"),
    (".cross_attn.q.", ".cross_attention.query."),
    (".cross_attn.kv.", ".cross_attention.key_value."),
    (".cross_attn.proj.", ".cross_attention.out."),
    (".attn.q_bias", ".attention.query_bias"),
    (".attn.v_bias", ".attention.value_bias"),
    (".attn.qkv.", ".attention.qkv."),
    (".attn.proj.", ".attention.out."),
)


def convert_reference(
    file: Path,
    out: Path,
    *,
    sizes: ModelConfig | None = None,
    labels: Sequence[str] = (),
    probe: Path | None = None,
    licence: str = LICENCE_NOTE,
) -> tuple[Checkpoint, float | None]:
    """Convert one of the authors' files, pretrained or fine-tuned, to a checkpoint folder.

    Args:
        file: Their ``.pth``.
        out: The checkpoint folder; one that is there is replaced.
        sizes: Of the network, where the file cannot tell them.
        labels: Names of a fine-tuned network's classes, in the order of its outputs.
        probe: An input with the authors' output, which the network must reproduce.
        licence: Note on what may be done with the weights.

    Returns: the folder it wrote, read back, and the largest absolute difference of what the
        converted network gives from the probe's numbers, if there is a probe.
    Raises: ValueError: a pickle that holds more than weights, tensors that are missing, extra or
        misshapen, numbers that are none, labels that do not fit, or another output than the
        probe's; nothing is written then. FileNotFoundError: no such file.
    """
    content = read_pickle(file)
    theirs, options = _weights(content, file)
    ours = from_reference(theirs)
    sizes = sizes or find_sizes(ours, options, str(file))
    network, kind, config = _network(ours, sizes, options, labels, str(file))
    problems = misfits(to_reference(network.state_dict(), sizes), theirs)
    if problems:
        raise ValueError(
            f"{file}: {len(problems)} tensors do not fit this network ({'; '.join(problems)}); "
            "give the sizes it was made with: --model SIZE or FILE.yaml"
        )
    check_finite(theirs, where=str(file))
    load_weights(network, ours, where=str(file))
    back = to_reference(ours, sizes)
    assert all(torch.equal(back[name], value) for name, value in theirs.items())
    difference, stored = None, None
    if probe is not None:
        stored = read_probe(probe)
        difference = largest_difference(network.eval(), stored, str(probe))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{file}: the network's output differs from that in {probe} by {difference:.2g} "
                f"(at most {TOLERANCE:g}); the probe is of other weights, or --model is wrong"
            )
    config |= {"source": _source(content, options, file), "licence": licence}
    made = make_probe(network.eval()) if stored is None else stored
    config["probe"] = {"from": "this network" if stored is None else "the authors' network"}
    read = Checkpoint(path=out, kind=kind, config=to_dict(config), tensors=ours)
    with whole_folder(out) as beside:
        write_files(beside, ours, kind=kind, config=config, probe=made, card=model_card(read))
    return load_checkpoint(out), difference


def export_reference(checkpoint: Checkpoint, out: Path) -> None:
    """Write a checkpoint as a file that the authors' code reads.

    The weights are as they were before ``convert_reference``, to the last bit; of the rest, epoch
    and options are there again. Optimizer and loss scaler, which fine-tuning does not read, are
    not.

    Raises: ValueError: the checkpoint's network computes something else than theirs.
    """
    head = checkpoint.config.get("emotion", {})
    fusion = head.get("fusion", "hierarchical")
    read = head.get("modalities") or checkpoint.config.get("modalities", "audio-video")
    others = {
        f"fuses layers by '{fusion}'": fusion != "hierarchical",
        "fuses no layers": not head.get("feature_fusion", True),
        "has outputs that are the same for every clip": bool(head.get("constants")),
        f"reads {read} alone": read != "audio-video",
    }
    if said := [what for what, is_so in others.items() if is_so]:
        first = "" if checkpoint.kind == "emotion" else "fine-tune it here, then "
        raise ValueError(
            f"{checkpoint.path}: {', '.join(said)}, and the authors' network does not; {first}use "
            "--format torch or onnx"
        )
    source = checkpoint.config.get("source", {})
    content: dict[str, Any] = {
        "model": to_reference(checkpoint.tensors, checkpoint.model_config()),
        "args": Namespace(**source.get("options", {})),
    }
    if source.get("epoch") is not None:
        content["epoch"] = source["epoch"]
    with whole_file(out, sync=True) as beside:
        torch.save(content, beside)


def read_pickle(path: Path) -> Any:
    """Read a file of ``torch.save``; it may hold tensors, plain data and ``argparse.Namespace``.

    Raises: FileNotFoundError: no such file. ValueError: damaged, or anything else is in it; the
        classes and functions are named, and none of them was run.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}")
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        names = _foreign(path) or _named(error)
        if names:
            raise ValueError(
                f"{path}: holds {', '.join(names)}, which could run code; only tensors, plain data "
                "and argparse.Namespace are read. If you trust its maker, save its weights alone"
            ) from error
        raise ValueError(f"{path}: damaged, or no file of torch.save ({_short(error)})") from error


def reference_name(name: str) -> str:
    """Our name of a parameter of the authors' files (pretraining or fine-tuning network)."""
    return _exchanged(name, _BEGINNINGS, _PARTS)


def their_name(name: str) -> str:
    """The authors' name of one of our parameters."""
    back = [[(ours, theirs) for theirs, ours in table] for table in (_BEGINNINGS, _PARTS)]
    return _exchanged(name, *back)


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

    Args: config: Sizes, which say how a patch projection folds back into a convolution.
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


def find_sizes(tensors: Mapping[str, Tensor], options: Namespace | None, where: str) -> ModelConfig:
    """Sizes of the network that weights (under our names) belong to.

    Widths, depths and patch sizes are measured; heads are taken to have 64 numbers, as published;
    the size of the input comes from the options stored with the weights, or is the published one.

    Args: options: What the authors' file says of its run, if it does.

    Raises: ValueError: a tensor that every network has is missing, or sizes that only the user
        can know.
    """
    needed = ("encoder.video.project.weight", "encoder.audio.project.weight")
    missing = [name for name in needed if name not in tensors or tensors[name].ndim != 2]
    if missing:
        raise ValueError(f"{where}: has no {' and no '.join(missing)}: not the authors' network")
    width, tubelet_values = tensors[needed[0]].shape
    patch = math.isqrt(tensors[needed[1]].shape[1])
    found: dict[str, Any] = {
        "patch_size": patch,
        "tubelet_frames": tubelet_values // (3 * patch * patch),
        "encoder_dim": width,
        "encoder_heads": width // _HEAD_SIZE,
        "encoder_depth": _depth(tensors, "encoder.video.blocks"),
        "fusion_depth": _depth(tensors, "encoder.fusion.video"),
    }
    hidden = tensors.get("encoder.video.blocks.0.mlp.fc1.weight")
    if hidden is not None:
        found["mlp_ratio"] = hidden.shape[0] / width
    narrow = tensors.get("video_decoder.from_encoder.weight")
    if narrow is not None:
        found["decoder_dim"] = narrow.shape[0]
        found["decoder_heads"] = narrow.shape[0] // _HEAD_SIZE
        found["decoder_depth"] = _depth(tensors, "video_decoder.blocks")
    unknown = [
        f"{name} = {found[name]} is no multiple of {_HEAD_SIZE}"
        for name in ("encoder_dim", "decoder_dim")
        if found.get(name, 0) % _HEAD_SIZE
    ]
    default = ModelConfig()
    if found["encoder_depth"] != default.encoder_depth:
        unknown.append(f"encoder_depth = {found['encoder_depth']} is not {default.encoder_depth}")
    if unknown:
        raise ValueError(
            f"{where}: not a published size ({'; '.join(unknown)}), so its heads and feature "
            "layers cannot be known; give its sizes with --model FILE.yaml"
        )
    clip = {
        ours: getattr(options, theirs)
        for ours, theirs in (("image_size", "input_size"), ("num_frames", "num_frames"))
        if isinstance(getattr(options, theirs, None), int)
    }
    return replace(default, input=replace(default.input, **clip), **found)


def _exchanged(name: str, beginnings: _Names, parts: _Names) -> str:
    for old, new in beginnings:
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in parts:
        if old in name:
            return name.replace(old, new)
    return name


def _weights(content: Any, file: Path) -> tuple[dict[str, Tensor], Namespace | None]:
    """The weights of a file, with the options that lie beside them.

    Raises: ValueError: there are none.
    """
    options = content.get("args") if isinstance(content, Mapping) else None
    weights = content
    for key in ("model", "module", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            weights = content[key]
            break
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{file}: holds no weights (a mapping 'model' from names to tensors)")
    strange = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{file}: no tensors but something else at {', '.join(strange[:6])}")
    prefix = "module." if all(str(name).startswith("module.") for name in weights) else ""
    # Views of one storage would be refused on writing.
    named = {str(name).removeprefix(prefix): value.clone() for name, value in weights.items()}
    return named, options if isinstance(options, Namespace) else None


def _network(
    tensors: Mapping[str, Tensor],
    sizes: ModelConfig,
    options: Namespace | None,
    labels: Sequence[str],
    where: str,
) -> tuple[HiCMAE | EmotionModel, Kind, dict[str, Any]]:
    """An empty network of the kind that the weights are of, and its configuration's sections."""
    if "video_decoder.mask_token" in tensors:
        if labels:
            raise ValueError(f"{where}: a pretrained network has no labels; leave --labels out")
        ratio = getattr(options, "mask_ratio", None)
        objective = ObjectiveConfig(video_mask_ratio=ratio) if ratio else ObjectiveConfig()
        return HiCMAE(sizes, objective), "pretraining", {"model": sizes, "objective": objective}
    if not {"head.weight", "norm.weight"} <= set(tensors):
        raise ValueError(
            f"{where}: neither a pretraining network (no mask_token) nor a fine-tuned one "
            "(no head.weight with fc_norm.weight)"
        )
    num_outputs = tensors["head.weight"].shape[0]
    if labels and len(labels) != num_outputs:
        raise ValueError(
            f"{where}: --labels names {len(labels)} classes ({', '.join(labels)}), "
            f"the network has {num_outputs} outputs"
        )
    head = EmotionConfig(num_outputs=num_outputs)
    config: dict[str, Any] = {"model": sizes, "emotion": head}
    if labels:
        config["labels"] = Labels(task="classification", names=tuple(labels))
    return EmotionModel(sizes, head), "emotion", config


def _source(content: Any, options: Namespace | None, file: Path) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in sorted(vars(options).items() if options else ())
        if value is None or isinstance(value, bool | int | float | str)
    }
    epoch = content.get("epoch") if isinstance(content, Mapping) else None
    return {
        "file": file.name,
        "sha256": file_sha256(file),
        "epoch": epoch if isinstance(epoch, int) else None,
        "options": plain,
        "converted_by": f"hicmae {__version__}",
    }


def _depth(tensors: Mapping[str, Tensor], stack: str) -> int:
    pattern = re.compile(re.escape(stack) + r"\.(\d+)\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})


def _foreign(path: Path) -> list[str]:
    """Names of what a zip-format file would import besides what is allowed."""
    try:
        if not zipfile.is_zipfile(path):
            return []
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except _DAMAGED:
        return []
    return sorted(set(found) - {"argparse.Namespace"})


def _named(error: Exception) -> list[str]:
    """The name that an old-format file was refused for, out of torch's message."""
    for line in str(error).splitlines():
        _, found, rest = line.partition("GLOBAL ")
        name = rest.split(" ")[0]
        if found and name.strip("."):  # a file that is cut off may have no name there
            return [name]
    return []


def _short(error: Exception) -> str:
    text = str(error)
    # What PyTorch found stands behind advice about its own options.
    lines = text.rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
