"""What is done with whole checkpoints: the network in them, checks, descriptions and averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hicmae.checkpoints.checkpoint import (
    CONFIG,
    PROBE,
    SEEN_SECTION,
    WEIGHTS,
    Checkpoint,
    Labels,
    Seen,
    check_finite,
    load_checkpoint,
    misfits,
    seen_of,
    union,
)
from hicmae.checkpoints.portable import (
    MEASURED,
    largest_difference,
    locate,
    read_probe,
    write_with_probe,
)
from hicmae.config import from_dict
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.files import file_sha256, whole_folder
from hicmae.media.faces import FaceConfig
from hicmae.pretraining import HiCMAE


def build_network(checkpoint: Checkpoint) -> HiCMAE | EmotionModel:
    """The network of a checkpoint, in evaluation mode, on the CPU.

    Raises: ValueError: its configuration is damaged, or its weights do not fit it.
    """
    network = EmotionModel if checkpoint.kind == "emotion" else HiCMAE
    return network.from_checkpoint(checkpoint)


def preparation_of(checkpoint: Checkpoint) -> tuple[FaceConfig, str]:
    """How a checkpoint's images were made, and a line where it does not say.

    A checkpoint that says nothing (one converted from other files) gets the default of
    ``hicmae shards build`` at the size and frame rate of its input.
    """
    data = checkpoint.config.get("data")
    build = data.get("build") if isinstance(data, Mapping) else None
    if not isinstance(build, Mapping):
        default = FaceConfig.default(checkpoint.model_config().input)
        return default, (
            f"{checkpoint.path} does not say how its images were made: faces are cut out as by "
            f"`hicmae shards build` ({default.faces}, margin {default.face_margin:g}, "
            f"{default.face_size} pixels)"
        )
    plain: Mapping[str, Any] = build
    return FaceConfig.of_build(plain, where=f"{checkpoint.path / CONFIG}: data.build"), ""


def read_from(source: str) -> Checkpoint:
    """The checkpoint of a folder, a web address or a name on the Hub.

    Raises: ValueError: nothing there, or damaged.
    """
    return load_checkpoint(locate(source))


def write_to(out: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint with a probe and a card of its own; one that is there is replaced."""
    placed = replace(checkpoint, path=out)
    with whole_folder(out) as beside:
        write_with_probe(beside, placed, build_network(placed))


def verify(checkpoint: Checkpoint, *, tolerance: float) -> tuple[str, float | None]:
    """Check a checkpoint: digest, names and shapes, finite values, labels, and its probe.

    Args: tolerance: Largest allowed difference from the stored output, absolute.

    Returns: of the digest, ``the same`` or ``none stored``; and the largest absolute difference
        from the stored output, if a probe is stored.
    Raises: ValueError: the first check that failed.
    """
    file = checkpoint.path / WEIGHTS
    wanted = checkpoint.weights_sha256
    if wanted is not None and (found := file_sha256(file)) != wanted:
        raise ValueError(
            f"{file}: has SHA-256 {found[:12]}…, its configuration says {wanted[:12]}…: changed or "
            "damaged since it was written; get it again"
        )
    network = build_network(checkpoint)
    check_finite(checkpoint.tensors, where=str(file))
    labels = checkpoint.labels()
    if labels is not None and len(labels.names) != checkpoint.config["emotion"]["num_outputs"]:
        raise ValueError(
            f"{checkpoint.path}: names {len(labels.names)} labels for "
            f"{checkpoint.config['emotion']['num_outputs']} outputs"
        )
    probe, difference = checkpoint.path / PROBE, None
    if probe.is_file():
        difference = largest_difference(network, read_probe(probe), str(probe))
        if not difference <= tolerance:
            raise ValueError(
                f"{probe}: the network's output differs from the stored one by {difference:.2g} "
                f"(at most {tolerance:g}); --tolerance allows more"
            )
    return "none stored" if wanted is None else "the same", difference


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain data."""
    tensors = checkpoint.tensors.values()
    sizes = checkpoint.model_config()
    labels = checkpoint.labels()
    clip = sizes.input
    facts: dict[str, Any] = {
        "folder": str(checkpoint.path),
        "kind": checkpoint.kind,
        "parameters": sum(value.numel() for value in tensors),
        "bytes": sum(value.numel() * value.element_size() for value in tensors),
        "formats": sorted({str(value.dtype).removeprefix("torch.") for value in tensors}),
        "encoder": f"{sizes.encoder_depth} layers of width {sizes.encoder_dim}, "
        f"{sizes.fusion_depth} of fusion",
        "input": f"{clip.num_frames} frames of {clip.image_size} pixels at stride "
        f"{clip.frame_stride} ({clip.clip_seconds:.2f} s at {clip.fps:g} fps), "
        f"{clip.fbank_frames} x {clip.mel_bins} filter bank",
        "probe": (checkpoint.path / PROBE).is_file(),
        "weights_sha256": checkpoint.weights_sha256,
    }
    if checkpoint.kind == "emotion":
        facts["modalities"] = checkpoint.config["emotion"].get("modalities", "audio-video")
        facts["task"] = None if labels is None else labels.task
        facts["labels"] = None if labels is None else list(labels.names)
    kept = ("scores", "protocol", "data", "source", "averaged", "step", "version", "licence")
    named = ("calibration", "over_time", "traces", "modalities", *kept)
    return facts | {name: checkpoint.config[name] for name in named if name in checkpoint.config}


def average(folders: Sequence[Path]) -> Checkpoint:
    """Average the weights of checkpoints of the same network, in float64, one at a time.

    Returns: a checkpoint that lies nowhere yet, in the finest number format of theirs; its
        configuration is the first one's, without scores, names the digests of what was averaged,
        and has seen what any of them has.
    Raises: ValueError: fewer than two, or networks, kinds, labels or what they were made of that
        differ, the same weights twice, or weights that are not finite.
    """
    if len(folders) < 2:
        raise ValueError(f"an average needs two checkpoints or more, found {len(folders)}")
    first, sums = load_checkpoint(folders[0]), dict[str, Tensor]()
    formats = {name: value.dtype for name, value in first.tensors.items()}
    sources, seen = list[dict[str, str]](), list[Seen | None]()
    for folder in folders:
        other = load_checkpoint(folder) if sources else first
        _check_alike(first, other)
        digest = file_sha256(other.path / WEIGHTS)
        if same := [each["folder"] for each in sources if each["sha256"] == digest]:
            raise ValueError(
                f"{same[0]} and {folder}: hold the same weights, which would count twice in the "
                "average; leave one of them out"
            )
        check_finite(other.tensors, where=str(other.path / WEIGHTS))
        for name, value in other.tensors.items():
            sums[name] = sums.get(name, 0) + value.double()
            formats[name] = torch.promote_types(formats[name], value.dtype)
        sources.append({"folder": str(folder), "sha256": digest})
        seen.append(seen_of(other.config, str(other.path)))
    tensors: dict[str, Tensor] = {
        name: (value / len(folders)).to(formats[name]) for name, value in sums.items()
    }
    assert all(torch.is_floating_point(value) for value in tensors.values())
    kept = {
        name: part for name, part in first.config.items() if name not in {*MEASURED, SEEN_SECTION}
    }
    known = [part for part in seen if part is not None]
    if len(known) == len(seen):  # else nobody can tell
        kept[SEEN_SECTION] = union(known).section()
    return Checkpoint(
        path=first.path, kind=first.kind, config=kept | {"averaged": sources}, tensors=tensors
    )


def _differing(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Settings of what is on top of two encoders that differ, but for what training alone reads."""
    if first.kind != "emotion":  # the part of what it was not trained on is as it was drawn
        read = {each.config.get("modalities", "audio-video") for each in (first, other)}
        return ["modalities"] * (len(read) > 1)
    one, another = (
        from_dict(EmotionConfig, each.config["emotion"], where=f"{each.path}: emotion")
        for each in (first, other)
    )
    names = [each.name for each in fields(EmotionConfig) if each.name != "drop_path"]
    return [name for name in names if getattr(one, name) != getattr(another, name)]


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    problems = misfits(first.tensors, other.tensors)[:6]
    if first.kind != other.kind:
        problems = [f"one is of kind {first.kind}, the other {other.kind}"]
    elif first.model_config() != other.model_config():
        problems.append("their sections 'model' differ")
    elif (one := first.labels()) != (another := other.labels()):
        names = [each.name for each in fields(Labels)]
        unlike = [name for name in names if getattr(one, name, 0) != getattr(another, name, 0)]
        problems.append(f"their labels differ in {', '.join(unlike)}")
        if one and another and one.names == another.names:  # of what each was trained on
            problems.append("`hicmae predict` of a run folder averages what its folds say instead")
    elif differing := _differing(first, other):
        problems.append(f"their sections '{first.kind}' differ in {', '.join(differing)}")
    elif preparation_of(first)[0] != preparation_of(other)[0]:
        problems.append("the images of their training were cut out differently: 'data.build'")
    elif first.shift_seconds() != other.shift_seconds():
        problems.append("the labels of their training stood elsewhere in a clip: 'traces'")
    if problems:
        raise ValueError(
            f"{first.path} and {other.path}: cannot be averaged ({'; '.join(problems)})"
        )
