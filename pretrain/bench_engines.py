"""What each engine's step costs: the part of ``hicmae bench step`` that ``--engines`` asks for.

For: starting an engine's processes on this machine, collecting what they measured, and setting it
beside what the ZeRO paper says it should be. Not for: the step in each process
(``pretrain/bench_worker.py``), nor the formulas (``pretrain/footprint.py``,
``pretrain/bench_traffic.py``).
"""

from __future__ import annotations

import json
import multiprocessing
import re
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.bench_traffic import expected_sent_bytes
from pretrain.bench_worker import Work, work
from pretrain.engines import EngineConfig, load_engine
from pretrain.footprint import model_states, weight_width

_GRACE_SECONDS = 15.0  # for the others, when one process has failed


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """What is trained, whichever the engine.

    Attributes:
        model: Sizes.
        objective: Masks and ablations.
        augment: Random changes to the clips.
        batch_size: Clips of each process.
        steps: Measured steps.
        warmup: Steps before them, at least one.
        precision: Lightning's name.
        accelerator: cpu or cuda.
    """

    model: ModelConfig
    objective: ObjectiveConfig
    augment: AugmentConfig
    batch_size: int
    steps: int
    warmup: int
    precision: str
    accelerator: str

    def check(self, engines: Sequence[str], processes: int) -> None:
        """Refuse what cannot run here.

        Raises: ValueError: an unknown engine, or fewer GPUs than processes.
        """
        for name in engines:
            load_engine(name, world_size=_world_size(name, processes))
        found = torch.cuda.device_count()
        shared = any(_world_size(name, processes) > 1 for name in engines)
        if self.accelerator == "cuda" and shared and found < processes:
            raise ValueError(
                f"engines: {processes} processes need as many GPUs (found {found}); take "
                "--accelerator cpu, or fewer with --processes"
            )


def bench_engines(
    bench: EngineBench, engines: Sequence[str], *, processes: int
) -> dict[str, dict[str, Any]]:
    """Measure the step of each engine.

    Args:
        bench: What is trained.
        engines: Names or files.
        processes: Of every engine but ``single``.

    Returns: by engine, ``step_seconds`` (median, of the slowest process), ``processes``,
        ``kept_bytes`` and ``expected_kept_bytes`` of ``weights``, ``gradients`` and ``optimizer``
        of the process that keeps most, ``sent_bytes`` and ``expected_sent_bytes`` of a process,
        ``collectives`` by name.

    Raises: ValueError: a process failed; its last words.
    """
    with torch.device("meta"):
        network = HiCMAE(bench.model, bench.objective)
    sizes = [parameter.numel() for parameter in network.parameters()]
    found = {}
    for name in engines:
        world_size = _world_size(name, processes)
        engine = load_engine(name, world_size=world_size)
        width = weight_width(engine, bench.precision)
        small = sum(size for size in sizes if size < engine.persistent_elements)
        states = model_states(
            sum(sizes),
            engine,
            precision=bench.precision,
            world_size=world_size,
            num_whole=small if engine.stage == 3 else 0,
        )
        parts = _run(name, engine, bench, world_size)
        found[name] = {
            "processes": world_size,
            "step_seconds": max(statistics.median(part["seconds"]) for part in parts),
            "kept_bytes": {
                kind: max(part["kept_bytes"][kind] for part in parts) for kind in states
            },
            "expected_kept_bytes": states,
            "sent_bytes": max(part["sent_bytes"] for part in parts),
            "expected_sent_bytes": round(
                expected_sent_bytes(
                    engine,
                    width * sum(sizes),
                    whole_bytes=width * small,
                    gathered_bytes=width * engine.gathered_elements,
                )
            ),
            "collectives": parts[0]["collectives"],
        }
    return found


def print_engines(found: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Show a line for each engine: measured, and in brackets what it should be."""
    table = Table(title="engines: measured (expected), MiB of the process with most")
    for name in ("engine", "processes", "step ms", "weights", "gradients", "optimizer", "sent"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for name, row in found.items():
        kept, expected = row["kept_bytes"], row["expected_kept_bytes"]
        table.add_row(
            Path(name).stem,
            str(row["processes"]),
            f"{1000 * row['step_seconds']:.0f}",
            *(f"{_mib(kept[kind])} ({_mib(expected[kind])})" for kind in kept),
            f"{_mib(row['sent_bytes'])} ({_mib(row['expected_sent_bytes'])})",
        )
    console.print(table)
    console.print(
        "expected after ZeRO, arXiv 1910.02054, sections 5 and 7: optimizer, gradients and weights "
        "over the processes from stage 1, 2 and 3 on (at stage 1 DeepSpeed drops the others' "
        "gradients too, once they are sent); sent a step: 2 x the weights, 3 x at stage 3 "
        "but for those that stay whole from forward to backward (gathered_elements). "
        "Processes on one CPU share its cores: their steps take as many times one's."
    )


def _run(
    name: str, engine: EngineConfig, bench: EngineBench, world_size: int
) -> list[dict[str, Any]]:
    """Start an engine's processes and wait for them."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as folder:
        task = Work(
            engine=engine,
            world_size=world_size,
            port=_free_port(),
            model=bench.model,
            objective=bench.objective,
            augment=bench.augment,
            batch_size=bench.batch_size,
            warmup=bench.warmup,
            steps=bench.steps,
            precision=bench.precision,
            accelerator=bench.accelerator,
            folder=Path(folder),
        )
        running = [
            context.Process(target=work, args=(task, rank), daemon=True)
            for rank in range(world_size)
        ]
        try:
            for process in running:
                process.start()
            failed = _wait(running)
        finally:
            for process in running:
                if process.is_alive():
                    process.kill()
                    process.join()
        if failed is not None:
            raise ValueError(
                f"engine {name}: process {failed} of {world_size} ended with status "
                f"{running[failed].exitcode}: {_last_line(Path(folder, f'process-{failed}.log'))}"
            )
        return [
            json.loads(Path(folder, f"process-{rank}.json").read_text(encoding="utf-8"))
            for rank in range(world_size)
        ]


def _wait(running: Sequence[Any]) -> int | None:
    """Wait until all have ended; the first that failed, if one did."""
    deadline = None
    failed = None
    while any(process.is_alive() for process in running):
        time.sleep(0.05)
        for rank, process in enumerate(running):
            if failed is None and process.exitcode:
                failed, deadline = rank, time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            break
    for rank, process in enumerate(running):
        if failed is None and process.exitcode:
            failed = rank
    return failed


def _last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it said nothing"


def _world_size(name: str, processes: int) -> int:
    """Processes of an engine; a file that says ``single`` is one too."""
    alone = name == "single" or (
        Path(name).is_file() and re.search(r"^kind:\s*single", Path(name).read_text(), re.M)
    )
    return 1 if alone else processes


def _free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _mib(count: float) -> str:
    return f"{count / 2**20:.2f}"
