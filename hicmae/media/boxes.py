"""Face boxes that are known already: from a CSV of one's own, or of OpenFace.

A row is one face in one frame. Its time is ``frame`` (counted from 0) or ``seconds`` (as players
count; also ``time``, ``timestamp``); its box ``x0, y0, x1, y1`` (also ``left, top, right,
bottom``) or ``x, y, w, h`` (also ``width``, ``height``), pixels of the upright picture. ``track``
(also ``track_id``, ``face_id``, ``id``) says whose face it is, ``left_eye_x, left_eye_y,
right_eye_x, right_eye_y`` where the eyes are (as seen), ``success`` 0 that there was none. Rows
without a track are followed by where they are.
OpenFace's columns (``frame`` from 1, ``x_0`` … ``y_67``) are understood as they are; its
``timestamp`` is the frame's number by the mean rate, and serves where there are fewer frames.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas

from hicmae.files import with_a_point
from hicmae.media.errors import MediaError
from hicmae.media.faces import Face
from hicmae.media.video import FrameReader

_TIMES = (("frame",), ("seconds",), ("time",), ("timestamp",))
_CORNERS = (("x0", "y0", "x1", "y1"), ("left", "top", "right", "bottom"))
_SIZES = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
_TRACKS = (("track",), ("track_id",), ("face_id",), ("id",))
_EYES = (("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y"),)
# OpenFace's 68 points reach from the brows to the chin, YuNet's box from the forehead: what is
# added above, as a share of the height. The eyes are points 36..41 and 42..47 (the iBUG layout).
_NUM_POINTS, _FOREHEAD = 68, 0.25
_EYE_POINTS = (slice(36, 42), slice(42, 48))
# Stamps rounded to milliseconds still belong to their frame.
_ROUNDING_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class BoxTable:
    """Boxes of one recording, by time.

    Args:
        path: The file.
        frames: (n,) int64 frame numbers from 0, or None where the rows have seconds alone.
        seconds: (n,) float64 after the recording's start, or None where they have frames alone.
        boxes: (n, 4) float32 x0, y0, x1, y1, pixels; NaN where the row says there is no face.
        eyes: (n, 2, 2) float32 x, y of the left and the right eye, or None.
        tracks: n names, None where a row has none; or None.
    """

    path: Path
    frames: np.ndarray | None
    seconds: np.ndarray | None
    boxes: np.ndarray
    eyes: np.ndarray | None = None
    tracks: tuple[str | None, ...] | None = None
    name: str = "boxes"

    def faces(self, reader: FrameReader, indices: np.ndarray) -> dict[int, list[Face]]:
        """Give the faces in frames (T,), by place in ``indices``.

        A place takes the rows nearest in time. Places without rows are in the result, without
        faces, as densely as the rows are, so that coverage means the same as for a detector.

        Raises: MediaError: ``bad-boxes``: frames beyond the end, or boxes outside the picture.
        """
        clock = self._clock(reader)
        times = reader.timestamps[indices]
        interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        middles = (times[1:] + times[:-1]) / 2
        places = np.searchsorted(middles, clock, side="right")
        distance = np.abs(clock - times[places])
        near = distance <= interval / 2 + _ROUNDING_SECONDS
        order = np.flatnonzero(near)
        order = order[np.argsort(places[order], kind="stable")]
        detections: dict[int, list[Face]] = {}
        for rows in np.split(order, np.flatnonzero(np.diff(places[order])) + 1):
            if len(rows):
                nearest = clock[rows[np.argmin(distance[rows])]]
                rows = rows[clock[rows] == nearest]
                detections[int(places[rows[0]])] = [
                    face for row in rows.tolist() if (face := self._face(row)) is not None
                ]
        steps = np.diff(np.unique(clock))  # none where all rows are of one time
        spacing = float(np.median(steps)) if len(steps) else interval
        return _with_empty(detections, max(1, round(spacing / interval)), len(indices))

    def _clock(self, reader: FrameReader) -> np.ndarray:
        """(n,) seconds of the rows on the reader's clock."""
        clock = reader.frame_clock
        beyond = self.frames is None or int(self.frames.max(initial=-1)) >= len(clock)
        if beyond and self.seconds is not None:  # the numbers of frames count from the first one
            since = reader.origin_seconds if self.frames is None else reader.start_seconds
            return self.seconds + since
        assert self.frames is not None
        if beyond:
            there = f"{reader.path.name} has {len(clock)} frames (0..{len(clock) - 1})"
            problem = f"has frame {int(self.frames.max())}, but {there}"
            raise MediaError("bad-boxes", self.path, problem)
        return clock[self.frames]

    def _face(self, row: int) -> Face | None:
        box = self.boxes[row]
        if np.isnan(box).any():
            return None
        eyes = None if self.eyes is None or np.isnan(self.eyes[row]).any() else self.eyes[row]
        track = None if self.tracks is None else self.tracks[row]
        return Face(box=box, score=1.0, eyes=eyes, track=track)


def boxes_of(recording: Path, given: Path | None, *, remedy: str) -> BoxTable:
    """Read the boxes of a recording: the file that was given, or NAME.csv beside it.

    Args:
        recording: A file, or a folder of images.
        remedy: How to name a file of boxes, for the message.

    Raises: MediaError: ``no-boxes``; ``bad-boxes``, as ``read_boxes``.
    """
    path = given or boxes_beside(recording)
    if not path.is_file():
        raise MediaError("no-boxes", path, f"no such file of face boxes; {remedy}")
    return read_boxes(path)


def boxes_beside(recording: Path) -> Path:
    """Where the face boxes of a recording are looked for unless a file is given."""
    stem = recording.name if recording.is_dir() else recording.stem
    return recording.with_name(f"{stem}.csv")


def read_boxes(path: str | Path) -> BoxTable:
    """Read a CSV of face boxes, between commas, semicolons or tabs; see the module for its columns.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``bad-boxes``: what is wrong with it, in one line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of face boxes")
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline()
            sep = max(",;\t", key=head.count)
            rows_named = _named_by_rows(file, head, sep, path)
        decimal = "," if sep == ";" else "."  # as spreadsheets write where the comma is decimal
        table = pandas.read_csv(
            path, sep=sep, decimal=decimal, skipinitialspace=True, index_col=rows_named
        )
    except MediaError:
        raise
    except (ValueError, pandas.errors.ParserError, UnicodeDecodeError) as error:
        raise MediaError("bad-boxes", path, f"cannot be read as CSV ({error})") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    names = list(table.columns)
    openface = {f"{axis}_{point}" for axis in "xy" for point in range(_NUM_POINTS)} <= set(names)
    times = _first_of(_TIMES, names)
    corners, sizes = _first_of(_CORNERS, names), _first_of(_SIZES, names)
    if times is None or not (openface or corners or sizes):
        found = f"{', '.join(names[:8]) or 'none'}{', …' if len(names) > 8 else ''}"
        needed = "columns frame or seconds, and x0,y0,x1,y1 or x,y,w,h"
        raise MediaError("bad-boxes", path, f"needs {needed} (found {found})")
    stamps = _numbers(table, times, path)[:, 0]
    eyes: np.ndarray | None = None
    if openface:
        boxes, eyes = _of_landmarks(table, path)
    else:
        boxes = _numbers(table, corners or sizes or (), path)
        if corners is None:
            boxes[:, 2:] += boxes[:, :2]
        named = _first_of(_EYES, names)
        eyes = None if named is None else _numbers(table, named, path).reshape(-1, 2, 2)
    if "success" in names:
        boxes[_numbers(table, ("success",), path)[:, 0] == 0] = np.nan
    _check(path, stamps, boxes, times == ("frame",))
    tracks = _first_of(_TRACKS, names)
    frames = stamps.astype(np.int64) if times == ("frame",) else None
    seconds = stamps if frames is None else None
    # Source: issue 304 of TadasBaltrusaitis/OpenFace (its time stamps are of the mean rate).
    if openface and frames is not None:
        frames -= int(frames.min(initial=1) > 0)
        if "timestamp" in names:
            seconds = _numbers(table, ("timestamp",), path)[:, 0]
    return BoxTable(
        path=path,
        frames=frames,
        seconds=seconds,
        boxes=boxes.astype(np.float32),
        eyes=None if eyes is None else eyes.astype(np.float32),
        tracks=None if tracks is None else _names(table[tracks[0]]),
    )


def _named_by_rows(lines: Iterable[str], head: str, sep: str, path: Path) -> Literal[False] | None:
    """What pandas is told of rows with more cells than there are names, whose first it would take
    for names of the rows: False, there are none, if what is too much is empty and at the end.

    Raises: MediaError: ``bad-boxes``: it is not.
    """
    rows = (row for line in lines if (row := line.strip("\r\n ")))
    first = next(rows, "")
    names, cells = (
        len(next(csv.reader([line], delimiter=sep, skipinitialspace=True), ()))
        for line in (head, first)
    )
    if cells <= names:
        return None
    if not all(row.endswith(sep * (cells - names)) for row in (first, *rows)):
        problem = f"has {cells} cells under {names} columns; name every column"
        raise MediaError("bad-boxes", path, problem)
    return False


def _names(column: pandas.Series) -> tuple[str | None, ...]:
    """Tracks of the rows; of an empty cell nobody knows."""
    pairs = zip(column.astype(str), column.isna(), strict=True)
    return tuple(None if empty else name for name, empty in pairs)


def _with_empty(
    detections: dict[int, list[Face]], step: int, num_places: int
) -> dict[int, list[Face]]:
    """Add places without a face wherever rows are missing for longer than ``step`` places."""
    asked = [-step, *sorted(detections), num_places - 1 + step]
    for before, after in itertools.pairwise(asked):
        for place in range(before + step, after - step + 1, step):
            detections.setdefault(place, [])
    return detections


def _of_landmarks(table: pandas.DataFrame, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) about OpenFace's points with a forehead, and eyes (n, 2, 2)."""
    x, y = (
        _numbers(table, tuple(f"{axis}_{point}" for point in range(_NUM_POINTS)), path)
        for axis in "xy"
    )
    top, bottom = y.min(axis=1), y.max(axis=1)
    boxes = np.column_stack(
        [x.min(axis=1), top - _FOREHEAD * (bottom - top), x.max(axis=1), bottom]
    )
    points = np.stack([x, y], axis=2)
    return boxes, np.stack([points[:, eye].mean(axis=1) for eye in _EYE_POINTS], axis=1)


def _check(path: Path, stamps: np.ndarray, boxes: np.ndarray, is_frame: bool) -> None:
    """Refuse what cannot be boxes, naming the first line."""
    upside_down = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    for bad, what in (
        (~np.isfinite(stamps) | (stamps < 0), "has no time of 0 or more"),
        (
            is_frame & (stamps % 1 > 0),
            "has part of a frame (give whole numbers, or call the column seconds)",
        ),
        (upside_down, "has a box whose right or lower edge is not beyond the other one"),
        (np.isinf(boxes).any(axis=1), "has a box that is not finite"),
    ):
        if bad.any():
            raise MediaError("bad-boxes", path, f"line {_line(path, int(np.argmax(bad)))} {what}")
    if np.isfinite(boxes).any() and np.nanmax(np.abs(boxes)) <= 1:
        raise MediaError("bad-boxes", path, "its boxes are shares of the picture; give pixels")


def _line(path: Path, row: int) -> int:
    """The number in the file of a row below its head; empty lines are none."""
    with path.open(encoding="utf-8-sig") as file:
        filled = [number for number, line in enumerate(file, start=1) if line.strip()]
    return filled[row + 1]


def _first_of(choices: tuple[tuple[str, ...], ...], names: list[str]) -> tuple[str, ...] | None:
    """The first choice of which every column is there."""
    return next((choice for choice in choices if set(choice) <= set(names)), None)


def _numbers(table: pandas.DataFrame, columns: tuple[str, ...], path: Path) -> np.ndarray:
    """Columns as float64 (n, columns); empty cells are NaN, other text is refused."""
    values = table.loc[:, list(columns)].apply(pandas.to_numeric, errors="coerce")
    strange = values.isna() & table.loc[:, list(columns)].notna()
    if strange.to_numpy().any():
        row, column = np.argwhere(strange.to_numpy())[0]
        found = table[columns[column]].iloc[row]
        problem = f"line {_line(path, row)}: {columns[column]} is {found!r} (must be a number)"
        raise MediaError("bad-boxes", path, problem + with_a_point(found))
    return values.to_numpy(dtype=np.float64, copy=True)
