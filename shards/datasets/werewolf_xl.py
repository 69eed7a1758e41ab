"""Werewolf-XL: people playing a game of deceit, with arousal, valence and dominance of each turn.

Read are the turns of active speakers, not the listeners' clips or the self-reported categories.

Turns are named ``07_01_200``: session (01 to 30) _ seat _ number in the session. Videos (or
OpenFace's folders ``07_01_200_aligned``, with ``07_01_200.wav``) may lie anywhere below the root.
The labels come from a CSV that names the turn and its three values; it is found by its columns, or
given with ``--labels``. Fold k tests six consecutive sessions. Whether a person plays in several
sessions is not told by the names: what is kept apart is the session.

From documentation, not seen: the layout of the release is not public; names and folds are those of
the lists published with HiCMAE, other column names those of the authors' code. By request:
Zhang et al., 2021, https://doi.org/10.1109/TAFFC.2021.3101563.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, each_once, not_this
from shards.datasets.tree import Row, Tree, column, number, read_sheet
from shards.schema import Label

TARGETS = ("arousal", "valence", "dominance")
NUM_SESSIONS, _SESSIONS_A_FOLD = 30, 6
_NAME = re.compile(r"(\d\d)_(\d\d)_(\d+)")
_NAMES = ("name", "VideoName", "clip", "file", "path")
_VALUES = {
    "arousal": ("arousal", "Arousal_average", "Mean_A_1_2_4"),
    "valence": ("valence", "pleasure", "Pleasure_average", "Mean_P_1_2_4"),
    "dominance": ("dominance", "Dominance_average", "Mean_D_1_2_4"),
}
_LAYOUT = "videos named 07_01_200.mp4 (or folders 07_01_200_aligned) and a CSV of their labels"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of Werewolf-XL."""
    tree = Tree(root)
    there = {name for name in (*tree.videos, *tree.frames) if _NAME.fullmatch(name)}
    if not there:
        raise not_this(root, "Werewolf-XL", _LAYOUT)
    rows = _labels(tree, options)
    if rows is None:
        raise ValueError(
            f"{root}: no table of labels among its files (a CSV with columns name, arousal, "
            "valence, dominance); give it with --labels"
        )
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    for name, labels in sorted(rows.items()):
        session, seat, _ = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        if not 1 <= int(session) <= NUM_SESSIONS:
            listing.leave_out("a session that Werewolf-XL does not have", name)
            continue
        absent = [target for target in TARGETS if labels[target] is None]
        if absent:
            listing.leave_out(f"no number for {', '.join(absent)}", name)
            continue
        path = tree.picture(name, options.media)
        if path is None:
            listing.lack("no picture", name)
            continue
        item = Item(
            key=name,
            path=path,
            audio=tree.sound(name),
            speaker=f"{session}_{seat}",
            labels={
                **labels,
                "session": int(session),
                "fold": (int(session) - 1) // _SESSIONS_A_FOLD + 1,
            },
        )
        listing.items.append(item)
    for name in sorted(there - rows.keys()):
        listing.leave_out("not labelled", name)
    return listing


def _labels(tree: Tree, options: ReadOptions) -> dict[str, dict[str, Label | None]] | None:
    """Turn to its values, from the given table or from all of the tree's that have them."""
    if options.labels is not None:
        return each_once(_table(read_sheet(options.labels), options.labels), options.labels)
    found: dict[str, dict[str, Label | None]] | None = None
    whose: dict[str, str] = {}  # turn to the table that has it
    unread: list[str] = []
    for file in tree.files:
        if _NAME.fullmatch(Path(file).stem):
            continue  # OpenFace's table of one turn, of which there are as many as turns
        if file.lower().endswith((".csv", ".tsv", ".xlsx")):
            try:
                table = read_sheet(tree.root / file)
            except ValueError as error:
                unread.append(str(error))
                continue
            try:
                turns = _table(table, tree.root / file)
            except ValueError:  # another table
                continue
            rows = each_once(turns, tree.root / file)
            found = {} if found is None else found
            others = [name for name in found.keys() & rows.keys() if found[name] != rows[name]]
            if others:
                first = min(others)
                raise ValueError(
                    f"{tree.root}: {whose[first]} and {file} have other values of "
                    f"{len(others)} turns, the first is {first}; name the right one with --labels"
                )
            found |= rows
            whose |= dict.fromkeys(rows, file)
    if found is None and unread:
        raise ValueError(f"no table of labels can be read: {unread[0]}")
    return found


def _table(rows: list[Row], path: Path) -> list[tuple[str, dict[str, Label | None]]]:
    """Turns and their values. Raises: ValueError: a column is not there."""
    name = column(rows, _NAMES, path)
    heads = {target: column(rows, names, path) for target, names in _VALUES.items()}
    values: list[tuple[str, dict[str, Label | None]]] = []
    for row in rows:
        clip = PurePosixPath(row[name].replace("\\", "/")).stem.removesuffix("_aligned")
        if _NAME.fullmatch(clip):
            told = {target: number(row.get(head, "")) for target, head in heads.items()}
            values.append((clip, dict(told)))
    return values


_EXPECTED = (
    Expected(what="turns", number=14457),
    Expected(what="sessions", number=NUM_SESSIONS, distinct="session"),
)

DATASET = Dataset(
    title="Werewolf-XL",
    layout=_LAYOUT,
    access="by request to its authors, Zhejiang University",
    read=read,
    columns=(*TARGETS, "fold", "session"),
    takes_labels=True,
)
