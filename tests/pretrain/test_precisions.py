"""Every engine in every precision, plain, compiled, recomputed and accumulated, beside fp32."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hicmae.settings import ModelConfig
from pretrain.settings import HardwareConfig
from pretrain.zero import check_engine, load_engine
from tests.support.pretrain_processes import Runs

# In such an order that ZeRO is compiled (see ``walk``) in one precision: tracing it takes ten
# seconds each.
ENGINES = ("ddp", "zero2", "single", "zero3", "zero1", "zero2_offload", "zero3_offload")
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")
# The clips of a step are the same: of two processes or of one, which accumulates those of both.
BATCHES = {"accumulated": (2, 2)}  # clips of a process's batch, batches; else four at once
WAYS = {
    "plain": (),
    "compiled": ("--hardware.compile", "true"),
    "recomputed": ("--hardware.recompute", "true"),
    "accumulated": (),
}
STEPS = 3  # of which the first has no learning rate


def walk() -> Iterator[tuple[str, str, str]]:
    """Each engine in each precision and each way, and each precision in each way."""
    for (i, engine), (j, precision) in itertools.product(enumerate(ENGINES), enumerate(PRECISIONS)):
        yield engine, precision, list(WAYS)[(i + j + 2) % len(WAYS)]


def is_refused(engine: str, precision: str, way: str) -> bool:
    """As a run is, before it makes anything."""
    settings = load_engine(engine, world_size=1 if engine == "single" else 2)
    hardware = HardwareConfig(compile=way == "compiled")
    with contextlib.suppress(ValueError):
        check_engine(settings, hardware, precision=precision, device=torch.device("cpu"))
        return False
    return True


def test_what_is_refused_is_what_cannot_be() -> None:
    """The lines themselves: test_plan.py."""
    for engine, precision, way in itertools.product(ENGINES, PRECISIONS, WAYS):
        wanted = "zero" in engine and precision == "16-mixed"
        wanted |= "zero3" in engine and way == "compiled"
        assert is_refused(engine, precision, way) == wanted, (engine, precision, way)


@pytest.mark.slow
def test_every_engine_trains_in_every_precision(
    tmp_path: Path, repository: Path, shallow_model_config: ModelConfig, many_shards: Path
) -> None:
    runs = Runs(tmp_path, repository, shallow_model_config, many_shards)
    runs.options += ["--steps", str(STEPS), "--log.health_every", "2"]

    def words(name: str, engine: str, precision: str, way: str) -> list[str]:
        alone = engine == "single"
        clips, batches = BATCHES.get(way, (4, 1))
        more = ("--data.batch_size", str(clips), "--accumulate", str(batches * (1 + alone)))
        more += ("--hardware.devices", "1" if alone else "2", "--hardware.strategy", engine)
        return runs.words(name, *more, "--precision", precision, *WAYS[way])

    tried = [run for run in walk() if not is_refused(*run)]
    assert len(tried) > 20
    try:
        for alone in (True, False):
            chosen = {" ".join(run): run for run in tried if (run[0] == "single") == alone}
            if alone:  # and what all are compared with
                chosen |= {way: ("single", "32-true", way) for way in ("plain", "accumulated")}
            runs.in_turn(
                [words(name, *run) for name, run in chosen.items()], processes=1 if alone else 2
            )
    finally:
        runs.end()
    wrong = []
    for engine, precision, way in tried:
        found = runs.rows(f"{engine} {precision} {way}")
        wanted = runs.rows("accumulated" if way == "accumulated" else "plain")
        exact = precision == "32-true"
        limits = {"loss": 1e-5 if exact else 0.03, "gradient_norm": 1e-3 if exact else 0.2}
        if precision == "16-mixed":  # leaves out steps until its scale fits
            found, wanted, limits = found[:2], wanted[:2], {"loss": limits["loss"]}
        for row, right in zip(found, wanted, strict=True):
            for column, limit in limits.items():
                one, other = float(row[column]), float(right[column])
                if not math.isclose(one, other, rel_tol=limit):
                    wrong.append(f"{engine} {precision} {way}: {column} {one:.4g} and {other:.4g}")
    assert not wrong, "\n".join(wrong)
