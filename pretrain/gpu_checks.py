"""What ``hicmae bench gpu`` measures and compares, and the processes in which it does.

A part runs in processes of its own, whose crash or standstill must not end the others: ``Bench``
starts them, limits their time, ends them and has what they said. ``pretrain.gpu_bench`` judges what
they found.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hicmae.files import Closing
from hicmae.processes import IMPORTED, end_with_starter, forking, num_cores

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    import torch
    from torch import Tensor


# Of clips whose every number is drawn; seen on CPUs: 2e-6 in fp32, 4e-3 and 3e-2 in bf16.
LIMITS = {"32-true": {"value": 1e-3, "gradient": 1e-2}, "half": {"value": 3e-2, "gradient": 0.2}}
_SEED = 7
_WARM = 2
_STEP = "one step"
# How a network is run, and the options that ask for it.
COMPILED = {
    "": (),
    "graphs": ("--hardware.cuda_graphs", "true"),
    "compiled": ("--hardware.compile", "true"),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all parts are told.

    Args:
        device: cpu or cuda.
        processes: Of the parts that take several: as many as there are GPUs; 2 on a CPU.
        model: Size of the network that answers are compared of.
        clips: Of a batch that answers are compared of.
    """

    device: str
    processes: int
    model: str
    clips: int = 2


def machine(setup: Setup) -> dict[str, Any]:
    """What computes here, and the speed of its products."""
    import torch

    from hicmae.bench import MatrixPeak
    from hicmae.devices import choose_device, device_name, resolve_precision

    place = choose_device(setup.device)
    found: dict[str, Any] = {
        "device": device_name(place),
        "cores": num_cores(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "precision": resolve_precision("auto", place),
    }
    if place.type == "cuda":
        facts = torch.cuda.get_device_properties(place)
        found |= {
            "devices": torch.cuda.device_count(),
            "capability": f"{facts.major}.{facts.minor}",
            "memory_bytes": facts.total_memory,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    for precision in dict.fromkeys(("32-true", found["precision"])):
        peak = MatrixPeak(precision, place)
        for _ in range(3 if place.type == "cuda" else 1):
            peak.measure()
        found[f"product_flops_{precision}"] = peak.flops
    return found


def parity(setup: Setup) -> dict[str, float]:
    """Answers of the device beside those of the same weights in fp64 on the CPU.

    Returns: of each precision and quantity the largest difference over the largest value there,
        of gradients the norm of the difference over the norm.
    """
    import torch

    from hicmae.bench import random_clips
    from hicmae.config import load_model_config
    from hicmae.devices import autocast, choose_device
    from hicmae.emotion import EmotionConfig, EmotionModel
    from hicmae.pretraining import HiCMAE
    from hicmae.settings import ObjectiveConfig
    from hicmae.transforms import ClipTransform

    place, sizes = choose_device(setup.device), load_model_config(setup.model)
    torch.manual_seed(_SEED)
    network = HiCMAE(sizes, ObjectiveConfig(contrast_weight=0.5)).double()
    emotion = EmotionModel(sizes, EmotionConfig(num_outputs=6)).double().eval()
    transform = ClipTransform(sizes.input).eval()
    batch = random_clips(sizes.input, setup.clips, torch.device("cpu"))
    video, fbank = transform(batch)
    masks = network.hidden(network.draw_masks(setup.clips))

    def answers(place: torch.device, precision: str) -> dict[str, Tensor]:
        dtype = torch.float64 if precision == "64" else torch.float32
        for net in (network, emotion):
            net.to(place, dtype).zero_grad()
        clip = [video.to(place, dtype), fbank.to(place, dtype)]
        with autocast(precision, place):
            output = network(*clip, video_mask=masks[0].to(place), fbank_mask=masks[1].to(place))
            with torch.no_grad():
                logits = emotion(*clip)
        output.loss.backward()
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        found = {
            **{name: output.terms[name] for name in ("video", "audio", "contrast")},
            "video prediction": output.given.video_prediction,
            "audio prediction": output.given.audio_prediction,
            "logits": logits,
            "gradient": torch.cat(gradients),
        }
        return {name: value.detach().double().cpu() for name, value in found.items()}

    wanted = answers(torch.device("cpu"), "64")
    there = transform.to(place)({name: value.to(place) for name, value in batch.items()})
    errors = {
        f"32-true {name}": _error(mine.cpu(), its)
        for name, mine, its in zip(("frames", "filter bank"), there, (video, fbank), strict=True)
    }
    for precision in ("32-true", "bf16-mixed"):
        for name, value in answers(place, precision).items():
            errors[f"{precision} {name}"] = _error(value, wanted[name])
    return errors


def negatives(setup: Setup, rank: int, port: int, folder: Path) -> None:
    """One of several processes whose contrast is over the clips of all.

    It writes the differences to one process with all clips: of the loss, and of the gradient.
    """
    import torch
    from torch import distributed

    from hicmae.bench import random_clips
    from hicmae.config import load_model_config
    from hicmae.devices import choose_device
    from hicmae.pretraining import HiCMAE
    from hicmae.settings import ObjectiveConfig
    from hicmae.transforms import ClipTransform

    _join(rank, setup.processes, port)
    place, sizes = choose_device(setup.device), load_model_config(setup.model)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    num_clips = setup.clips * setup.processes
    torch.manual_seed(_SEED)
    batch = random_clips(sizes.input, num_clips, place)
    video, fbank = ClipTransform(sizes.input).to(place).eval()(batch)
    mine = slice(rank * setup.clips, (rank + 1) * setup.clips)
    hiding = HiCMAE(sizes)
    masks = [mask.to(place) for mask in hiding.hidden(hiding.draw_masks(num_clips))]
    results = []
    for kind, part in (("local", slice(None)), ("global", mine)):
        torch.manual_seed(_SEED)
        objective = ObjectiveConfig(
            negatives="global" if kind == "global" else "local", contrast_weight=0.5
        )
        network = HiCMAE(sizes, objective).to(place)
        if kind == "global":
            distributed.init_process_group(
                "gloo" if place.type == "cpu" else "nccl", rank=rank, world_size=setup.processes
            )
        loss = network(
            video[part], fbank[part], video_mask=masks[0][part], fbank_mask=masks[1][part]
        ).loss
        loss.backward()
        found = [loss.detach().reshape(1)]
        found += [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        results.append(torch.cat(found))
    distributed.all_reduce(results[1])
    whole, shared = results[0].cpu(), results[1].cpu() / setup.processes
    errors = {"value": _error(shared[:1], whole[:1]), "gradient": _error(shared[1:], whole[1:])}
    (folder / f"{rank}.json").write_text(json.dumps(errors), encoding="utf-8")
    distributed.destroy_process_group()


def engine_runs(setup: Setup, rank: int, port: int, runs: Sequence[list[str]]) -> None:
    """One of the processes that make every run in turn, by the command.

    How one ended, with its last word, stands in a file beside the run's folder.
    """
    from hicmae.__main__ import main

    _join(rank, setup.processes, port)
    for words in runs:
        said = io.StringIO()
        with redirect_stderr(said):
            status = main(words)
        ended = {"status": status, "said": said.getvalue().strip()}
        out = Path(words[words.index("--out") + 1])
        out.with_suffix(f".{rank}").write_text(json.dumps(ended), encoding="utf-8")


def steps(
    setup: Setup, model: str, clips: Sequence[int], file: Path, compile: bool = False
) -> None:
    """Steps of one size, a batch after another; the file has what is known after each.

    On a GPU the first and the smallest batch are also measured with CUDA graphs.
    """
    import torch

    from hicmae.config import load_model_config
    from hicmae.devices import choose_device, resolve_precision
    from hicmae.pretraining import HiCMAE
    from hicmae.settings import ObjectiveConfig
    from pretrain.bench import bench_step
    from pretrain.footprint import footprint, measure_network
    from pretrain.zero import load_engine

    place = choose_device(setup.device)
    on_gpu = place.type == "cuda"
    precision, sizes = resolve_precision("auto", place), load_model_config(model)
    size = measure_network(lambda: HiCMAE(sizes, ObjectiveConfig()), precision=precision)
    rows, num_steps = [], 10 if on_gpu else 1
    batches = [(count, compile) for count in clips]
    if on_gpu and not compile:
        batches += [(clips[0], True), (min(clips), True)]
    for count, cuda_graphs in batches:
        named = model + ", compiled" * compile + ", CUDA graphs" * cuda_graphs
        row: dict[str, Any] = {"model": named, "clips": count}
        try:
            found = bench_step(
                model=model,
                batch_size=count,
                steps=num_steps,
                warmup=min(_WARM, num_steps),
                device=setup.device,
                compile=compile,
                cuda_graphs=cuda_graphs,
            )
            row |= {
                name: found[name]
                for name in ("clips_per_second", "fraction_of_peak", "peak_memory_bytes")
            }
            if count == clips[0] and not compile:
                row |= launches(model, count, precision, place, cuda_graphs=cuda_graphs)
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        engine = load_engine("single", world_size=1)
        row["estimated_bytes"] = footprint(
            size, engine, precision=precision, world_size=1, batch_size=count
        ).device
        rows.append(row)
        file.write_text(json.dumps(rows), encoding="utf-8")


def launches(
    model: str, clips: int, precision: str, place: torch.device, *, cuda_graphs: bool = False
) -> dict[str, int]:
    """Kernels of one step, and how often the host waited for the device in it.

    On a CPU, which launches none, ``operators`` of PyTorch that a step calls.
    """
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function

    from hicmae.bench import random_clips
    from hicmae.config import load_model_config
    from hicmae.pretraining import HiCMAE
    from hicmae.settings import AugmentConfig, ObjectiveConfig
    from hicmae.transforms import ClipTransform
    from pretrain.bench import step_parts

    sizes = load_model_config(model)
    network = HiCMAE(sizes, ObjectiveConfig()).to(place)
    if cuda_graphs:
        network.record()
    transform = ClipTransform(sizes.input, AugmentConfig()).to(place).train()
    parts = step_parts(network, transform, random_clips(sizes.input, clips, place), precision)

    def step() -> None:
        for part in parts:
            part()

    on_gpu = place.type == "cuda"
    for _ in range(_WARM if on_gpu else 1):
        step()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
        with record_function(_STEP):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    events = list(profiler.events())
    if not on_gpu:
        return {"operators": sum(event.name.startswith("aten::") for event in events)}
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    end = next(event.time_range.end for event in on_host if event.name == _STEP)
    # What waits later is ours, and the profiler's.
    names = [event.name for event in on_host if event.time_range.start < end]
    waits = sum("Synchronize" in name for name in names)
    # A graph is launched as a whole.
    launched = sum("LaunchKernel" in name or "GraphLaunch" in name for name in names)
    return {"launches": launched, "waits": waits}


def read_rows(out: Path, column: str = "loss") -> list[dict[str, float]]:
    """The rows of a run's metrics.csv that have this number; none where there are none yet."""
    path = out / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
            if row.get(column)
        ]


def _error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm; of one number, the relative difference."""
    difference = (found.double() - wanted.double()).norm() / wanted.double().norm()
    return float(difference)


def _join(rank: int, processes: int, port: int) -> None:
    """Be one of several processes that somebody has started on this machine."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


class NotRunError(Exception):
    """Something that a part needs is not here."""


class FailedError(Exception):
    """A part has crashed, stood still, or given a wrong answer."""


class Asked(NamedTuple):
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    compiled: tuple[str, ...]  # out of ``COMPILED``
    against: Path | None


class Bench(Closing):
    """Starts what parts need, within the time that is left; what still runs ends with it.

    Attributes:
        figures: Of the parts so far, by name.
        setup: For the checks.
    """

    def __init__(
        self, device: str, folder: Path, seconds: float, asked: Asked, figures: dict[str, Any]
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
        self._jobs: list[Job] = []
        # A fork has everything imported, but where the first process has so much as looked for a
        # GPU, CUDA fails in its forks.
        self._context: Any = (
            multiprocessing.get_context("spawn")
            if self.on_gpu
            else forking((*IMPORTED, "pretrain.bench", "pretrain.zero"))
        )

    def left(self, least: float) -> float:
        """Seconds that are left; a part is not run where they are fewer than ``least``."""
        left = self._deadline - time.monotonic()
        if left < least:
            raise NotRunError("no time was left (--minutes)")
        return left

    def start(self, work: Callable[..., Any], *arguments: Any) -> Job:
        """Call a function of a module in a process of its own."""
        base = self.folder / f"job-{next(self._numbers)}"
        process = self._context.Process(target=_call, args=(base, work, arguments))
        self._jobs.append(job := Job(process, base))
        process.start()
        return job

    def close(self) -> None:
        """Kill what has not ended; at its own end Python would wait for it."""
        for job in self._jobs:
            if job.process.pid:  # it was started
                job.kill()

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
        status = self.run(run_command, [*words, *more], limit=limit)
        if status:
            raise FailedError(f"hicmae {' '.join(words[:2])}: status {status}")
        return dict(json.loads(file.read_text())) if more else {}

    def together(self, setup: Setup, work: Callable[..., Any], *arguments: Any) -> list[Job]:
        """As many processes as it says, each told its number and a free port."""
        from lightning_fabric.plugins.environments.lightning import find_free_network_port

        port = find_free_network_port()
        return [self.start(work, setup, rank, port, *arguments) for rank in range(setup.processes)]

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
            *("pretrain", "--model.size", "demo", "--model.input.fps", "25"),  # as the shards have
            *("--data.shards", str(self.shards())),
            *("--out", str(out), "--steps", str(steps), "--data.batch_size", "4"),
            *("--optimizer.warmup_steps", "1", "--optimizer.learning_rate", "0.1", "--workers"),
            *("0", "--log.log_every", "1", "--log.pictures_every", "0", "--log.health_every", "0"),
            *("--log.progress", "false", "--wandb.mode", "disabled", "--device"),
            *(self.setup.device, "--hardware.timeout_seconds", "100", *more),
        ]


class Job(NamedTuple):
    """A process; its log and what it returned are beside ``base``."""

    process: BaseProcess
    base: Path

    def wait(self, seconds: float) -> None:
        """Until it ends, and no longer than that."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            raise FailedError(f"stood still, or took longer than {seconds:.0f} s")

    def kill(self) -> None:
        """End it and what it has started."""
        if self.process.is_alive():
            assert self.process.pid
            with suppress(ProcessLookupError):  # it has not begun, and started nothing
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.join()

    def result(self) -> Any:
        if self.process.exitcode == 0:
            return json.loads(self.base.with_suffix(".json").read_text(encoding="utf-8"))
        raise FailedError(self.said() or f"ended with {self.process.exitcode}")

    def said(self) -> str:
        """Its last line."""
        log = self.base.with_suffix(".log")
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        )
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _call(base: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    end_with_starter(lambda: os.killpg(0, signal.SIGKILL))
    multiprocessing.set_start_method(None, force=True)  # readers begin as they always do
    with base.with_suffix(".log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    value = work(*arguments)
    base.with_suffix(".json").write_text(json.dumps(value), encoding="utf-8")


def run_command(words: Sequence[str]) -> int:
    from hicmae.__main__ import main

    return main(words)
