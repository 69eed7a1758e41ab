"""BLEMORE: actors who show one emotion, or two of them at once in known proportions.

``train_metadata.csv`` (and ``test_metadata.csv``, which has no folds) anywhere below the root, with
the columns ``filename``, ``fold`` (0 to 4) and ``gender``; and a recording of each name. The name
is the label: ``A102_ang_int1_ver1`` (actor, emotion, intensity 1 to 4), ``A102_neu_sit1_ver1`` (of
neutral, one of four situations), ``A411_mix_ang_hap_30_70_ver1`` (a blend with its percentages, of
any two emotions but neutral). Columns ``share_<emotion>`` hold the proportions, which add up to 1;
``emotions`` names those that are shown.

From documentation, not seen: Lachmann et al., 2026, arXiv 2601.13225;
https://github.com/BlEmoRe/blemore-common (README, and the columns that its code reads). Untried on
real files.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, not_this
from shards.datasets.tree import Tree, column, number, read_sheet, told_column
from shards.schema import Label

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "neutral")
SHARES = tuple(f"share_{name}" for name in CLASSES)
_CODES = dict(zip(("ang", "disg", "fea", "hap", "sad", "neu"), CLASSES, strict=True))
_ONE = "|".join(_CODES)
_NAME = re.compile(
    rf"(?P<actor>A\d+)_(?:mix_(?P<first>{_ONE})_(?P<second>{_ONE})_(?P<share>\d+)_(?P<rest>\d+)"
    rf"|(?P<alone>{_ONE})_(?P<kind>int|sit)(?P<level>\d+))_ver(?P<version>\d+)"
)
_PARTS = ("train", "test")
_LAYOUT = "train_metadata.csv, and recordings such as A411_mix_ang_hap_30_70_ver1.mov"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of BLEMORE."""
    tree = Tree(root)
    tables = {part: tree.ending(f"{part}_metadata.csv") for part in _PARTS}
    if not any(tables.values()):
        raise not_this(root, "BLEMORE", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    named = set()
    for part, table in tables.items():
        if table is None:
            listing.lack("no table", f"{part}_metadata.csv")
            continue
        rows = read_sheet(tree.root / table)
        head = column(rows, ("filename",), tree.root / table)
        folds = ""  # of the test part there are none
        if part == "train":
            folds = told_column(rows, "fold", tree.root / table, listing.notes)
        genders = told_column(rows, "gender", tree.root / table, listing.notes)
        for row in rows:
            name = row[head].replace("\\", "/").rpartition("/")[2]
            name = name.rpartition(".")[0] or name
            named.add(name)
            labels = labels_of(name)
            if labels is None:
                listing.leave_out("a name that says no emotion", name)
                continue
            path = tree.picture(name, options.media)
            if path is None:
                listing.lack("no recording", name)
                continue
            fold = number(row.get(folds, ""))
            item = Item(
                key=name,
                path=path,
                audio=tree.sound(name),
                speaker=name.partition("_")[0],
                split=part,
                labels=labels
                | {
                    "fold": None if fold is None else int(fold),
                    "sex": {"f": "female", "m": "male"}.get(row.get(genders, "").lower()),
                },
            )
            listing.items.append(item)
    for name in sorted(tree.videos.keys() - named):
        if _NAME.fullmatch(name):
            listing.leave_out("in no table", name)
    return listing


def labels_of(name: str) -> dict[str, Label | None] | None:
    """What the name of a recording says, by column; None where it is no such name.

    A blend whose percentages do not add up to 100, or of an emotion with itself, is none.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["alone"]:
        shares = {_CODES[found["alone"]]: 100}
    else:
        pairs = (("first", "share"), ("second", "rest"))
        shares = {_CODES[found[name]]: int(found[share]) for name, share in pairs}
        if len(shares) < 2 or sum(shares.values()) != 100:
            return None
    is_level = found["kind"] == "int"
    return {
        "emotions": "+".join(name for name in CLASSES if name in shares),
        **{column: shares.get(name, 0) / 100 for column, name in zip(SHARES, CLASSES, strict=True)},
        "intensity": int(found["level"]) if is_level else None,
    }


_EXPECTED = (
    Expected(what="recordings", number=3050),
    Expected(what="actors", number=58, distinct="speaker"),
    Expected(what="recordings of one emotion", number=1390, where={"emotions": CLASSES}),
    Expected(what="training recordings", number=2456, where={"split": "train"}),
    Expected(what="training actors", number=47, where={"split": "train"}, distinct="speaker"),
)

DATASET = Dataset(
    title="BLEMORE",
    layout=_LAYOUT,
    access="by request: zenodo.org/records/15096942",
    read=read,
    columns=("emotions", *SHARES, "fold", "split"),
)
