#!/usr/bin/env bash
# After ZeRO 3 was set up once, networks that are compiled in the same process do not learn.
#
# One would guess: `deepspeed.zero.Init` concerns the modules that are made inside of it; a network
# made and compiled afterwards is one of PyTorch's, and its gradients are those of the plain network.
# What happens: the context replaces `torch.nn.functional.linear` for the whole process, and leaves
# it replaced when it is left. The function that stands there is a custom autograd function; plain
# networks have the right gradients with it, but of a compiled one all weights and biases of linear
# layers get gradients of exactly zero, with any backend of `torch.compile`, without an error or a
# warning.
# Versions: DeepSpeed 0.19.8 with torch 2.11.0, Python 3.11, CPU, gloo. With torch 2.13.0 the
# gradients are right.
# Why it matters here: in a notebook, or in a bench that tries one engine after another, the run
# after one with ZeRO 3 would end with the weights it began with. The strategy in pretrain/zero.py
# puts PyTorch's function back when a run ends; tests/pretrain/test_precisions.py compiles after it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'deepspeed==0.19.8' 'numpy==2.3.4' 'setuptools==80.9.0'

cat > show.py <<'PY'
import os

os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}

import deepspeed
import torch

# Nothing is to be built with a C++ compiler, which has no part in it.
deepspeed.ops.__compatible_ops__[deepspeed.ops.op_builder.cpu.ShareMemCommBuilder.NAME] = False


def gradients(backend=None):
    """Norm of each parameter's gradient, of a network that is made here."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    torch.compiler.reset()
    call = network if backend is None else torch.compile(network, backend=backend)
    call(torch.randn(2, 5, 8)).square().mean().backward()
    return [round(float(p.grad.norm()), 4) for p in network.parameters()]


print(f"torch {torch.__version__.partition('+')[0]}, deepspeed {deepspeed.__version__}")
plain = gradients()
print("before, plain:   ", plain)
print("before, compiled:", compiled := gradients("aot_eager"))
own = torch.nn.functional.linear
deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
stage3 = {"train_batch_size": 1, "zero_optimization": {"stage": 3}}
with deepspeed.zero.Init(config_dict_or_path=stage3):
    torch.nn.Linear(4, 4)
print("linear is PyTorch's own again:", torch.nn.functional.linear is own)
print("after, plain:    ", after := gradients())
lost = {backend: gradients(backend) for backend in ("eager", "aot_eager")}
for backend, found in lost.items():
    print(f"after, compiled ({backend}):", found)
torch.nn.functional.linear = own
print("put back:        ", restored := gradients("aot_eager"))
assert plain == compiled == after == restored
assert min(plain) > 0
assert all(value == 0 for found in lost.values() for value in found)
PY
venv/bin/python show.py 2>log | grep -v -e WARNING -e INFO -e Gloo | tee out || { cat log; exit 1; }
grep -q "own again: False" out
grep -q "put back" out
