"""CREMA-D: 91 actors say twelve sentences in six emotions, rated by a crowd.

Read is the tree of the dataset's repository, whole or in part, such as the sound alone; list other
copies in a CSV.

``AudioWAV/1001_DFA_ANG_XX.wav`` and ``VideoFlash/1001_DFA_ANG_XX.flv`` (or any video, or folder of
frame images, of that name): actor (1001 to 1091) _ sentence _ emotion _ level.
``VideoDemographics.csv`` describes the actors, ``finishedResponses.csv`` holds one row an answer of
a rater (``queryType`` 1 heard, 2 saw, 3 did both), ``processedResults/tabulatedVotes.csv`` the same
counted (the first digit of a row's name is the query type), ``SentenceFilenames.csv`` every name.

Fold k tests consecutive actors: four times 18, then 19. Five recordings are left out, as the
published lists leave them out.

Source: https://github.com/CheyneyComputerScience/CREMA-D (README; ODbL 1.0); folds and exclusions
as in the lists published with HiCMAE. Tried on real files of it.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from shards.datasets.base import (
    Dataset,
    Expected,
    Item,
    Listing,
    ReadOptions,
    each_once,
    folds_expected,
    not_this,
)
from shards.datasets.tree import Tree, column, number, read_sheet
from shards.schema import Label

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
_CODES = dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), CLASSES, strict=True))
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
_NAME = re.compile(rf"(\d{{4}})_([A-Z]{{3}})_({'|'.join(_CODES)})_({'|'.join(_LEVELS)})")
_EXCLUDED = frozenset(
    (
        "1040_ITH_SAD_X",
        "1040_ITH_SAD_XX",
        "1064_IEO_DIS_MD",
        "1064_TIE_SAD_XX",
        "1076_MTI_NEU_XX",
        "1076_MTI_SAD_XX",
    )
)
_PEOPLE = ("ActorID", "Age", "Sex", "Race", "Ethnicity")
_SENSES = {"1": "votes_audio_", "2": "votes_video_", "3": "votes_"}
_FIRST_ACTOR, _LAST_ACTOR, _ACTORS_A_FOLD = 1001, 1091, 18
_LAYOUT = "VideoFlash/1001_DFA_ANG_XX.flv and AudioWAV/1001_DFA_ANG_XX.wav, and so on"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of CREMA-D."""
    tree = Tree(root)
    named = {name for name in (*tree.videos, *tree.sounds, *tree.frames) if _NAME.fullmatch(name)}
    if not named:
        raise not_this(root, "CREMA-D", _LAYOUT)
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    names = named | _sentence_names(tree)
    people = _demographics(tree, listing)
    votes = _votes(tree, listing)
    is_sound = tree.is_sound(_NAME, options.media, listing)
    has_sounds = any(name in tree.sounds for name in names)
    for name in sorted(names):
        actor, sentence, emotion, level = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        if not _FIRST_ACTOR <= int(actor) <= _LAST_ACTOR:
            listing.leave_out("an actor that CREMA-D does not have", name)
            continue
        if name in _EXCLUDED:
            listing.leave_out("excluded by the published lists", name)
            continue
        path = tree.picture(name, options.media, prefer="VideoFlash")
        audio = tree.sound(name, prefer="AudioWAV")
        if is_sound:
            path, audio = audio, None
        if path is None:
            listing.lack("no sound file" if is_sound else "no picture", name)
            continue
        if audio is None and has_sounds and not is_sound:
            listing.lack("no sound file", name)
        labels: dict[str, Label | None] = {
            "emotion": _CODES[emotion],
            "level": _LEVELS[level],
            "sentence": sentence,
            "fold": fold_of(int(actor)),
        }
        labels |= people.get(actor, {})
        labels |= votes.get(name, {})
        listing.items.append(Item(key=name, path=path, audio=audio, speaker=actor, labels=labels))
    return listing


def fold_of(actor: int) -> int:
    """The fold, 1 to 5, in whose test side an actor is."""
    return min((actor - _FIRST_ACTOR) // _ACTORS_A_FOLD, 4) + 1


def _sentence_names(tree: Tree) -> set[str]:
    """Every recording's name, where the list of them is there."""
    path = tree.ending("SentenceFilenames.csv")
    if path is None:
        return set()
    rows = read_sheet(tree.root / path)
    name = column(rows, ("Filename",), tree.root / path)
    return {row[name] for row in rows if _NAME.fullmatch(row[name])}


def _demographics(tree: Tree, listing: Listing) -> dict[str, dict[str, Label | None]]:
    """Age (years), sex, race and ethnicity of each actor, as the dataset gives them."""
    path = tree.ending("VideoDemographics.csv")
    if path is None:
        listing.notes.append("no VideoDemographics.csv: no age, sex, race and ethnicity")
        return {}
    rows = read_sheet(tree.root / path)
    actor, *heads = (column(rows, (name,), tree.root / path) for name in _PEOPLE)
    people: list[tuple[str, dict[str, Label | None]]] = []
    for row in rows:
        told: dict[str, Label | None] = {name.lower(): row[name].lower() or None for name in heads}
        age = number(str(told["age"]))
        people.append((row[actor], told | {"age": None if age is None else int(age)}))
    return each_once(people, tree.root / path)


def _votes(tree: Tree, listing: Listing) -> dict[str, dict[str, Label | None]]:
    """How many raters chose each emotion: ``votes_`` of those who saw and heard, ``votes_audio_``
    and ``votes_video_`` of the others.
    """
    counts: dict[str, Counter[str]] = {}
    by_letter = {name[0].upper(): name for name in CLASSES}
    if (path := tree.ending("finishedResponses.csv")) is not None:
        names = ("clipName", "queryType", "respEmo")
        rows = read_sheet(tree.root / path, keep=names)
        clip, sense, emotion = (column(rows, (name,), tree.root / path) for name in names)
        for row in rows:
            if row[sense] in _SENSES and row[emotion] in by_letter:
                vote = _SENSES[row[sense]] + by_letter[row[emotion]]
                counts.setdefault(row[clip], Counter())[vote] += 1
    elif (path := tree.ending("tabulatedVotes.csv")) is not None:
        rows = read_sheet(tree.root / path)
        clip = column(rows, ("fileName",), tree.root / path)
        for row in rows:
            prefix = _SENSES.get(next(iter(row.values()))[:1])
            for letter, name in by_letter.items():
                votes = number(row.get(letter, ""))
                if prefix is not None and votes is not None:
                    counts.setdefault(row[clip], Counter())[prefix + name] += int(votes)
    else:
        listing.notes.append("no finishedResponses.csv or tabulatedVotes.csv: no votes of raters")
    asked = [prefix + name for prefix in _SENSES.values() for name in CLASSES]
    return {name: {vote: found[vote] for vote in asked} for name, found in counts.items()}


_EXPECTED = (
    Expected(what="clips", number=7437),
    Expected(what="actors", number=91, distinct="speaker"),
    *folds_expected((1463, 1470, 1475, 1474, 1555)),
    Expected(
        what="clips of anger, happiness, neutral or sadness",
        number=4896,
        where={"emotion": ("anger", "happiness", "neutral", "sadness")},
    ),
)

DATASET = Dataset(
    title="CREMA-D",
    layout=_LAYOUT,
    access="open, ODbL 1.0: git clone (with Git LFS) github.com/CheyneyComputerScience/CREMA-D",
    read=read,
    columns=("emotion", "fold"),
    classes={"emotion": CLASSES},
    seen="real files",
)
