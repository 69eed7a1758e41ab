"""Networks that travel: loading and sharing them, and the probe and card that go with the weights.

A *probe* is a stored input with the network's output, so that weights can be checked after a
conversion, a download, an upgrade of PyTorch or on another machine. ``probe.safetensors`` holds
``input.video`` (B, 3, T, H, W) and ``input.fbank`` (B, S, F), both normalised; in pretraining
``input.video_mask`` and ``input.fbank_mask`` (B, N, True = hidden); and what came out:
``output.logits`` and ``output.features``, or ``output.video_prediction`` and
``output.audio_prediction``.

The *card* is ``README.md`` beside the weights, written from the checkpoint's own configuration
alone. The networks are above this file: it knows them by what every ``PortableModel`` can do.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from huggingface_hub import EvalResult, ModelCardData, ModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import Self

from hicmae.checkpoints.checkpoint import (
    CONFIG,
    WEIGHTS,
    Checkpoint,
    Kind,
    load_checkpoint,
    load_weights,
    write_files,
)
from hicmae.checkpoints.sources import locate
from hicmae.config import to_dict
from hicmae.heads import HeadLabels
from hicmae.settings import ModelConfig

# Names in files of numbers that the authors' network gave -> names here.
_REFERENCE_NAMES = {
    "video": "input.video",
    "audio": "input.fbank",
    "mask_video": "input.video_mask",
    "mask_audio": "input.fbank_mask",
    "pred_video": "output.video_prediction",
    "pred_audio": "output.audio_prediction",
    "features": "output.features",
    "logits": "output.logits",
}
_UNKNOWN_LICENCE = "The checkpoint carries no licence note: ask whoever made it."


class PortableModel(nn.Module, ModelHubMixin):
    """A network that is loaded from and shared as a checkpoint folder.

    Attributes:
        kind: What its checkpoints are of.
        config: Its sizes.
        carried: What its checkpoint says besides sizes and head: labels, scores, protocol, data,
            licence; it goes into every checkpoint that is saved.
    """

    kind: ClassVar[Kind]
    config: ModelConfig
    carried: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def sections(self) -> dict[str, Any]:
        """The settings that this network is built from, by their names in a checkpoint."""

    @classmethod
    @abstractmethod
    def from_sections(cls, sections: Mapping[str, Any], where: str) -> Self:
        """An empty network from a checkpoint's sections, in plain data.

        Raises: ValueError: a section that is damaged or absent; ``where`` says of what.
        """

    @abstractmethod
    def probe_masks(self, generator: torch.Generator) -> dict[str, Tensor]:
        """What a probe's input of one clip says besides the clip; names begin with ``input.``."""

    @abstractmethod
    def probe_output(self, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What comes out for a probe's input; names begin with ``output.``."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """The network of a checkpoint of this kind, in evaluation mode, on the CPU.

        Raises: ValueError: its configuration is damaged, or its weights do not fit it.
        """
        assert checkpoint.kind == cls.kind, f"a checkpoint of kind {checkpoint.kind}"
        network = cls.from_sections(checkpoint.config, str(checkpoint.path / CONFIG))
        load_weights(network, checkpoint.tensors, where=str(checkpoint.path / WEIGHTS))
        return network.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # no settings but the checkpoint's own
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """The network of a checkpoint, in evaluation mode, on the CPU.

        Args:
            source: A folder, ``https://…/folder``, or ``owner/name`` on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            cache_dir: Where downloads are kept; none given: the user's cache.
            force_download: Download again what is in the cache.
            local_files_only: Use no network; also ``HICMAE_OFFLINE=1`` or ``HF_HUB_OFFLINE=1``.
            token: Of a private repository.

        Raises: ValueError: nothing there, no answer, a checkpoint of the other kind, or damaged.
        """
        folder = locate(
            source,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        checkpoint = load_checkpoint(folder)
        if checkpoint.kind != cls.kind:
            other = "HiCMAE" if checkpoint.kind == "pretraining" else "EmotionModel"
            raise ValueError(
                f"{source}: is of kind {checkpoint.kind}; {other}.from_pretrained loads it"
            )
        network = cls.from_checkpoint(checkpoint)
        own = network.sections()
        network.carried = {k: part for k, part in checkpoint.config.items() if k not in own}
        return network

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of a checkpoint; the mixin's ``save_pretrained`` calls this."""
        tensors = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        config = to_dict(self.sections()) | dict(self.carried)
        checkpoint = Checkpoint(path=save_directory, kind=self.kind, config=config, tensors=tensors)
        write_files(
            save_directory,
            tensors,
            kind=self.kind,
            config=config | {"probe": {"from": "this network"}},
            # Of what will be read back: on the CPU, in float32, whatever this network runs in.
            probe=make_probe(self.from_checkpoint(checkpoint)),
            card=model_card(checkpoint),
        )


def make_probe(network: PortableModel, *, seed: int = 0) -> dict[str, Tensor]:
    """Draw an input of one clip and note what the network, in float32 on its device, makes of it.

    Inputs are numbers that bfloat16 holds too, so that casting them changes nothing.
    """
    size, generator = network.config.input, torch.Generator().manual_seed(seed)
    side = size.image_size
    video = torch.randn(1, 3, size.num_frames, side, side, generator=generator)
    fbank = torch.randn(1, size.fbank_frames, size.mel_bins, generator=generator)
    probe = {"input.video": video.bfloat16().float(), "input.fbank": fbank.bfloat16().float()}
    probe |= network.probe_masks(generator)
    return probe | _run_probe(network, probe)


def read_probe(path: Path) -> dict[str, Tensor]:
    """Read a stored probe, or a file of numbers that the authors' network gave.

    Such a file has ``video`` (B, 3, T, H, W), ``audio`` (B, 1, S, F), in pretraining
    ``mask_video`` and ``mask_audio``, and ``pred_video`` and ``pred_audio``, or ``features`` and
    ``logits``; what else is in it is left out.

    Raises: ValueError: damaged, or without input or output. FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged probe ({error})") from error
    probe = {
        _REFERENCE_NAMES.get(name, name): value
        for name, value in tensors.items()
        if name in _REFERENCE_NAMES or name.startswith(("input.", "output."))
    }
    if "input.fbank" in probe and probe["input.fbank"].ndim == 4:
        probe["input.fbank"] = probe["input.fbank"].squeeze(1)
    if not {"input.video", "input.fbank"} <= set(probe) or not any(
        name.startswith("output.") for name in probe
    ):
        raise ValueError(
            f"{path}: no probe (found {', '.join(sorted(tensors)[:6]) or 'nothing'}; wanted video, "
            "audio and what the network made of them)"
        )
    return probe


@torch.no_grad()
def _run_probe(network: PortableModel, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    training = network.training
    network.eval()
    try:
        return network.probe_output(probe)
    finally:
        network.train(training)


def largest_difference(network: PortableModel, probe: Mapping[str, Tensor], where: str) -> float:
    """Largest absolute difference of what the network gives now from what is stored.

    Raises: ValueError: the probe is of another network.
    """
    wanted = {name: value for name, value in probe.items() if name.startswith("output.")}
    masks = [name for name in ("input.video_mask", "input.fbank_mask") if name not in probe]
    if network.kind == "pretraining" and masks:
        raise ValueError(f"{where}: a pretraining network's probe has {', '.join(masks)} too")
    found = _run_probe(network, probe)
    common = sorted(set(wanted) & set(found))
    wrong = [
        f"{name} is {tuple(found[name].shape)}, stored {tuple(wanted[name].shape)}"
        for name in common
        if found[name].shape != wanted[name].shape
    ]
    if not common:
        wrong.append(f"it stores {', '.join(sorted(wanted))}, the network gives {', '.join(found)}")
    if wrong:
        raise ValueError(f"{where}: the probe is of another network ({'; '.join(wrong)})")
    differences = [(found[name] - wanted[name].float()).abs().max().item() for name in common]
    # A number that is none must not pass for a small one.
    return max(differences) if all(value == value for value in differences) else float("nan")


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
        if labels.heads:
            parts += ["## Outputs", _heads_table(labels.heads)]
        else:
            rows = [[str(number), label] for number, label in enumerate(labels.names)]
            what = "Class" if labels.task == "classification" else "Real value"
            parts += ["## Outputs", _table(["output", what.lower()], rows)]
        if labels.mean:
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
    sections = {
        "Protocol": protocol,
        "Over time": config.get("over_time"),
        "Data": config.get("data"),
        "Input": _input(config),
        "Source": config.get("source"),
    }
    for title, section in sections.items():
        if section:
            rows = [[key, _plain(value)] for key, value in section.items()]
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
    clip = config["model"].get("input", {})
    keep = ("image_size", "num_frames", "frame_stride", "fps", "sample_rate", "fbank_frames")
    return {name: clip[name] for name in keep if name in clip} | {
        "modalities": config.get("emotion", {}).get("modalities", "audio-video")
    }


def _use(checkpoint: Checkpoint) -> str:
    kind = "EmotionModel" if checkpoint.kind == "emotion" else "HiCMAE"
    return (
        f"```python\nfrom hicmae import {kind}\n\n"
        f'model = {kind}.from_pretrained("this folder, owner/name or URL")\n```'
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
