"""The model card of a checkpoint, written from what its configuration says.

It is Markdown with the metadata that the Hub reads on top, and says what a network is for, what its
outputs stand for, which scores it has and by what rule it was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hicmae.checkpoints.checkpoint import CONFIG, Checkpoint
from hicmae.heads import HeadLabels, of_unit

_UNKNOWN_LICENCE = "The checkpoint carries no licence note: ask whoever made it."
# By what a network reads: its tag, what emotion is predicted from, and what is read alone.
_READ = {
    "audio-video": ("audio-visual", "face and voice", ""),
    "video": ("visual", "the face", "picture"),
    "audio": ("audio", "the voice", "sound"),
}


def model_card(checkpoint: Checkpoint) -> str:
    """Text of the card, with the metadata that the Hub reads on top."""
    name = _name(checkpoint)
    config = checkpoint.config
    protocol = dict(config.get("protocol", {}))
    seen = protocol.pop("test_seen", None)
    data = ModelCardData(
        library_name="hicmae",
        license="other",
        pipeline_tag=_task(checkpoint),
        tags=[
            _READ[_modalities(checkpoint)][0],
            "emotion-recognition",
            "hicmae",
            checkpoint.kind,
        ],
        model_name=name,
        eval_results=list(_results(checkpoint)) or None,
        ignore_metadata_errors=True,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {name}", _opening(checkpoint)]
    labels = checkpoint.labels()
    if labels is not None:
        if labels.heads:
            parts += ["## Outputs", _heads_table(labels.heads)]
        else:
            rows = [[str(number), label] for number, label in enumerate(labels.names)]
            what = "Class" if labels.task == "classification" else "Real value"
            parts += ["## Outputs", _table(["output", what.lower()], rows)]
        if labels.mean:
            parts += [
                "A real value is the output times its deviation plus its mean, both in "
                f"`{CONFIG}`; it is then in the unit of the labels."
            ]
    if config.get("scores"):
        rows = [[metric, _number(metric, value)] for metric, value in config["scores"].items()]
        rule = config.get("finetuning", {}).get("rule") or protocol.get("selection", "not noted")
        parts += [
            "## Scores",
            f"Measured on {protocol.get('num_test', '?')} samples of fold "
            f"{protocol.get('fold', '?')} of {protocol.get('benchmark', '?')}. Selection: {rule}.",
            *([f"**With --allow_seen: {_value(seen)}.**"] if seen else []),
            _table(["metric", "value"], rows),
        ]
    sections = {
        "Protocol": protocol,
        "Over time": config.get("over_time"),
        "Data": config.get("data"),
        "Input": _input(checkpoint),
        "Source": config.get("source"),
        "Mean of the weights of": {of["folder"]: of["sha256"] for of in config.get("averaged", ())},
    }
    for title, section in sections.items():
        if section:
            rows = [[key, _value(value)] for key, value in section.items()]
            parts += [f"## {title}", _table(["", ""], rows)]
    parts += ["## Licence", str(config.get("licence") or _UNKNOWN_LICENCE)]
    parts += ["## Use", _use(checkpoint)]
    return "\n\n".join(parts) + "\n"


def _heads_table(heads: Sequence[HeadLabels]) -> str:
    """What each output of several heads stands for."""
    rows: list[list[str]] = []
    for head in heads:
        limits = [f"{value:.3f}" for value in head.thresholds] or [""] * len(head.names)
        if head.kind == "distribution" and head.thresholds:
            limits = [f"{limits[0]} (two as equal up to {limits[1]} apart)"] * len(head.names)
        for name, limit in zip(head.names, limits, strict=True):
            rows.append([str(len(rows)), head.name, head.kind, name, limit])
    return _table(["output", "head", "kind", "what", "named from"], rows)


def _name(checkpoint: Checkpoint) -> str:
    """What was learned, or else the folder's name, or that of the run it is the last one of."""
    protocol, folder = checkpoint.config.get("protocol"), checkpoint.path.resolve()
    if protocol:
        return f"hicmae-{protocol.get('benchmark', '?')}-fold-{protocol.get('fold', '?')}"
    is_last = folder.name == "last" and folder.parent.name == "checkpoints"
    return folder.parent.parent.name if is_last else folder.name


def _opening(checkpoint: Checkpoint) -> str:
    size = checkpoint.model_config()
    millions = sum(value.numel() for value in checkpoint.tensors.values()) / 1e6
    read, source, alone = _READ[_modalities(checkpoint)]
    opening = {
        "pretraining": f"A pretrained {read} masked autoencoder",
        "emotion": f"A network that predicts emotion from {source}",
    }[checkpoint.kind]
    only = f" It reads the {alone} alone, and the weights for the other are unused." * bool(alone)
    return (
        f"{opening} ([HiCMAE](https://arxiv.org/abs/2401.05698)), {millions:.1f} M parameters: "
        f"{size.encoder_depth} layers of width {size.encoder_dim} for each of picture and sound, "
        f"{size.fusion_depth} of fusion.{only}"
    )


def _task(checkpoint: Checkpoint) -> str:
    """What the Hub calls what the network is for."""
    if checkpoint.kind == "pretraining":
        return "feature-extraction"
    hears = _modalities(checkpoint) == "audio"
    return "audio-classification" if hears else "video-classification"


def _modalities(checkpoint: Checkpoint) -> str:
    """What it reads: said of a fine-tuned network, and of one pretrained on one modality alone."""
    config = checkpoint.config
    said = config.get("emotion", {}).get("modalities") or config.get("modalities", "audio-video")
    if said not in _READ:
        raise ValueError(f"{checkpoint.path / CONFIG}: damaged configuration (modalities {said!r})")
    return str(said)


def _results(checkpoint: Checkpoint) -> Iterator[EvalResult]:
    protocol = checkpoint.config.get("protocol", {})
    for metric, value in (checkpoint.config.get("scores") or {}).items():
        if value is not None and math.isfinite(value):
            benchmark = str(protocol.get("benchmark", "unknown"))
            yield EvalResult(
                task_type=_task(checkpoint),
                dataset_type=benchmark,
                dataset_name=benchmark,
                dataset_split=f"fold {protocol.get('fold', '?')}",
                metric_type=metric,
                metric_value=float(_number(metric, value)),
            )


def _input(checkpoint: Checkpoint) -> dict[str, Any]:
    clip = checkpoint.config["model"].get("input", {})
    keep = ("image_size", "num_frames", "frame_stride", "fps", "sample_rate", "fbank_frames")
    found = {name: clip[name] for name in keep if name in clip}
    return found | {"modalities": _modalities(checkpoint)}


def _use(checkpoint: Checkpoint) -> str:
    kind = "EmotionModel" if checkpoint.kind == "emotion" else "HiCMAE"
    return (
        f"```python\nfrom hicmae import {kind}\n\n"
        f'model = {kind}.from_pretrained("this folder, owner/name or URL")\n```'
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *escaped]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(metric: str, value: float | None) -> str:
    how = ".4g" if of_unit(metric) else "z.4f"
    return "undefined" if value is None or not math.isfinite(value) else format(value, how)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)
