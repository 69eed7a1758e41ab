"""CUDA graphs: that what is launched as a whole gives what its kernels give one by one.

On a GPU they are recorded; elsewhere ``Rerun`` stands in.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from hicmae import graphs
from hicmae.blocks import set_grad_checkpointing
from hicmae.graphs import Recorded
from hicmae.objective.losses import Presence, find_presence
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from tests.support.rerun import Rerun

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
on_gpu = pytest.mark.skipif(not ON_GPU, reason="no CUDA device")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Every ``Recorded`` of the test, in the order in which they were made."""
    made: list[Recorded] = []
    kind = Recorded if ON_GPU else Rerun

    def make(*given: Any, **named: Any) -> Recorded:
        made.append(kind(*given, **named))
        return made[-1]

    monkeypatch.setattr(graphs, "_can_record", lambda tensor: True)
    monkeypatch.setattr("hicmae.pretraining.Recorded", make)
    return made


def pair(config: ModelConfig, **changes: Any) -> tuple[HiCMAE, HiCMAE]:
    """The same network twice, the second one recorded."""
    plain, recorded = (
        HiCMAE(config, ObjectiveConfig(**changes)).to(DEVICE).train() for _ in range(2)
    )
    recorded.load_state_dict(plain.state_dict())
    recorded.record()
    return plain, recorded


def clips(config: ModelConfig, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = config.input
    video = torch.randn(count, 3, size.num_frames, *[size.image_size] * 2, generator=generator)
    fbank = torch.randn(count, size.fbank_frames, size.mel_bins, generator=generator)
    return video.to(DEVICE), fbank.to(DEVICE)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: each.grad.clone()
        for name, each in network.named_parameters()
        if each.grad is not None
    }


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("negatives", ["local", "global"])
@pytest.mark.slow
def test_steps_that_are_launched_as_a_whole_learn_what_plain_ones_learn(
    negatives: str, recompute: bool, tiny_model_config: ModelConfig, recorder: list[Recorded]
) -> None:
    networks = pair(tiny_model_config, negatives=negatives, contrast_weight=0.5)
    losses: list[list[Any]] = [[], []]
    for network, found in zip(networks, losses, strict=True):
        set_grad_checkpointing(network, recompute)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        torch.manual_seed(3)
        for step in range(4):
            output = network(*clips(tiny_model_config, 3, step))
            output.loss.backward()
            found.append({"loss": output.loss.detach(), **output.terms})
            optimizer.step()
            optimizer.zero_grad()
    # Each row of the second was kept, not overwritten.
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    assert len({float(row["loss"]) for row in losses[1]}) == 4
    torch.testing.assert_close(
        networks[1].state_dict(), networks[0].state_dict(), rtol=1e-3, atol=1e-4
    )
    assert len(recorder[0]._recordings) == 1


def test_gradients_of_several_batches_add_up(
    tiny_model_config: ModelConfig, recorder: list[Recorded]
) -> None:
    plain, recorded = pair(tiny_model_config)
    for network in (plain, recorded):
        torch.manual_seed(3)
        for batch in range(3):
            (network(*clips(tiny_model_config, 2, batch)).loss / 3).backward()
    torch.testing.assert_close(gradients(recorded), gradients(plain), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_what_decides_the_computation_is_recorded_for_itself(
    tiny_model_config: ModelConfig, recorder: list[Recorded]
) -> None:
    plain, recorded = pair(tiny_model_config)
    there = torch.ones(3, dtype=torch.bool, device=DEVICE)
    half = there.clone()
    half[0] = False
    wholes: list[Presence | None] = [None, find_presence(there, half), find_presence(half, there)]
    counts = []
    for presence, stage, count in [
        (wholes[0], "audio-video", 3),
        (wholes[1], "audio-video", 3),
        (wholes[2], "audio-video", 3),
        (wholes[0], "video", 3),
        (wholes[0], "audio-video", 2),
        (wholes[0], "video", 2),  # one more than are kept
    ]:
        found = []
        for network in (plain, recorded):
            network.stage = stage
            network.zero_grad()
            torch.manual_seed(5)
            output = network(*clips(tiny_model_config, count, 1), presence=presence)
            output.loss.backward()
            found.append((output.loss.detach(), gradients(network)))
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)
        counts.append(len(recorder[0]._recordings))
    assert counts == [1, 2, 2, 3, 4, 4]
    before = len(recorder[0]._recordings)
    with torch.no_grad():
        recorded.eval()(*clips(tiny_model_config, 3, 1))
    assert len(recorder[0]._recordings) == before


def test_weights_that_are_shared_out_are_left_alone(recorder: list[Recorded]) -> None:
    network = nn.Linear(2, 2).to(DEVICE)
    network.weight.ds_id = 0  # type: ignore[assignment]  # as ZeRO 3 does
    recorded = (Recorded if ON_GPU else Rerun)(network, network, lambda out: [out])
    recorded(torch.ones(1, 2, device=DEVICE)).sum().backward()
    assert not recorded._recordings
    assert network.weight.grad is not None


def test_on_a_cpu_nothing_is_recorded() -> None:
    network = nn.Linear(2, 2)
    recorded = Recorded(network, network, lambda out: [out])
    out = recorded(torch.ones(1, 2))
    torch.testing.assert_close(out, network(torch.ones(1, 2)))
    assert not recorded._recordings


@on_gpu
def test_draws_weights_and_number_formats_are_those_of_each_launch() -> None:
    network = nn.Linear(8, 8, device=DEVICE)
    recorded = Recorded(
        lambda values: network(values + torch.rand_like(values)), network, lambda out: [out]
    )
    values = torch.ones(4, 8, device=DEVICE)
    for dtype in (None, torch.bfloat16):
        rows: list[list[Tensor]] = [[], []]
        for call, found in zip((recorded, recorded._compute), rows, strict=True):
            torch.manual_seed(1)
            with torch.no_grad():
                network.weight.fill_(0.1)
            for _ in range(3):
                with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
                    out: Tensor = call(values)
                out.float().square().sum().backward()
                found.append(out.detach().clone())
                with torch.no_grad():
                    network.weight.add_(network.weight.grad, alpha=-1e-3)
                network.zero_grad()
        assert rows[0][0].dtype == (dtype or torch.float32)
        torch.testing.assert_close(rows[0], rows[1])
    assert len(recorded._recordings) == 2


@on_gpu
def test_what_waits_for_the_device_is_refused() -> None:
    network = nn.Linear(2, 2, device=DEVICE)

    def waits(values: Tensor) -> Tensor:
        out: Tensor = network(values)
        return out * float(out.sum())

    recorded = Recorded(waits, network, lambda out: [out])
    values = torch.ones(1, 2, device=DEVICE)
    with pytest.raises(ValueError, match=r"cannot be recorded: .*; take hardware\.cuda_graphs"):
        recorded(values)
    torch.testing.assert_close(waits(values), network(values) * network(values).sum())


@on_gpu
def test_another_thread_may_pin_memory_meanwhile(tiny_model_config: ModelConfig) -> None:
    done = threading.Event()
    problems: list[BaseException] = []

    def pin(size: Callable[[], int]) -> None:
        try:
            while not done.is_set():
                torch.empty(size(), dtype=torch.uint8).pin_memory()
        except BaseException as error:
            problems.append(error)

    sizes = iter(range(1000, 10**9, 100_003))
    thread = threading.Thread(target=pin, args=(lambda: next(sizes),))
    thread.start()
    try:
        _, recorded = pair(tiny_model_config)
        for step in range(3):
            recorded(*clips(tiny_model_config, 2, step)).loss.backward()
        torch.cuda.synchronize()
    finally:
        done.set()
        thread.join()
    assert not problems


class Pretended:
    """What PyTorch has of streams and graphs, on a CPU: it notes what it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graphs: list[dict[str, Any]] = []
        self.launched: list[int] = []
        self.sync_modes: list[Any] = ["default"]
        real = inspect.signature(torch.cuda.graph)
        pretended = self

        class Graph:
            def replay(self) -> None:
                pretended.launched.append(
                    next(i for i, one in enumerate(pretended.graphs) if one["cuda_graph"] is self)
                )

        @contextlib.contextmanager
        def graph(*given: Any, **named: Any) -> Iterator[None]:
            pretended.graphs.append(real.bind(*given, **named).arguments)
            yield

        stream = mock.Mock()
        for name, stand_in in {
            "CUDAGraph": Graph,
            "graph": graph,
            "graph_pool_handle": lambda: object(),
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "stream": contextlib.nullcontext,
            "get_rng_state": torch.get_rng_state,
            "set_rng_state": torch.set_rng_state,
            "get_sync_debug_mode": lambda: self.sync_modes[-1],
            "set_sync_debug_mode": self.sync_modes.append,
        }.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(graphs, "_can_record", lambda tensor: True)


@pytest.mark.skipif(ON_GPU, reason="a CUDA device is there")
def test_both_passes_are_recorded_once_beside_other_threads_and_without_a_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Pretended(monkeypatch)
    network = nn.Linear(2, 2)
    runs: list[Any] = []

    def compute(values: Tensor) -> Tensor:
        runs.append(cuda.sync_modes[-1])
        out: Tensor = network(values + torch.rand(1))
        return out

    recorded = Recorded(compute, network, lambda out: [out])
    state = torch.get_rng_state()
    out = recorded(torch.ones(3, 2))
    assert runs == ["default", "error", *["default"] * 3], "warm, looked at, warm, recorded"
    drawn = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.rand(1)  # as the recorded run has, which on a GPU draws nothing
    assert torch.equal(torch.get_rng_state(), drawn), "what is warm has drawn nothing"
    first, second = cuda.graphs
    assert first["pool"] is second["pool"]
    assert first["capture_error_mode"] == second["capture_error_mode"] == "thread_local"
    out.sum().backward()
    assert cuda.launched == [0, 1]
    with torch.no_grad():
        recorded(torch.ones(3, 2))
    assert cuda.launched == [0, 1, 2]
    assert len(cuda.graphs) == 3, "without gradients there is no second pass"


@pytest.mark.skipif(ON_GPU, reason="a CUDA device is there")
def test_what_waits_is_refused_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Pretended(monkeypatch)
    network = nn.Linear(2, 2)

    def waits(values: Tensor) -> Tensor:
        if cuda.sync_modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        out: Tensor = network(values)
        return out

    recorded = Recorded(waits, network, lambda out: [out])
    with pytest.raises(ValueError, match=r"cannot be recorded: called .*; take hardware\.cuda_gra"):
        recorded(torch.ones(1, 2))
    assert cuda.sync_modes[-1] == "default"
    assert not cuda.graphs
