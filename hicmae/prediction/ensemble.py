"""The networks behind ``hicmae.load``: one checkpoint, or all folds of a run.

For: finding and reading them, and what they say of their input. Not for: running them
(``network.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae.checkpoint import CONFIG, Checkpoint, Labels, is_checkpoint, load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.sources import locate
from hicmae.emotion import EmotionModel
from hicmae.media.preparation import Preparation


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Networks that are to be averaged, with one input and one set of outputs.

    Args:
        source: Where they came from, as the user named it.
        members: One or more.
        labels: Of each member.
        preparation: How the images of its input are made.
        notes: What the user should know, a line each.
    """

    source: str
    members: list[EmotionModel]
    labels: list[Labels]
    preparation: Preparation
    notes: tuple[str, ...] = ()


def load_members(source: str | Path) -> Loaded:
    """Read a checkpoint, or those of all folds of a run.

    Args:
        source: As for ``hicmae.load``.

    Raises: ValueError: nothing there, damaged, not fine-tuned, or folds that do not fit together.
    """
    folder = locate(source)
    folders = _folds(folder) or [folder]
    checkpoints = [load_checkpoint(each) for each in folders]
    notes: list[str] = []
    if len(checkpoints) > 1:
        notes.append(f"the predictions of {len(checkpoints)} folds of {source} are averaged")
    labels = [_labels(checkpoint, notes) for checkpoint in checkpoints]
    members = [_member(checkpoint) for checkpoint in checkpoints]
    preparation, note = preparation_of(checkpoints[0])
    notes += [note] if note else []
    for other, names, member in zip(checkpoints[1:], labels[1:], members[1:], strict=True):
        same = (
            member.config.input == members[0].config.input
            and member.emotion.modalities == members[0].emotion.modalities
            and (names.task, names.names) == (labels[0].task, labels[0].names)
            and preparation_of(other)[0] == preparation
        )
        if not same:
            raise ValueError(
                f"{other.path}: differs from {checkpoints[0].path} in its input, its preparation "
                "or its labels, so their predictions cannot be averaged; name one of them"
            )
    return Loaded(
        source=str(source),
        members=members,
        labels=labels,
        preparation=preparation,
        notes=tuple(dict.fromkeys(notes)),
    )


def preparation_of(checkpoint: Checkpoint) -> tuple[Preparation, str]:
    """How a checkpoint's images were made, and a line where it does not say.

    A checkpoint that says nothing (one converted from other files) gets the default of
    ``hicmae shards build`` at the size and frame rate of its input.
    """
    data = checkpoint.config.get("data")
    build = data.get("build") if isinstance(data, Mapping) else None
    if not isinstance(build, Mapping):
        default = Preparation.default(checkpoint.model_config().input)
        return default, (
            f"{checkpoint.path} does not say how its images were made: faces are cut out as by "
            f"`hicmae shards build` ({default.faces}, margin {default.face_margin:g}, "
            f"{default.face_size} pixels)"
        )
    plain: Mapping[str, Any] = build
    return Preparation.of_build(plain, where=f"{checkpoint.path / CONFIG}: data.build"), ""


def _folds(folder: Path) -> list[Path]:
    """The checkpoints of a run's folds, in order; none where the folder is something else."""
    if is_checkpoint(folder) or is_checkpoint(folder / "checkpoints" / "last"):
        return []
    folds = [fold / "checkpoints" / "last" for fold in sorted(folder.glob("fold-*"))]
    return [fold for fold in folds if is_checkpoint(fold)]


def _member(checkpoint: Checkpoint) -> EmotionModel:
    network = build_network(checkpoint)
    if not isinstance(network, EmotionModel):
        raise ValueError(
            f"{checkpoint.path}: is a pretrained network, which predicts no emotion; fine-tune it "
            "first (hicmae finetune), or give a fine-tuned one"
        )
    return network


def _labels(checkpoint: Checkpoint, notes: list[str]) -> Labels:
    """What the outputs stand for; numbered where nobody has said."""
    labels = checkpoint.labels()
    if labels is not None:
        return labels
    count = int(checkpoint.config.get("emotion", {}).get("num_outputs", 0))
    notes.append(
        f"{checkpoint.path} does not say what its outputs stand for: they are taken for classes "
        "and numbered"
    )
    return Labels(
        task="classification", names=tuple(f"class{number}" for number in range(max(count, 1)))
    )
