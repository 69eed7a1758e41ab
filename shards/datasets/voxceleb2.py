"""VoxCeleb2: a million utterances of celebrities, without emotion labels; for pretraining.

Read are the trees as unpacked: pictures ``dev/mp4/id00012/21Uxsk56VDQ/00001.mp4`` and sound
``dev/aac/id00012/21Uxsk56VDQ/00001.m4a`` (or ``wav``), each with or without ``dev`` or ``test`` in
front.

Utterances under ``test`` go to the split ``test``, all others to ``train``. Where there is a sound
tree, an utterance without its file there is named, and so is a sound without its picture.
``vox2_meta.csv`` gives each person's sex. The published pretraining used 1,091,581 of the dev
utterances.

Source: https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html (CC BY 4.0; 1,092,009 dev
utterances of 5,994 people, 36,237 test utterances of 118). From documentation, not seen as a tree;
single files of the kind were tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, not_this
from shards.datasets.tree import SOUND_SUFFIXES, read_sheet
from shards.manifest import VIDEO_SUFFIXES
from shards.schema import Label

_PERSON = re.compile(r"id\d{5}")
_TEST = re.compile(r"(?:^|[/_])test[/_]")
_LAYOUT = "mp4/id00012/21Uxsk56VDQ/00001.mp4 (below dev/ or test/, or directly)"
_DEPTH = 4  # folders between the root and the people: vox2/dev/video/mp4


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of VoxCeleb2, one folder of a person at a time."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    people = sorted(_people(str(root), ""))
    sexes = _sexes(root)
    listing = Listing()
    sounds: dict[tuple[str, str], list[str]] = {}
    pictures: list[tuple[str, str]] = []
    for side, person, path in people:
        if any(_utterances(root / path, VIDEO_SUFFIXES)):
            pictures.append((side, path))
        else:
            sounds.setdefault((side, person), []).append(path)
    if not pictures:
        raise not_this(root, "VoxCeleb2", _LAYOUT)
    for side, path in pictures:
        person = path.rpartition("/")[2]
        spoken: dict[str, str] = {}
        for folder in (path, *sounds.pop((side, person), ())):
            for name in _utterances(root / folder, SOUND_SUFFIXES):
                spoken.setdefault(name.rpartition(".")[0], f"{folder}/{name}")
        has_sounds = bool(spoken)
        labels: dict[str, Label | None] = {"sex": sexes.get(person)}
        for name in _utterances(root / path, VIDEO_SUFFIXES):
            utterance = name.rpartition(".")[0]
            audio = spoken.pop(utterance, None)
            if has_sounds and audio is None:
                listing.lack("no sound file", f"{side}/{person}/{utterance}")
            listing.items.append(
                Item(
                    key=f"{person}/{utterance}",
                    path=f"{path}/{name}",
                    audio=audio,
                    speaker=person,
                    split=side,
                    labels=labels | {"video": utterance.partition("/")[0]},
                )
            )
        for utterance in sorted(spoken):
            listing.lack("sound without its video", f"{side}/{person}/{utterance}")
    for (side, person), folders in sorted(sounds.items()):
        for folder in folders:
            for name in _utterances(root / folder, SOUND_SUFFIXES):
                utterance = name.rpartition(".")[0]
                listing.lack("sound without its video", f"{side}/{person}/{utterance}")
    sides = {item.split for item in listing.items}
    listing.expected = tuple(
        expected for expected in _EXPECTED if expected.where.get("split") in sides
    )
    return listing


def _people(folder: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Side, person and path of every folder of a person."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    for name in names:
        if _PERSON.fullmatch(name):
            yield "test" if _TEST.search(prefix) else "train", name, prefix + name
        elif prefix.count("/") < _DEPTH and not name.startswith("."):
            yield from _people(f"{folder}/{name}", f"{prefix}{name}/")


def _utterances(folder: Path, suffixes: Collection[str]) -> Iterator[str]:
    """``21Uxsk56VDQ/00001.mp4`` and so on, in order."""
    with os.scandir(folder) as entries:
        videos = sorted(entry.name for entry in entries if entry.is_dir())
    for video in videos:
        with os.scandir(folder / video) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in suffixes:
                yield f"{video}/{name}"


def _sexes(root: Path) -> dict[str, str]:
    """Person to ``female`` or ``male``, from the table beside the trees if it is there."""
    path = root / "vox2_meta.csv"
    if not path.is_file():
        return {}
    sexes: dict[str, str] = {}
    for row in read_sheet(path):
        person = next((cell for cell in row.values() if _PERSON.fullmatch(cell)), None)
        sex = {"f": "female", "m": "male"}.get(row.get("Gender", "").lower())
        if person is not None and sex is not None:
            sexes[person] = sex
    return sexes


_EXPECTED = (
    Expected(what="dev utterances", number=1092009, where={"split": "train"}),
    Expected(what="dev people", number=5994, where={"split": "train"}, distinct="speaker"),
    Expected(what="test utterances", number=36237, where={"split": "test"}),
    Expected(what="test people", number=118, where={"split": "test"}, distinct="speaker"),
)

DATASET = Dataset(
    title="VoxCeleb2",
    layout=_LAYOUT,
    access="CC BY 4.0, on request: robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html",
    read=read,
    columns=("split",),
)
