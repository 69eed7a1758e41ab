"""The bench for whoever has a GPU: every part of it runs here too, and what is wrong is told."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain import gpu_bench
from pretrain.gpu_bench import _judge_engine, bench_gpu
from pretrain.gpu_checks import Asked, Bench, FailedError, NotRunError


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("cpu", tmp_path, 60, Asked(("ddp",), ("32-true",), ("",), None), {})


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_its_figures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    small = {"engines": "single,ddp", "precisions": "32-true", "compile": False}
    status = bench_gpu(json=file, device="cpu", minutes=60, **small)
    said = capsys.readouterr().out
    assert status == 0, said
    found = json.loads(file.read_text())
    kinds = {name: verdict["kind"] for name, verdict in found["verdicts"].items()}
    assert {kinds.pop(name) for name in ("machine", "reference", "compiled")} == {"not run"}
    assert set(kinds.values()) == {"ok"}, said
    assert set(kinds) | {"machine"} == set(found) - {"verdicts"}
    assert found["engines"] == {"single 32-true": "ok", "ddp 32-true": "ok"}
    assert found["parity"]["32-true gradient"] < 1e-5 < found["parity"]["bf16-mixed gradient"]
    assert found["negatives"]["processes"] == 2
    assert [row["clips"] for row in found["steps"]] == [2, 4]
    assert found["steps"][0]["operators"] > 1000
    assert 4 < found["resume"]["killed_after"] < 10
    for name in found["verdicts"]:
        assert f"\n{name}: " in f"\n{said}"


def test_a_part_that_crashes_or_stands_still_is_told_and_ends_alone(bench: Bench) -> None:
    with pytest.raises(FailedError, match="ended with 3"):
        bench.run(os._exit, 3)
    with pytest.raises(FailedError, match="ValueError: "):
        bench.run(math.sqrt, -1)
    job = bench.start(time.sleep, 60)
    with pytest.raises(FailedError, match="stood still"):
        job.wait(0.2)
    assert not job.process.is_alive()
    with pytest.raises(NotRunError, match="no time was left"):
        bench.left(1000)
    with bench:
        job = bench.start(time.sleep, 60)
    assert not job.process.is_alive()


@pytest.mark.parametrize("error", [0.5, math.nan])
def test_a_wrong_answer_is_a_failure(
    error: float, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_, **__: {"bf16-mixed logits": error})
    with pytest.raises(FailedError, match=r"bf16-mixed logits (0\.5|nan) \(at most 0\.03\)"):
        gpu_bench._parity(bench)


def test_an_engine_is_judged_by_its_first_steps(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.csv").write_text("step,loss,gradient_norm\n1,2.0,0.50\n")
    words = ["pretrain", "--out", str(out)]

    def judged(name: str, norm: float, **ended: Any) -> str:
        rows = [{"step": 1.0, "loss": 2.001, "gradient_norm": norm}]
        return _judge_engine(name, {"status": 0, "said": "why"} | ended, words, rows)

    assert judged("zero1 32-true", 0.501) == "ok"
    assert judged("zero1 32-true", 0.7).startswith("failed: step 1 gradient_norm 0.5 instead of")
    assert judged("zero1 16-mixed", 0.7) == "ok"
    assert judged("zero1 bf16-mixed", 0.7).startswith("failed")
    assert judged("zero1 16-mixed", 0.5, status=2) == "refused: why"
    assert judged("zero1 16-mixed", 0.5, status=1) == "failed: why"


def test_parts_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="parts = speed: unknown"):
        bench_gpu(parts="machine,speed")
