"""MSP-IMPROV: twelve actors improvise in pairs; the emotion is the one that raters perceived.

Read is the release as it is handed out, videos and sound apart. The *intended* emotion of a name
such as ``MSP-IMPROV-S01A-F02-P-FM01`` is not the label (it comes along as ``intended``).

A name is sentence and intended emotion - speaker (F01 to F06, M01 to M06; the two of a number make
a session) - scenario (P, R, S, T) - who listens to whom, and the turn. ``Evaluation.txt`` (also
spelled ``Evalution.txt``) has for each recording a line
``UTD-IMPROV-S01A-F02-P-FM01.avi; N; A:3.0; V:3.5; D:3.0 ; N:4.0;`` (label A H S N, O for other, X
for no agreement; arousal, valence, dominance, naturalness) and below it one line a rater:
``name; Neutral; …; A:…; V:…; D:…; N:…;``. Fold k tests session k.

From documentation, not seen: the file's form is that which public readers of it agree on; the
published lists hold 7,787 of the 7,798 recordings with one of the four labels.
Source: https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html (by application).
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
    classes_expected,
    each_once,
    folds_expected,
    not_this,
)
from shards.datasets.tree import Tree, number
from shards.schema import Label

CLASSES = ("anger", "happiness", "neutral", "sadness")
_LABELS = dict(zip("AHNS", CLASSES, strict=True))
_UNUSED = {"O": "perceived as another emotion (O)", "X": "raters without agreement (X)"}
_RATED = {"angry": "anger", "happy": "happiness", "neutral": "neutral", "sad": "sadness"}
_NAME = r"(S\d\d[AHNS])-([FM])(\d\d)-([PRST])-([FM]{2}\d+)"
_HEAD = re.compile(rf"(?:UTD|MSP)-IMPROV-({_NAME})\.avi\s*;\s*([A-Z])\s*;(.*)")
_VALUE = re.compile(r"\b([AVDN]):\s*([\d.]+|NaN)", re.IGNORECASE)
_DIMENSIONS = {"A": "arousal", "V": "valence", "D": "dominance", "N": "naturalness"}
_LAYOUT = "Evaluation.txt and videos named MSP-IMPROV-S01A-F01-P-FM01.avi (or UTD-IMPROV-…)"


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of MSP-IMPROV."""
    tree = Tree(root)
    path = tree.ending("Evaluation.txt") or tree.ending("Evalution.txt")
    source = options.labels or (None if path is None else root / path)
    if source is None:
        raise not_this(root, "MSP-IMPROV", _LAYOUT)
    rated = _evaluations(source)
    if not rated:
        raise ValueError(
            f"{source}: no line like 'UTD-IMPROV-S01A-F02-P-FM01.avi; N; A:3.0; …'; give the "
            "release's evaluation file with --labels"
        )
    listing = Listing(expected=_EXPECTED, copies=tree.copies)
    for name, labels in sorted(rated.items()):
        key, label = f"MSP-IMPROV-{name}", str(labels.pop("label"))
        if label not in _LABELS:
            listing.leave_out(_UNUSED.get(label, f"unknown label {label}"), key)
            continue
        names = (key, f"UTD-IMPROV-{name}")
        path = next((p for n in names if (p := tree.picture(n, options.media))), None)
        if path is None:
            listing.lack("no picture", key)
            continue
        intended, sex, session, scenario, _ = re.fullmatch(_NAME, name).groups()  # type: ignore[union-attr]
        fixed: dict[str, Label | None] = {
            "emotion": _LABELS[label],
            "fold": int(session),
            "session": int(session),
            "scenario": scenario,
            "intended": _LABELS[intended[-1]],
            "sex": "female" if sex == "F" else "male",
        }
        item = Item(
            key=key,
            path=path,
            audio=next((p for n in names if (p := tree.sound(n))), None),
            speaker=sex + session,
            labels=fixed | labels,
        )
        listing.items.append(item)
    known = {f"MSP-IMPROV-{name}" for name in rated}
    for name in sorted({*tree.videos, *tree.frames}):
        key = name.replace("UTD-", "MSP-", 1)
        if re.fullmatch(f"MSP-IMPROV-{_NAME}", key) and key not in known:
            listing.leave_out("not in the evaluation file", key)
    return listing


def _evaluations(source: Path) -> dict[str, dict[str, Label | None]]:
    """Name to its label's letter (``label``), and its dimensions and votes."""
    found: list[tuple[str, dict[str, Label | None]]] = []
    votes: Counter[str] = Counter()
    labels: dict[str, Label | None] = {}

    def close() -> None:
        for name in (*CLASSES, "other"):
            labels[f"votes_{name}"] = votes[name]

    text = source.read_text(encoding="utf-8-sig", errors="backslashreplace")
    for line in map(str.strip, text.splitlines()):
        head = _HEAD.fullmatch(line)
        if head:
            close()
            votes, labels = Counter(), {"label": head.group(7)}
            found.append((head.group(1), labels))
            for letter, value in _VALUE.findall(head.group(8)):
                labels[_DIMENSIONS[letter.upper()]] = number(value)
        elif line and ";" in line:
            votes[_RATED.get(line.split(";")[1].strip().lower(), "other")] += 1
    close()
    return each_once(found, source)


_EXPECTED = (
    Expected(what="clips", number=7787),
    Expected(what="speakers", number=12, distinct="speaker"),
    *folds_expected((916, 1328, 1622, 1044, 1407, 1470)),
    *classes_expected("emotion", dict(zip(CLASSES, (792, 2640, 3470, 885), strict=True))),
)

DATASET = Dataset(
    title="MSP-IMPROV",
    layout=_LAYOUT,
    access="by application to the MSP lab, University of Texas at Dallas",
    read=read,
    columns=("emotion", "fold", "valence", "arousal", "dominance"),
    classes={"emotion": CLASSES},
    takes_labels=True,
)
