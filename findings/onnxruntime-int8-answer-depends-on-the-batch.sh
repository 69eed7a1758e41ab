#!/usr/bin/env bash
# Quantised to int8, a network says something else of a clip when a loud one is in its batch.
#
# One would guess: rows of a batch have nothing to do with one another; a network without batch
# norm gives each clip the same answer alone and in any company, also after `quantize_dynamic`.
# What happens: the activations of each matrix product are quantised with one scale for the whole
# batch. A clip beside one that is twenty times as loud is left with a few of the 256 steps: its
# logits change by 0.16, where the largest and the smallest of them are 0.86 apart. Alone, or beside
# clips of its own size, it loses 0.01, which is how such a file is usually compared.
# Versions: onnxruntime 1.22.1, onnx 1.18.0. Python 3.11, CPU.
# Why it matters here: windows of a recording are answered in batches, quiet ones beside loud ones,
# and a result would depend on the batch size. hicmae/checkpoints/export.py has the exported network
# run clip by clip inside the file (tests/hicmae/test_checkpoints_export.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'onnxruntime==1.22.1' 'onnx==1.18.0' 'numpy==2.3.4'

cat > show.py <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
draws = np.random.default_rng(0)
weights = {
    "first": draws.normal(size=(64, 128)).astype(np.float32) / 8,
    "second": draws.normal(size=(128, 4)).astype(np.float32) / 11,
}
nodes = [
    helper.make_node("MatMul", ["clips", "first"], ["hidden"]),
    helper.make_node("Relu", ["hidden"], ["active"]),
    helper.make_node("MatMul", ["active", "second"], ["logits"]),
]
graph = helper.make_graph(
    nodes,
    "network",
    [helper.make_tensor_value_info("clips", TensorProto.FLOAT, ["batch", 64])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
    [numpy_helper.from_array(array, name) for name, array in weights.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.save(model, "float32.onnx")
quantize_dynamic("float32.onnx", "int8.onnx", weight_type=QuantType.QInt8)

clip, like, loud = draws.normal(size=(3, 1, 64)).astype(np.float32)
changes = {}
for name in ("float32", "int8"):
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])

    def answer(*batch):
        return session.run(None, {"clips": np.concatenate(batch)})[0][0]

    alone, beside, company = answer(clip), answer(clip, 20 * loud), answer(clip, like)
    changes[name] = [float(np.abs(other - alone).max()) for other in (company, beside)]
    print(f"{name}: alone {alone.round(3)}, beside a loud one {beside.round(3)}")
    print(f"  largest change beside one of its size {changes[name][0]:.4f}, a loud one", end=" ")
    print(f"{changes[name][1]:.4f}")
assert max(changes["float32"]) < 1e-5
assert changes["int8"][0] < 0.02 < 0.05 < changes["int8"][1]
print("as described")
PY
venv/bin/python show.py 2>log || { cat log; exit 1; }
