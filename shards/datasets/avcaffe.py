"""AVCAffe: 106 people solve tasks together over the internet and say how they felt.

Read are the short segments (6 s each) with the arousal and valence their person reported.

``videos/shorter_segments/aiim001/task_1/*.avi``; ``ground_truths/arousal.txt`` and ``valence.txt``
with lines ``aiim001_task_1, Excited``; ``mental_demand``, ``temporal_demand`` and ``effort`` (0 to
21) likewise where they are there; ``info/no_audio_files.txt`` names the segments in which the
person is silent. Twenty people are the test side; ``video`` names the task's recording, over whose
segments scores are averaged.

From documentation, not seen: https://github.com/pritamqu/AVCAffe and its reader of the release
(paths, classes in their order, test people; Borealis, doi 10.5683/SP3/PSWY62, on request).
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, each_once, not_this
from shards.datasets.tree import Tree, number
from shards.schema import Label

CLASSES = {
    "arousal": ("excited", "wide-awake", "neutral", "dull", "calm"),
    "valence": ("pleasant", "pleased", "neutral", "unsatisfied", "unpleasant"),
}
_DEMANDS = ("mental_demand", "temporal_demand", "effort")
_TEST = (1, 2, 13, 14, 43, 44, 53, 54, 57, 58, 63, 64, 67, 68, 77, 78, 99, 100, 107, 108)
TEST_PEOPLE = frozenset(f"aiim{person:03}" for person in _TEST)
_PLACE = re.compile(r"(?:.*/)?(aiim\d{3})/(task_\d+)/([^/]+)")
_LAYOUT = "videos/shorter_segments/aiim001/task_1/*.avi and ground_truths/{arousal,valence}.txt"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of AVCAffe."""
    tree = Tree(root)
    truths = {name: _reports(tree, name) for name in (*CLASSES, *_DEMANDS)}
    pictures = tree.videos if options.media != "frames" else {}
    if not pictures and options.media != "clips":
        pictures = tree.frames
    segments = _segments(pictures)
    if not segments or truths["arousal"] is None or truths["valence"] is None:
        raise not_this(root, "AVCAffe", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    for person, task, name, path in segments:
        video = f"{person}_{task}"
        labels: dict[str, Label | None] = {}
        for column, classes in CLASSES.items():
            value = (truths[column] or {}).get(video, "").lower()
            if value in classes:
                labels[column] = value
            else:
                cause = f"unknown {column} {value!r}" if value else f"no {column} reported"
                listing.leave_out(cause, f"{video}/{name}")
        if len(labels) < len(CLASSES):
            continue
        for column in _DEMANDS:
            labels[column] = number((truths[column] or {}).get(video, ""))
        item = Item(
            key=f"{person}/{task}/{name}",
            path=path,
            audio=tree.sound(name, within=f"{person}/{task}"),
            speaker=person,
            split="test" if person in TEST_PEOPLE else "train",
            labels=labels | {"video": video},
        )
        listing.items.append(item)
    _note_silence(tree, listing)
    return listing


def _segments(pictures: dict[str, list[str]]) -> list[tuple[str, str, str, str]]:
    """Person, task, name and path of every segment, in order."""
    found = []
    for name, paths in pictures.items():
        for path in paths:
            match = _PLACE.fullmatch(path)
            if match:
                found.append((match.group(1), match.group(2), name, path))
    return sorted(found)


def _reports(tree: Tree, name: str) -> dict[str, str] | None:
    """``aiim001_task_1, Excited`` → {"aiim001_task_1": "Excited"}; None without the file."""
    path = tree.ending(f"ground_truths/{name}.txt")
    if path is None:
        return None
    pairs = (line.split(",", 1) for line in tree.read_text(path).splitlines() if "," in line)
    return each_once(((video.strip(), value.strip()) for video, value in pairs), tree.root / path)


def _note_silence(tree: Tree, listing: Listing) -> None:
    """Say how many segments the release lists as silent; they stay in."""
    path = tree.ending("info/no_audio_files.txt")
    if path is not None:
        silent = {Path(line.strip()).stem for line in tree.read_text(path).splitlines()}
        count = sum(Path(item.path).stem in silent for item in listing.items)
        listing.notes.append(
            f"{count} of the segments are in info/no_audio_files.txt and stay in the manifest; "
            "`hicmae shards build --sound required` leaves out what has no sound"
        )


_EXPECTED = (
    Expected(what="segments", number=58112),
    Expected(what="people", number=106, distinct="speaker"),
    Expected(what="people to train on", number=86, where={"split": "train"}, distinct="speaker"),
    Expected(what="people to test", number=20, where={"split": "test"}, distinct="speaker"),
)

DATASET = Dataset(
    title="AVCAffe",
    layout=_LAYOUT,
    access="on request: Borealis, doi.org/10.5683/SP3/PSWY62",
    read=read,
    columns=("arousal", "valence", "split", "video"),
    classes=CLASSES,
)
