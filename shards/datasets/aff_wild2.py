"""Aff-Wild2: valence and arousal of every frame of videos from the web.

Documented: a text file for each person of a video, named after it (``NAME.txt``; of two people
``NAME_left.txt`` and ``NAME_right.txt``), below a folder of its side (``Train_Set``,
``Validation_Set``); its first line is ``valence,arousal`` (read by these names, in either order),
and each further line has both values of a frame, from -1 to 1, or -5 where a frame has none. Files
of expressions and action units, whose first lines name those, are passed over.

Frames are taken to follow each other at the video's mean rate. Who is seen is not told: a video,
without its number of a part, stands for its speaker.

Source: Kollias and Zafeiriou, 2019, "Expression, affect, action unit recognition: Aff-Wild2,
multi-task learning and ArcFace", and https://ibug.doc.ic.ac.uk/resources/aff-wild2/. Untried on
real files.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np

from hicmae.media.container import open_container
from hicmae.media.errors import CAUSES, MediaError
from shards.datasets.base import Dataset, Item, Listing, ReadOptions, not_this
from shards.datasets.traces import COLUMN, RECORDING, add_parts
from shards.datasets.tree import Tree
from shards.traces import MEAN, Noted, Notes

_VALUES = ("valence", "arousal")
_OTHERS = re.compile(r"neutral|au\d+")  # first of expressions, and of action units
_LAYOUT = "…/Train_Set/NAME.txt and …/Validation_Set/NAME.txt (valence,arousal), NAME.mp4 or .avi"
_SIDES = {"train_set": "train", "validation_set": "validation"}
# Where a person is, as shares of the picture.
_PLACES = {"_left": "0 0 0.5 1", "_right": "0.5 0 1 1"}


def read(root: Path, options: ReadOptions) -> Listing:
    """List the parts of every annotated video."""
    tree = Tree(root)
    listing = Listing(copies=tree.copies)
    for file in tree.files:
        side = next((_SIDES[part] for part in file.lower().split("/") if part in _SIDES), None)
        if side is None or not file.endswith(".txt"):
            continue
        text = tree.read_text(file)
        head = [name.strip(' "\r').lower() for name in text.partition("\n")[0].split(",")]
        if sorted(head) != sorted(_VALUES):
            if not _OTHERS.fullmatch(head[0]):
                listing.leave_out(f"first line is not {','.join(_VALUES)}", file)
            continue
        name = PurePosixPath(file).stem
        place = next((end for end in _PLACES if name.endswith(end)), "")
        whole = name.removesuffix(place)
        path = tree.video(name) or tree.video(whole)
        if path is None:
            listing.lack("no video", file)
            continue
        region = _PLACES.get(place) if path == tree.video(whole) else None
        item = Item(key=name, path=path, labels={}, speaker=whole, region=region)
        try:
            notes = _notes(root / file, text, head, _rate(root / path))
        except MediaError as error:
            listing.lack(CAUSES[error.cause], path)
            continue
        if notes:
            add_parts(listing, root, item, notes, {"set": side}, options.trace)
        else:
            listing.leave_out("no annotated frame", file)
    if not (listing.items or listing.missing or listing.left_out):
        raise not_this(root, "Aff-Wild2", _LAYOUT)
    return listing


def _notes(file: Path, text: str, head: list[str], rate: float) -> Notes:
    """Values of annotated frames, each in the middle of its time; nothing where there are none.

    Raises: ValueError: a line that is no two numbers.
    """
    rows = []
    for number, line in enumerate(text.rstrip().splitlines()[1:], start=2):
        try:
            first, second = map(float, line.split(","))
        except ValueError as error:
            raise ValueError(
                f"{file} line {number}: {line[:40]!r} (must be {','.join(head)} of a frame)"
            ) from error
        rows.append((first, second))
    values = np.array(rows, dtype=np.float64).reshape(-1, 2)
    times = (np.arange(len(values)) + 0.5) / rate
    known = (np.abs(values) <= 1).all(axis=1)
    if not known.any():
        return {}
    own = times[known]
    return {
        name: {MEAN: Noted(start=own, end=own, value=values[known, place])}
        for place, name in enumerate(head)
    }


def _rate(path: Path) -> float:
    """Mean frame rate of a video, frames per second.

    Raises: ValueError: it does not tell.
    """
    with open_container(path) as container:
        streams = container.streams.video
        if not streams or not streams[0].average_rate:
            raise ValueError(f"{path}: tells no frame rate, which its annotations count in")
        return float(streams[0].average_rate)


DATASET = Dataset(
    title="Aff-Wild2",
    layout=_LAYOUT,
    access="on request for research, by the EULA of its authors",
    read=read,
    media=("auto", "clips"),
    columns=(COLUMN, RECORDING, "set"),
    seen="documentation alone",
)
