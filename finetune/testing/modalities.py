"""What each modality is worth to a network: it is taken away, swapped and spoiled.

Importance is what is lost when a modality is that of another sample: its information is gone, while
everything else about the input stays as it was. The page is made of the predictions alone, again at
any time. Source: permutation importance, Breiman, 2001, Random Forests, section 10.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch.utils.data import Dataset, Subset

from finetune.benchmark import Benchmark
from finetune.data import check_modalities
from finetune.folds import SEEN
from finetune.predictions import (
    Prediction,
    equal_segments,
    head_arrays,
    of_head,
    parse_prediction,
    prediction_line,
    predictions_of_rows,
)
from finetune.record import BENCHMARK, CONFIG, RunFacts
from finetune.reporting import document as doc
from finetune.scores import Values, metric_name, score_units, scored_units
from finetune.selection import rule_sentence
from finetune.testing.interactions import interaction_parts
from finetune.testing.machine import (
    Machine,
    Tested,
    distinct_items,
    load_tested,
    run_views,
    view_dataset,
)
from finetune.testing.perturbations import (
    SPOILS,
    UNSPOILED,
    Condition,
    PerturbationConfig,
    conditions_of,
    num_missing,
    partners,
    perturb,
)
from finetune.testing.plan import EvaluationPlan, TestSide
from finetune.testing.results import evaluation_facts
from hicmae.config import from_dict, load_yaml, save_yaml, to_dict
from hicmae.files import whole_folder, write_json, write_text
from hicmae.heads import thresholds_of
from hicmae.views import ViewGrid
from shards.reading.random_access import ShardDataset

LINES = "predictions.jsonl"
PAGE, FACTS = "modalities.md", "facts.json"
WRITTEN = (LINES, CONFIG, BENCHMARK, "modalities.*", "figures")


class PerturbedClips(Dataset[dict[str, Any]]):
    """Clips of a reader, spoiled.

    Args:
        clips: One item a segment, of so many segments a sample.
        items: Which of them, by number.
        partners: Position of the sample whose sound each sample gets; none: its own.
    """

    def __init__(
        self,
        clips: ShardDataset,
        items: Sequence[int],
        condition: Condition,
        *,
        seed: int,
        partners: Sequence[int] | None = None,
    ) -> None:
        self.clips, self.items, self.condition = clips, list(items), condition
        self.seed, self.partners = seed, partners

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One clip."""
        clip: Any = self.clips[self.items[number]]
        if self.partners is not None:
            other = self.partners[clip["sample"]] * self.clips.num_views + clip["view"]
            sound: Any = self.clips[other]
            return clip | {name: sound[name] for name in ("waveform", "num_samples")}
        return perturb(clip, self.condition, seed=self.seed)


def run_conditions(
    plan: EvaluationPlan,
    out: Path,
    config: dict[str, object],
    perturb: PerturbationConfig,
    machine: Machine,
    console: Console,
) -> None:
    """Spoil, test and write."""
    modalities = plan.source.facts.modalities
    clip = plan.source.checkpoint(plan.sides[0].fold).model_config().input
    conditions = conditions_of(modalities, perturb, num_frames=clip.num_frames)
    console.print(
        f"{plan.source.path}: {len(plan.sides)} networks, {modalities}, {plan.what} x"
        f" {len(conditions)} conditions x {plan.grid.segments} segments, {machine.precision},"
        f" {machine.device}, selection {plan.source.facts.rule}"
    )
    for share in perturb.missing_shares if modalities != "audio" else ():
        if not num_missing(clip.num_frames, share):
            name = Condition(kind="missing-frames", level=share).name
            console.print(f"left out: {name}, which is none of a clip's {clip.num_frames} frames")
    facts = evaluation_facts(plan, machine)
    with whole_folder(out) as beside:
        save_yaml(beside / CONFIG, config)
        save_yaml(beside / BENCHMARK, to_dict(plan.mapped.benchmark))
        write_json(beside / FACTS, to_dict(facts))
        with (beside / LINES).open("w", encoding="utf-8") as file:
            for side in plan.sides:
                network = load_tested(plan.source.checkpoint(side.fold))
                for condition in conditions:
                    for read_as, prediction in _predictions(
                        plan, network, side, condition, perturb, machine
                    ):
                        line = {
                            "condition": read_as.kind,
                            "level": read_as.level,
                            "repeat": read_as.repeat,
                            **prediction_line(prediction),
                        }
                        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        write_modality_page(beside)
    console.print(importance_table(read_spoiled(out), facts))
    console.print(f"report: {out / PAGE}")


@dataclass(frozen=True, kw_only=True)
class Spoiled:
    """Scores in one kind and level of condition, over its permutations.

    Args:
        condition: Without its repeat.
        scores: Metrics of each permutation, one where nothing is drawn; pooled over folds.
        recalls: Recall of each class of each permutation; empty for real values.
        losses: Leading metric of unspoiled samples minus that of each permutation.
        recall_losses: The same of each class.
    """

    condition: Condition
    scores: tuple[Values, ...]
    recalls: tuple[Values, ...]
    losses: tuple[float, ...]
    recall_losses: tuple[Values, ...]


def over(permutations: Sequence[Values], name: str) -> tuple[float, float]:
    """Mean and sample deviation of a score over permutations."""
    return doc.mean_and_sd([values[name] for values in permutations])


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores in every condition, in the order of ``SPOILS``: the unspoiled one first."""

    benchmark: Benchmark
    conditions: tuple[Spoiled, ...]

    def of(self, kind: str) -> list[Spoiled]:
        """The levels of a kind."""
        return [item for item in self.conditions if item.condition.kind == kind]


def read_spoiled(folder: Path) -> Importance:
    """Read the predictions of every condition and score them.

    Raises: as ``read_conditions``.
    """
    return make_importance(*read_conditions(folder))


def read_conditions(folder: Path) -> tuple[Benchmark, dict[Condition, list[Prediction]]]:
    """Read the predictions of every condition.

    Raises: FileNotFoundError: no such file. ValueError: a line that is no prediction; a condition
        that lacks a sample or has one twice.
    """
    path = folder / LINES
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no predictions of spoiled samples there")
    benchmark = from_dict(Benchmark, load_yaml(folder / BENCHMARK), str(folder / BENCHMARK))
    found: dict[Condition, dict[str, Prediction]] = {}
    with path.open(encoding="utf-8") as file:
        for place, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                level = line["level"]
                condition = Condition(
                    kind=line["condition"],
                    level=None if level is None else float(level),
                    repeat=int(line["repeat"]),
                )
                if condition.kind not in SPOILS:
                    raise ValueError(f"condition '{condition.kind}' is none of {', '.join(SPOILS)}")
                item = parse_prediction(line, benchmark)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} line {place}: no prediction ({error})") from error
            # The networks of several folds may have tested the same samples (another corpus).
            members = found.setdefault(condition, {})
            name = f"{item.fold}\n{item.key}"
            if name in members:
                raise ValueError(f"{path} line {place}: sample '{item.key}' stands twice")
            members[name] = item
    plain = Condition(kind=UNSPOILED)
    if plain not in found:
        raise ValueError(f"{path}: holds no unspoiled sample")
    for condition, members in found.items():
        if members.keys() != found[plain].keys():
            raise ValueError(f"{path}: '{condition.name}' is not of all samples; make it again")
    return benchmark, {key: list(members.values()) for key, members in found.items()}


def make_importance(
    benchmark: Benchmark, predictions: dict[Condition, list[Prediction]]
) -> Importance:
    """Score every condition.

    Args:
        predictions: Of the same samples in each condition; an unspoiled one is among them.
    """
    values = {condition: _score(benchmark, items) for condition, items in predictions.items()}
    plain, plain_recalls = values[Condition(kind=UNSPOILED)]
    leading = benchmark.ranking
    members: dict[tuple[str, float | None], list[Condition]] = {}
    for condition in predictions:
        members.setdefault((condition.kind, condition.level), []).append(condition)
    made = []
    for (kind, level), repeats in members.items():
        repeats.sort(key=lambda condition: condition.repeat)
        scores = [values[condition][0] for condition in repeats]
        recalls = [values[condition][1] for condition in repeats]
        made.append(
            Spoiled(
                condition=Condition(kind=kind, level=level),
                scores=tuple(scores),
                recalls=tuple(recalls),
                losses=tuple(plain[leading] - one[leading] for one in scores),
                recall_losses=tuple(
                    {name: plain_recalls[name] - one[name] for name in one} for one in recalls
                ),
            )
        )
    order = list(SPOILS)
    made.sort(key=lambda item: order.index(item.condition.kind))
    return Importance(benchmark=benchmark, conditions=tuple(made))


def importance_table(importance: Importance, facts: RunFacts) -> doc.Table:
    """One row a condition: every metric, and what the leading one lost."""
    metrics = list(importance.conditions[0].scores[0])
    rows = [
        [
            item.condition.name,
            *(facts.mark(doc.spread(*over(item.scores, metric), metric)) for metric in metrics),
            ""
            if item.condition.kind == UNSPOILED
            else facts.mark(doc.spread(*doc.mean_and_sd(item.losses))),
        ]
        for item in importance.conditions
    ]
    lost = f"lost {metric_name(importance.benchmark.ranking)}"
    return doc.Table(
        columns=[f"selection: {facts.rule}", *map(metric_name, metrics), lost],
        rows=rows,
        title=f"{facts.benchmark}, {facts.modalities}",
    )


def class_table(importance: Importance, facts: RunFacts) -> doc.Table:
    """One row a condition: the recall of every class."""
    names = list(importance.conditions[0].recalls[0])
    rows = [
        [
            item.condition.name,
            *(facts.mark(doc.spread(*over(item.recalls, name))) for name in names),
        ]
        for item in importance.conditions
    ]
    return doc.Table(columns=[f"recall (selection: {facts.rule})", *names], rows=rows)


def class_importance_table(importance: Importance, facts: RunFacts) -> doc.Table:
    """One row a class: what it loses when one modality is another sample's."""
    swaps = importance.of("sound-swapped") + importance.of("picture-swapped")
    plain = importance.of(UNSPOILED)[0].recalls[0]
    rows = [
        [
            name,
            facts.mark(doc.number(plain[name])),
            *(facts.mark(doc.spread(*over(swap.recall_losses, name))) for swap in swaps),
        ]
        for name in plain
    ]
    heads = {"sound-swapped": "sound matters", "picture-swapped": "picture matters"}
    return doc.Table(
        columns=["class", "recall", *(heads[swap.condition.kind] for swap in swaps)], rows=rows
    )


def write_modality_page(folder: Path) -> None:
    """Score the predictions of a folder again, draw, and write the page."""
    facts = read_modality_facts(folder)
    parts = [
        # The run's own report takes this page in under its heading.
        "# What each modality is worth",
        f"Networks of `{facts.evaluates}` on {facts.benchmark}; {facts.modalities}. Selection rule:"
        f" {rule_sentence(facts.selection, facts.protocol)}.",
        *modality_parts(folder),
    ]
    write_text(folder / PAGE, "\n\n".join(parts) + "\n")


def modality_parts(folder: Path) -> list[str]:
    """The page without its head; figures are drawn in ``folder/figures``, where its links lead."""
    facts, (benchmark, predictions) = read_modality_facts(folder), read_conditions(folder)
    importance = make_importance(benchmark, predictions)
    title = f"{facts.benchmark}, selection {facts.rule}"
    parts = [f"**Note.** {note}" for note in facts.notes if SEEN in note]
    parts += [_how_to_read(importance), _headline(importance, facts)]
    parts.append(importance_table(importance, facts).markdown())
    has_swaps = bool(importance.of("sound-swapped"))
    if has_swaps:
        importance_figure(importance, folder / "figures" / "importance.png", title=title)
        parts.append("![Score that is lost with each modality](figures/importance.png)")
    if any(item.condition.level is not None for item in importance.conditions):
        level_figure(importance, folder / "figures" / "levels.png", title=title)
        parts.append("![Score against noise and missing frames](figures/levels.png)")
    if importance.conditions[0].recalls[0]:
        if has_swaps:
            parts += [
                "Class by class: recall, and what of it is lost when one modality is another"
                " sample's (mean ± sd over permutations).",
                class_importance_table(importance, facts).markdown(),
            ]
        parts.append("Recall of each class in every condition:")
        parts.append(class_table(importance, facts).markdown())
    parts += interaction_parts(benchmark, predictions, facts)
    return [part for part in parts if part]


def read_modality_facts(folder: Path) -> RunFacts:
    """What the numbers are reported with.

    Raises: ValueError: the folder holds no modality report, or a damaged one.
    """
    path = folder / FACTS
    if not path.is_file():
        raise ValueError(f"{folder}: no modality report there (no {FACTS})")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); make it again") from error
    return from_dict(RunFacts, data, str(path))


def importance_figure(importance: Importance, path: Path, *, title: str) -> None:
    """Draw what is lost with each modality, overall and class by class; whiskers are ± 1 sd."""
    metric = metric_name(importance.benchmark.ranking)
    swaps = [importance.of("picture-swapped")[0], importance.of("sound-swapped")[0]]
    names = list(swaps[0].recall_losses[0]) if swaps[0].recall_losses else []
    title = f"What each modality is worth\n{title}"
    height, named = doc.rows_height(1 + len(names), 0.36)
    figure, axes = doc.make_axes(7.6, 2.0 + height, title)
    labels = [f"all ({metric})", *names]
    places = np.arange(len(labels), dtype=float)
    if names:
        places[1:] += 0.4  # another quantity: recall of a class
        axes.axhline(0.7, color=doc.GREY, linewidth=0.8, linestyle=":")
    for index, (swap, colour, who) in enumerate(
        zip(swaps, (doc.BLUE, doc.ORANGE), ("picture", "sound"), strict=True)
    ):
        found = [doc.mean_and_sd(swap.losses), *(over(swap.recall_losses, name) for name in names)]
        means, sds = (np.array(values) for values in zip(*found, strict=True))
        axes.barh(
            places + (index - 0.5) * 0.38,
            np.nan_to_num(means),
            height=0.35,
            xerr=None if np.isnan(sds).all() else np.nan_to_num(sds),
            capsize=2,
            ecolor=doc.GREY,
            color=colour,
            label=f"another sample's {who}",
        )
    axes.axvline(0, color="black", linewidth=0.8)
    shown = len(labels) if named else 1
    axes.set_yticks(places[:shown], labels[:shown], fontsize=9)
    axes.set_ylabel("" if named else f"{len(names)} classes, in their order")
    axes.set_ylim(places[-1] + 0.6, -0.6)  # the first above
    axes.set_xlabel(f"lost {metric}" + (", lost recall of the class" if names else ""))
    figure.legend(*axes.get_legend_handles_labels(), fontsize=9, ncols=2, loc="outside lower right")
    doc.plain(axes)
    doc.save(figure, path)


def level_figure(importance: Importance, path: Path, *, title: str) -> None:
    """Draw the leading metric against noise and missing frames, one panel a kind."""
    kinds = {
        "sound-noise": ("signal over noise, dB", doc.ORANGE),
        "picture-noise": ("standard deviation of the noise, of 255", doc.BLUE),
        "missing-frames": ("share of missing frames", doc.BLUE),
    }
    shown = {kind: importance.of(kind) for kind in kinds if importance.of(kind)}
    leading = importance.benchmark.ranking
    unspoiled = over(importance.of(UNSPOILED)[0].scores, leading)[0]
    figure = doc.make_figure(3.6 * len(shown) + 0.6, 3.8, title)
    first = None
    for panel, (kind, items) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(1, len(shown), panel, sharey=first)
        first = first or axes
        label, colour = kinds[kind]
        points = sorted(
            (item.condition.level or 0.0, over(item.scores, leading)[0]) for item in items
        )
        levels, values = zip(*points, strict=True)
        axes.plot(levels, values, marker="o", color=colour)
        axes.axhline(unspoiled, color=doc.GREY, linewidth=1, linestyle="--", label="unspoiled")
        frozen = importance.of("video-frozen")
        if kind == "missing-frames" and frozen:
            still = over(frozen[0].scores, leading)[0]
            axes.axhline(
                still, color=doc.GREY, linewidth=1, linestyle=":", label="one frame, frozen"
            )
        if kind == "sound-noise":
            axes.invert_xaxis()  # worse to the right, as in the other panels
        axes.set_xlabel(label)
        axes.set_title(kind.replace("-", " "), fontsize=11)
        if panel == 1:
            axes.set_ylabel(metric_name(leading))
        axes.legend(fontsize=9, loc="best", frameon=False)
        doc.plain(axes)
    doc.save(figure, path)


def _predictions(
    plan: EvaluationPlan,
    tested: Tested,
    side: TestSide,
    condition: Condition,
    perturb: PerturbationConfig,
    machine: Machine,
) -> Iterator[tuple[Condition, Prediction]]:
    """What a network says of its test side in one condition; of a swap, in both of its readings.

    The sample whose picture is shown has the sound of another one; that other one has its sound
    with another one's picture. One pass of the network is both.
    """
    rows = side.rows
    equal = equal_segments(rows, tested.network.config.input, plan.grid.segments)
    check_modalities(rows, modalities=tested.modalities, whole=True, choice="")
    clips = view_dataset(tested, plan.index, rows, plan.grid.segments)
    swapped = None
    if condition.kind == "sound-swapped":
        keys = [str(key) for key in rows["key"]]
        swapped = partners(keys, repeat=condition.repeat, seed=perturb.seed)
        equal = [_equal_pairs(own, equal[other]) for own, other in zip(equal, swapped, strict=True)]
    items = distinct_items(equal)
    plain = condition.kind in (UNSPOILED, "audio-only", "video-only")
    views = run_views(
        tested,
        Subset(clips, items)
        if plain
        else PerturbedClips(clips, items, condition, seed=perturb.seed, partners=swapped),
        equal=equal,
        grid=plan.grid,
        machine=machine,
        hidden=SPOILS[condition.kind] if plain else "",
        doing=f"fold {side.fold}, {condition.name}",
    )
    # A view is of no interest here: one mean a line keeps the file small.
    outputs = zip(plan.mapped.outputs(views), map(plan.grid.differing, equal), strict=True)
    mean = np.stack([own[each].mean(axis=0, keepdims=True) for own, each in outputs])  # (N, 1, C)
    limits = thresholds_of(tested.labels.heads)

    def named(mean: np.ndarray, condition: Condition) -> Iterator[tuple[Condition, Prediction]]:
        one = ViewGrid(segments=1)
        for item in predictions_of_rows(
            plan.mapped.benchmark,
            rows,
            mean,
            fold=side.fold,
            grid=one,
            equal=[[0]] * len(rows),
            thresholds=limits,
        ):
            yield condition, item

    yield from named(mean, condition)
    if swapped is not None:
        of_sound = np.empty_like(mean)
        of_sound[swapped] = mean
        yield from named(of_sound, Condition(kind="picture-swapped", repeat=condition.repeat))


def _equal_pairs(own: list[int], other: list[int]) -> list[int]:
    """For each segment, the first one with the same picture and the same other one's sound."""
    first: dict[tuple[int, int], int] = {}
    pairs = zip(own, other, strict=True)
    return [first.setdefault(pair, segment) for segment, pair in enumerate(pairs)]


def _score(benchmark: Benchmark, predictions: Sequence[Prediction]) -> tuple[Values, Values]:
    """Metrics, and the recall of each class (or level) that occurs."""
    units = scored_units(benchmark, predictions)
    recalls: Values = {}
    for head in benchmark.every_head:
        own = of_head(head, units)
        if head.kind in ("classification", "ordinal") and own:
            true, predicted = head_arrays(head, own)
            recalls |= {
                f"{head.name}.{name}".lstrip("."): float(np.mean(predicted[true == place] == place))
                for place, name in enumerate(head.classes)
                if (true == place).any()
            }
    return score_units(benchmark, units), recalls


def _headline(importance: Importance, facts: RunFacts) -> str:
    metric = metric_name(importance.benchmark.ranking)
    swaps = {kind: importance.of(kind) for kind in ("sound-swapped", "picture-swapped")}
    if not all(swaps.values()):
        return ""
    sound, picture = (doc.mean_and_sd(swaps[kind][0].losses) for kind in swaps)
    plain = over(importance.of(UNSPOILED)[0].scores, importance.benchmark.ranking)
    return (
        f"**{metric} is {facts.mark(doc.spread(*plain))}; with another sample's sound it loses"
        f" {facts.mark(doc.spread(*sound))}, with another sample's picture"
        f" {facts.mark(doc.spread(*picture))}.**"
    )


def _how_to_read(importance: Importance) -> str:
    number = max(len(item.scores) for item in importance.conditions)
    swapped = (
        f" *Swapped*: {number} random cycles through the test side of each fold give every sample"
        " another one's sound (and every sound another one's picture); ± is the sample standard"
        " deviation over them, and the score that is lost is the modality's importance."
        if number > 1
        else ""
    )
    return (
        "*Audio only*, *video only*: the network is not given the other modality, which it may"
        f" never have met in training; swapping is the fairer question.{swapped} *Frozen*: the"
        " middle frame of the clip throughout. *Sound noise*: white, at so many decibels of the"
        " clip's power over the noise's. *Picture noise*: Gaussian in every pixel and frame, with"
        " so much standard deviation. *Missing frames*: that share of a clip's frames is replaced"
        " by the last one before it. All are applied to the raw frames and waveform, with draws"
        " that only the sample, the condition and the seed decide."
    )
