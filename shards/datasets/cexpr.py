"""C-EXPR-DB: spans of videos from the web in seven compound expressions.

The database itself is annotated frame by frame and given to applicants; of its files no public
source tells the layout. Read is the one that a public release of code for it describes: a table a
video, ``annotation/VIDEO.csv``, as ELAN exports it (``Begin Time - hh:mm:ss.ms``, ``End Time -
hh:mm:ss.ms``, and a column a compound expression that holds 1 where it is shown), and the videos
themselves. A row is one item, cut out of its video. Who is seen is not known: a video stands for a
speaker, and five folds are made of whole videos, which are this project's.

From documentation, not seen: Kollias, 2023, *Multi-label compound expression recognition*, CVPR;
the seven classes of the ABAW competitions (arXiv 2407.03835). Untried on real files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from shards.datasets.base import Dataset, Item, Listing, ReadOptions, not_this, speaker_folds
from shards.datasets.tree import Tree, column, number, read_sheet

# fmt: off
CLASSES = (
    "fearfully_surprised", "happily_surprised", "sadly_surprised", "disgustedly_surprised",
    "angrily_surprised", "sadly_fearful", "sadly_angry",
)
# fmt: on
_FOLDS = 5
_FOLDER = "annotation"
_LAYOUT = "annotation/VIDEO.csv of ELAN, and videos of these names"
_TIMES = ("Begin Time - hh:mm:ss.ms", "End Time - hh:mm:ss.ms")


def read(root: Path, options: ReadOptions) -> Listing:
    """List a copy of C-EXPR-DB."""
    tree = Tree(root)
    tables = [path for path in tree.files if f"/{_FOLDER}/" in f"/{path}" and path.endswith(".csv")]
    if not tables:
        raise not_this(root, "C-EXPR-DB", _LAYOUT)
    listing = Listing(copies=tree.copies)
    items: list[Item] = []
    for table in tables:
        video = PurePosixPath(table).stem
        path = tree.picture(video, options.media)
        if path is None:
            listing.lack("no video", video)
            continue
        rows = read_sheet(tree.root / table)
        if not rows:
            listing.leave_out("no span in its table", video)
            continue
        begin, end = (column(rows, (name,), tree.root / table) for name in _TIMES)
        heads = {name.strip().lower().replace(" ", "_"): name for name in rows[0]}
        for place, row in enumerate(rows, start=1):
            span = f"{video}/{place:03}"
            shown = [name for name in CLASSES if number(row.get(heads.get(name, ""), "")) == 1]
            start, stop = seconds(row[begin]), seconds(row[end])
            if start is None or stop is None or start >= stop:
                listing.leave_out("no span of time", span)
            elif len(shown) != 1:
                listing.leave_out("none of the seven, or several at once", span)
            else:
                item = Item(
                    key=span,
                    path=path,
                    audio=tree.sound(video),
                    speaker=video,
                    start=start,
                    end=stop,
                    labels={"emotion": shown[0]},
                )
                items.append(item)
    videos = {item.speaker: item.speaker for item in items if item.speaker is not None}
    folds = speaker_folds(videos, min(_FOLDS, len(videos))) if len(videos) > 1 else {}
    listing.items = [
        replace(item, labels=item.labels | {"fold": folds.get(item.speaker or "")})
        for item in items
    ]
    return listing


def seconds(text: str) -> float | None:
    """``0:01:02.500`` as seconds; None where it is no time."""
    parts = [number(part) for part in text.strip().replace(",", ".").split(":")]
    if not 1 <= len(parts) <= 3 or any(part is None or part < 0 for part in parts):
        return None
    return sum(part * 60**place for place, part in enumerate(reversed(parts)) if part is not None)


DATASET = Dataset(
    title="C-EXPR-DB",
    layout=_LAYOUT,
    access="by signed agreement: sites.google.com/view/dimitrioskollias/databases/c-expr-db",
    read=read,
    columns=("emotion", "fold"),
    classes={"emotion": CLASSES},
)
