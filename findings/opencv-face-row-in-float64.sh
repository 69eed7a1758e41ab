#!/usr/bin/env bash
# OpenCV's FaceRecognizerSF.alignCrop takes a face in float64 and cuts out something else.
#
# One would guess: a row of numbers (box and five landmarks) gives the same face whether NumPy holds
# it as float32, as FaceDetectorYN returns it, or as float64, NumPy's usual type; or float64 is an
# error, as OpenCV says it elsewhere of a type that it does not take.
# What happens: the bytes are read as float32 whatever they are. Of float64 every other number is
# then the low half of its neighbour; the picture that is cut out has nothing of the face, without an
# error or a warning, and whatever is compared afterwards compares that.
# Versions: opencv-python-headless 4.14.0.94, numpy 2.4.6, onnx 1.23.2 (writes a small network with
# the input and output of SFace, since making a FaceRecognizerSF needs one; it is not run here).
# Why it matters here: boxes that were smoothed, scaled or read from a table are float64, so faces
# would be joined, or kept apart, by nothing. hicmae/media/identity.py hands over float32, with a
# test.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'opencv-python-headless==4.14.0.94' 'numpy==2.4.6' 'onnx==1.23.2'

cat > show.py <<'PY'
import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

graph = helper.make_graph(
    [
        helper.make_node("GlobalAveragePool", ["data"], ["means"]),
        helper.make_node("Flatten", ["means"], ["fc1"]),
    ],
    "network",
    [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])],
    [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 3])],
)
opset = [helper.make_opsetid("", 11)]
onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=6), "network.onnx")
recognizer = cv2.FaceRecognizerSF.create("network.onnx", "")

picture = np.zeros((320, 320, 3), dtype=np.uint8)
picture[60:220, 80:240] = 255  # the face and somewhat more
box = [100, 80, 112, 112]
landmarks = [138, 132, 174, 132, 156, 152, 142, 172, 170, 172]
row = np.array([box + landmarks], dtype=np.float32)
crops = {kind: recognizer.alignCrop(picture, row.astype(kind)) for kind in ("float32", "float64")}
print(f"opencv {cv2.__version__}, numpy {np.__version__}")
for kind, crop in crops.items():
    share = (crop == 255).mean()
    print(f"row in {kind}: picture of {crop.shape}, {share:.0%} of it from where the face is")
PY
venv/bin/python show.py | tee out
grep -q 'row in float32: picture of (112, 112, 3), 100% of it' out
grep -Eq 'row in float64: picture of \(112, 112, 3\), [0-9]{1,2}% of it' out
