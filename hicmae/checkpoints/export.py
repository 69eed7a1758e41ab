"""A fine-tuned network as a file that other programs run: ``torch.export``, ONNX, int8 ONNX.

Normalised clips in, logits out, any number of clips at once; finding faces and making filter banks
stay in Python. Each file carries the checkpoint's configuration, so input sizes and labels travel
along, and none gets its name before it was compared with PyTorch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.checkpoints.checkpoint import Checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.portable import make_probe
from hicmae.emotion import EmotionModel
from hicmae.files import whole_file

TOLERANCE = 1e-4  # absolute, float32, of logits
_PROBE_CLIPS = 3  # not the number of clips that the network is traced with


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how it compares with the network in PyTorch on the probe's clips."""

    num_bytes: int
    difference: float  # largest absolute one of a logit
    agreement: float  # share of the clips with the same largest logit
    size_ratio: float  # to the float32 weights


def export_torch(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write a ``.pt2`` for ``torch.export.load``; it holds ``config.json`` as an extra file."""
    network = _predictor(checkpoint)
    program = torch.export.export(
        network, network.example(2), dynamic_shapes=network.dynamic_shapes(), strict=False
    )
    # Not to the file itself: where the disk is full its writer ends the process (PyTorch 2.14).
    held = io.BytesIO()
    torch.export.save(program, held, extra_files={"config.json": _config_text(checkpoint)})
    with whole_file(out, suffix=".pt2") as path:
        path.write_bytes(held.getbuffer())
        with _quiet():
            loaded = torch.export.load(path).module()
        return _compare(network, loaded, path, out, tolerance=TOLERANCE)


def export_onnx(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write an ``.onnx``, checked in onnxruntime against PyTorch.

    Its metadata holds the configuration under ``hicmae``.

    Raises: ValueError: onnx, onnxruntime or onnxscript is absent, or the outputs differ.
    """
    _need_onnx()
    network = _predictor(checkpoint)
    with whole_file(out, suffix=".onnx") as path:
        _write_onnx(network, checkpoint, path)
        return _compare(network, _onnx_runner(path), path, out, tolerance=TOLERANCE)


def export_onnx_int8(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write an ``.onnx`` whose matrix products are int8 on a CPU, and measure what that costs.

    Weights are int8, one scale for each output; activations are scaled as they come (dynamic
    quantisation), with a scale for each clip: what is said of one does not depend on those beside
    it. The loss is measured and returned, not bounded.

    Raises: ValueError: onnx, onnxruntime or onnxscript is absent.
    """
    _need_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    network = _predictor(checkpoint)
    with whole_file(out, suffix=".onnx") as path:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
            whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
            _write_onnx(network, checkpoint, whole)
            quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantize_dynamic(prepared, path, per_channel=True, weight_type=QuantType.QInt8)
        _run_clip_by_clip(path)
        _put_config(path, checkpoint)
        return _compare(network, _onnx_runner(path), path, out, tolerance=None)


class _Predictor(nn.Module):
    """A network with exactly the inputs it reads, in a fixed order."""

    def __init__(self, network: EmotionModel) -> None:
        super().__init__()
        self.network = network
        names = {"audio-video": ("video", "fbank"), "video": ("video",), "audio": ("fbank",)}
        self.names = names[network.emotion.modalities]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (B, num_outputs) of the inputs in ``names``."""
        given = dict(zip(self.names, inputs, strict=True))
        return self.network(given.get("video"), given.get("fbank"))

    def example(self, num_clips: int) -> tuple[Tensor, ...]:
        probes = [make_probe(self.network, seed=seed) for seed in range(num_clips)]
        return tuple(torch.cat([probe[f"input.{name}"] for probe in probes]) for name in self.names)

    def dynamic_shapes(self) -> tuple[tuple[dict[int, Any], ...]]:
        """The number of clips may be any."""
        batch = torch.export.Dim("batch", min=1)
        return (tuple({0: batch} for _ in self.names),)


def _predictor(checkpoint: Checkpoint) -> _Predictor:
    network = build_network(checkpoint)
    if not isinstance(network, EmotionModel):
        raise ValueError(
            f"{checkpoint.path}: is a pretrained network, which has no labels; fine-tune it first, "
            "or use --format reference"
        )
    return _Predictor(network).eval()


@torch.no_grad()
def _compare(
    network: _Predictor,
    other: Callable[..., Tensor],
    file: Path,
    out: Path,
    *,
    tolerance: float | None,
) -> Exported:
    """Compare an export, ``other``, with the network on several clips, and on one.

    Raises: ValueError: a logit differs by more than the tolerance; without one it is measured only.
    """
    clips = network.example(_PROBE_CLIPS)
    wanted, found = network(*clips), other(*clips)
    alone = other(*(item[:1] for item in clips))
    differences = [(found - wanted).abs().max().item(), (alone - wanted[:1]).abs().max().item()]
    difference = max(differences)
    if not all(value == value for value in differences) or (
        tolerance is not None and difference > tolerance
    ):
        raise ValueError(
            f"{out}: the exported network's logits differ from PyTorch's by {difference:.2g}"
            f"{'' if tolerance is None else f' (at most {tolerance:g})'}; not written"
        )
    floats = 4 * sum(value.numel() for value in network.state_dict().values())
    size = file.stat().st_size
    return Exported(
        num_bytes=size,
        difference=difference,
        agreement=(found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().item(),
        size_ratio=size / floats,
    )


def _write_onnx(network: _Predictor, checkpoint: Checkpoint, path: Path) -> None:
    with _quiet():
        program = torch.onnx.export(
            network,
            network.example(2),
            input_names=list(network.names),
            output_names=["logits"],
            dynamic_shapes=network.dynamic_shapes(),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)
    _put_config(path, checkpoint)


def _run_clip_by_clip(path: Path) -> None:
    """Put a network of clips (B, …) into a ``Scan`` over the first axis.

    ``DynamicQuantizeLinear`` takes one scale for a whole tensor: of a batch, clips would share it.
    """
    import onnx
    from onnx import helper

    model = onnx.load(path)
    graph = model.graph
    ends = [*graph.input, *graph.output]
    inner = {end.name: f"{end.name}.batch" for end in ends}  # within the loop, a batch of one
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    clips = []
    for end in ends:
        kind = end.type.tensor_type
        shape = [axis.dim_value for axis in kind.shape.dim][1:]
        clips.append(helper.make_tensor_value_info(f"{end.name}.clip", kind.elem_type, shape))
    count = len(graph.input)
    axis = helper.make_tensor("clip.axis", onnx.TensorProto.INT64, [1], [0])

    def reshape(kind: str, source: str, target: str) -> onnx.NodeProto:
        return helper.make_node(kind, [source, axis.name], [target])

    body = helper.make_graph(
        [
            *(reshape("Unsqueeze", f"{x.name}.clip", inner[x.name]) for x in graph.input),
            *graph.node,
            *(reshape("Squeeze", inner[x.name], f"{x.name}.clip") for x in graph.output),
        ],
        "clip",
        clips[:count],
        clips[count:],
        [*graph.initializer, axis],
    )
    scan = helper.make_node(
        "Scan",
        [end.name for end in graph.input],
        [end.name for end in graph.output],
        body=body,
        num_scan_inputs=count,
    )
    whole = helper.make_graph([scan], graph.name, list(graph.input), list(graph.output))
    model.graph.CopyFrom(whole)
    onnx.save(model, path)


def _put_config(path: Path, checkpoint: Checkpoint) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"hicmae": _config_text(checkpoint)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _onnx_runner(path: Path) -> Callable[..., Tensor]:
    """The same file as a function, run by onnxruntime on the CPU."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # its builds for some systems have it on
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _config_text(checkpoint: Checkpoint) -> str:
    return json.dumps({"kind": checkpoint.kind, **checkpoint.config})


def _need_onnx() -> None:
    """Refuse to begin what cannot be ended."""
    wanted = ("onnx", "onnxruntime", "onnxscript")
    absent = [name for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(
            f"export: {', '.join(absent)} not installed; pip install 'hicmae[export]' or "
            f"pip install {' '.join(absent)}"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and warnings about themselves from the terminal."""
    chatter, before = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(chatter),
            contextlib.redirect_stderr(chatter),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
