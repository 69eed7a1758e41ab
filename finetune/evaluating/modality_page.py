"""The modality report: one page with tables and figures, and its parts for other pages.

For: ``modalities.md`` of a folder of ``hicmae evaluate modalities``, made again at any time. Not
for: the numbers (``importance.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

from finetune.evaluating.figures import importance_figure, level_figure
from finetune.evaluating.importance import (
    Importance,
    class_importance_table,
    class_table,
    importance_table,
    mean_and_sd,
    read_spoiled,
)
from finetune.evaluating.perturbations import UNSPOILED
from finetune.facts import RunFacts
from finetune.record import write_text
from finetune.reporting.tables import spread
from finetune.scores import metric_name
from finetune.selection import rule_sentence
from hicmae.plain import from_dict

PAGE, FACTS = "modalities.md", "facts.json"


def write_modality_page(folder: Path) -> Path:
    """Score the predictions of a folder again, draw, and write the page. Returns: its path."""
    facts = read_modality_facts(folder)
    parts = [
        # The run's own report takes this page in under its heading.
        "# What each modality is worth",
        f"Networks of `{facts.evaluates}` on {facts.benchmark}; {facts.modalities}. Selection rule:"
        f" {rule_sentence(facts.selection, facts.protocol)}.",
        *modality_parts(folder),
    ]
    path = folder / PAGE
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def modality_parts(folder: Path) -> list[str]:
    """The page without its head; figures are drawn in ``folder/figures``, where its links lead.

    Args:
        folder: Of ``hicmae evaluate modalities``.
    """
    facts, importance = read_modality_facts(folder), read_spoiled(folder)
    title = f"{facts.benchmark}, selection {facts.rule}"
    parts = [_how_to_read(importance), _headline(importance, facts)]
    parts.append(importance_table(importance, facts).markdown())
    has_swaps = bool(importance.of("sound-swapped"))
    if has_swaps:
        importance_figure(importance, folder / "figures" / "importance.png", title=title)
        parts.append("![Score that is lost with each modality](figures/importance.png)")
    if any(item.condition.level is not None for item in importance.conditions):
        level_figure(importance, folder / "figures" / "levels.png", title=title)
        parts.append("![Score against noise and missing frames](figures/levels.png)")
    if importance.benchmark.task == "classification":
        if has_swaps:
            parts += [
                "Class by class: recall, and what of it is lost when one modality is another"
                " sample's (mean ± sd over permutations).",
                class_importance_table(importance, facts).markdown(),
            ]
        parts.append("Recall of each class in every condition:")
        parts.append(class_table(importance, facts).markdown())
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


def _headline(importance: Importance, facts: RunFacts) -> str:
    """What swapping costs, in one sentence."""
    metric = metric_name(importance.benchmark.ranking)
    swaps = {kind: importance.of(kind) for kind in ("sound-swapped", "picture-swapped")}
    if not all(swaps.values()):
        return ""
    sound, picture = (mean_and_sd(swaps[kind][0].losses) for kind in swaps)
    plain = importance.of(UNSPOILED)[0].mean_and_sd(importance.benchmark.ranking)
    return (
        f"**{metric} is {facts.mark(spread(*plain))}; with another sample's sound it loses"
        f" {facts.mark(spread(*sound))}, with another sample's picture"
        f" {facts.mark(spread(*picture))}.**"
    )


def _how_to_read(importance: Importance) -> str:
    """What the conditions are."""
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
