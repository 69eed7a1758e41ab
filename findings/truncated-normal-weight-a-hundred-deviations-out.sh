#!/usr/bin/env bash
# A vision transformer's first weights hold a few of -2, where their deviation is 0.02.
#
# One would guess: weights that are drawn "truncated normal, 0.02", as every network of this field
# begins, lie within a few hundredths; that is what the truncation is for.
# What happens: `trunc_normal_(weight, std=0.02)` cuts at its default of -2 and 2, a hundred
# deviations out, which cuts nothing. Its values are made of uniform ones by the inverse error
# function, and a uniform one at the end of its range (float32 has 2^24 of them, so once in 17 million
# weights) becomes minus infinity, which the cut turns into exactly -2. A ViT-B has 85 million weights
# of linear layers and up to five of these; the next largest is 0.11. Nothing warns.
# Versions: torch 2.11.0 (`torch.nn.init.trunc_normal_`; 2.14.1 draws otherwise, and its largest is
# 0.11) and timm 1.0.31 (`timm.layers.trunc_normal_`, its own copy, with any torch). Python 3.11, CPU.
# Why it matters here: networks that are fine-tuned from scratch were drawn so, and of those of three
# sizes at six seeds 16 of 18 began with up to seven such weights. hicmae/blocks.py draws the same
# values and cuts at six deviations (tests/hicmae/test_blocks.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'torch==2.11.0' 'torchvision==0.26.0' 'timm==1.0.31' 'numpy==2.3.4'

cat > show.py <<'PY'
import timm
import torch
from timm.layers import trunc_normal_

print(f"torch {torch.__version__.partition('+')[0]}, timm {timm.__version__}")


def far_out(name, weights):
    """Print and return those beyond ten deviations."""
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    far = sizes[sizes > 0.2].tolist()
    largest = sizes[sizes <= 0.2].max()
    print(f"{name}: {len(sizes):,} weights, beyond 0.2: {far}, largest of the others {largest:.4f}")
    return far


found = []
for seed in range(5):
    torch.manual_seed(seed)
    vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    layers = [layer.weight for layer in vit.modules() if isinstance(layer, torch.nn.Linear)]
    found.append(far_out(f"timm's ViT-B, seed {seed}", layers))
assert sum(map(bool, found)) == 4, "changed"
for name, draw in (("torch's", torch.nn.init.trunc_normal_), ("timm's", trunc_normal_)):
    torch.manual_seed(0)
    found.append(far_out(f"{name} trunc_normal_", [draw(torch.empty(85_000_000), std=0.02)]))
    assert found[-1], "changed"
assert {value for values in found for value in values} == {2.0}, "changed"
PY
venv/bin/python show.py
