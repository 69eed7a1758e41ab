"""Portable checkpoints: a folder of weights and the configuration that made them.

A checkpoint is ``model.safetensors`` and ``config.json``; it knows its own sizes. Beside them may
lie ``probe.safetensors`` (an input with its output) and ``README.md`` (the model card). Not for:
optimizer states and resuming, which Lightning's own files keep; foreign formats, cards, sharing
and export, which are in ``hicmae/checkpoints/``.

Deviation: the reference ignores names that do not match; here every difference is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hicmae.checkpoints.labels import Labels
from hicmae.checkpoints.reference import from_reference, reference_name
from hicmae.checkpoints.writing import (
    CARD,
    CONFIG,
    FORMAT_VERSION,
    PROBE,
    WEIGHTS,
    Kind,
    file_sha256,
    is_checkpoint,
    save_checkpoint,
    write_checkpoint,
    write_files,
)
from hicmae.encoder import AudioVisualEncoder
from hicmae.plain import from_dict
from hicmae.settings import ModelConfig

__all__ = [
    "CARD",
    "CONFIG",
    "FORMAT_VERSION",
    "PROBE",
    "WEIGHTS",
    "Checkpoint",
    "Kind",
    "Labels",
    "file_sha256",
    "from_reference",
    "is_checkpoint",
    "load_checkpoint",
    "load_encoder",
    "load_weights",
    "misfits",
    "reference_name",
    "save_checkpoint",
    "write_checkpoint",
    "write_files",
]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Its folder.
        kind: What network the weights are of.
        config: Named sections; ``model`` is always there.
        tensors: Weights by parameter name.
        weights_sha256: Digest that the file of the weights should have; none in files of early
            versions.
    """

    path: Path
    kind: Kind
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    weights_sha256: str | None = None

    def model_config(self) -> ModelConfig:
        """Sizes of the network that the weights belong to."""
        return from_dict(ModelConfig, self.config["model"], where=f"{self.path / CONFIG}: model")

    def labels(self) -> Labels | None:
        """What the outputs stand for; ``None``: a pretrained network, or nobody has said.

        Raises: ValueError: the configuration contradicts itself.
        """
        where = f"{self.path / CONFIG}: labels"
        if "labels" in self.config:
            return from_dict(Labels, self.config["labels"], where=where)
        benchmark, targets = self.config.get("benchmark"), self.config.get("targets")
        if targets is not None:
            return from_dict(Labels, {"task": "regression", **targets}, where=where)
        if benchmark is not None and benchmark.get("classes"):
            names = {"task": "classification", "names": benchmark["classes"]}
            return from_dict(Labels, names, where=where)
        return None


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder, or the newest one of a run folder (``checkpoints/last``).

    Raises: ValueError: nothing there, unreadable, or of a format this version does not know.
    """
    folder = Path(path)
    for candidate in (folder, folder / "checkpoints" / "last"):
        if is_checkpoint(candidate):
            return _read(candidate)
    found = "no such folder" if not folder.exists() else f"found no {WEIGHTS} with {CONFIG}"
    raise ValueError(
        f"{folder}: {found} there or in checkpoints/last; give a run folder or a checkpoint folder"
    )


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
    problems = misfits(module.state_dict(), tensors)
    if problems:
        shown = "; ".join(problems[:6])
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(
            f"{where}: {len(problems)} tensors do not fit this network ({shown}{more}); "
            "use the sizes that the checkpoint was made with"
        )
    module.load_state_dict(tensors)


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Say of each tensor by name what is wrong with it: missing, extra or misshapen."""
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"extra {name}" for name in found if name not in wanted]
    return problems + [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]


def _read(folder: Path) -> Checkpoint:
    try:
        document = dict(json.loads((folder / CONFIG).read_text()))
        version, kind = document.pop("format_version"), document.pop("kind")
        digest = document.pop("weights_sha256", None)
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
    return Checkpoint(
        path=folder, kind=kind, config=document, tensors=tensors, weights_sha256=digest
    )
