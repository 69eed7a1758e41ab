"""Folds of a manifest: those a dataset ships, checked, and ones made by speaker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

Side = Mapping[str, str]


def official_folds(
    what: str, sides: Mapping[int, tuple[Side, Side | None]]
) -> tuple[dict[str, int], list[str]]:
    """Make one fold number a clip out of the test lists of a cross-validation.

    Args:
        what: The dataset, for messages.
        sides: Fold to its test list and, if shipped, its training list: clip to label.

    Returns: Clip to the fold that tests it; and notes about clips that a training list has and no
        test list, or that a fold's training list lacks.
    Raises: ValueError: a clip is tested twice, trained and tested in one fold, or labelled in two
        ways; or a fold is missing. One line with the first such clips.
    """
    numbers = sorted(sides)
    problems, notes = [], []
    lost = [fold for fold in range(1, max(numbers) + 1) if fold not in sides]
    if lost:
        problems.append(f"no test list of fold {', '.join(map(str, lost))}")
    folds: dict[str, int] = {}
    labels: dict[str, str] = {}
    for fold in numbers:
        for clip, label in sides[fold][0].items():
            if clip in folds:
                problems.append(f"{clip} is tested in folds {folds[clip]} and {fold}")
            if labels.setdefault(clip, label) != label:
                problems.append(f"{clip} is {labels[clip]} and {label}")
            folds[clip] = fold
    for fold in numbers:
        test, train = sides[fold]
        if train is None:
            continue
        both = sorted(test.keys() & train.keys())
        problems += [f"{clip} is in training and test of fold {fold}" for clip in both]
        never = sorted(train.keys() - folds.keys())
        if never:
            notes.append(
                f"{what}: {len(never)} clips of the training list of fold {fold} are in no test "
                f"list and are left out ({', '.join(never[:3])}{', …' if len(never) > 3 else ''})"
            )
        absent = len(folds.keys() - test.keys() - train.keys())
        if absent:
            notes.append(
                f"{what}: the training list of fold {fold} lacks {absent} clips that other folds "
                "test; here a fold trains on all that it does not test"
            )
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{what}: its lists contradict each other: {'; '.join(problems[:3])}{more}"
        )
    return folds, notes


def speaker_folds(speakers: Mapping[str, str], num_folds: int) -> dict[str, int]:
    """Divide clips into folds of nearly equal size, each speaker in one of them.

    The largest speakers are dealt first, each to the smallest fold so far; ties go by name, so the
    same clips always give the same folds.

    Args:
        speakers: Clip to speaker.
        num_folds: How many folds.

    Returns: Clip to fold, 1 to ``num_folds``.
    Raises: ValueError: fewer speakers than folds.
    """
    sizes = Counter(speakers.values())
    if len(sizes) < num_folds:
        raise ValueError(
            f"{num_folds} folds of {len(sizes)} speakers (each fold needs a speaker of its own; "
            "ask for fewer folds)"
        )
    totals = [0] * num_folds
    fold_of: dict[str, int] = {}
    for speaker, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])):
        fold = min(range(num_folds), key=lambda number: (totals[number], number))
        totals[fold] += size
        fold_of[speaker] = fold + 1
    return {clip: fold_of[speaker] for clip, speaker in speakers.items()}
