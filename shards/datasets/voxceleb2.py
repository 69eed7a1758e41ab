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

import re
from itertools import chain
from pathlib import Path

from shards.datasets.base import Dataset, Expected, Item, Listing, ReadOptions, not_this
from shards.datasets.tree import Tree, read_sheet
from shards.schema import Label

_PERSON = re.compile(r"id\d{5}")
# Up to four folders above a person: vox2/dev/video/mp4.
_UTTERANCE = re.compile(r"((?:[^/]+/){0,4}?(id\d{5}))/([^/]+/[^/]+)\.[^/.]+")
_TEST = re.compile(r"(?:^|[/_])test[/_]")
_LAYOUT = "mp4/id00012/21Uxsk56VDQ/00001.mp4 (below dev/ or test/, or directly)"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of VoxCeleb2."""
    tree = Tree(root)
    pictures, sounds = _utterances(tree.videos), _utterances(tree.sounds)
    sexes = _sexes(tree)
    if not pictures:
        raise not_this(root, "VoxCeleb2", _LAYOUT)
    listing = Listing(notes=[] if sexes else ["no vox2_meta.csv: no sex"], copies=tree.copies)
    apart: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for side, person, folder in sorted(sounds.keys() - pictures.keys()):
        apart.setdefault((side, person), []).extend(sounds[side, person, folder])
    for place in sorted(pictures):
        side, person, _ = place
        spoken: dict[str, str] = {}
        for utterance, path in (*sounds.get(place, ()), *apart.pop((side, person), ())):
            spoken.setdefault(utterance, path)
        has_sounds = bool(spoken)
        labels: dict[str, Label | None] = {"sex": sexes.get(person)}
        for utterance, path in pictures[place]:
            audio = spoken.pop(utterance, None)
            if has_sounds and audio is None:
                listing.lack("no sound file", f"{side}/{person}/{utterance}")
            item = Item(
                key=f"{person}/{utterance}",
                path=path,
                audio=audio,
                speaker=person,
                split=side,
                labels=labels | {"video": utterance.partition("/")[0]},
            )
            listing.items.append(item)
        for utterance in sorted(spoken):
            listing.lack("sound without its video", f"{side}/{person}/{utterance}")
    for (side, person), found in sorted(apart.items()):
        for utterance, _ in found:
            listing.lack("sound without its video", f"{side}/{person}/{utterance}")
    sides = {item.split for item in listing.items}
    listing.expected = tuple(
        expected for expected in _EXPECTED if expected.where.get("split") in sides
    )
    return listing


def _utterances(files: dict[str, list[str]]) -> dict[tuple[str, str, str], list[tuple[str, str]]]:
    """``21Uxsk56VDQ/00001`` and the path of its file, by side, person and folder of the person."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for path in sorted(chain.from_iterable(files.values()), key=lambda path: path.split("/")):
        if match := _UTTERANCE.fullmatch(path):
            folder, person, utterance = match.groups()
            side = "test" if _TEST.search(folder) else "train"
            found.setdefault((side, person, folder), []).append((utterance, path))
    return found


def _sexes(tree: Tree) -> dict[str, str]:
    """Person to ``female`` or ``male``, from the table if it is there."""
    path = tree.ending("vox2_meta.csv")
    if path is None:
        return {}
    sexes: dict[str, str] = {}
    for row in read_sheet(tree.root / path):
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
    media=("auto", "clips"),
    columns=("split",),
)
