"""What is counted against a run, without a run: bad samples, and steps that are not finite."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.guard import Agreement, BadSamples, FiniteGuard


@pytest.mark.parametrize(
    ("max_bad", "good", "bad", "stops"),
    [
        (2, 10, 2, False),
        (2, 10, 3, True),
        (1, 10, 1, False),  # a count
        (1, 10, 2, True),
        (0, 10, 1, True),
        (0.1, 10, 20, False),  # a share of 200 samples at least
        (0.1, 10, 21, True),
        (0.1, 900, 100, False),
        (0.1, 900, 101, True),
    ],
)
def test_so_many_bad_samples_stop_a_run_in_one_go_or_in_two_after_a_resume(
    max_bad: float, good: int, bad: int, stops: bool
) -> None:
    trainer: Any = SimpleNamespace(global_step=1)
    whole = BadSamples(max_bad)
    assert whole.settle(trainer, (good, bad)) == stops == (whole.error is not None)
    first, second = BadSamples(max_bad), BadSamples(max_bad)
    first.settle(trainer, (good - 5, 0))
    second.load_state_dict(first.state_dict())
    assert second.settle(trainer, (5, bad)) == stops


def test_samples_are_counted_once_and_those_that_lack_a_modality_are_not_bad() -> None:
    found = BadSamples(0)
    skipped = {"no-sound": 5, "no-picture": 4, "truncated": 2}
    for _ in range(2):
        found.on_train_batch_start(None, None, {"keys": ["a", "b"], "skipped": skipped})  # type: ignore[arg-type]
    assert found.seen() == (4, 4)
    assert found.seen() == (0, 0)


class Steps:
    """Takes steps of one batch or more under a guard; ``said`` is what the user is told."""

    def __init__(self, folder: Path, precision: str = "32-true", **settings: Any) -> None:
        self.said: list[str] = []
        self.guard = FiniteGuard(folder, say=self.said.append, **settings)
        self.trainer: Any = SimpleNamespace(
            strategy=None, precision=precision, global_step=0, global_rank=0, world_size=1
        )
        self.agree = Agreement([self.guard, BadSamples(0)], list)

    def take(self, norm: float, *losses: float) -> None:
        self.trainer.global_step += 1
        terms: dict[str, torch.Tensor] = {}
        for loss in losses or (1.0,):
            fbank = torch.zeros(3, 2, 2)  # the last stands in for one that was bad
            batch: Any = {"keys": ["a", "b"], "video": None, "fbank": fbank}
            fbank[1, 0, 0] = loss
            self.guard.on_train_batch_start(self.trainer, None, batch)
            terms = {"loss": torch.tensor(loss)}
            self.guard.after_batch(self.trainer, None, {"terms": terms})  # type: ignore[arg-type]
        module: Any = SimpleNamespace(gradient_norm=torch.tensor(norm), last_terms=terms)
        self.guard.act(self.trainer, module, None)
        self.agree.act(self.trainer, module, None)


@pytest.mark.parametrize(("budget", "stops"), [(2, False), (1, True)])
def test_a_budget_of_steps_is_kept_over_looks_checkpoints_and_the_end(
    tmp_path: Path, budget: int, stops: bool
) -> None:
    steps = Steps(tmp_path, max_skipped=budget, look_every=4)
    for norm in (1.0, math.inf, 1.0, 1.0):
        steps.take(norm)
    assert steps.guard.num_skipped == 1
    assert steps.said[0].startswith("step 2: not finite")
    steps.take(math.nan)  # after the last look
    state = steps.guard.state_dict()
    assert state == {"num_skipped": 2}
    steps.guard.on_train_end(steps.trainer, None)  # type: ignore[arg-type]
    assert steps.guard.num_skipped == 2
    assert (steps.guard.error is not None) == stops
    assert sorted(path.name[:21] for path in tmp_path.iterdir()) == [
        "nonfinite-step-000002",
        "nonfinite-step-000005",
    ]
    resumed = Steps(tmp_path, max_skipped=budget)
    resumed.guard.load_state_dict(state)
    resumed.take(math.inf)
    assert resumed.trainer.should_stop, "the others may not have been the one to decide"


def test_with_fp16_any_loss_of_a_step_counts_and_the_norm_does_not(tmp_path: Path) -> None:
    steps = Steps(tmp_path, "16-mixed", max_skipped=9)
    steps.take(math.inf, 1.0, 1.0)  # the scaler's own business
    assert not steps.guard.num_skipped
    steps.take(1.0, math.nan, 1.0)
    assert steps.guard.num_skipped == 1
    assert "in the input of samples b;" in steps.said[0]
