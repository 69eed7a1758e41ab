"""What a fold trains on, what chooses its epoch, and proof that both can be had.

For: from a fold and the protocol to rows. Not for: dividing a collection (``finetune/folds.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from finetune.fitting.subset import training_subset
from finetune.folds import Fold, shared_values
from finetune.plan import Plan
from finetune.targets import vote_shares
from finetune.validation import EpochChoice, InnerSplit, inner_split


def check_training(plan: Plan, folds: Sequence[Fold]) -> None:
    """Prove of each fold, before any is trained, that its targets and its epoch can be had.

    Raises: ValueError: votes that are no counts; a training side of which nothing can be kept out
        for the inner validation, or without the samples of each class that are wanted; a rank
        of low-rank updates that a matrix does not have; more processes than samples.
    """
    if plan.recipe.tuning == "lora":
        assert plan.num_parameters > 0  # a rank that a matrix does not have is refused here
    for fold in folds:
        sides, choice, _ = sides_of(plan, fold)
        if plan.recipe.soft_labels:
            vote_shares(plan.benchmark, sides.train)
        judged = [fold.test] if choice is None else [fold.test, choice.fold.test]
        fewest = min(len(sides.train), *(len(rows) * plan.recipe.num_segments for rows in judged))
        if plan.trainer.devices > fewest:
            raise ValueError(
                f"fold {fold.name}: trainer.devices = {plan.trainer.devices} for {fewest} training"
                " samples or test views; lower it"
            )


def sides_of(plan: Plan, fold: Fold) -> tuple[InnerSplit, EpochChoice | None, list[str]]:
    """What a fold trains on, what chooses its epoch if anything does, and notes about both."""
    sides = InnerSplit(train=fold.train, validation=fold.train.iloc[:0], by="")
    notes = []
    shared = shared_values(fold, plan.benchmark.speaker)
    if shared:  # or it would have been refused
        notes.append(
            f"{len(shared)} values of {plan.benchmark.speaker} are on both sides, as the"
            " benchmark's protocol allows"
        )
    rule = plan.protocol.selection
    if rule == "last":
        return _reduced(plan, sides, notes), None, notes
    judged = fold
    if rule == "inner-validation":
        sides = inner_split(plan.benchmark, fold, share=plan.protocol.validation_share)
        judged = Fold(name=fold.name, train=sides.train, test=sides.validation)
        if sides.by != plan.benchmark.speaker:
            notes.append(
                f"the inner validation is divided by {sides.by}: nobody names the"
                f" {plan.benchmark.speaker}"
            )
    choice = EpochChoice(
        benchmark=plan.benchmark,
        fold=judged,
        num_segments=plan.recipe.num_segments,
        prefix="test" if rule == "best-on-test" else "validation",
    )
    return _reduced(plan, sides, notes), choice, notes


def _reduced(plan: Plan, sides: InnerSplit, notes: list[str]) -> InnerSplit:
    """The sides with what the recipe wants of the training side, and a note about it."""
    shots, fraction = plan.recipe.shots, plan.recipe.fraction
    rows = training_subset(
        plan.benchmark, sides.train, shots=shots, fraction=fraction, seed=plan.seed
    )
    if len(rows) < 2 <= plan.recipe.batch_size and "ccc" in plan.resolved.loss:
        raise ValueError(
            f"{len(rows)} training sample is left for loss {plan.resolved.loss} (a correlation"
            " needs 2 or more); raise recipe.fraction or take loss mse"
        )
    if shots is not None or fraction < 1:
        what = f"{shots} of each class" if shots is not None else f"a share of {fraction:g}"
        notes.append(
            f"trained on {len(rows)} of {len(sides.train)} samples: {what}, drawn by seed"
            f" {plan.seed}"
        )
    return dataclasses.replace(sides, train=rows)
