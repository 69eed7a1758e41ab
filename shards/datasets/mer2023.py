"""MER2023: clips of Chinese films and shows; its track MER-MULTI trains on one part, tests another.

Read are the labelled parts, ``train``, and ``test1`` (MER-MULTI), ``test2`` (MER-NOISE) and
``test3`` (MER-SEMI) where they are there; each becomes a split of its name.

``train-label.csv`` and ``test1-label.csv`` (columns ``name``, ``discrete``, ``valence``; the test
lists are handed out apart) anywhere below the root, and the videos ``train/NAME.avi``,
``test1/NAME.avi`` (some are ``.mp4``). Speakers are not known.

From documentation, not seen: https://github.com/zeroQiaoba/MERTools (MER2023; by signed licence
agreement). The numbers of clips are from memory of the challenge's paper.
"""

from __future__ import annotations

from pathlib import Path

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, not_this
from shards.datasets.tree import Tree, column, number, read_sheet, told_column

CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
_PARTS = ("train", "test1", "test2", "test3")
_LAYOUT = "train-label.csv, test1-label.csv, and videos in train/ and test1/"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of MER2023."""
    tree = Tree(root)
    tables = {part: tree.ending(f"{part}-label.csv") for part in _PARTS}
    if not any(tables.values()):
        raise not_this(root, "MER2023", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    for part, table in tables.items():
        if table is None:
            if part in ("train", "test1"):
                listing.lack("no label file", f"{part}-label.csv")
            continue
        rows = read_sheet(tree.root / table)
        name, emotion = (column(rows, (c,), tree.root / table) for c in ("name", "discrete"))
        valence = told_column(rows, "valence", tree.root / table, listing.notes)
        for row in rows:
            clip = row[name].removesuffix(".avi").removesuffix(".mp4")
            if row[emotion] not in CLASSES:
                listing.leave_out(f"unknown label {row[emotion] or '(empty)'}", f"{part}/{clip}")
                continue
            path = tree.picture(clip, options.media, within=part)
            if path is None:
                listing.lack("no clip", f"{part}/{clip}")
                continue
            item = Item(
                key=f"{part}/{clip}",
                path=path,
                audio=tree.sound(clip, within=part),
                split=part,
                labels={"emotion": row[emotion], "valence": number(row.get(valence, ""))},
            )
            listing.items.append(item)
        known = {row[name].removesuffix(".avi").removesuffix(".mp4") for row in rows}
        for clip in sorted(tree.videos.keys() - known):
            if tree.video(clip, within=part) is not None:
                listing.leave_out("not labelled", f"{part}/{clip}")
    return listing


_EXPECTED = (
    Expected(what="training clips", number=3373, where={"split": "train"}),
    Expected(what="test clips of MER-MULTI", number=411, where={"split": "test1"}),
)

DATASET = Dataset(
    title="MER2023",
    layout=_LAYOUT,
    access="by signed licence agreement: huggingface.co/datasets/MERChallenge/MER2023",
    read=read,
    columns=("emotion", "split", "valence"),
    classes={"emotion": CLASSES},
)
