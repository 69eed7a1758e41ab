"""DeepSpeed's ZeRO between two CPU processes, against one process on the same clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.masks import Masks
from hicmae.pretraining import HiCMAE
from hicmae.settings import InputConfig, ModelConfig, ObjectiveConfig
from pretrain.footprint import NetworkSize, footprint
from pretrain.module import PretrainModule, step_seed
from pretrain.settings import Counts, OptimizerConfig, PretrainConfig
from pretrain.zero import load_engine
from shards.reading.settings import DataConfig
from shards.reading.streaming import ClipStream
from tests.support.pretrain_processes import Runs
from tests.support.pretrain_shards import assert_same_weights

pytestmark = pytest.mark.slow

OPTIMIZER = OptimizerConfig(learning_rate=0.1, warmup_steps=2, clip_norm=0.5)
STEPS, ENGINES = 4, ("zero1", "zero3")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    repository: Path,
    shallow_model_config: ModelConfig,
    many_shards: Path,
) -> Iterator[Runs]:
    """With the run to compare with: one process that averages over the batches of two."""
    folder = tmp_path_factory.mktemp("zero")
    # All of the tiny network is shared out; by default a device keeps small weights whole.
    (folder / "zero3.yaml").write_text(
        "kind: deepspeed\nstage: 3\npersistent_elements: 0\ngathered_elements: 4000\n"
    )
    (folder / "bf16.yaml").write_text("kind: deepspeed\nstage: 2\ncommunication: bf16\n")
    found = Runs(folder, repository, shallow_model_config, many_shards)
    found.options += ["--optimizer.clip_norm", "0.5", "--steps", str(STEPS)]
    found.options += ["--log.checkpoint_every", "2", "--log.keep", "9"]
    found.here("one", "--accumulate", "2")
    yield found
    found.end()


def chosen(runs: Runs, engine: str) -> str:
    """The engine, or the file of its own that the tests have for it."""
    own = runs.folder / f"{engine}.yaml"
    return str(own) if own.is_file() else engine


def of_two(runs: Runs, name: str, engine: str, *more: str) -> list[str]:
    """The command of a run of two processes, which share as an engine says."""
    words = ("--hardware.devices", "2", "--hardware.strategy", chosen(runs, engine))
    return runs.words(name, *words, *more)


def losses_of(runs: Runs, name: str) -> list[float]:
    return [float(row["loss"]) for row in runs.rows(name)]


def agree(runs: Runs, name: str, losses: Sequence[float], weights: dict[str, Any]) -> None:
    assert losses_of(runs, name) == pytest.approx(losses, rel=1e-5)
    found = runs.weights(name)
    assert found.keys() == weights.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=2e-5, msg=key)


def agree_with_one(runs: Runs, name: str) -> None:
    agree(runs, name, losses_of(runs, "one"), runs.weights("one"))


def half_way(runs: Runs, name: str, copy: str) -> str:
    """A copy of a run as it was after two steps; its name."""
    shutil.copytree(runs.folder / name, runs.folder / copy)
    for end in ("ckpt", "json"):
        (runs.folder / copy / "checkpoints" / f"step-{STEPS:06d}.{end}").unlink()
    return copy


@pytest.fixture(scope="module")
def trained(runs: Runs) -> None:
    """Runs of two processes, whose third step was watched, by the names of their engines.

    And one whose negatives are global, with pictures, whose forward pass gathers them too.
    """
    more = ("--objective.negatives", "global", "--log.pictures_every", str(STEPS))
    commands = [of_two(runs, engine, engine) for engine in ENGINES]
    runs.in_turn([*commands, of_two(runs, "global", "zero2", *more)], script="traffic")


@pytest.fixture(scope="module")
def resumed(trained: None, runs: Runs) -> str:
    """What was said where two processes went on from half way.

    With the engine that began; with everything offloaded what one process had begun; and with the
    optimizer offloaded, which is the same memory on CPUs, but another path through DeepSpeed.
    """
    on = [(engine, f"{engine}-resumed", engine, ()) for engine in ENGINES]
    on += [("zero1", "offloaded", "zero2_offload", ())]
    on += [("one", "one-then-two", "zero3_offload", ("--accumulate", "2"))]
    return runs.in_turn(
        [
            of_two(runs, half_way(runs, name, copy), engine, "--resume", *more)
            for name, copy, engine, more in on
        ]
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_as_one_does_and_go_on_with_the_same_bits(
    engine: str, resumed: str, runs: Runs
) -> None:
    """Local negatives: the mean over the batches of processes, computed in one."""
    agree_with_one(runs, engine)
    assert resumed.count("from step 2 to step 4") == 4
    assert_same_weights(runs.folder / f"{engine}-resumed", runs.folder / engine)
    assert losses_of(runs, f"{engine}-resumed") == losses_of(runs, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("trained")
def test_an_engine_keeps_and_sends_what_the_paper_says(
    engine: str, runs: Runs, shallow_model_config: ModelConfig
) -> None:
    """With W bytes of weights: new weights and gradients, 2 W; weights twice at stage 3, 3 W.

    But for what is whole when the forward pass ends: it is still whole when the backward begins.
    """
    files = list((runs.folder / engine).glob("traffic-*.json"))
    assert len(files) == 2
    found = [json.loads(path.read_text()) for path in files]
    config = load_engine(chosen(runs, engine), world_size=2)
    count = sum(parameter.numel() for parameter in HiCMAE(shallow_model_config).parameters())
    size = NetworkSize(
        num_parameters=count,
        largest_block=0,
        activations_per_clip=0,
        activations_fixed=0,
        batch_per_clip=0,
    )
    shared = replace(config, gathered_elements=0)
    expected = asdict(footprint(size, shared, precision="32-true", world_size=2, batch_size=0))
    if engine == "zero1":  # when it is looked at, those of the other process are gone
        expected["gradients"] /= 2
    for kind in ("weights", "gradients", "optimizer"):
        most = max(part["kept"][kind] for part in found)
        assert most == pytest.approx(expected[kind], rel=0.02), kind
    sent = 2 * 4 * count if engine == "zero1" else 3 * 4 * count - 4 * config.gathered_elements
    assert max(part["sent"] for part in found) == pytest.approx(sent, rel=0.05)


@pytest.mark.usefixtures("trained")
def test_a_checkpoint_goes_on_in_one_process(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    runs.here(half_way(runs, "zero1", "alone"), "--resume")
    assert "accumulate = 2 instead of 1" in capsys.readouterr().out
    agree_with_one(runs, "alone")


@pytest.mark.parametrize("name", ["offloaded", "one-then-two"])
def test_a_checkpoint_goes_on_with_another_engine_and_number_of_processes(
    name: str, resumed: str, runs: Runs
) -> None:
    assert resumed.count("accumulate = 1 instead of 2") == 1
    agree_with_one(runs, name)


# Engines, and the batches of a step that each is tried with; one batch is what the others try, and
# what is lost or counted twice with four is so with every stage that keeps a part of the gradients.
ACCUMULATED = {
    "ddp": (2,),
    "zero1": (2,),
    "zero2": (2, 4),
    "zero3": (2,),
    "zero2_offload": (2,),
    "zero3_offload": (2,),
}


def test_accumulation_is_the_mean_over_the_batches_of_a_step_with_every_engine(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Norms before clipping, clipped steps and weights; then on with other numbers of both.

    One process of 2 N batches a step has the clips of two with N.
    """
    small = ("--data.batch_size", "1", "--optimizer.clip_norm", "0.1", "--log.health_every", "0")

    def of_small(name: str, engine: str, *more: str) -> list[str]:
        # Where nothing goes on from half way, the last checkpoint will do.
        every = "2" if name in ("zero1-2", "zero2-2", "zero3-2") else str(STEPS)
        return of_two(runs, name, engine, *small, "--log.checkpoint_every", every, *more)

    for count in (2, 4):
        runs.here(f"one-{count}", *small, "--accumulate", str(2 * count))
    on = {engine: half_way(runs, "one-2", f"one-2-{engine}") for engine in ("zero1", "zero3")}
    runs.in_turn(
        [
            *(
                of_small(f"{engine}-{count}", engine, "--accumulate", str(count))
                for engine, counts in ACCUMULATED.items()
                for count in counts
            ),
            of_small("bf16", "bf16", "--accumulate", "2"),
            # They share the batches of one process's step.
            *(of_small(name, engine, "--resume") for engine, name in on.items()),
        ]
    )
    made = [
        (f"{engine}-{count}", count) for engine, counts in ACCUMULATED.items() for count in counts
    ]
    made += [(name, 2) for name in on.values()]
    # One process, with DeepSpeed and without it, takes the batches of both.
    alone = []
    for engine in ("zero1", "zero3"):
        name = half_way(runs, f"{engine}-2", f"{engine}-2-alone")
        alone.append(
            runs.words(name, *small, "--hardware.strategy", chosen(runs, engine), "--resume")
        )
        made.append((name, 2))
    runs.in_turn(alone, processes=1)
    name = half_way(runs, "zero2-2", "zero2-2-single")
    capsys.readouterr()
    runs.here(name, *small, "--resume")
    assert "accumulate = 4 instead of 1" in capsys.readouterr().out
    made.append((name, 2))
    for name, count in made:
        expected = norms_of(runs, f"one-{count}")
        assert min(expected) > 0.1, "every step is clipped"
        assert norms_of(runs, name) == pytest.approx(expected, rel=1e-4), name
        agree(runs, name, losses_of(runs, f"one-{count}"), runs.weights(f"one-{count}"))

    # Sent in bf16, sums are rounded to 8 bits.
    sent, exact = norms_of(runs, "bf16"), norms_of(runs, "one-2")
    assert sent == pytest.approx(exact, rel=0.02)
    assert sent != pytest.approx(exact, rel=1e-5)


def test_what_is_frozen_is_saved_with_the_rest_and_gone_on_with(runs: Runs) -> None:
    """Of a network of the sound alone, and by contrast alone; DeepSpeed keeps no fp32 copy of it.

    Two processes go on with what one has begun, and one with what two have begun.
    """
    alone = {
        "zero1": ("--data.modalities", "audio"),
        "zero3": ("--objective.reconstruction", "false", "--objective.contrast_weight", "1"),
    }
    two, begun = [], []
    for engine, words in alone.items():
        runs.here(f"frozen-{engine}", "--accumulate", "2", *words)
        on = half_way(runs, f"frozen-{engine}", f"frozen-{engine}-on")
        two.append(of_two(runs, on, engine, "--resume", *words))
        begun.append(of_two(runs, f"frozen-{engine}-two", engine, *words))
    runs.in_turn([*two, *begun])
    for engine, words in alone.items():
        on = half_way(runs, f"frozen-{engine}-two", f"frozen-{engine}-back")
        runs.here(on, "--resume", *words)
        losses = losses_of(runs, f"frozen-{engine}")
        for how in ("on", "two", "back"):
            agree(runs, f"frozen-{engine}-{how}", losses, runs.weights(f"frozen-{engine}"))


def norms_of(runs: Runs, name: str) -> list[float]:
    return [float(row["gradient_norm"]) for row in runs.rows(name)]


@pytest.mark.usefixtures("trained")
def test_global_negatives_are_those_of_one_large_batch(
    runs: Runs, many_shards: Path, shallow_model_config: ModelConfig
) -> None:
    losses, weights = train_on_large_batches(many_shards, shallow_model_config)
    agree(runs, "global", losses, weights)
    assert (runs.folder / "global" / "figures" / f"reconstruction-{STEPS:06d}.png").is_file()


def train_on_large_batches(
    shards: Path, sizes: ModelConfig
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """A plain loop in this process over the clips, crops and masks of both processes at once."""
    config = PretrainConfig(
        data=DataConfig(shards=shards),
        out=shards / "run",
        model=sizes,
        objective=ObjectiveConfig(negatives="global"),
        optimizer=OPTIMIZER,
    )
    counts = Counts(num_steps=STEPS, warmup_steps=2, global_batch=8, steps_per_epoch=2)
    module = PretrainModule(config, counts)
    parts = [iter(parts_of(shards, sizes.input, rank)) for rank in (0, 1)]
    decayed = [p for p in module.model.parameters() if p.ndim > 1]
    others = [p for p in module.model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
    losses = []
    for step in range(STEPS):
        videos, fbanks, masks = [], [], []
        for rank in (0, 1):
            torch.manual_seed(step_seed(0, 2 * step + rank))
            video, fbank = module.transform(next(parts[rank]))
            masks.append(module.model.draw_masks(len(video)))
            videos.append(video)
            fbanks.append(fbank)
        output = module.model(
            torch.cat(videos),
            torch.cat(fbanks),
            video_mask=torch.cat([hidden(one) for one, _ in masks]),
            fbank_mask=torch.cat([hidden(two) for _, two in masks]),
        )
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = module.peak_learning_rate * module.rate_factor(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    return losses, dict(module.model.state_dict())


def parts_of(shards: Path, input: InputConfig, rank: int) -> Any:
    """The clips of one of two processes."""
    config = DataConfig(shards=str(shards), batch_size=4, shuffle_shards=8)
    return ClipStream(input, config, seed=0, rank=rank, world_size=2)


def hidden(masks: Masks) -> torch.Tensor:
    """A boolean mask (B, N), True = hidden."""
    batch, kept = masks.keep.shape
    mask = torch.zeros(batch, kept + masks.masked.shape[1], dtype=torch.bool)
    return mask.scatter(1, masks.masked, True)
