"""The published recipe and its ablations, as the command line resolves them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hicmae.__main__ import VERBS
from hicmae.cli import make_parser
from hicmae.config import choose_model, config_root, load_model_config, load_yaml
from pretrain.settings import PretrainConfig, count_steps

CLIPS = 1_091_581  # usable ones of VoxCeleb2's development set
ABLATIONS = sorted((config_root() / "pretrain" / "ablations").glob("*.yaml"))


def resolved(*files: str) -> dict[str, Any]:
    words = ["--data.shards", "x", "--out", "y"]
    for file in files:
        words += ["--config", f"configs/pretrain/{file}"]
    return make_parser("pretrain", VERBS["pretrain"]).keywords(words)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_the_published_recipe_takes_the_published_steps_and_rates(size: str) -> None:
    """Its other numbers: tests/test_published.py."""
    found = resolved(f"voxceleb2_{size}.yaml")
    names = [item.name for item in fields(PretrainConfig)]
    settings = {name: found[name] for name in names} | {"model": choose_model(found["model"])}
    config = PretrainConfig(**settings)
    assert config.model == load_model_config(size)
    assert found["device"] == "cuda"
    optimizer = found["optimizer"]
    counts = count_steps(config, num_clips=CLIPS, world_size=found["hardware"].devices)
    assert (counts.global_batch, counts.num_steps, counts.warmup_steps) == (160, 682_200, 34_110)
    assert optimizer.learning_rate * counts.global_batch / 256 == pytest.approx(1.875e-4)
    assert optimizer.min_learning_rate * counts.global_batch / 256 == pytest.approx(6.25e-6)


@pytest.mark.parametrize("path", sorted((config_root() / "pretrain").glob("*.yaml")))
def test_a_recipe_for_gpus_says_which_can_run_it(path: Path) -> None:
    """The published one was run on GPUs for which today's wheels of torch have no code."""
    if load_yaml(path).get("device") == "cuda":
        head = path.read_text(encoding="utf-8").split("# Expect:")[0]
        assert re.search(r"compute capability \d\.\d \(\w+\) or newer", head)


@pytest.mark.parametrize("path", ABLATIONS, ids=[path.stem for path in ABLATIONS])
def test_an_ablation_is_a_few_lines_over_any_size(path: Path) -> None:
    data = load_yaml(path)
    changed = sum(len(value) if isinstance(value, dict) else 1 for value in data.values())
    assert 1 <= changed <= 3
    for size in ("tiny", "base"):
        plain = resolved(f"voxceleb2_{size}.yaml")
        found = resolved(f"voxceleb2_{size}.yaml", f"ablations/{path.name}")
        differing = [name for name in plain if plain[name] != found[name]]
        assert differing == ["config"] * ("config" in plain) + list(data)
        for name, value in data.items():
            for key, setting in value.items() if isinstance(value, dict) else ():
                wanted = tuple(setting) if isinstance(setting, list) else setting
                assert getattr(found[name], key) == wanted


def test_the_long_run_is_scaled_by_the_rule() -> None:
    found = resolved("long_run.yaml")
    assert found["data"].batch_size * found["hardware"].devices == 1024
    base = resolved("voxceleb2_base.yaml")["optimizer"]
    assert found["optimizer"].learning_rate == base.learning_rate, "a base rate, for 256 clips"
