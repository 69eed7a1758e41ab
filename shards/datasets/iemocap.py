"""IEMOCAP: ten actors, two a session, in scripted and improvised dialogues.

Each utterance of the full release becomes a span of its dialogue's video, of which the speaker's
half is looked at. Single cut sentences are to be listed in a CSV.

``Session1/dialog/EmoEvaluation/Ses01F_impro01.txt`` has lines
``[6.2901 - 8.2357]⇥Ses01F_impro01_F000⇥neu⇥[2.5, 2.5, 2.5]`` (seconds; valence, activation and
dominance, 1 to 5), and below each the raters: ``C-E2:⇥Neutral;⇥()``. The videos are
``dialog/avi/DivX/Ses01F_impro01.avi``, the sound is beside them in ``dialog/wav/``. The video is a
split screen: the actor whose letter stands in the dialogue's name (who wears the markers) on the
left, the other on the right; the utterance's last letter says who speaks.

Happiness includes excitement. Fold k tests session k.

From documentation, not seen: which half is whose is what three public readers do
(``IoannisKansizoglou/Iemocap-preprocess`` and two others); one other puts the woman always on the
left. Look at the contact sheet of a build before training.
Source: https://sail.usc.edu/iemocap/ (by application; Busso et al., 2008); sizes of the classes:
flageval.baai.ac.cn/docs/en/audio/Speech-Emotion-Recognition (595 happy, 1041 excited among them).
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
    classes_expected,
    not_this,
)
from shards.datasets.tree import Tree
from shards.schema import Label

CLASSES = ("anger", "happiness", "neutral", "sadness")
_LABELS = {
    "ang": "anger",
    "hap": "happiness",
    "exc": "happiness",
    "neu": "neutral",
    "sad": "sadness",
}
_UNUSED = {
    "fru": "frustration",
    "sur": "surprise",
    "fea": "fear",
    "dis": "disgust",
    "oth": "another emotion",
    "xxx": "raters without agreement",
}
_LINE = re.compile(
    r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(Ses(0[1-5])([FM])_\w+)_([FM])(\w+)\s+([a-z]{3})"
    r"(?:\s+\[([\d.]+),\s*([\d.]+),\s*([\d.]+)\])?.*"
)
_RATER = re.compile(r"C-E\d+:\s*([^()]*)")
_HALVES = {True: "0 0 0.5 1", False: "0.5 0 1 1"}
_LAYOUT = "Session1/dialog/EmoEvaluation/*.txt and Session1/dialog/avi/DivX/*.avi, to Session5"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of IEMOCAP."""
    tree = Tree(root)
    pattern = re.compile(r"(?:.*/)?EmoEvaluation/Ses0[1-5][FM]_\w+\.txt")
    files = [path for path in tree.files if pattern.fullmatch(path)]
    if not files:
        raise not_this(root, "IEMOCAP", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    absent: set[str] = set()
    for file in sorted(files, key=lambda path: path.rpartition("/")[2]):
        utterance: Item | None = None
        for line in map(str.strip, tree.read_text(file).splitlines()):
            match = _LINE.fullmatch(line)
            if match:
                utterance = _utterance(match, tree, listing, absent)
                if utterance is not None:
                    listing.items.append(utterance)
            elif utterance is not None and (rater := _RATER.match(line)):
                for name in _vote(rater.group(1)):
                    column = f"votes_{name}"
                    utterance.labels[column] = int(utterance.labels[column] or 0) + 1
    return listing


def _utterance(match: re.Match[str], tree: Tree, listing: Listing, absent: set[str]) -> Item | None:
    """One utterance, or None where it is not labelled or its dialogue is missing."""
    start, end, dialogue, session, lead, speaker, turn, label = match.groups()[:8]
    key = f"{dialogue}_{speaker}{turn}"
    if label not in _LABELS:
        listing.leave_out(_UNUSED.get(label, f"unknown label {label}"), key)
        return None
    path = tree.video(dialogue)
    if path is None:
        if dialogue not in absent:
            absent.add(dialogue)
            listing.lack("no video of the dialogue", f"{dialogue}.avi")
        listing.leave_out("no video of the dialogue", key)
        return None
    dimensions = [None if value is None else float(value) for value in match.groups()[8:]]
    labels: dict[str, Label | None] = {
        "emotion": _LABELS[label],
        "emotion_original": label,
        **dict(zip(("valence", "arousal", "dominance"), dimensions, strict=True)),
        "fold": int(session),
        "session": int(session),
        "dialogue": dialogue,
        "sex": "female" if speaker == "F" else "male",
        **{f"votes_{name}": 0 for name in (*CLASSES, "other")},
    }
    return Item(
        key=key,
        path=path,
        audio=tree.sound(dialogue, within="wav"),
        speaker=f"Ses{session}{speaker}",
        start=float(start),
        end=float(end),
        region=_HALVES[speaker == lead],
        labels=labels,
    )


def _vote(tags: str) -> set[str]:
    """What a rater chose, among our classes; several tags of one class are one vote for it."""
    names = {
        "anger": "anger",
        "happiness": "happiness",
        "excited": "happiness",
        "neutral state": "neutral",
        "neutral": "neutral",
        "sadness": "sadness",
    }
    chosen = [tag.strip().lower() for tag in tags.split(";")]
    return {names.get(tag, "other") for tag in chosen if tag}


_EXPECTED = (
    Expected(what="utterances", number=5531),
    Expected(what="speakers", number=10, distinct="speaker"),
    *classes_expected("emotion", dict(zip(CLASSES, (1103, 1636, 1708, 1084), strict=True))),
)

DATASET = Dataset(
    title="IEMOCAP",
    layout=_LAYOUT,
    access="by application to SAIL, University of Southern California",
    read=read,
    media=("auto", "clips"),
    columns=("emotion", "fold", "valence", "arousal", "dominance"),
    classes={"emotion": CLASSES},
)
