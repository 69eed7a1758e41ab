"""MELD: utterances of the television series Friends, in dialogues of several people.

``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv`` (columns ``Speaker``,
``Emotion``, ``Sentiment``, ``Dialogue_ID``, ``Utterance_ID``, ``Season``, ``Episode``) anywhere
below the root, and a video an utterance, ``dia0_utt3.mp4``, in ``train_splits``,
``dev_splits_complete`` and ``output_repeated_splits_test``. Numbers of dialogues begin anew in each
part, so keys and dialogues name it. Speakers are names of roles; the main ones are in every part,
and some (``All``, ``Woman``) are no one person.

From documentation, not seen: https://github.com/declare-lab/MELD (README and tables; GPL 3.0; the
recordings are a broadcaster's). Untried on real files.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, not_this
from shards.datasets.tree import Tree, column, number, read_sheet, told_column

# In the order of the release's own label index.
CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
# Part to the folders that its videos are in: as released, and as mirrors call them.
_PARTS = {
    "train": ("train_splits", "train"),
    "dev": ("dev_splits_complete", "dev_splits", "dev"),
    "test": ("output_repeated_splits_test", "test_splits", "test"),
}
_LAYOUT = "train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv, and train_splits/dia0_utt0.mp4"
_COLUMNS = ("Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of MELD."""
    tree = Tree(root)
    tables = {part: tree.ending(f"{part}_sent_emo.csv") for part in _PARTS}
    if not any(tables.values()):
        raise not_this(root, "MELD", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    for part, table in tables.items():
        if table is None:
            listing.lack("no table", f"{part}_sent_emo.csv")
            continue
        rows = read_sheet(tree.root / table)
        heads = [column(rows, (name,), tree.root / table) for name in _COLUMNS]
        season, episode = (
            told_column(rows, name, tree.root / table, listing.notes)
            for name in ("season", "episode")
        )
        known = set()
        for row in rows:
            speaker, emotion, sentiment, dialogue, utterance = (row[head] for head in heads)
            clip = f"dia{dialogue}_utt{utterance}"
            known.add(clip)
            if emotion.lower() not in CLASSES:
                listing.leave_out(f"unknown label {emotion or '(empty)'}", f"{part}/{clip}")
                continue
            path = _within(tree, clip, part, options)
            if path is None:
                listing.lack("no clip", f"{part}/{clip}")
                continue
            item = Item(
                key=f"{part}/{clip}",
                path=path,
                speaker=speaker.strip() or None,
                split=part,
                labels={
                    "emotion": emotion.lower(),
                    "sentiment": sentiment.lower() or None,
                    "dialogue": f"{part}/{dialogue}",
                    "utterance": number(utterance),
                    "season": number(row.get(season, "")),
                    "episode": number(row.get(episode, "")),
                },
            )
            listing.items.append(item)
        for clip in sorted(tree.videos.keys() - known):
            if re.search(r"dia\d+_utt\d+$", clip) and _within(tree, clip, part, options):
                listing.leave_out("not labelled", f"{part}/{clip}")
    return listing


def _within(tree: Tree, clip: str, part: str, options: ReadOptions) -> str | None:
    """The picture of an utterance, in a folder of its part."""
    found = (tree.picture(clip, options.media, within=folder) for folder in _PARTS[part])
    return next(filter(None, found), None)


_EXPECTED = (
    *(
        Expected(what=f"{part} utterances", number=count, where={"split": part})
        for part, count in zip(_PARTS, (9989, 1109, 2610), strict=True)
    ),
    # The README counts 1,039 dialogues to train on, its table has 1,038.
    *(
        Expected(
            what=f"{part} dialogues",
            number=count,
            also=also,
            where={"split": part},
            distinct="dialogue",
        )
        for part, count, also in (("train", 1039, 1038), ("dev", 114, None), ("test", 280, None))
    ),
)

DATASET = Dataset(
    title="MELD",
    layout=_LAYOUT,
    access="github.com/declare-lab/MELD (tables), and the archive of clips that it names",
    read=read,
    columns=("emotion", "sentiment", "dialogue", "split"),
    classes={"emotion": CLASSES, "sentiment": ("neutral", "positive", "negative")},
)
