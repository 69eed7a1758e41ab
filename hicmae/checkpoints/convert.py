"""The authors' files to checkpoint folders, and back, to the last bit.

For: ``hicmae checkpoint convert`` and ``export --format reference``. Not for: names
(``reference.py``), sizes (``sizes.py``) and unpickling (``pickles.py``).

Deviation: the reference loads what fits and keeps quiet about the rest; here every missing, extra
or misshapen tensor is named and nothing is written.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hicmae import __version__
from hicmae.checkpoint import (
    Checkpoint,
    Kind,
    Labels,
    file_sha256,
    load_checkpoint,
    load_weights,
    misfits,
    write_checkpoint,
)
from hicmae.checkpoints.card import model_card
from hicmae.checkpoints.pickles import read_pickle
from hicmae.checkpoints.probe import largest_difference, make_probe, read_probe
from hicmae.checkpoints.reference import from_reference, to_reference
from hicmae.checkpoints.sizes import find_sizes
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.plain import to_dict
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig

LICENCE_NOTE = (
    "Converted from weights that somebody else trained: their licence, and those of the data they "
    "saw, hold for these too; ask their makers before using them for more than research."
)
TOLERANCE = 1e-4  # absolute, float32; that of the numbers to meet


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did.

    Args:
        checkpoint: The folder it wrote, read back.
        num_tensors: How many there are.
        difference: Largest absolute difference of what the converted network gives from the
            authors' numbers; none where no such numbers were given.
    """

    checkpoint: Checkpoint
    num_tensors: int
    difference: float | None


def convert_reference(
    file: Path,
    out: Path,
    *,
    sizes: ModelConfig | None = None,
    labels: Sequence[str] = (),
    probe: Path | None = None,
    licence: str = LICENCE_NOTE,
) -> Conversion:
    """Convert one of the authors' files, pretrained or fine-tuned, to a checkpoint folder.

    Args:
        file: Their ``.pth``.
        out: The checkpoint folder; one that is there is replaced.
        sizes: Of the network, where the file cannot tell them.
        labels: Names of a fine-tuned network's classes, in the order of its outputs.
        probe: An input with the authors' output, which the network must reproduce.
        licence: Note on what may be done with the weights.

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
    broken = [name for name, value in theirs.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"{file}: infinite values or none at all in {', '.join(broken)}")
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
    write_checkpoint(out, ours, kind=kind, config=config, probe=made, card=model_card(read))
    return Conversion(checkpoint=load_checkpoint(out), num_tensors=len(ours), difference=difference)


def export_reference(checkpoint: Checkpoint, out: Path) -> None:
    """Write a checkpoint as a file that the authors' code reads.

    The weights are as they were before ``convert_reference``, to the last bit; of the rest, epoch
    and options are there again. Optimizer and loss scaler, which fine-tuning does not read, are
    not.
    """
    source = checkpoint.config.get("source", {})
    content: dict[str, Any] = {
        "model": to_reference(checkpoint.tensors, checkpoint.model_config()),
        "args": Namespace(**source.get("options", {})),
    }
    if source.get("epoch") is not None:
        content["epoch"] = source["epoch"]
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        torch.save(content, beside)
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


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
    """Where the weights come from, in plain data."""
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
