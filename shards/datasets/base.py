"""What a dataset's reader says: its items, and everything that is not as documented; and its folds,
those it ships, checked, and ones made by speaker.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from shards.schema import Label
from shards.sides import Listed, copies_on_two_sides
from shards.traces import TraceConfig

Media = Literal["auto", "clips", "frames"]
Value = TypeVar("Value", str, dict[str, Label | None])

_POINTER = b"version https://git-lfs.github.com/spec/"  # a file that Git LFS has not fetched


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One recording, or a span of one; paths are relative to the dataset's root.

    Args:
        key: Its name, unique in the dataset.
        path: The video, or a folder of frame images.
        labels: Columns of the manifest: labels, folds, votes, demographics. None: not known.
        audio: A sound file of its own that starts with the picture; none: the video's sound.
        start: Start of the span, seconds; none: the beginning.
        end: End of the span, seconds; none: the end.
        region: Part of the picture to look at: x0 y0 x1 y1 as shares of it; none: all.
        split: Side of a split that the dataset makes itself, else ``train``.
    """

    key: str
    path: str
    labels: dict[str, Label | None]
    audio: str | None = None
    speaker: str | None = None
    start: float | None = None
    end: float | None = None
    region: str | None = None
    split: str = "train"

    def value(self, column: str) -> Label | None:
        """A column of the manifest."""
        if column in ("speaker", "split"):
            return self.speaker if column == "speaker" else self.split
        return self.labels.get(column)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A number that is documented for the whole dataset.

    Args:
        what: Of what, such as ``clips of fold 2``.
        also: Another number that is right too: of a copy without what has no sound, say.
        where: Column to value (or values) of the items that count; empty: all items.
        distinct: Column whose different values are counted instead of the items.
    """

    what: str
    number: int
    where: Mapping[str, Label | tuple[Label, ...]] = field(default_factory=dict)
    distinct: str | None = None
    also: int | None = None

    def found(self, items: Sequence[Item]) -> int:
        """How many there are."""
        wanted = {
            name: value if isinstance(value, tuple) else (value,)
            for name, value in self.where.items()
        }
        chosen = [
            item
            for item in items
            if all(item.value(name) in values for name, values in wanted.items())
        ]
        if self.distinct is None:
            return len(chosen)
        return len({item.value(self.distinct) for item in chosen} - {None})


@dataclass(kw_only=True)
class Listing:
    """What a reader found.

    Args:
        missing: Cause to names of files that ought to be there.
        left_out: Cause to names of recordings that are there and not wanted, or not labelled.
        expected: Documented numbers to compare with.
        copies: Files that were taken, and others below the root that might have been meant.
    """

    items: list[Item] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    expected: tuple[Expected, ...] = ()
    notes: list[str] = field(default_factory=list)
    copies: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def lack(self, cause: str, name: str) -> None:
        """Note a missing file."""
        self.missing.setdefault(cause, []).append(name)

    def leave_out(self, cause: str, name: str) -> None:
        """Note a recording that the manifest leaves out."""
        self.left_out.setdefault(cause, []).append(name)

    @property
    def num_missing(self) -> int:
        """How many files are missing."""
        return sum(map(len, self.missing.values()))

    def differences(self) -> list[str]:
        """How the documented numbers differ from what is there, one sentence each."""
        sentences = []
        for expected in self.expected:
            found = expected.found(self.items)
            if found not in (expected.number, expected.also):
                by = abs(found - expected.number)
                than = "more than" if found > expected.number else "fewer than"
                sentences.append(
                    f"{expected.what}: {found}, {by} {than} documented ({expected.number})"
                )
        return sentences


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a user may say about a copy of a dataset.

    Args:
        media: Read videos, folders of frame images, or (``auto``) videos where there are any.
        labels: File of labels, where it is not found by its documented name.
        num_folds: Folds to make by speaker, for ``csv`` without a fold column.
    """

    media: Media = "auto"
    labels: Path | None = None
    num_folds: int | None = None
    trace: TraceConfig = field(default_factory=TraceConfig)

    def __post_init__(self) -> None:
        if self.num_folds is not None and self.num_folds < 2:
            raise ValueError(f"folds = {self.num_folds} (must be 2 or more)")
        if self.labels is not None and self.labels.is_dir():
            raise ValueError(f"labels = {self.labels}: is a folder; name the file in it")
        if self.labels is not None and not self.labels.is_file():
            raise FileNotFoundError(f"{self.labels}: no such file of labels")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset whose layout is known.

    Args:
        layout: What is expected below the root, in a line.
        access: Where it comes from and on what terms.
        read: From root and options to what is there. Raises ValueError for another tree, one that
            lacks its lists or labels, and a table of it that cannot be understood.
        columns: Columns of the manifest that hold labels and folds.
        classes: Label column to its classes, in the order of benchmarks.
        takes_labels: Whether a file of labels can be named (``--labels``).
        media: What ``--media`` may say; its reader takes no notice of anything else.
        seen: What of it was tried: ``real files``, or ``documentation alone``.
    """

    title: str
    layout: str
    access: str
    read: Callable[[Path, ReadOptions], Listing]
    columns: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    takes_labels: bool = False
    media: tuple[Media, ...] = ("auto", "clips", "frames")
    seen: str = "documentation alone"


def folds_expected(
    numbers: Sequence[int], *, column: str = "fold", also: Sequence[int] = ()
) -> tuple[Expected, ...]:
    """Documented sizes of the test sides of folds 1, 2, … (``also``: see ``Expected``)."""
    return tuple(
        Expected(
            what=f"clips with {column} {fold}",
            number=number,
            where={column: fold},
            also=also[fold - 1] if also else None,
        )
        for fold, number in enumerate(numbers, start=1)
    )


def classes_expected(column: str, numbers: Mapping[str, int]) -> tuple[Expected, ...]:
    """Documented sizes of classes."""
    return tuple(
        Expected(what=f"clips with {column} {name}", number=number, where={column: name})
        for name, number in numbers.items()
    )


def not_this(root: Path, title: str, expected: str) -> ValueError:
    """The complaint about a root that holds something else: expected, found, remedy."""
    found = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    shown = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    return ValueError(
        f"{root}: no {title} here: expected {expected}; found {shown or 'an empty folder'}; give "
        "the folder that holds them, unpacked (or list the files yourself: "
        "hicmae shards manifest csv ROOT --labels FILE)"
    )


def check_files(root: Path, listing: Listing) -> Listing:
    """Move items whose files are empty, unreachable or unfetched to the missing ones.

    Nothing is decoded. A bad sound file alone is named and dropped from its item. Of a recording
    that is below the root twice, as after unpacking it twice, the first is taken.

    Raises: ValueError: what is said of two of one key is not the same.
    """
    state: dict[str, str | None] = {}

    def fault(path: str) -> str | None:
        if path not in state:
            state[path] = fault_of(root / path)
        return state[path]

    kept: dict[str, Item] = {}
    for item in listing.items:
        cause = fault(item.path)
        if cause is not None:
            listing.lack(cause, item.path)
            continue
        if item.audio is not None and (cause := fault(item.audio)) is not None:
            listing.lack(f"sound: {cause}", item.audio)
            item = replace(item, audio=None)
        if (first := kept.setdefault(item.key, item)) is not item:
            each_once([(item.key, _said(first)), (item.key, _said(item))], root)
            listing.leave_out("there twice, the first is taken", item.path)
    listing.items = list(kept.values())
    if listing.copies:
        taken, others = min(listing.copies.items())
        listing.notes.append(
            f"{len(listing.copies)} files are below the root in other copies too: {taken} is taken,"
            f" not {others[0]}; move away what is not meant"
        )

    def seconds(given: object) -> float | None:  # text of a table is refused where it is read
        return float(given) if isinstance(given, int | float) else None

    divided = (
        Listed(
            item.path,
            os.path.realpath(root / item.path),
            (seconds(item.start), seconds(item.end)),
            (item.region, item.labels.get("boxes")),
            {**item.labels, "split": item.split},
        )
        for item in listing.items
    )
    if copies := copies_on_two_sides(divided):
        listing.notes.append(copies)
    return listing


def _said(item: Item) -> dict[str, Label | None]:
    """What the lists of a dataset say of an item, by column."""
    place = {"speaker": item.speaker, "split": item.split, "start": item.start, "end": item.end}
    return item.labels | place


def fault_of(path: Path) -> str | None:
    """Why a file cannot be what it should be, as far as its length and first bytes tell."""
    try:
        status = path.stat()
        if path.is_dir():
            return None
        if status.st_size == 0:
            return "empty file"
        if status.st_size < 512:
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    return "Git LFS pointer (run: git lfs pull)"
    except OSError:
        return "unreadable or a broken link"
    return None


def each_once(pairs: Iterable[tuple[str, Value]], where: Path) -> dict[str, Value]:
    """Names to values, or to columns of them, of a list of labels.

    Raises: ValueError: a name that stands there twice, with other values; the first one.
    """
    found: dict[str, Value] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            both: list[Mapping[str, object]] = [
                {"": each} if isinstance(each, str) else each for each in (found[name], value)
            ]
            column = next(c for c in [*both[0], *both[1]] if both[0].get(c) != both[1].get(c))
            first, second = (f"{column} {each.get(column)}".strip()[:60] for each in both)
            raise ValueError(
                f"{where}: {name} stands there twice, as {first} and as {second}; take out the"
                " wrong one"
            )
    return found


Side = Mapping[str, str]


def official_folds(
    what: str, sides: Mapping[int, tuple[Side, Side | None]]
) -> tuple[dict[str, int], list[str]]:
    """Make one fold number a clip out of the test lists of a cross-validation.

    Args: sides: Fold to its test list and, if shipped, its training list: clip to label.
    Returns: Clip to the fold that tests it; and notes about clips that a training list has and no
        test list, that a fold's training list lacks, or that it labels in another way.
    Raises: ValueError: a clip is tested twice, or trained and tested in one fold; or a fold is
        missing. One line with the first such clips.
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
            folds[clip], labels[clip] = fold, label
    for fold in numbers:
        test, train = sides[fold]
        if train is None:
            continue
        both = sorted(test.keys() & train.keys())
        problems += [f"{clip} is in training and test of fold {fold}" for clip in both]
        other = sorted(clip for clip in labels.keys() & train.keys() if train[clip] != labels[clip])
        if other:
            notes.append(
                f"{what}: the training list of fold {fold} labels {len(other)} clips otherwise than"
                f" the list that tests them ({', '.join(other[:3])}{', …' if other[3:] else ''});"
                " the label of the latter is taken"
            )
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
    """Divide clips, each with its speaker, into folds of nearly equal size, no speaker in two.

    The largest speakers are dealt first, each to the smallest fold so far; ties go by name, so the
    same clips always give the same folds.

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
