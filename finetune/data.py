"""What a fold trains on and reads.

From a fold to the rows of its sides, with proof before training that all that is wanted of them
can be had; what the training side decides about the loss; and loaders of training clips and of
test views, for one process or several that share each batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from finetune.benchmark import Benchmark
from finetune.folds import HELD, Fold, as_text, check_heads, held_of, need_column, shared_values
from finetune.heads import Head, plain, read_truth
from finetune.mixing import smoothed
from finetune.plan import Plan
from finetune.processes import Share
from finetune.settings import RecipeConfig
from finetune.validation import EpochChoice, InnerSplit, inner_split
from hicmae.optimization import StepLoader
from shards.reading.random_access import ShardDataset, check_rate
from shards.sample import collate
from shards.schema import Skipped

Loader = DataLoader[Any]
# Bands of the first real value that a share is taken from alike.
NUM_BANDS = 5
_ALL = Share()


def check_modalities(
    rows: pd.DataFrame, *, modalities: str, whole: bool = False, choice: str = "audio-video"
) -> None:
    """Refuse samples that lack what the network reads.

    Args:
        modalities: What it reads; of both, a sample may lack one.
        whole: Unless all must have both.
        choice: Those of which ``--modalities`` may name another; nothing where there is no choice.

    Raises: ValueError: the first such sample, and how many there are.
    """
    if modalities == "audio-video" and not whole:
        return
    for member, what, name, other in (
        ("mjpg", "picture", "video", "audio"),
        ("wav", "sound", "audio", "video"),
    ):
        lacking = np.flatnonzero((rows[f"{member}_length"] <= 0).to_numpy())
        if len(lacking) and name in modalities.split("-"):
            remedy = f", or pass --modalities {other}" if other in choice.split("-") else ""
            raise ValueError(
                f"sample '{rows.iloc[int(lacking[0])]['key']}' has no {what} ({len(lacking)} of"
                f" {len(rows)} samples), and modalities = {modalities} needs it; leave them out of"
                f" the shards{remedy}"
            )


def is_mixed(plan: Plan) -> bool:
    """Whether the network reads both modalities, and a sample lacks one."""
    return plan.emotion.modalities == "audio-video" and HELD in held_of(plan.index.table)


def check_training(plan: Plan, folds: Sequence[Fold]) -> None:
    """Prove of each fold, before any is trained, that its targets and its epoch can be had.

    Raises: ValueError: votes that are no counts; a training side of which nothing can be kept out
        for the inner validation, or without the samples of each class that are wanted; a rank
        of low-rank updates that a matrix does not have; more processes than samples; a sample of
        another frame rate than the network's.
    """
    if plan.config.recipe.tuning == "lora":
        assert plan.num_parameters > 0  # a rank that a matrix does not have is refused here
    devices = plan.config.hardware.devices
    for fold in folds:
        sides, choice, _ = sides_of(plan, fold)
        if plan.config.recipe.soft_labels:
            vote_shares(plan.benchmark, sides.train)
        for rows in (sides.train, sides.validation, fold.test):
            check_rate(plan.index.folder.resolve(), rows, plan.model.input)
        views = len(fold.test) * plan.config.recipe.num_segments
        judged = views if choice is None else len(choice.fold.test) * choice.num_segments
        fewest = min(len(sides.train), views, judged, len(sides.validation) or views)
        if devices > fewest:
            raise ValueError(
                f"fold {fold.name}: hardware.devices = {devices} for {fewest} training"
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
    judged = fold
    if rule == "inner-validation" or plan.keeps_out:
        sides = inner_split(plan.benchmark, fold, share=plan.protocol.validation_share)
        judged = Fold(name=fold.name, train=sides.train, test=sides.validation)
        if sides.by != plan.benchmark.speaker:
            notes.append(
                f"the inner validation is divided by {sides.by}: nobody names the"
                f" {plan.benchmark.speaker}"
            )
    if rule == "last":
        if plan.keeps_out:
            thing = "the thresholds" if plan.benchmark.heads else "the calibration"
            thing = "the smoothing" if plan.benchmark.over_time else thing
            notes.append(
                f"{len(sides.validation)} samples of its training side were kept out of training,"
                f" to fit {thing}"
            )
        return _reduced(plan, fold, sides, notes), None, notes
    benchmark, judge = plan.benchmark, plan.protocol.judge
    if judge:
        metrics = tuple(dict.fromkeys((*benchmark.metrics, judge)))
        benchmark = dataclasses.replace(
            benchmark, metrics=metrics, leading=judge, average_over=None
        )
    choice = EpochChoice(
        benchmark=benchmark,
        fold=judged,
        num_segments=1 if judge else plan.config.recipe.num_segments,
        clip=plan.model.input,
        prefix="test" if rule == "best-on-test" else "validation",
    )
    return _reduced(plan, fold, sides, notes), choice, notes


def training_subset(
    benchmark: Benchmark, rows: pd.DataFrame, *, shots: int | None, fraction: float, seed: int
) -> pd.DataFrame:
    """Choose what is trained on.

    Who is chosen follows from the seed and the sample's key alone: every machine chooses the same,
    and a larger number or share holds the smaller one's samples of a class.

    Args:
        shots: Samples of each class; none: as the fraction says.
        fraction: Share of each class, or of each fifth of the first real value; at least one
            sample of each.

    Returns: rows in their old order.
    Raises: ValueError: a class with fewer samples than are wanted.
    """
    if shots is None and fraction == 1:
        return rows
    place = rows["key"].map(lambda key: hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest())
    chosen: list[int] = []
    for name, numbers in _strata(benchmark, rows).items():
        if shots is not None and len(numbers) < shots:
            raise ValueError(
                f"class {name} has {len(numbers)} training samples, and recipe.shots = {shots} are"
                " wanted of each; lower it"
            )
        number = shots if shots is not None else max(1, round(fraction * len(numbers)))
        chosen += sorted(numbers, key=lambda row: place.iloc[row])[:number]
    return rows.iloc[sorted(chosen)]


def target_moments(
    benchmark: Benchmark, rows: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean and deviation of each real-valued target over the training side alone.

    Returns: mean (D,), standard deviation (D,), 1 where a target is constant, and notes about
        such targets; for classes, zeros, ones and none. Of several heads, of all their outputs.
    """
    if benchmark.task == "classification":
        return np.zeros(1), np.ones(1), []
    means, deviations, notes = [], [], []
    for head in benchmark.every_head:
        if head.kind != "regression":
            means.append(np.zeros(len(head.names)))
            deviations.append(np.ones(len(head.names)))
            continue
        values, known = read_truth(head, rows)
        values = values[known]
        constant = values.min(axis=0) == values.max(axis=0)
        means.append(values.mean(axis=0))
        deviations.append(np.where(constant, 1.0, values.std(axis=0)))
        notes += [
            f"{name} is the same in every training sample, so nothing was learned about it"
            for name, flag in zip(head.targets, constant, strict=True)
            if flag
        ]
    return np.concatenate(means), np.concatenate(deviations), notes


def training_targets(
    benchmark: Benchmark, rows: pd.DataFrame, recipe: RecipeConfig, mean: Tensor, std: Tensor
) -> tuple[Tensor, list[str]]:
    """What the losses compare with.

    Args: mean, std: (D,) of ``target_moments``.
    Returns: float32, smoothed (N, C), or standardised (N, D); of several heads (N, C + H): after
        the targets, 1 for each head whose label is there; and notes about samples without votes,
        or without the labels of a head.
    Raises: ValueError: as ``vote_shares``.
    """
    smoothing = recipe.label_smoothing
    notes: list[str] = []
    if not benchmark.heads:
        if recipe.soft_labels:
            whole, notes = vote_shares(benchmark, rows)
        else:
            whole = torch.from_numpy(read_truth(benchmark.every_head[0], rows)[0]).float()
        if benchmark.task == "classification":
            return smoothed(whole, smoothing), notes
        return (whole - mean.float()) / std.float(), notes
    targets, known = [], []
    for head in benchmark.heads:
        truth, has = read_truth(head, rows)
        if head.kind == "classification":
            truth = smoothed(truth, smoothing)
        targets.append(truth)
        known.append(has)
        if not has.all():
            notes.append(
                f"{int((~has).sum())} of {len(rows)} training samples have no label of"
                f" '{head.name}'; they train the other heads"
            )
    whole = (torch.from_numpy(np.concatenate(targets, axis=1)) - mean) / std
    return torch.cat([whole, torch.from_numpy(np.stack(known, axis=1))], dim=1).float(), notes


def vote_shares(benchmark: Benchmark, rows: pd.DataFrame) -> tuple[Tensor, list[str]]:
    """Shares of the raters' votes as training targets.

    A sample without a vote for any of the classes keeps its label.

    Returns: (N, C) float32, rows sum to 1; and a note about samples without votes.
    Raises: ValueError: the benchmark names no columns of votes; the index lacks one; a count that
        is no number or negative.
    """
    if not benchmark.votes:
        raise ValueError(
            f"benchmark '{benchmark.name}' names no columns of votes; leave recipe.soft_labels out"
        )
    for column in benchmark.votes:
        need_column(rows, column, f"benchmark '{benchmark.name}' (votes, for recipe.soft_labels)")
    # A cell without a number is a rater's silence; a word or a negative count is a mistake.
    cells = rows[list(benchmark.votes)]
    counts = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    empty = cells.map(as_text).to_numpy() == ""
    wrong = np.argwhere(~(np.isfinite(counts) & (counts >= 0)) & ~empty)
    if len(wrong):
        row, place = wrong[0]
        raise ValueError(
            f"sample '{rows.iloc[int(row)]['key']}': {benchmark.votes[place]} ="
            f" {plain(cells.iloc[int(row), int(place)])!r} is no count of votes"
            f" ({len(np.unique(wrong[:, 0]))} such samples)"
        )
    counts = np.where(empty, 0.0, counts)
    totals = counts.sum(axis=1, keepdims=True)
    voted = totals > 0
    (head,) = benchmark.every_head
    hard, _ = read_truth(head, rows)
    shares = np.where(voted, counts / np.where(voted, totals, 1.0), hard)
    silent = int((~voted).sum())
    notes = [f"{silent} of {len(rows)} training samples have no vote and keep their label"]
    return torch.from_numpy(shares).float(), notes if silent else []


def balanced_weights(head: Head, rows: pd.DataFrame) -> Tensor:
    """Weight of each class in the loss: N / (C · n_c), 1 on average over the training samples.

    Args: head: Of kind classification; of several heads, the samples that have its label count.
    Returns: (C,) float32.
    Source: King and Zeng, 2001, "Logistic regression in rare events data".
    """
    truth, known = read_truth(head, rows)
    counts = truth[known].sum(axis=0)
    assert head.name or counts.min() > 0, "a fold without a class is refused before training"
    return torch.from_numpy(known.sum() / (len(counts) * counts)).float()


class EpochOrder(Sampler[int]):
    """A new order for each epoch, which follows from the seed and the epoch alone.

    Every batch of all processes together is the batch that one process would read: of a batch, a
    process takes each ``share.of``-th sample. What does not fill a last step is left out, unless it
    is the only one: then what does not fill a batch, or of a single batch what the processes cannot
    share evenly.

    Args:
        batch_size: Of all processes together.
        accumulate: Batches of an optimizer step.
    """

    def __init__(
        self, num_samples: int, *, batch_size: int, seed: int, share: Share, accumulate: int = 1
    ) -> None:
        sizes = (batch_size * accumulate, batch_size)
        whole = next((size for size in sizes if size <= num_samples), share.of)
        self.num_samples, self.seed, self.share, self.epoch = num_samples, seed, share, 0
        self.num_used = num_samples - num_samples % whole

    def __len__(self) -> int:
        return self.num_used // self.share.of

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0]
        order = torch.randperm(
            self.num_samples, generator=torch.Generator().manual_seed(int(state))
        )
        return iter(order[: self.num_used][self.share.rank :: self.share.of].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch."""
        self.epoch = epoch


def have_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's "sample", "seen" and "heard", as it has them; whether it has "video", "fbank"."""
    rows = {name: batch[name].numpy() for name in ("sample", "seen", "heard") if name in batch}
    return rows | {"video": "frames" in batch, "fbank": "waveform" in batch}


def part_of(number: int, share: Share) -> range:
    """The part of ``number`` items that a process handles: each item is in one part alone."""
    return range(number * share.rank // share.of, number * (share.rank + 1) // share.of)


def training_loader(plan: Plan, rows: pd.DataFrame, share: Share = _ALL) -> StepLoader:
    """Shuffled clips, one a sample and epoch, each at a random place.

    A last step of fewer clips is left out unless it is the only one: it would be as long as that
    of all clips, or, of fewer accumulated batches, made of a part of a gradient. The recipe's batch
    is of all processes together.
    """
    config = plan.config
    size, seed, accumulate = config.recipe.batch_size, config.seed, config.accumulate
    return StepLoader(
        _dataset(plan, rows, views="train", seed=seed, on_bad=config.trainer.on_bad),
        batch_size=size // share.of,
        sampler=EpochOrder(
            len(rows), batch_size=size, seed=seed, share=share, accumulate=accumulate
        ),
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=config.workers > 0,
        **_common(plan) | {"collate_fn": _clips_or_none},
    )


def view_loader(
    plan: Plan,
    rows: pd.DataFrame,
    share: Share = _ALL,
    *,
    views: int | Literal["train"] | None = None,
) -> Loader:
    """Every view of every sample once, in order; a sample that cannot be read is an error.

    Of several processes each reads its part, and nothing is repeated to make parts equal.
    ``views`` of a sample are the recipe's unless told; ``train``: one at a random place, another
    one each epoch.
    """
    recipe = plan.config.recipe
    views = views or recipe.num_segments
    seed = plan.config.seed if views == "train" else 0
    dataset = _dataset(plan, rows, views=views, seed=seed, on_bad="raise")
    return DataLoader(
        dataset,
        batch_size=max(1, recipe.batch_size // share.of),
        sampler=part_of(len(dataset), share),
        # Of its own: scoring an epoch must not move the draws of the training.
        generator=torch.Generator().manual_seed(0),
        **_common(plan),
    )


def _dataset(plan: Plan, rows: pd.DataFrame, *, views: Any, seed: int, on_bad: Any) -> ShardDataset:
    """The samples of one side."""
    return ShardDataset(
        plan.index,
        input=plan.model.input,
        rows=rows,
        views=views,
        modalities=plan.emotion.modalities,
        require_picture=False,
        require_sound=False,
        on_bad=on_bad,
        seed=seed,
    )


def _common(plan: Plan) -> dict[str, Any]:
    """What both loaders are made with."""
    return {
        "num_workers": plan.config.workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available() and plan.config.device != "cpu",
    }


def _clips_or_none(clips: Sequence[dict[str, Any] | Skipped]) -> dict[str, Any]:
    """``collate``; of clips that were all skipped their causes alone."""
    causes = Counter(clip.cause for clip in clips if isinstance(clip, Skipped))
    return {"skipped": dict(causes)} if sum(causes.values()) == len(clips) else collate(clips)


def _reduced(plan: Plan, fold: Fold, sides: InnerSplit, notes: list[str]) -> InnerSplit:
    """The sides with what the recipe wants of the training side, and a note about it."""
    recipe, seed = plan.config.recipe, plan.config.seed
    shots, fraction = recipe.shots, recipe.fraction
    rows = training_subset(plan.benchmark, sides.train, shots=shots, fraction=fraction, seed=seed)
    part = f"a share of {fraction:g} of its training side (recipe.fraction; raise it)"
    check_heads(plan.benchmark, rows, f"fold {fold.name}, {part}")
    if HELD in rows and plan.emotion.modalities == "audio-video":
        counts = rows[HELD].value_counts().sort_index()
        held = ", ".join(f"{count} with {name}" for name, count in counts.items())
        notes.append(f"not every training sample has picture and sound: {held}")
    of_batch = any(term.loss.of_batch for term in plan.loss_terms)
    if len(rows) < 2 <= recipe.batch_size and of_batch:
        raise ValueError(
            f"{len(rows)} training sample is left for loss {plan.resolved.loss} (a correlation"
            " needs 2 or more); raise recipe.fraction or take loss mse"
        )
    if shots is not None or fraction < 1:
        what = f"{shots} of each class" if shots is not None else f"a share of {fraction:g}"
        notes.append(
            f"trained on {len(rows)} of {len(sides.train)} samples: {what}, drawn by seed {seed}"
        )
    return dataclasses.replace(sides, train=rows)


def _strata(benchmark: Benchmark, rows: pd.DataFrame) -> dict[str, list[int]]:
    """Positions of the rows by class, or by band of the first real value."""
    named = [head for head in benchmark.every_head if head.kind in ("classification", "ordinal")]
    if named:
        truth, known = read_truth(named[0], rows)
        names = np.where(known, np.array(named[0].classes)[truth.argmax(axis=1)], "")
    elif benchmark.heads:
        return {"": list(range(len(rows)))}
    else:
        rank = pd.to_numeric(rows[benchmark.targets[0]]).rank(method="first").to_numpy()
        names = np.ceil(rank / len(rows) * min(NUM_BANDS, len(rows))).astype(int).astype(str)
    return {str(name): np.flatnonzero(names == name).tolist() for name in sorted(set(names))}
