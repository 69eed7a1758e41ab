"""``hicmae bench gpu``: everything that has to be seen on a GPU, by one command, without data.

Each part runs in processes of its own, whose crash or standstill is a verdict and not the end of
the others. What they do is ``pretrain.gpu_checks`` and other benches.
"""

from __future__ import annotations

import itertools
import json as json_format
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hicmae.files import write_json, write_text
from hicmae.processes import num_cores
from hicmae.terminal import plain_console
from pretrain.gpu_checks import (
    COMPILED,
    LIMITS,
    Asked,
    Bench,
    FailedError,
    NotRunError,
    engine_runs,
    machine,
    negatives,
    parity,
    read_rows,
    run_command,
    steps,
)

if TYPE_CHECKING:
    from rich.console import Console

_ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")
# What this project wants of a GPU: a share of the product's speed, from so many clips on.
_WANTED_SHARE, _WANTED_CLIPS = 0.3, 64
_WANTED_RATIO = 2.0  # of the authors' time over ours
_STALL_SECONDS = 120
_COMPILE_SECONDS = 240  # one H200 beside slow cores took 145
_SAVED_EVERY = 4
# A benchmark of ``shards.bench.write_bench_shards``.
_NOISE = """name: noise
title: Drawn faces, and labels that say nothing of them
task: classification
label: turn
classes: [even, odd]
folds: {column: fold, test: [2], shared_speakers: true}
metrics: [uar, war, weighted_f1, macro_f1]
leading: uar
licence: made by this program; no person is shown or heard
access: hicmae bench gpu
"""


class Verdict(NamedTuple):
    """What came of a part; ``missed`` is a target, ``failed`` is wrong."""

    kind: Literal["ok", "missed", "failed", "not run"]
    text: str


def bench_gpu(
    *,
    json: Path | None = None,
    device: str = "auto",
    parts: str = "all",
    engines: str = ",".join(_ENGINES),
    precisions: str = ",".join(_PRECISIONS),
    compile: bool = True,
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
            (speed, launches, waits and memory of each size), compiled (of base), loader, finetune
            (speed), fold (fine-tuned and tested), predict, reference.
        engines: Of these engines, names out of configs/engines.
        precisions: In these precisions.
        compile: Whether engines and base are tried compiled too, and engines recorded as CUDA
            graphs.
        minutes: Most that all takes.
        against: A checkout of the authors' code, for the part reference: its step turn about with
            ours.

    Returns: 0, or 1 if a part has failed. The file has ``verdicts`` by part and each part's
        figures under its name.

    Raises: ValueError: no such part, engine, precision or device.
    """
    from hicmae.devices import choose_device

    chosen = _chosen("parts", parts, tuple(_PARTS))
    place = choose_device(device)
    kinds = tuple(COMPILED) if place.type == "cuda" else ("", "compiled")
    asked = Asked(
        _chosen("engines", engines, _ENGINES),
        _chosen("precisions", precisions, _PRECISIONS),
        kinds if compile else ("",),
        against,
    )
    # Of those that are killed; nobody is to be told.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    console = plain_console()
    figures: dict[str, Any] = {"verdicts": {}}
    with (
        tempfile.TemporaryDirectory(prefix="hicmae-gpu-") as folder,
        Bench(place.type, Path(folder), minutes * 60, asked, figures) as bench,
    ):
        for name in chosen:
            began = time.monotonic()
            try:
                bench.left(5)
                verdict = _PARTS[name](bench)
            except NotRunError as error:
                verdict = Verdict("not run", str(error))
            except FailedError as error:
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


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = known if text == "all" else tuple(name.strip() for name in text.split(","))
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{option} = {', '.join(wrong)}: unknown (known: {', '.join(known)})")
    return tuple(name for name in known if name in names)


def _machine(bench: Bench) -> Verdict:
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


def _parity(bench: Bench) -> Verdict:
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
        raise FailedError(f"{bench.setup.model} beside fp64 on the CPU: {'; '.join(wrong)}")
    said = ", ".join(f"{name} {error:.1e} ({what})" for name, (error, what) in worst.items())
    return Verdict("ok", f"{bench.setup.model} beside fp64 on the CPU, at most: {said}")


def _negatives(bench: Bench) -> Verdict:
    count = bench.setup.processes
    if count == 1:
        raise NotRunError("one GPU has no others to gather from")
    folder = bench.folder / "negatives"
    folder.mkdir()
    jobs = bench.together(bench.setup, negatives, folder)
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
        raise FailedError(text)
    return Verdict("ok", text)


def _engines(bench: Bench) -> Verdict:
    """Two steps each; several processes share the clips that one accumulates."""
    count, folder = bench.setup.processes, bench.folder / "engines"
    reference = folder / "reference"
    words = ("--hardware.strategy", "single", "--precision", "32-true", "--accumulate", str(count))
    bench.command(*bench.pretraining(reference, 2, "--hardware.devices", "1", *words))
    wanted = read_rows(reference)
    outcomes: dict[str, str] = {}
    bench.figures["engines"] = outcomes
    # What is compiled, which takes longest, comes last.
    ways = list(itertools.product(bench.asked.precisions, bench.asked.compiled))
    groups = [[way for way in ways if (way[1] == "compiled") == last] for last in (False, True)]
    for group, alone in itertools.product(groups, (True, False) if count > 1 else (False,)):
        left = {}
        for (precision, compiled), engine in itertools.product(group, bench.asked.engines):
            if count == 1 or alone == (engine == "single"):
                more = ["--hardware.devices", str(1 if alone else count)]
                more += ["--accumulate", str(count if alone else 1), "--precision", precision]
                more += ["--hardware.strategy", engine, *COMPILED[compiled]]
                name = f"{engine} {precision} {compiled}".rstrip()
                left[name] = bench.pretraining(folder / name.replace(" ", "-"), 2, *more)
        _settle_engines(bench, 1 if alone else count, left, wanted, outcomes)
    kinds = [text.partition(":")[0] for text in outcomes.values()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    text = f"{count} processes beside one in fp32: {counts}"
    wrong = [f"{name}: {said}" for name, said in outcomes.items() if said.startswith("failed")]
    if wrong:
        raise FailedError(f"{text}; {'; '.join(wrong)}")
    return Verdict("ok", text)


def _settle_engines(
    bench: Bench,
    processes: int,
    left: dict[str, list[str]],
    wanted: list[dict[str, float]],
    outcomes: dict[str, str],
) -> None:
    """Make the runs and judge each; one that ends the processes is followed by new ones."""
    while left:
        if bench.left(-math.inf) < _RESERVED:
            outcomes |= dict.fromkeys(left, "not run: no time was left")
            return
        ended = _run_engines(bench, processes, left)
        for name in list(left):
            if name in ended:
                outcomes[name] = _judge_engine(name, ended[name], left.pop(name), wanted)
        if left and "" in ended:
            name = next(iter(left))
            outcomes[name] = f"failed: {ended['']['said']}"
            del left[name]


def _run_engines(
    bench: Bench, processes: int, runs: dict[str, list[str]]
) -> dict[str, dict[str, Any]]:
    """How each run ended; ``''`` is what the processes said that ended before all were made."""
    setup = replace(bench.setup, processes=processes)
    jobs = bench.together(setup, engine_runs, list(runs.values()))
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


def _resume(bench: Bench) -> Verdict:
    """Kill a run between checkpoints; what goes on ends like one that was left alone."""
    folder, num_steps = bench.folder / "resume", 30 if bench.on_gpu else 10
    more = ["--hardware.devices", "1", "--log.checkpoint_every", str(_SAVED_EVERY)]
    more += ["--precision", "32-true"]
    bench.command(*bench.pretraining(folder / "whole", num_steps, *more))
    words = bench.pretraining(folder / "killed", num_steps, *more, "--resume")
    job = bench.start(run_command, words)
    until = time.monotonic() + bench.limited(90)
    while len(read_rows(folder / "killed")) < _SAVED_EVERY + 1:
        if time.monotonic() > until or not job.process.is_alive():
            job.kill()
            raise FailedError(f"the run to be killed did not get so far: {job.said()}")
        time.sleep(0.01)
    job.kill()
    done = len(read_rows(folder / "killed"))
    bench.command(*words, "--workers", "1")  # beside a GPU too
    whole, found = read_rows(folder / "whole"), read_rows(folder / "killed")
    if [row["step"] for row in found] != [row["step"] for row in whole]:
        raise FailedError("the resumed run has other steps than one that was left alone")
    error = max(
        abs(row["loss"] - right["loss"]) / right["loss"]
        for row, right in zip(found, whole, strict=True)
    )
    bench.figures["resume"] = {"killed_after": done, "steps": len(found), "loss_difference": error}
    text = f"killed after step {done} of {len(found)} and resumed: loss differs by {error:.1e}"
    if not error <= LIMITS["32-true"]["value"]:
        raise FailedError(text)
    return Verdict("ok", text)


def _steps(bench: Bench) -> Verdict:
    clips = [64, 8, 16, 32, 128] if bench.on_gpu else [2, 4]
    rows: list[dict[str, Any]] = []
    bench.figures["steps"] = rows
    wrong = []
    for model in ("tiny", "small", "base") if bench.on_gpu else ("demo",):
        file = bench.folder / f"steps-{model}.json"
        try:
            bench.run(steps, bench.setup, model, clips, file, limit=70)
        except FailedError as error:
            wrong.append(f"{model}: {error}")
        finally:
            rows += json_format.loads(file.read_text()) if file.exists() else []
    if wrong:
        raise FailedError("; ".join(wrong))
    text = f"{len(rows)} batches, see the table"
    if not bench.on_gpu:
        return Verdict("ok", text)
    shares = [
        row["peak_memory_bytes"] / row["estimated_bytes"]
        for row in rows
        if "peak_memory_bytes" in row
    ]
    text += f"; memory {min(shares):.2f} to {max(shares):.2f} times the dry run's estimate"
    low = [
        f"{row['model']} {row['clips']} clips {row['fraction_of_peak']:.0%}"
        for row in rows
        if row["clips"] >= _WANTED_CLIPS and row.get("fraction_of_peak", 1) < _WANTED_SHARE
    ]
    wish = f"{_WANTED_SHARE:.0%} of the product's speed from {_WANTED_CLIPS} clips on"
    if low:
        return Verdict("missed", f"{text}; {wish}: not {', '.join(low)}")
    return Verdict("ok", f"{text}; {wish}: reached")


def _compiled(bench: Bench) -> Verdict:
    """The largest network as a long run has it: compiled, and recorded."""
    if "compiled" not in bench.asked.compiled:
        raise NotRunError("--compile false")
    model, count = ("base", _WANTED_CLIPS) if bench.on_gpu else ("demo", 2)
    if bench.on_gpu:
        bench.left(_COMPILE_SECONDS)
    file = bench.folder / "steps-compiled.json"
    bench.run(steps, bench.setup, model, [count], file, True, limit=_COMPILE_SECONDS)
    rows = json_format.loads(file.read_text())
    bench.figures["compiled"] = rows
    share = rows[0]["fraction_of_peak"]
    text = f"{model}, {count} clips: {rows[0]['clips_per_second']:.0f} clips/s, {share:.1%} of the "
    text += f"product's speed (wanted {_WANTED_SHARE:.0%})"
    return Verdict("ok" if share >= _WANTED_SHARE or not bench.on_gpu else "missed", text)


def _loader(bench: Bench) -> Verdict:
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
    needed, cores = math.ceil(max(rates) / each), num_cores()
    here = cores // bench.setup.processes
    text += f"; the fastest step takes {needed} readers a GPU, of {here} cores"
    return Verdict("ok" if needed < here else "missed", text)


def _finetune(bench: Bench) -> Verdict:
    size = ("base", "32") if bench.on_gpu else ("demo", "2")
    words = ("--model", size[0], "--batch_size", size[1], "--device", bench.setup.device)
    few = ("4", "2") if bench.on_gpu else ("2", "1")
    found = bench.command("bench", "finetune", *words, "--steps", few[0], "--warmup", few[1])
    bench.figures["finetune"] = found
    return Verdict(
        "ok",
        f"{size[0]}, {size[1]} clips: {found['clips_per_second']:.1f} clips/s, "
        f"{found['fraction_of_peak']:.0%} of the product's speed",
    )


def _fold(bench: Bench) -> Verdict:
    """Fine-tune and test as the verb does, launching kernels one by one and as a whole."""
    folder = bench.folder / "fold"
    bench.command(*bench.pretraining(folder / "start", 2, "--hardware.devices", "1"))
    write_text(folder / "noise.yaml", _NOISE)
    losses = []
    for graphs in ("false", "true"):
        words = ["finetune", "--benchmark", str(folder / "noise.yaml"), "--epochs", "2"]
        words += ["--shards", str(bench.shards()), "--checkpoint", str(folder / "start")]
        words += ["--out", str(folder / graphs), "--workers", "1", "--precision", "32-true"]
        words += ["--recipe.batch_size", "4", "--optimizer.warmup_epochs", "0"]
        words += ["--optimizer.learning_rate", "0.05", "--hardware.cuda_graphs", graphs]
        words += ["--device", bench.setup.device, "--trainer.report", "false"]
        bench.command(*words, "--wandb.mode", "disabled")
        rows = read_rows(folder / graphs / "fold-split", "loss_epoch")
        losses.append([row["loss_epoch"] for row in rows])
    bench.figures["fold"] = {"losses": losses}
    error = max(abs(one - other) / one for one, other in zip(*losses, strict=True))
    text = f"two epochs and a test; with CUDA graphs losses differ by {error:.1e}"
    if not error <= LIMITS["32-true"]["value"]:
        raise FailedError(text)
    return Verdict("ok", text)


def _predict(bench: Bench) -> Verdict:
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


def _reference(bench: Bench) -> Verdict:
    if bench.asked.against is None:
        raise NotRunError("no checkout of the authors' code is named (--against FOLDER)")
    model, clips, few = ("base", "40", "5") if bench.on_gpu else ("small", "2", "1")
    words = ["--model", model, "--batch_size", clips, "--steps", few, "--warmup", few]
    words += ["--device", bench.setup.device, "--against", str(bench.asked.against)]
    found = bench.figures["reference"] = bench.command("bench", "step", *words)
    ratio = found["against"]["ratio"]
    text = f"{model}, {clips} clips: the authors' step takes {ratio:.2f} times as long as ours"
    if memory := found["against"]["step_memory_bytes"]:
        text += f" and {memory['theirs'] / memory['ours']:.2f} times the memory"
    wanted = ratio >= _WANTED_RATIO or not bench.on_gpu
    return Verdict("ok" if wanted else "missed", f"{text} (wanted {_WANTED_RATIO:g} times)")


_PARTS: dict[str, Callable[[Bench], Verdict]] = {
    "machine": _machine,
    "parity": _parity,
    "negatives": _negatives,
    "steps": _steps,
    "resume": _resume,
    "loader": _loader,
    "finetune": _finetune,
    "fold": _fold,
    "predict": _predict,
    "reference": _reference,
    "compiled": _compiled,
    "engines": _engines,  # the rest of the time
}
_RESERVED = 5  # seconds for the table


def _print(figures: dict[str, Any], console: Console) -> None:
    from hicmae.bench import figures_table

    launched = "launches" if "launches" in str(figures.get("steps")) else "operators"
    parts = ("clips", "clips/s", "share of product", "GiB", "estimated", launched, "waits")
    measured = (*figures.get("steps", ()), *figures.get("compiled", ()))
    rows = [(row["model"], str(row["clips"]), *_cells(row)) for row in measured]
    if rows:
        console.print(figures_table("pretraining steps", ("network", *parts), rows))


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
