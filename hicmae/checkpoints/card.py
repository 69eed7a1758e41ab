"""The model card: what a checkpoint is, as a page that people and the Hub read.

For: ``README.md`` beside the weights, written from the checkpoint's own configuration; nothing is
typed by hand and nothing is claimed that the checkpoint does not carry. Not for: uploading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hicmae.checkpoint import Checkpoint

_UNKNOWN_LICENCE = "The checkpoint carries no licence note: ask whoever made it."


def model_card(checkpoint: Checkpoint) -> str:
    """Text of the card, with the metadata that the Hub reads on top."""
    name = _name(checkpoint)
    config = checkpoint.config
    protocol = config.get("protocol", {})
    data = ModelCardData(
        library_name="hicmae",
        license="other",
        pipeline_tag="video-classification",
        tags=["audio-visual", "emotion-recognition", "hicmae", checkpoint.kind],
        model_name=name,
        eval_results=list(_results(checkpoint)) or None,
        ignore_metadata_errors=True,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {name}", _opening(checkpoint)]
    labels = checkpoint.labels()
    if labels is not None:
        rows = [[str(number), label] for number, label in enumerate(labels.names)]
        what = "Class" if labels.task == "classification" else "Real value"
        parts += ["## Outputs", _table(["output", what.lower()], rows)]
        if labels.task == "regression":
            parts.append(
                "An output times its deviation plus its mean is in the unit of the labels."
            )
    if config.get("scores"):
        rows = [[metric, _number(value)] for metric, value in config["scores"].items()]
        parts += [
            "## Scores",
            f"Measured on {protocol.get('num_test', '?')} samples of fold "
            f"{protocol.get('fold', '?')} of {protocol.get('benchmark', '?')}.",
            _table(["metric", "value"], rows),
        ]
    for title, section in (("Protocol", protocol), ("Data", config.get("data"))):
        if section:
            rows = [[key, _plain(value)] for key, value in section.items()]
            parts += [f"## {title}", _table(["", ""], rows)]
    parts += ["## Input", _table(["", ""], [[k, _plain(v)] for k, v in _input(config).items()])]
    if config.get("source"):
        rows = [[key, _plain(value)] for key, value in config["source"].items()]
        parts += ["## Source", _table(["", ""], rows)]
    parts += ["## Licence", str(config.get("licence") or _UNKNOWN_LICENCE)]
    parts += ["## Use", _use(checkpoint)]
    return "\n\n".join(parts) + "\n"


def _name(checkpoint: Checkpoint) -> str:
    """What was learned, or else the folder's name, or that of the run it is the last one of."""
    protocol, folder = checkpoint.config.get("protocol"), checkpoint.path.resolve()
    if protocol:
        return f"hicmae-{protocol.get('benchmark', '?')}-fold-{protocol.get('fold', '?')}"
    is_last = folder.name == "last" and folder.parent.name == "checkpoints"
    return folder.parent.parent.name if is_last else folder.name


def _opening(checkpoint: Checkpoint) -> str:
    """What the network is, in two sentences."""
    size = checkpoint.model_config()
    millions = sum(value.numel() for value in checkpoint.tensors.values()) / 1e6
    what = {
        "pretraining": "A pretrained audio-visual masked autoencoder",
        "emotion": "A network that predicts emotion from face and voice",
    }[checkpoint.kind]
    return (
        f"{what} ([HiCMAE](https://arxiv.org/abs/2401.05698)), {millions:.1f} M parameters: "
        f"{size.encoder_depth} layers of width {size.encoder_dim} for each of picture and sound, "
        f"{size.fusion_depth} that fuse them."
    )


def _results(checkpoint: Checkpoint) -> Iterator[EvalResult]:
    """Scores as the Hub's metadata wants them."""
    protocol = checkpoint.config.get("protocol", {})
    for metric, value in (checkpoint.config.get("scores") or {}).items():
        if value is not None and math.isfinite(value):
            benchmark = str(protocol.get("benchmark", "unknown"))
            yield EvalResult(
                task_type="video-classification",
                dataset_type=benchmark,
                dataset_name=benchmark,
                dataset_split=f"fold {protocol.get('fold', '?')}",
                metric_type=metric,
                metric_value=round(float(value), 4),
            )


def _input(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the network is given."""
    clip = config["model"].get("input", {})
    keep = ("image_size", "num_frames", "frame_stride", "fps", "sample_rate", "fbank_frames")
    return {name: clip[name] for name in keep if name in clip} | {
        "modalities": config.get("emotion", {}).get("modalities", "audio-video")
    }


def _use(checkpoint: Checkpoint) -> str:
    """How to load it."""
    kind = "EmotionModel" if checkpoint.kind == "emotion" else "HiCMAE"
    return (
        f"```python\nfrom hicmae import {kind}\n\n"
        f'model = {kind}.from_pretrained("this folder, owner/name or URL")\n```'
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    """A score, if it is defined."""
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _plain(value: Any) -> str:
    """A value in one table cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
