"""``hicmae bench gpu``: everything that has to be seen on a GPU, by one command, without data.

Each part runs in processes of its own, whose crash or standstill is a verdict and not the end of
the others. What they do is ``pretrain.gpu_checks`` and the other benches.
"""

from __future__ import annotations

import itertools
import json as json_format
import math
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pretrain.gpu_checks import (
    LIMITS,
    Setup,
    engine_runs,
    machine,
    negatives,
    parity,
    read_rows,
    steps,
)

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from rich.console import Console

_ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")
# What this project wants of a GPU: a share of the product's speed, from so many clips on.
_WANTED_SHARE, _WANTED_CLIPS = 0.3, 64
_STALL_SECONDS = 120
_SAVED_EVERY = 4


class Verdict(NamedTuple):
    """What came of a part; ``missed`` is a target, ``failed`` is wrong."""

    kind: Literal["ok", "missed", "failed", "not run"]
    text: str


class _NotRunError(Exception):
    """Something that a part needs is not here."""


class _FailedError(Exception):
    """A part has crashed, stood still, or given a wrong answer."""


def bench_gpu(
    *,
    json: Path | None = None,
    device: str = "auto",
    parts: str = "all",
    engines: str = ",".join(_ENGINES),
    precisions: str = ",".join(_PRECISIONS),
    minutes: float = 9.0,
    against: Path | None = None,
) -> int:
    """Measure and check everything that needs a GPU, and print a table and a verdict a line.

    Needs no data and no network. On a CPU every part runs too, small, and no target is judged.
    What there was no time for, or what is not here, is named as not run.

    Args:
        json: File for the figures; written after each part.
        device: auto, cuda or cpu.
        parts: Which, separated by commas: machine, parity (answers beside fp64's), negatives
            (global ones over all GPUs), engines (two steps of each engine in every precision,
            compiled and not, beside one process in fp32), resume (killed and resumed), steps
            (speed, launches, waits and memory of each size), loader, finetune, predict, reference.
        engines: Of these engines, names out of configs/engines.
        precisions: In these precisions.
        minutes: Most that all takes.
        against: A checkout of the authors' code, for the part reference: its step turn about with
            ours.

    Returns: 0, or 1 if a part has failed. The file has ``verdicts`` by part and each part's
        figures under its name.

    Raises: ValueError: no such part, engine, precision or device.
    """
    from rich.console import Console

    from hicmae.devices import choose_device
    from hicmae.files import write_json

    chosen = _chosen("parts", parts, tuple(_PARTS))
    asked = _Asked(
        _chosen("engines", engines, _ENGINES),
        _chosen("precisions", precisions, _PRECISIONS),
        against,
    )
    # Of those that are killed; nobody is to be told.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    console = Console(highlight=False, soft_wrap=True)
    place = choose_device(device)
    figures: dict[str, Any] = {"verdicts": {}}
    with tempfile.TemporaryDirectory(prefix="hicmae-gpu-") as folder:
        bench = _Bench(place.type, Path(folder), minutes * 60, asked, figures)
        for name in chosen:
            began = time.monotonic()
            try:
                bench.left(5)
                verdict = _PARTS[name](bench)
            except _NotRunError as error:
                verdict = Verdict("not run", str(error))
            except _FailedError as error:
                verdict = Verdict("failed", str(error))
            figures["verdicts"][name] = {
                **verdict._asdict(),
                "seconds": round(time.monotonic() - began, 1),
            }
            console.print(f"{name}: {verdict.kind}: {verdict.text}")
            if json is not None:
                write_json(json, figures)
    _print(figures, console)
    return int(any(found["kind"] == "failed" for found in figures["verdicts"].values()))


class _Asked(NamedTuple):
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    against: Path | None


class _Bench:
    """Starts what parts need, within the time that is left.

    Attributes:
        figures: Of the parts so far, by name.
        setup: For the checks.
    """

    def __init__(
        self, device: str, folder: Path, seconds: float, asked: _Asked, figures: dict[str, Any]
    ) -> None:
        import torch

        self.figures = figures
        self.folder = folder
        self.asked = asked
        self.on_gpu = device == "cuda"
        gpus = torch.cuda.device_count() if self.on_gpu else 0
        self.setup = Setup(
            device=device, processes=gpus or 2, model="base" if self.on_gpu else "demo"
        )
        self._deadline = time.monotonic() + seconds
        self._numbers = itertools.count()
        # A fork has everything imported, but where the first process has so much as looked for a
        # GPU, CUDA fails in its forks.
        self._context: Any = multiprocessing.get_context("spawn" if self.on_gpu else "forkserver")
        if not self.on_gpu:
            self._context.set_forkserver_preload(
                ["pretrain.run", "pretrain.bench", "pretrain.zero"]
            )

    def left(self, least: float) -> float:
        """Seconds that are left; a part is not run where they are fewer than ``least``."""
        left = self._deadline - time.monotonic()
        if left < least:
            raise _NotRunError("no time was left (--minutes)")
        return left

    def start(self, work: Callable[..., Any], *arguments: Any) -> _Job:
        """Call a function of a module in a process of its own."""
        base = self.folder / f"job-{next(self._numbers)}"
        process = self._context.Process(target=_call, args=(base, work, arguments))
        process.start()
        return _Job(process, base)

    def run(self, work: Callable[..., Any], *arguments: Any, limit: float = 120) -> Any:
        """What it returns."""
        job = self.start(work, *arguments)
        job.wait(self.limited(limit))
        return job.result()

    def limited(self, seconds: float) -> float:
        """So long a wait, but no longer than is left; a CPU is shared with who knows what."""
        return min(seconds if self.on_gpu else 10 * seconds, self.left(5))

    def command(self, *words: str, limit: float = 120) -> dict[str, Any]:
        """The figures of a bench, or nothing of another verb."""
        file = self.folder / f"command-{next(self._numbers)}.json"
        more = ["--json", str(file)] if words[0] == "bench" else []
        status = self.run(_main, [*words, *more], limit=limit)
        if status:
            raise _FailedError(f"hicmae {' '.join(words[:2])}: status {status}")
        return dict(json_format.loads(file.read_text())) if more else {}

    def together(self, work: Callable[..., Any], *arguments: Any) -> list[_Job]:
        """As many processes as there are GPUs, each told its number and a free port."""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        return [
            self.start(work, self.setup, rank, port, *arguments)
            for rank in range(self.setup.processes)
        ]

    def shards(self) -> Path:
        """Shards of drawn faces, made once."""
        from shards.bench import write_bench_shards

        folder = self.folder / "shards"
        if not folder.exists():
            write_bench_shards(folder, 48 if self.on_gpu else 16)
        return folder

    def pretraining(self, out: Path, steps: int, *more: str) -> list[str]:
        """The words of a run of a small network whose numbers are compared."""
        return [
            *("pretrain", "--model", "demo", "--data.shards", str(self.shards())),
            *("--out", str(out), "--steps", str(steps), "--data.batch_size", "4"),
            *("--optimizer.warmup_steps", "1", "--optimizer.learning_rate", "0.1", "--workers"),
            *("0", "--log.log_every", "1", "--log.pictures_every", "0", "--log.health_every", "0"),
            *("--log.progress", "false", "--wandb.mode", "disabled", "--device"),
            *(self.setup.device, "--hardware.timeout_seconds", "100", *more),
        ]


class _Job(NamedTuple):
    """A process; its log and what it returned are beside ``base``."""

    process: BaseProcess
    base: Path

    def wait(self, seconds: float) -> None:
        """Until it ends, and no longer than that."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            raise _FailedError(f"stood still, or took longer than {seconds:.0f} s")

    def kill(self) -> None:
        """End it and what it has started."""
        if self.process.pid and self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()

    def result(self) -> Any:
        if self.process.exitcode == 0:
            return json_format.loads(self.base.with_suffix(".json").read_text(encoding="utf-8"))
        raise _FailedError(self.said() or f"ended with {self.process.exitcode}")

    def said(self) -> str:
        """Its last line."""
        log = self.base.with_suffix(".log")
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        )
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _call(base: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    with base.with_suffix(".log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    value = work(*arguments)
    base.with_suffix(".json").write_text(json_format.dumps(value), encoding="utf-8")


def _main(words: Sequence[str]) -> int:
    from hicmae.__main__ import main

    return main(words)


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = known if text == "all" else tuple(name.strip() for name in text.split(","))
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{option} = {', '.join(wrong)}: unknown (known: {', '.join(known)})")
    return tuple(name for name in known if name in names)


def _machine(bench: _Bench) -> Verdict:
    found = bench.figures["machine"] = bench.run(machine, bench.setup)
    speeds = ", ".join(
        f"{value / 1e12:.3g} TFLOP/s in {name.removeprefix('product_flops_')}"
        for name, value in found.items()
        if name.startswith("product_flops")
    )
    text = f"{found['device']}, {found['cores']} cores, torch {found['torch']}; products {speeds}"
    if not bench.on_gpu:
        return Verdict("not run", f"no GPU is used: every part is small, no target judged; {text}")
    return Verdict("ok", f"{found['devices']} x {text}; compute capability {found['capability']}")


def _parity(bench: _Bench) -> Verdict:
    found = bench.figures["parity"] = bench.run(parity, bench.setup)
    worst: dict[str, tuple[float, str]] = {}
    wrong = []
    for name, error in found.items():
        precision, _, what = name.partition(" ")
        limits = LIMITS["32-true" if precision == "32-true" else "half"]
        limit = limits["gradient" if what == "gradient" else "value"]
        if not error <= limit:
            wrong.append(f"{name} {error:.2g} (at most {limit:g})")
        worst[precision] = max(worst.get(precision, (0.0, "")), (error, what))
    if wrong:
        raise _FailedError(f"{bench.setup.model} beside fp64 on the CPU: {'; '.join(wrong)}")
    said = ", ".join(f"{name} {error:.1e} ({what})" for name, (error, what) in worst.items())
    return Verdict("ok", f"{bench.setup.model} beside fp64 on the CPU, at most: {said}")


def _negatives(bench: _Bench) -> Verdict:
    count = bench.setup.processes
    if count == 1:
        raise _NotRunError("one GPU has no others to gather from")
    folder = bench.folder / "negatives"
    folder.mkdir()
    jobs = bench.together(negatives, folder)
    try:
        for job in jobs:
            job.wait(bench.limited(90))
            job.result()
    finally:
        for job in jobs:
            job.kill()
    errors = [json_format.loads(path.read_text()) for path in folder.glob("*.json")]
    found = {name: max(error[name] for error in errors) for name in ("value", "gradient")}
    bench.figures["negatives"] = {"processes": count, **found}
    text = f"{count} processes beside one: loss {found['value']:.1e}, gradient "
    text += f"{found['gradient']:.1e}"
    if not all(found[name] <= LIMITS["32-true"][name] for name in found):
        raise _FailedError(text)
    return Verdict("ok", text)


def _engines(bench: _Bench) -> Verdict:
    """Two steps each; several processes share the clips that one accumulates."""
    count, folder = bench.setup.processes, bench.folder / "engines"
    reference = folder / "reference"
    words = ("--hardware.strategy", "single", "--precision", "32-true", "--accumulate", str(count))
    bench.command(*bench.pretraining(reference, 2, "--hardware.devices", "1", *words))
    wanted = read_rows(reference)
    left = {}
    for compiled, precision, engine in itertools.product(
        (False, True), bench.asked.precisions, bench.asked.engines
    ):
        if engine != "single" or count == 1:
            name = f"{engine} {precision}{' compiled' if compiled else ''}"
            more = ["--hardware.devices", str(count), "--hardware.strategy", engine]
            more += ["--precision", precision, "--hardware.compile", str(compiled).lower()]
            left[name] = bench.pretraining(folder / name.replace(" ", "-"), 2, *more)
    outcomes: dict[str, str] = {}
    bench.figures["engines"] = outcomes
    while left:
        ended = _run_engines(bench, left)
        for name in list(left):
            if name in ended:
                outcomes[name] = _judge_engine(name, ended[name], left.pop(name), wanted)
        if left and "" in ended:  # all processes are gone: the next one ended them
            outcomes[next(iter(left))] = f"failed: {ended['']['said']}"
            del left[next(iter(left))]
        if left and bench.left(-math.inf) < _RESERVED:
            outcomes |= dict.fromkeys(left, "not run: no time was left")
            break
    kinds = [text.partition(":")[0] for text in outcomes.values()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    text = f"{count} processes beside one in fp32: {counts}"
    wrong = [f"{name}: {said}" for name, said in outcomes.items() if said.startswith("failed")]
    if wrong:
        raise _FailedError(f"{text}; {'; '.join(wrong)}")
    return Verdict("ok", text)


def _run_engines(bench: _Bench, runs: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """How each run ended; ``''`` is what the processes said that ended before all were made."""
    jobs = bench.together(engine_runs, list(runs.values()))
    files = {name: Path(words[words.index("--out") + 1]) for name, words in runs.items()}
    done, since = -1, time.monotonic()
    why = ""
    while any(job.process.is_alive() for job in jobs):
        time.sleep(0.2)
        count = sum(file.with_suffix(".0").exists() for file in files.values())
        if count != done:
            done, since = count, time.monotonic()
        broken = [job for job in jobs if job.process.exitcode not in (0, None)]
        if bench.left(-math.inf) < _RESERVED:
            break
        if time.monotonic() - since > bench.limited(_STALL_SECONDS):
            why = f"stood still for {time.monotonic() - since:.0f} s"
            break
        if broken and time.monotonic() - since > 15:  # what the others get to say so themselves
            break
    for job in jobs:
        job.kill()
    ended = {
        name: json_format.loads(file.with_suffix(".0").read_text())
        for name, file in files.items()
        if file.with_suffix(".0").exists()
    }
    if len(ended) < len(runs) and bench.left(-math.inf) >= _RESERVED:
        broken = [job for job in jobs if job.process.exitcode not in (0, -signal.SIGKILL)]
        ended[""] = {"said": why or (broken[0].said() if broken else "ended without a word")}
    return ended


def _judge_engine(
    name: str, ended: dict[str, Any], words: list[str], wanted: list[dict[str, float]]
) -> str:
    if ended["status"] == 2:
        return f"refused: {ended['said']}"
    if ended["status"]:
        return f"failed: {ended['said']}"
    found = read_rows(Path(words[words.index("--out") + 1]))
    limits = LIMITS["32-true" if "32-true" in name else "half"]
    columns = {"loss": limits["value"]}
    if "16-mixed" not in name or "bf16" in name:  # fp16 leaves out steps until its scale fits
        columns["gradient_norm"] = limits["gradient"]
    wrong = [
        f"step {row['step']:.0f} {column} {row[column]:.4g} instead of {right[column]:.4g}"
        for row, right in zip(found, wanted, strict=True)
        for column, limit in columns.items()
        if not abs(row[column] - right[column]) <= limit * abs(right[column])
    ]
    return f"failed: {'; '.join(wrong)}" if wrong else "ok"


def _resume(bench: _Bench) -> Verdict:
    """Kill a run between checkpoints; what goes on ends like one that was left alone."""
    folder, num_steps = bench.folder / "resume", 30 if bench.on_gpu else 10
    more = ["--hardware.devices", "1", "--log.checkpoint_every", str(_SAVED_EVERY)]
    more += ["--precision", "32-true"]
    bench.command(*bench.pretraining(folder / "whole", num_steps, *more))
    words = bench.pretraining(folder / "killed", num_steps, *more, "--resume")
    job = bench.start(_main, words)
    until = time.monotonic() + bench.limited(90)
    while len(read_rows(folder / "killed")) < _SAVED_EVERY + 1:
        if time.monotonic() > until or not job.process.is_alive():
            job.kill()
            raise _FailedError(f"the run to be killed did not get so far: {job.said()}")
        time.sleep(0.01)
    job.kill()
    done = len(read_rows(folder / "killed"))
    bench.command(*words)
    whole, found = read_rows(folder / "whole"), read_rows(folder / "killed")
    if [row["step"] for row in found] != [row["step"] for row in whole]:
        raise _FailedError("the resumed run has other steps than one that was left alone")
    error = max(
        abs(row["loss"] - right["loss"]) / right["loss"]
        for row, right in zip(found, whole, strict=True)
    )
    bench.figures["resume"] = {"killed_after": done, "steps": len(found), "loss_difference": error}
    text = f"killed after step {done} of {len(found)} and resumed: loss differs by {error:.1e}"
    if not error <= LIMITS["32-true"]["value"]:
        raise _FailedError(text)
    return Verdict("ok", text)


def _steps(bench: _Bench) -> Verdict:
    clips = [64, 8, 16, 32, 128] if bench.on_gpu else [2, 4]
    rows: list[dict[str, Any]] = []
    bench.figures["steps"] = rows
    wrong = []
    for model in ("tiny", "small", "base") if bench.on_gpu else ("demo",):
        file = bench.folder / f"steps-{model}.json"
        try:
            bench.run(steps, bench.setup, model, clips, file, limit=70)
        except _FailedError as error:
            wrong.append(f"{model}: {error}")
        finally:
            rows += json_format.loads(file.read_text()) if file.exists() else []
    if wrong:
        raise _FailedError("; ".join(wrong))
    text = f"{len(rows)} batches, see the table"
    if not bench.on_gpu:
        return Verdict("ok", text)
    low = [
        f"{row['model']} {row['clips']} clips {row['fraction_of_peak']:.0%}"
        for row in rows
        if row["clips"] >= _WANTED_CLIPS and row.get("fraction_of_peak", 1) < _WANTED_SHARE
    ]
    wish = f"{_WANTED_SHARE:.0%} of the product's speed from {_WANTED_CLIPS} clips on"
    if low:
        return Verdict("missed", f"{text}; {wish}: not {', '.join(low)}")
    return Verdict("ok", f"{text}; {wish}: reached")


def _loader(bench: _Bench) -> Verdict:
    from hicmae.prediction.bench import write_face_video

    media = bench.folder / "media"
    media.mkdir()
    write_face_video(media / "face.mp4", 6)
    words = ("--shards", str(bench.shards()), "--media", str(media), "--workers", "[0,1]")
    found = bench.command("bench", "loader", *words, "--seconds", "3" if bench.on_gpu else "0.5")
    bench.figures["loader"] = found
    each = found["clips_per_second"]
    text = f"{each:.0f} clips/s a reader, {found['raw_clips_per_second']:.1f} from video"
    rates = [row.get("clips_per_second", 0) for row in bench.figures.get("steps", ())]
    if not (rates and bench.on_gpu):
        return Verdict("ok", text)
    needed, cores = math.ceil(max(rates) / each), len(os.sched_getaffinity(0))
    here = cores // bench.setup.processes
    text += f"; the fastest step takes {needed} readers a GPU, of {here} cores"
    return Verdict("ok" if needed < here else "missed", text)


def _finetune(bench: _Bench) -> Verdict:
    size = ("base", "32") if bench.on_gpu else ("demo", "2")
    words = ("--model", size[0], "--batch_size", size[1], "--device", bench.setup.device)
    found = bench.command("bench", "finetune", *words, "--steps", "4", "--warmup", "2")
    bench.figures["finetune"] = found
    return Verdict(
        "ok",
        f"{size[0]}, {size[1]} clips: {found['clips_per_second']:.1f} clips/s, "
        f"{found['fraction_of_peak']:.0%} of the product's speed",
    )


def _predict(bench: _Bench) -> Verdict:
    model, seconds = ("base", "30") if bench.on_gpu else ("demo", "4")
    words = ("--model", model, "--seconds", seconds, "--faces", "none")
    found = bench.command("bench", "predict", *words, "--device", bench.setup.device)
    bench.figures["predict"] = found
    return Verdict(
        "ok",
        f"{model}: {found['realtime_factor']:.1f} times real time; of {seconds} s of video "
        f"decoding takes {found['decoding_seconds']:.2f} s, the network "
        f"{found['network_seconds']:.2f} s",
    )


def _reference(bench: _Bench) -> Verdict:
    if bench.asked.against is None:
        raise _NotRunError("no checkout of the authors' code is named (--against FOLDER)")
    raise _NotRunError("not yet")


_PARTS: dict[str, Callable[[_Bench], Verdict]] = {
    "machine": _machine,
    "parity": _parity,
    "negatives": _negatives,
    "steps": _steps,
    "resume": _resume,
    "loader": _loader,
    "finetune": _finetune,
    "predict": _predict,
    "reference": _reference,
    "engines": _engines,  # the rest of the time
}
_RESERVED = 5  # seconds for the table


def _print(figures: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(title="pretraining steps")
    launched = "launches" if "launches" in str(figures.get("steps")) else "operators"
    table.add_column("network")
    for name in ("clips", "clips/s", "share of product", "GiB", "estimated", launched, "waits"):
        table.add_column(name, justify="right")
    for row in figures.get("steps", ()):
        table.add_row(row["model"], str(row["clips"]), *_cells(row))
    if table.row_count:
        console.print(table)


def _cells(row: dict[str, Any]) -> Iterator[str]:
    if "clips_per_second" not in row:
        yield from ("out of memory", "", "")
    else:
        yield f"{row['clips_per_second']:.1f}"
        yield f"{row['fraction_of_peak']:.0%}"
        yield f"{row['peak_memory_bytes'] / 2**30:.2f}"
    yield f"{row['estimated_bytes'] / 2**30:.2f}"
    yield str(row.get("launches", row.get("operators", "")))
    yield str(row.get("waits", ""))
