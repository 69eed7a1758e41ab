"""A fine-tuned network as a file that other programs run: ``torch.export``, ONNX, int8 ONNX.

For: normalised clips in, logits out, any number of clips at once. Each file carries the
checkpoint's configuration, so input sizes and labels travel along. Not for: finding faces or
making filter banks, which stay in Python.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hicmae.checkpoint import Checkpoint
from hicmae.checkpoints.predictor import Exported, Predictor, compare, predictor, quiet, written

TOLERANCE = 1e-4  # absolute, float32, of logits


def export_torch(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write a ``.pt2`` for ``torch.export.load``; it holds ``config.json`` as an extra file."""
    network = predictor(checkpoint)
    program = torch.export.export(
        network, network.example(2), dynamic_shapes=network.dynamic_shapes(), strict=False
    )

    def write(path: Path) -> None:
        torch.export.save(program, path, extra_files={"config.json": _config_text(checkpoint)})

    with written(out, write, suffix=".pt2") as path:
        with quiet():
            loaded = torch.export.load(path).module()
        return compare(network, loaded, path, out, tolerance=TOLERANCE)


def export_onnx(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write an ``.onnx``, checked in onnxruntime against PyTorch.

    Its metadata holds the configuration under ``hicmae``.

    Raises: ValueError: onnx, onnxruntime or onnxscript is absent, or the outputs differ.
    """
    _need_onnx()
    network = predictor(checkpoint)
    with written(out, lambda path: _write_onnx(network, checkpoint, path), suffix=".onnx") as path:
        return compare(network, _onnx_runner(path), path, out, tolerance=TOLERANCE)


def export_onnx_int8(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write an ``.onnx`` whose matrix products are int8 on a CPU, and measure what that costs.

    Weights are int8, one scale for each output; activations are scaled as they come (dynamic
    quantisation). The loss is measured and returned, not bounded.

    Raises: ValueError: onnx, onnxruntime or onnxscript is absent.
    """
    _need_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    network = predictor(checkpoint)

    def write(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, quiet():
            whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
            _write_onnx(network, checkpoint, whole)
            quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantize_dynamic(prepared, path, per_channel=True, weight_type=QuantType.QInt8)
        _put_config(path, checkpoint)

    with written(out, write, suffix=".onnx") as path:
        return compare(network, _onnx_runner(path), path, out, tolerance=None)


def _write_onnx(network: Predictor, checkpoint: Checkpoint, path: Path) -> None:
    """Trace the network and write it with its configuration."""
    with quiet():
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


def _put_config(path: Path, checkpoint: Checkpoint) -> None:
    """Write the configuration into the metadata of an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"hicmae": _config_text(checkpoint)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _onnx_runner(path: Path) -> Callable[..., Tensor]:
    """The same file as a function, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _config_text(checkpoint: Checkpoint) -> str:
    """The checkpoint's configuration as JSON."""
    return json.dumps({"kind": checkpoint.kind, **checkpoint.config})


def _need_onnx() -> None:
    """Refuse to begin what cannot be ended.

    Raises: ValueError: a library is absent.
    """
    wanted = ("onnx", "onnxruntime", "onnxscript")
    absent = [name for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(
            f"export: {', '.join(absent)} not installed; pip install 'hicmae[export]' or "
            f"pip install {' '.join(absent)}"
        )
