"""A sheet of faces by which an eye sees in seconds what a preparation cut out.

For: the picture of a receipt: the samples that are most likely wrong, and some from all over the
folder. Not for: looking at every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shards.index import Index
from shards.reading.files import ShardFiles
from shards.reading.frame import read_frame
from shards.receipts.sample_facts import sample_infos
from shards.schema import SampleInfo

_COLUMNS = 8
_CELL = 120  # pixels
_CAPTION = 30  # pixels under each image
_HEADING = 30  # pixels above each group
_DOTS_PER_INCH = 100
_WEAK = 8  # samples of lowest coverage, and of smallest faces
_SPREAD = 24


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One face of the sheet.

    Args:
        group: Why it was chosen.
        row: Of the index.
        key: Of the sample.
        frame: Number of the image within the sample.
        caption: What is remarkable about it.
    """

    group: str
    row: int
    key: str
    frame: int
    caption: str


def draw_contact_sheet(path: Path, index: Index) -> list[Cell]:
    """Draw faces into a PNG whose bytes depend on the samples alone.

    Args:
        path: Of the PNG.
        index: Of the folder.

    Returns: what is on it, in order. Of the samples with the lowest coverage it is the middle of
        the longest stretch without a detection, where the crop is a guess; of others, the middle.

    Raises:
        ShardError: A sample that cannot be read; names it.
    """
    cells: list[Cell] = []
    images: list[np.ndarray] = []
    files = ShardFiles(index.folder)
    for group, rows in choose(index).items():
        for row, (_, info) in zip(rows, sample_infos(index, rows), strict=True):
            frame = _weakest_frame(info) if group == LOWEST_COVERAGE else info.num_frames // 2
            images.append(_image(index, files, row, info, frame))
            cells.append(
                Cell(
                    group=group,
                    row=row,
                    key=info.key,
                    frame=frame,
                    caption=_caption(info, group),
                )
            )
    _draw(path, cells, images)
    return cells


LOWEST_COVERAGE = "lowest face coverage"
SMALLEST_FACES = "smallest faces in the source"
EVENLY_SPREAD = "evenly spread over the folder"


def choose(index: Index) -> dict[str, list[int]]:
    """Rows of the index by the group they are shown in; no row twice, no group empty."""
    table = index.table
    coverage = table["face_coverage"].to_numpy(dtype=np.float64)
    pixels = table["face_pixels"].to_numpy(dtype=np.float64)
    weak = [int(row) for row in np.argsort(coverage, kind="stable") if coverage[row] < 1][:_WEAK]
    small = [
        int(row)
        for row in np.argsort(pixels, kind="stable")[: 2 * _WEAK]
        if np.isfinite(pixels[row]) and row not in weak
    ][:_WEAK]
    left = np.setdiff1d(np.arange(len(table)), [*weak, *small])
    places = np.linspace(0, len(left) - 1, min(_SPREAD, len(left))).round().astype(int)
    groups = {LOWEST_COVERAGE: weak, SMALLEST_FACES: small, EVENLY_SPREAD: left[places].tolist()}
    return {group: rows for group, rows in groups.items() if rows}


def _weakest_frame(info: SampleInfo) -> int:
    """The middle of the longest stretch of frames that no detection nor its neighbours gave."""
    start, best, found = 0, (0, info.num_frames // 2), info.faces.found_by
    for word, count in found:
        if word != "detected":
            best = max(best, (count, start + count // 2), key=lambda stretch: stretch[0])
        start += count
    return min(best[1], info.num_frames - 1)


def _caption(info: SampleInfo, group: str) -> str:
    if group == LOWEST_COVERAGE:
        return f"{info.faces.coverage:.0%} of frames"
    if info.faces.face_pixels is not None:
        return f"{info.faces.face_pixels:.0f} px"
    return f"{info.seconds:.1f} s"


def _image(index: Index, files: ShardFiles, row: int, info: SampleInfo, frame: int) -> np.ndarray:
    """One face, uint8 (cell, cell, 3), RGB."""
    image = read_frame(index, files, row, info, frame)
    shrinks = image.shape[0] > _CELL
    resized = cv2.resize(
        image, (_CELL, _CELL), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return np.asarray(resized, dtype=np.uint8)


def _draw(path: Path, cells: Sequence[Cell], images: Sequence[np.ndarray]) -> None:
    """Compose the sheet: a heading a group, rows of faces with keys and captions."""
    places: list[tuple[int, int]] = []  # left and top of each cell, pixels
    headings: list[tuple[int, str]] = []
    top, column, group = 0, 0, ""
    for cell in cells:
        if cell.group != group:
            top += (_CELL + _CAPTION) * bool(places)
            headings.append((top, cell.group))
            top, column, group = top + _HEADING, 0, cell.group
        elif column == _COLUMNS:
            top, column = top + _CELL + _CAPTION, 0
        places.append((column * _CELL, top))
        column += 1
    width, height = _COLUMNS * _CELL, top + _CELL + _CAPTION
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    for (left, above), image in zip(places, images, strict=True):
        sheet[above : above + _CELL, left + 1 : left + _CELL - 1] = image[:, 1:-1]
    figure = Figure(
        figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH, facecolor="w"
    )
    FigureCanvasAgg(figure)
    figure.figimage(sheet[::-1], origin="lower")
    for above, text in headings:
        figure.text(
            2 / width,
            1 - (above + _HEADING - 8) / height,
            text,
            fontsize=10,
            fontweight="bold",
            va="bottom",
        )
    for cell, (left, above) in zip(cells, places, strict=True):
        for line, text in enumerate((_shortened(cell.key), cell.caption)):
            figure.text(
                (left + _CELL / 2) / width,
                1 - (above + _CELL + 2 + 12 * line) / height,
                text,
                fontsize=6,
                color="black" if line == 0 else "0.35",
                ha="center",
                va="top",
                parse_math=False,
            )
    save_png(figure, path)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure without the name of the program or a date in it; beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    figure.savefig(beside, format="png", metadata={"Software": None})
    beside.replace(path)


def _shortened(key: str) -> str:
    """The end of a key, which tells samples apart, as far as it fits under an image."""
    return key if len(key) <= 24 else f"…{key[-23:]}"
