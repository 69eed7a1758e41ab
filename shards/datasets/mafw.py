"""MAFW: clips of films and shows in eleven emotions, and in 43 single and compound ones.

One manifest serves both benchmarks: ``emotion`` and ``fold`` of the single labels, ``compound`` and
``compound_fold`` of the compound ones (176 clips of the first have no compound label, and an empty
cell there).

``data/clips/00025.mp4`` or ``data/frames/00025/*.png``; sound of frames as ``00025.wav`` anywhere.
``Train & Test Set/single/no_caption/set_k/{train,test}.txt`` have lines ``00025.mp4 anger``, and
``compound/no_caption/set_k`` lines like ``20045.mp4 anger_disgust_anxiety``; the test sides of the
five sets are the folds. ``annotation.xlsx`` (or ``.csv``) has a column a clip and emotion, which
becomes ``votes_<emotion>``; ``gender.txt`` lines ``00019: 1`` become ``gender_code``, whose meaning
the release does not state.

The lists name 9,172 clips, of which 16 have no sound and are left out of the published counts:
build with ``--sound required`` to leave them out too; of the 8,996 with a compound label that
leaves 8,981. Only 6,644 clips have the same fold in both lists. Speakers are not known.

From documentation, not seen: https://github.com/MAFW-database/MAFW (README; by signed form), and
the counts that readers of the release report.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.datasets.base import (
    Dataset,
    Expected,
    Item,
    Listing,
    ReadOptions,
    each_once,
    folds_expected,
    not_this,
    official_folds,
)
from shards.datasets.tree import Tree, column, number, read_sheet
from shards.schema import Label

# fmt: off
CLASSES = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt",
    "anxiety", "helplessness", "disappointment",
)
# The eleven, then pairs and triples in the order of their parts; the release has no order of them.
COMPOUND_CLASSES = (
    *CLASSES,
    "anger_disgust", "anger_sadness", "anger_surprise", "anger_anxiety", "anger_helplessness",
    "disgust_sadness", "disgust_surprise", "disgust_contempt", "disgust_anxiety",
    "disgust_helplessness", "disgust_disappointment", "fear_sadness", "fear_surprise",
    "fear_anxiety", "happiness_surprise", "happiness_contempt", "sadness_surprise",
    "sadness_anxiety", "sadness_helplessness", "sadness_disappointment", "surprise_anxiety",
    "anxiety_helplessness", "helplessness_disappointment", "anger_disgust_contempt",
    "anger_disgust_anxiety", "disgust_anxiety_helplessness", "disgust_helplessness_disappointment",
    "fear_sadness_anxiety", "fear_surprise_anxiety", "sadness_anxiety_helplessness",
    "sadness_helplessness_disappointment", "anxiety_helplessness_disappointment",
)
# fmt: on
_LAYOUT = "Train & Test Set/single/no_caption/set_1/test.txt to set_5, and clips or frames"
_TASKS = (
    ("single", "emotion", "fold", CLASSES),
    ("compound", "compound", "compound_fold", COMPOUND_CLASSES),
)


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of MAFW."""
    tree = Tree(root)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    rows: dict[str, dict[str, Label | None]] = {}
    for task, label, fold, classes in _TASKS:
        sides = _lists(tree, task)
        if not sides:
            if task == "single":
                raise not_this(root, "MAFW", _LAYOUT)
            listing.notes.append("no compound/no_caption lists: no compound labels")
            continue
        folds, unfolded = official_folds(f"MAFW {task}", sides)
        listing.notes += unfolded
        for name, number_of_fold in folds.items():
            value = sides[number_of_fold][0][name]
            if value not in classes:
                listing.leave_out(f"unknown {task} label {value}", name)
                continue
            rows.setdefault(name, {})[label] = value
            rows[name][fold] = number_of_fold
    extra = _votes(tree, listing)
    genders = _genders(tree)
    without_sound = []
    for name, labels in sorted(rows.items()):
        path = tree.picture(name, options.media, prefer="clips")
        if path is None:
            listing.lack("no clip and no frames", f"{name}.mp4")
            continue
        audio = tree.sound(name)
        if audio is None and name not in tree.videos:
            without_sound.append(name)
        columns: dict[str, Label | None] = {
            name: labels.get(name) for _, *pair, _ in _TASKS for name in pair
        }
        item = Item(
            key=name,
            path=path,
            audio=audio,
            labels=columns | genders.get(name, {}) | extra.get(name, {}),
        )
        listing.items.append(item)
    for name in sorted({*tree.videos, *tree.frames} - rows.keys()):
        if re.fullmatch(r"\d{5}", name):
            listing.leave_out("in no list", name)
    for name in without_sound:
        listing.lack("no sound file beside the frames", f"{name}.wav")
    return listing


def _lists(tree: Tree, task: str) -> dict[int, tuple[dict[str, str], dict[str, str] | None]]:
    """Fold to its test and training lists, each clip to label."""
    sides = {}
    for fold in range(1, 6):
        folder = f"{task}/no_caption/set_{fold}"
        test, train = (tree.ending(f"{folder}/{side}.txt") for side in ("test", "train"))
        if test is not None:
            sides[fold] = (_lines(tree, test), None if train is None else _lines(tree, train))
    return sides


def _lines(tree: Tree, path: str) -> dict[str, str]:
    """``00025.mp4 anger`` → {"00025": "anger"}."""
    pairs = []
    for place, line in enumerate(tree.read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2:
            raise ValueError(
                f"{tree.root / path} line {place}: {line[:60]!r} (must be a clip and its label, "
                "such as '00025.mp4 anger')"
            )
        pairs.append((words[0].rpartition(".")[0] or words[0], words[1].lower()))
    return each_once(pairs, tree.root / path)


def _votes(tree: Tree, listing: Listing) -> dict[str, dict[str, Label | None]]:
    path = tree.ending("annotation.csv") or tree.ending("annotation.xlsx")
    if path is None:
        listing.notes.append("no annotation.xlsx or annotation.csv: no votes")
        return {}
    rows = read_sheet(tree.root / path)
    clip = column(rows, ("clip",), tree.root / path)
    heads = {name: column(rows, (name,), tree.root / path) for name in CLASSES}
    found: list[tuple[str, dict[str, Label | None]]] = [
        (
            row[clip].removesuffix(".mp4"),
            {f"votes_{name}": number(row.get(head, "")) for name, head in heads.items()},
        )
        for row in rows
    ]
    return each_once(found, tree.root / path)


def _genders(tree: Tree) -> dict[str, dict[str, Label | None]]:
    """``00019: 1`` → a code, not interpreted."""
    path = tree.ending("gender.txt")
    if path is None:
        return {}
    found = re.findall(r"^\s*(\w+)(?:\.mp4)?\s*:\s*(\d)\s*$", tree.read_text(path), re.MULTILINE)
    return {name: {"gender_code": int(code)} for name, code in found}


# The lists of the release; and the published numbers, of the clips that have sound.
_FOLDS, _FOLDS_WITH_SOUND = (1839, 1837, 1833, 1832, 1831), (1836, 1833, 1827, 1829, 1831)
_COMPOUND_FOLDS = (1818, 1809, 1798, 1788, 1783)
_COMPOUND_FOLDS_WITH_SOUND = (1817, 1804, 1792, 1785, 1783)
_EXPECTED = (
    Expected(what="clips with one of the 11 emotions", number=9172, also=9156),
    *folds_expected(_FOLDS, also=_FOLDS_WITH_SOUND),
    Expected(
        what="clips with one of the 43 emotions",
        number=8996,
        also=8981,
        where={"compound": COMPOUND_CLASSES},
    ),
    *folds_expected(_COMPOUND_FOLDS, column="compound_fold", also=_COMPOUND_FOLDS_WITH_SOUND),
)

DATASET = Dataset(
    title="MAFW",
    layout=_LAYOUT,
    access="by signed form, research only: github.com/MAFW-database/MAFW",
    read=read,
    columns=("emotion", "fold", "compound", "compound_fold"),
    classes={"emotion": CLASSES, "compound": COMPOUND_CLASSES},
)
