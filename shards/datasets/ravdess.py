"""RAVDESS: 24 actors speak two sentences in eight emotions.

Read is the speech part with picture and sound, as unpacked from its archives: a recording as
modality 01, or else its silent picture (02) with its sound (03), as the lists published with HiCMAE
pair them; of a copy of sound alone, 03. Its key is the name of modality 01 either way. Songs, and
what of 02 and 03 is not needed, are counted and left out.

``Actor_01/01-01-03-02-01-01-01.mp4``: modality (01 audio-video, 02 video only, 03 audio only) -
channel (01 speech, 02 song) - emotion - intensity - statement - repetition - actor. Odd actors are
men, even ones women. Fold k tests actors 4k-3 to 4k.

Source: https://zenodo.org/records/1188976 (file naming; CC BY-NC-SA 4.0). Tried on real files of
it.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from shards.datasets.base import (
    Dataset,
    Expected,
    Item,
    Listing,
    ReadOptions,
    classes_expected,
    folds_expected,
    not_this,
)
from shards.datasets.tree import Tree

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_MODALITIES = {"02": "no sound (modality 02)", "03": "no picture (modality 03)"}
_APART = "02-01-… without 03-01-…"
_NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
_LAYOUT = "Actor_01/01-01-01-01-01-01-01.mp4 to Actor_24/…, or 02-01-….mp4 with 03-01-….wav"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of RAVDESS."""
    tree = Tree(root)
    found = {name for name in (*tree.videos, *tree.frames, *tree.sounds) if _NAME.fullmatch(name)}
    if not found:
        raise not_this(root, "RAVDESS", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    is_sound = tree.is_sound(_NAME, options.media, listing)
    for name in _all_names():
        silent, heard = f"02{name[2:]}", f"03{name[2:]}"
        path, audio = tree.picture(name, options.media), tree.sound(name)
        if is_sound:
            path, audio = audio or tree.sound(heard), None
            if path is None:
                listing.lack("no sound file", heard)
                continue
            found.discard(heard)
        elif path is None:
            path, audio = tree.picture(silent, options.media), tree.sound(heard)
            if path is None or audio is None:
                lacks = "no picture" if path is None else f"no sound file ({_APART})"
                listing.lack(lacks, name)
                continue
            found -= {silent, heard}
        _, _, emotion, intensity, statement, repetition, actor = name.split("-")
        item = Item(
            key=name,
            path=path,
            audio=audio,
            speaker=actor,
            labels={
                "emotion": CLASSES[int(emotion) - 1],
                "intensity": {"01": "normal", "02": "strong"}[intensity],
                "statement": int(statement),
                "repetition": int(repetition),
                "sex": "male" if int(actor) % 2 else "female",
                "fold": (int(actor) - 1) // 4 + 1,
            },
        )
        listing.items.append(item)
    for name in sorted(found):
        modality, channel = name.split("-")[:2]
        if channel == "02":
            listing.leave_out("song", name)
        elif modality in _MODALITIES:
            listing.leave_out(_MODALITIES[modality], name)
    return listing


def _all_names() -> list[str]:
    """The 1,440 recordings of speech with picture and sound; neutral is never strong."""
    return sorted(
        f"01-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}"
        for emotion, intensity, statement, repetition, actor in itertools.product(
            range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25)
        )
        if not (emotion == 1 and intensity == 2)
    )


_EXPECTED = (
    Expected(what="clips", number=1440),
    Expected(what="actors", number=24, distinct="speaker"),
    *folds_expected((240,) * 6),
    *classes_expected("emotion", {name: 96 if name == "neutral" else 192 for name in CLASSES}),
)

DATASET = Dataset(
    title="RAVDESS (speech)",
    layout=_LAYOUT,
    access="open, CC BY-NC-SA 4.0: zenodo.org/records/1188976 (Video_Speech_Actor_*.zip;"
    " or the sound alone, Audio_Speech_Actors_01-24.zip)",
    read=read,
    columns=("emotion", "fold"),
    classes={"emotion": CLASSES},
    seen="real files",
)
