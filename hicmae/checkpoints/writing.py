"""Writing the files of a checkpoint, whole or not at all.

For: the folder that ``hicmae/checkpoint.py`` reads. Not for: what goes into it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor, nn

from hicmae.plain import to_dict
from hicmae.whole_folder import whole_folder

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PROBE = "probe.safetensors"
CARD = "README.md"
Kind = Literal["pretraining", "emotion"]


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
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    write_checkpoint(folder, tensors, kind=kind, config=config)


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: Kind,
    config: Mapping[str, Any],
    probe: Mapping[str, Tensor] | None = None,
    card: str | None = None,
) -> None:
    """Write a checkpoint folder out of weights by name; as ``save_checkpoint``.

    Args:
        folder: Where it goes; a checkpoint that is there is replaced.
        tensors: The weights.
        kind: Of which network.
        config: Sections by name, dataclasses or plain values; must have ``model``.
        probe: An input with the network's output (``hicmae/checkpoints/probe.py``).
        card: Text of the model card.
    """
    with whole_folder(folder) as beside:
        write_files(beside, tensors, kind=kind, config=config, probe=probe, card=card)


def write_files(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: Kind,
    config: Mapping[str, Any],
    probe: Mapping[str, Tensor] | None = None,
    card: str | None = None,
) -> None:
    """Write the files of a checkpoint into a folder, each whole; ``config.json``, which makes it
    one, comes last. The arguments are those of ``write_checkpoint``.
    """
    assert "model" in config, "a checkpoint carries the sizes of its network"
    (folder / CONFIG).unlink(missing_ok=True)
    weights = {name: value.contiguous() for name, value in tensors.items()}
    _into_place(folder / WEIGHTS, lambda path: save_file(weights, path))
    if probe is not None:
        arrays = {name: value.contiguous() for name, value in probe.items()}
        _into_place(folder / PROBE, lambda path: save_file(arrays, path))
    if card is not None:
        _into_place(folder / CARD, lambda path: path.write_text(card, encoding="utf-8"))
    document = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "weights_sha256": file_sha256(folder / WEIGHTS),
        **to_dict(config),
    }
    text = json.dumps(document, indent=2) + "\n"
    _into_place(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds the two files of a checkpoint."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _into_place(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and rename it into it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        beside.chmod(0o644)  # safetensors writes for its owner alone
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
