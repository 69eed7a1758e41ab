"""A step on clips of which some lack a modality: against each alone, and on two processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from hicmae.masks import hidden_from_masks, random_masks, tube_masks
from hicmae.objective.losses import find_presence
from hicmae.pretraining import HiCMAE, PretrainOutput
from hicmae.processes import forking
from hicmae.settings import ModelConfig, ObjectiveConfig

# Each process, where there are two, has two clips with both of them, or one and none.
SEEN = torch.tensor([True, False, True, True, True, False])
HEARD = torch.tensor([True, True, False, True, True, True])


def network(sizes: ModelConfig, modalities: str = "audio-video") -> HiCMAE:
    torch.manual_seed(1)
    return HiCMAE(sizes, ObjectiveConfig(negatives="global", contrast_weight=0.5), modalities)


def clips(sizes: ModelConfig) -> dict[str, Tensor]:
    """Six clips and what is hidden of them."""
    random, side = torch.Generator().manual_seed(0), sizes.input.image_size
    cells = tube_masks(6, sizes.video_grid, 0.75, generator=random)
    patches = random_masks(6, sizes.num_audio_tokens, 0.75, generator=random)
    return {
        "video": torch.randn(6, 3, sizes.input.num_frames, side, side, generator=random),
        "fbank": torch.randn(6, sizes.input.fbank_frames, sizes.input.mel_bins, generator=random),
        "video_mask": hidden_from_masks(cells, sizes.num_video_tokens),
        "fbank_mask": hidden_from_masks(patches, sizes.num_audio_tokens),
    }


def step(
    model: HiCMAE, batch: dict[str, Tensor], seen: Tensor, heard: Tensor, rows: slice = slice(None)
) -> tuple[PretrainOutput, Tensor]:
    """A step on some of the clips, and its gradients in one piece."""
    model.zero_grad()
    presence = find_presence(seen[rows], heard[rows])
    output = model(**{name: part[rows] for name, part in batch.items()}, presence=presence)
    output.loss.backward()
    return output, gradients(model)


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.fixture(params=[None, torch.bfloat16], ids=["float32", "bfloat16"])
def near(request: pytest.FixtureRequest) -> Iterator[float]:
    """How near numbers are, in float32 and under autocast on a CPU, whose losses are others."""
    with torch.autocast("cpu", request.param, enabled=request.param is not None):
        yield 0.02 if request.param else 1e-5


def test_each_clip_adds_the_losses_of_what_it_has_computed_as_of_that_alone(
    tiny_model_config: ModelConfig, near: float
) -> None:
    model, batch = network(tiny_model_config), clips(tiny_model_config)
    output, slopes = step(model, batch, SEEN, HEARD)
    both, found = SEEN & HEARD, {"video": 0.0, "audio": 0.0}
    for number in range(6):
        one = {name: part[number : number + 1] for name, part in batch.items()}
        if both[number]:
            alone = model(**one)
        else:  # of a clip that lacks one, the network of the other alone says the same
            single = network(tiny_model_config, "video" if SEEN[number] else "audio")
            alone = single(**one)
        for name, there in (("video", SEEN), ("audio", HEARD)):
            if there[number]:
                found[name] += alone.terms[name].item() / there.sum().item()
    complete = model(**{name: part[both] for name, part in batch.items()})
    found["contrast"] = complete.terms["contrast"].item()
    assert {name: output.terms[name].item() for name in found} == pytest.approx(found, rel=near)
    assert output.terms["contrast_absent"] == 0
    # What stands in for what is not there changes nothing.
    batch["video"][~SEEN] = 7.0
    batch["fbank"][~HEARD] = -7.0
    again, others = step(model, batch, SEEN, HEARD)
    torch.testing.assert_close(again.loss, output.loss)
    torch.testing.assert_close(others, slopes)


def test_fewer_than_two_clips_with_both_leave_the_contrast_out_and_say_so(
    tiny_model_config: ModelConfig,
) -> None:
    model, batch = network(tiny_model_config), clips(tiny_model_config)
    seen = torch.tensor([True, True, False, True, False, True])
    output, slopes = step(model, batch, seen, ~seen | (torch.arange(6) == 0))
    assert output.terms["contrast_absent"] == 1
    assert output.terms["contrast"] == 0
    assert output.terms["contrast_accuracy_layer1"] == 0
    assert output.loss == output.terms["video"] + output.terms["audio"]
    assert slopes.isfinite().all()


@pytest.mark.parametrize("lacking", ["video", "audio"])
def test_a_batch_without_any_picture_or_any_sound_says_which(
    tiny_model_config: ModelConfig, lacking: str
) -> None:
    model, batch, all_of_them = network(tiny_model_config), clips(tiny_model_config), SEEN | HEARD
    there = {name: all_of_them & (name != lacking) for name in ("video", "audio")}
    output, slopes = step(model, batch, there["video"], there["audio"])
    assert output.terms[lacking] == 0
    assert {name: bool(output.terms[f"{name}_absent"]) for name in there} == {
        name: name == lacking for name in there
    }
    assert slopes.isfinite().all()


def _two_ranks(rank: int, folder: str, sizes: ModelConfig) -> None:
    batch, seen = clips(sizes), SEEN.clone()
    wanted = []
    for _ in range(2):
        model = network(sizes)
        output, slopes = step(model, batch, seen, HEARD)
        wanted.append((torch.stack([output.loss.detach(), *output.terms.values()]), slopes))
        seen[3:] = False  # then the second process has no clip with both
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank,
                            world_size=2)  # fmt: skip
    seen = SEEN.clone()
    rows = slice(3 * rank, 3 * rank + 3)
    for terms, slopes in wanted:
        output, mine = step(network(sizes), batch, seen, HEARD, rows)
        found = torch.stack([output.loss.detach(), *output.terms.values()])
        for sums in (found, mine):
            dist.all_reduce(sums)
        torch.testing.assert_close(found / 2, terms)
        torch.testing.assert_close(mine / 2, slopes, rtol=1e-4, atol=1e-6)
        seen[3:] = False
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradient_of_one(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    arguments = (str(tmp_path), tiny_model_config)
    method = forking().get_start_method()
    mp.start_processes(_two_ranks, args=arguments, nprocs=2, start_method=method)
