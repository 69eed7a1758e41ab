"""Memory of a step, computed beforehand: against a measured step, and ZeRO's published shares."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hicmae.optimization import parameter_groups
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig
from pretrain.footprint import NetworkSize, footprint, measure_network
from pretrain.zero import EngineConfig, load_engine

SINGLE = EngineConfig(kind="single")


def measured_peak(model: ModelConfig, clips: int, precision: str) -> int:
    """Most bytes that tensors hold at once in the second step, as the allocator was told."""
    network = HiCMAE(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(network, learning_rate=1e-4, weight_decay=0.05), fused=True
    )
    size = model.input
    video = torch.randn(clips, 3, size.num_frames, size.image_size, size.image_size)
    fbank = torch.randn(clips, size.fbank_frames, size.mel_bins)

    def step() -> None:
        # Lightning's order: the old gradients live through the forward pass.
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = network(video, fbank).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    # What was there before is not in the profile.
    held = sum(4 * item.numel() for item in network.parameters()) + video.nbytes + fbank.nbytes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
        step()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted(
        (event for event in events if event.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    now = most = 0
    for event in memory:
        now += event.nbytes()
        most = max(most, now)
    return held + most


# Keeping events of several cycles would make a Python object of each; there is one cycle.
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_estimate_of_a_step_is_what_a_step_takes(
    precision: str, tiny_model_config: ModelConfig
) -> None:
    """A step must not take more than a tenth above the estimate, nor a fifth below."""
    model = replace(tiny_model_config, encoder_dim=64, decoder_dim=64)
    size = measure_network(lambda: HiCMAE(model), precision=precision)
    for clips in (4, 16):
        estimate = footprint(size, SINGLE, precision=precision, world_size=1, batch_size=clips)
        # The bytes of frames and sound are no part of the measured step.
        bytes_only = clips * (3 * 16 * 32 * 32 + model.input.clip_samples * 2)
        measured = measured_peak(model, clips, precision)
        assert 0.8 < measured / (estimate.device - bytes_only) < 1.1, (clips, measured)


@pytest.mark.slow
def test_activations_grow_with_the_clips_and_shrink_with_bf16(
    tiny_model_config: ModelConfig,
) -> None:
    model = replace(tiny_model_config, encoder_dim=64)
    full = measure_network(lambda: HiCMAE(model), precision="32-true")
    half = measure_network(lambda: HiCMAE(model), precision="bf16-mixed")
    assert full.activations_fixed < 2**16
    assert half.activations_per_clip < full.activations_per_clip
    # Autocast keeps a two-byte copy of every matrix.
    assert 0.7 < half.activations_fixed / (2 * half.num_parameters) < 1
    assert full.num_parameters == sum(item.numel() for item in HiCMAE(model).parameters())


def test_the_stages_of_zero_share_what_the_paper_says() -> None:
    """Its figure 1: 7.5 billion parameters in fp16 on 64 devices: 120, 31.4, 16.6 and 1.9 GB."""
    size = NetworkSize(
        num_parameters=7_500_000_000,
        largest_block=0,
        activations_per_clip=0,
        activations_fixed=0,
        batch_per_clip=0,
    )
    for stage, published in ((1, 31.4), (2, 16.6), (3, 1.9)):
        engine = EngineConfig(kind="deepspeed", stage=stage, gathered_elements=0)
        found = footprint(size, engine, precision="16-mixed", world_size=64, batch_size=1)
        assert (found.device - found.buckets) / 1e9 == pytest.approx(published, abs=0.05), stage
        alone = footprint(size, engine, precision="16-mixed", world_size=1, batch_size=1)
        assert (alone.device - alone.buckets) / 1e9 == pytest.approx(120)


def test_offloading_moves_memory_to_the_host() -> None:
    size = NetworkSize(
        num_parameters=1000,
        largest_block=100,
        activations_per_clip=0,
        activations_fixed=0,
        batch_per_clip=0,
    )

    def found(name: str, gathered: int = 50) -> tuple[int, int]:
        engine = replace(load_engine(name, world_size=2), gathered_elements=gathered)
        found = footprint(size, engine, precision="32-true", world_size=2, batch_size=1)
        return found.device - found.buckets, found.host

    assert found("zero2") == (4000 + 2000 + 6000, 0)
    assert found("zero2_offload") == (4000, 6000 + 2000)
    assert found("zero3") == (2000 + 400 + 2000 + 6000, 0)
    assert found("zero3", gathered=250) == (2000 + 1000 + 2000 + 6000, 0)
    assert found("zero3", gathered=10**7) == (2000 + 4000 + 2000 + 6000, 0)
    assert found("zero3_offload") == (400, 2000 + 6000 + 2000)
