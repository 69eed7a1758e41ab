"""DFEW: clips of films in seven emotions, five folds of its own.

Read are the single-labelled clips, as videos or as folders of frames with their sound apart.

``EmoLabel_DataSplit/{train,test}(single-labeled)/set_k.csv`` (columns ``video_name`` and ``label``,
1 to 7; some copies name them ``label/single_{train,test}set_k.csv``); frames
``Clip/jpg_256/00001/*.jpg`` or ``Clip/clip_224x224/00001``, videos ``Clip/original/1.mp4``; sound
as ``00001.wav`` anywhere. The frames of ``clip_224x224_16f`` are sixteen a clip, whatever its
length: they have no frame rate and are not taken. ``Annotation/annotation.xlsx`` (or ``.csv``)
counts the annotators' answers in columns ``1happy`` to ``7fear``; these become
``votes_<emotion>``, unless they do not fit the labels. Speakers are not known.

From documentation, not seen: https://dfew-dataset.github.io (by application), and public readers.
"""

from __future__ import annotations

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

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
_LAYOUT = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv to set_5.csv, and Clip/"
_WITHOUT_TIME = "clip_224x224_16f"
_LEAST_AGREEMENT = 0.9  # share of clips whose label must be the most frequent vote


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of DFEW."""
    tree = Tree(root)
    sides = {}
    for fold in range(1, 6):
        test, train = (_list(tree, side, fold) for side in ("test", "train"))
        if test is not None:
            sides[fold] = (test, train)
    if not sides:
        raise not_this(root, "DFEW", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    folds, notes = official_folds("DFEW", sides)
    listing.notes += notes
    labels: dict[str, str] = {}
    for name, fold in folds.items():
        code = sides[fold][0][name]
        if code in ("1", "2", "3", "4", "5", "6", "7"):
            labels[name] = CLASSES[int(code) - 1]
        else:
            listing.leave_out(f"unknown label {code}", name)
    votes = _votes(tree, listing, labels)
    for name in sorted(labels):
        path = _picture(tree, name, options)
        if path is None:
            listing.lack("no clip and no frames", name)
            continue
        audio = tree.sound(name) or tree.sound(str(int(name)))
        if audio is None and path in tree.frames.get(name, ()):
            listing.lack("no sound file beside the frames", f"{name}.wav")
        columns: dict[str, Label | None] = {"emotion": labels[name], "fold": folds[name]}
        listing.items.append(
            Item(key=name, path=path, audio=audio, labels=columns | votes.get(name, {}))
        )
    there = {name.zfill(5) for name in (*tree.videos, *tree.frames) if name.isdigit()}
    for name in sorted(there - folds.keys()):
        listing.leave_out("in no list of single labels", name)
    return listing


def _list(tree: Tree, side: str, fold: int) -> dict[str, str] | None:
    """Clip to label code, from one list; None if it is not there."""
    path = tree.ending(f"{side}(single-labeled)/set_{fold}.csv") or tree.ending(
        f"single_{side}set_{fold}.csv"
    )
    if path is None:
        return None
    rows = read_sheet(tree.root / path)
    name = column(rows, ("video_name", "clip_name", "name"), tree.root / path)
    label = column(rows, ("label", "annotation"), tree.root / path)
    return each_once(((row[name].zfill(5), row[label]) for row in rows), tree.root / path)


def _picture(tree: Tree, name: str, options: ReadOptions) -> str | None:
    """The clip's video or frames; numbers are padded in some copies and not in others."""
    candidates = (name, str(int(name)) if name.isdigit() else name)
    if options.media != "frames":
        for candidate in candidates:
            if video := tree.video(candidate, prefer="original"):
                return video
    if options.media != "clips":
        for candidate in candidates:
            found = tree.frames.get(candidate, ())
            timed = (path for path in found if f"/{_WITHOUT_TIME}/" not in f"/{path}")
            if folder := tree.choose(timed):
                return folder
    return None


def _votes(
    tree: Tree, listing: Listing, labels: dict[str, str]
) -> dict[str, dict[str, Label | None]]:
    """Answers of the annotators by clip, if the file is there and fits the labels."""
    path = tree.ending("annotation.csv") or tree.ending("annotation.xlsx")
    if path is None:
        listing.notes.append("no Annotation/annotation.xlsx or .csv: no votes")
        return {}
    rows = read_sheet(tree.root / path)
    name = column(rows, ("order", "video_name", "clip"), tree.root / path)
    heads = {
        emotion: column(rows, (f"{code}{emotion}", emotion), tree.root / path)
        for code, emotion in enumerate(CLASSES, start=1)
    }
    found: list[tuple[str, dict[str, Label | None]]] = []
    agreeing = 0
    for row in rows:
        clip = row[name].removesuffix(".mp4").zfill(5)
        counts = {emotion: number(row.get(head, "")) or 0.0 for emotion, head in heads.items()}
        if clip in labels:
            agreeing += counts[labels[clip]] == max(counts.values())
            found.append((clip, {f"votes_{emotion}": count for emotion, count in counts.items()}))
    votes = each_once(found, tree.root / path)
    if votes and agreeing / len(votes) < _LEAST_AGREEMENT:
        listing.notes.append(
            f"{path}: its votes have the label in front for {agreeing} of {len(votes)} clips only, "
            "so its rows mean other clips; the votes are left out"
        )
        return {}
    return votes


_EXPECTED = (
    Expected(what="clips", number=11697),
    *folds_expected((2341, 2341, 2340, 2339, 2336)),
)

DATASET = Dataset(
    title="DFEW",
    layout=_LAYOUT,
    access="by application: dfew-dataset.github.io",
    read=read,
    columns=("emotion", "fold"),
    classes={"emotion": CLASSES},
)
