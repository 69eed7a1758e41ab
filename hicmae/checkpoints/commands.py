"""The functions behind ``hicmae checkpoint …``, and what they print.

The work itself is imported when a verb runs, so that help needs no PyTorch.
"""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hicmae.files import check_replaceable, check_writable

ExportFormat = Literal["reference", "torch", "onnx", "onnx-int8"]


def convert(
    *,
    file: Path,
    out: Path,
    model: str | None = None,
    labels: str | None = None,
    probe: Path | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Convert the authors' weights, pretrained or fine-tuned, to a checkpoint folder.

    The file is read without running anything in it. Every tensor must be there, no other may be,
    and each must have the right shape; all that differ are named.

    Args:
        file: The authors' .pth file.
        out: The checkpoint folder to write.
        model: Sizes of the network, a name out of configs/model or a YAML file; null: measured in
            the weights, which works for the published sizes.
        labels: Classes of a fine-tuned network in the order of its outputs, separated by commas;
            or a benchmark, a name out of configs/benchmarks, whose classes they are.
        probe: Safetensors file with an input and what the authors' network made of it (video,
            audio, and logits and features, or mask_video, mask_audio, pred_video, pred_audio);
            the converted network must reproduce it. It is kept, for `hicmae checkpoint verify`.
        licence: Note on what may be done with the weights, for the model card.
        overwrite: Replace the checkpoint that is in out.

    Raises:
        ValueError: A file that holds more than weights, tensors that do not fit, labels that do
            not fit, another output than the probe's; nothing is written then.
        FileNotFoundError: No such file.
    """
    _check_out(out, overwrite)
    from hicmae.checkpoints.convert import LICENCE_NOTE, convert_reference
    from hicmae.config import load_model_config

    checkpoint, difference = convert_reference(
        file,
        out,
        sizes=None if model is None else load_model_config(model),
        labels=_class_names(labels),
        probe=probe,
        licence=licence or LICENCE_NOTE,
    )
    num_tensors = len(checkpoint.tensors)
    print(f"{out}: {checkpoint.kind}, {num_tensors} tensors, none missing or extra")
    if difference is not None:
        print(f"largest difference from the output in {probe}: {difference:.2g}")
    else:
        print("no --probe given: the network's own output was stored to check later copies by")


def info(*, source: str, json: Path | None = None) -> None:
    """Say what a checkpoint is: network, labels, scores, protocol, where it comes from.

    Args:
        source: A checkpoint folder, a run folder, https://…, or owner/name on the Hub.
        json: File for the same as JSON.

    Raises:
        ValueError: Nothing there, or damaged.
    """
    from hicmae.checkpoints.networks import describe, read_from
    from hicmae.files import write_text

    facts = describe(read_from(source))
    for name, value in facts.items():
        print(f"{name:<16}{_shown(value)}")
    if json is not None:
        write_text(json, json_format.dumps(facts, indent=2) + "\n")


def verify(*, source: str, tolerance: float = 1e-4) -> None:
    """Check a checkpoint: digest, names, shapes, finite values, and the output of its probe.

    Args:
        source: A checkpoint folder, a run folder, https://…, or owner/name on the Hub.
        tolerance: Largest allowed difference from the stored output.

    Raises:
        ValueError: Something is not as it was when the checkpoint was written.
    """
    from hicmae.checkpoints.networks import read_from
    from hicmae.checkpoints.networks import verify as check

    if not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance} (must be 0 or more)")
    checkpoint = read_from(source)
    digest, difference = check(checkpoint, tolerance=tolerance)
    print(f"{source}: {len(checkpoint.tensors)} tensors fit, all finite; digest: {digest}")
    if difference is None:
        print("no probe is stored, so the output was not compared")
    else:
        print(f"largest difference from the stored output: {difference:.2g}")


def average(*, sources: list[str], out: Path, overwrite: bool = False) -> None:
    """Average the weights of checkpoints of the same network.

    Args:
        sources: Checkpoint or run folders, two or more.
        out: The checkpoint folder to write.
        overwrite: Replace the checkpoint that is in out.

    Raises:
        ValueError: Networks or labels that differ, or the same weights twice.
    """
    _check_out(out, overwrite)
    from hicmae.checkpoints.networks import average as averaged
    from hicmae.checkpoints.networks import write_to

    write_to(out, averaged([Path(source) for source in sources]))
    print(f"{out}: the mean of {len(sources)} checkpoints")


def export(
    *, source: str, out: Path, format: ExportFormat = "onnx", overwrite: bool = False
) -> None:
    """Write a checkpoint for other programs.

    torch, onnx and onnx-int8 take normalised clips, any number at once, and give logits; each is
    compared with PyTorch before it gets its name. A network of both picture and sound wants both
    of every clip there: zeros are not what it makes of a modality that is absent.

    Args:
        source: A checkpoint folder, a run folder (of fine-tuning one fold, RUN/fold-1), https://…,
            or owner/name on the Hub.
        out: The file to write: .pth (reference), .pt2 (torch) or .onnx.
        format: reference: a file for the authors' code; torch: torch.export; onnx: float32;
            onnx-int8: matrix products in int8, clip by clip, for CPUs, with what that costs.
        overwrite: Replace out if it is there.

    Raises:
        ValueError: Nothing there, a network that cannot be written so, another output, or the
            ending of another format.
    """
    ending = {"reference": ".pth", "torch": ".pt2"}.get(format, ".onnx")
    if out.suffix != ending and out.suffix in (".pth", ".pt2", ".onnx"):
        raise ValueError(f"{out}: format {format} is written to a name in {ending}; see --format")
    if out.exists() and (out.is_dir() or not overwrite):
        remedy = "name a file" if out.is_dir() else "pass --overwrite to replace it"
        raise ValueError(f"{out}: is there already; {remedy}")
    from hicmae.checkpoints.networks import read_from

    checkpoint = read_from(source)
    if format == "reference":
        from hicmae.checkpoints.convert import export_reference

        export_reference(checkpoint, out)
        print(f"{out}: {len(checkpoint.tensors)} tensors under the authors' names")
        labels = checkpoint.labels()
        scales = [] if labels is None else zip(labels.names, labels.mean, labels.std, strict=False)
        values = [
            f"{name} = {std:g} * output {place} + {mean:g}"
            for place, (name, mean, std) in enumerate(scales)
            if (mean, std) != (0, 1)
        ]
        if values:
            print(f"it has no place for the unit of the labels: {', '.join(values)}")
        return
    from hicmae.checkpoints import export as formats

    write = {
        "torch": formats.export_torch,
        "onnx": formats.export_onnx,
        "onnx-int8": formats.export_onnx_int8,
    }[format]
    done = write(checkpoint, out)
    print(f"{out}: {done.num_bytes / 1e6:.1f} MB, {done.size_ratio:.2f} of the float32 weights")
    found = f"largest difference of a logit from PyTorch's: {done.difference:.2g} on random clips"
    labels = checkpoint.labels()
    if labels is None or labels.task == "classification":
        found += f", with the same class on {done.agreement:.0%} of them"
    print(found)


def card(*, folder: Path) -> None:
    """Write the model card, README.md, beside a checkpoint's weights.

    Args:
        folder: A checkpoint or run folder.

    Raises:
        ValueError: Nothing there, or damaged.
    """
    from hicmae.checkpoints.card import model_card
    from hicmae.checkpoints.checkpoint import CARD, load_checkpoint
    from hicmae.files import write_text

    checkpoint = load_checkpoint(folder)
    file = checkpoint.path / CARD
    write_text(file, model_card(checkpoint))
    print(file)


def _check_out(out: Path, overwrite: bool) -> None:
    from hicmae.checkpoints.checkpoint import CARD, CONFIG, PROBE, WEIGHTS

    check_replaceable(out, "checkpoint", CONFIG, WEIGHTS, others=(PROBE, CARD), overwrite=overwrite)
    check_writable(out.parent, folder=True)  # the folder itself is replaced


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _class_names(labels: str | None) -> list[str]:
    """Classes in the order of a network's outputs: given one by one, or as a benchmark has them.

    Raises: ValueError: a name that is empty, or a benchmark whose labels are no classes.
    """
    from hicmae.config import config_root, load_yaml

    names = [] if labels is None else [name.strip() for name in labels.split(",")]
    if len(names) == 1 and (file := config_root() / f"benchmarks/{names[0]}.yaml").is_file():
        names = [str(name) for name in load_yaml(file).get("classes", [])]
        if not names:
            raise ValueError(
                f"labels = {labels}: is a benchmark without classes, and classes are all that can "
                "be named; leave --labels out"
            )
    if "" in names:
        raise ValueError(f"labels = {labels!r}: has an empty name; separate names by one comma")
    return names
