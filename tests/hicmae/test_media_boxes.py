"""Boxes of a CSV are found at their times, in any of the usual columns, or refused in one line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from hicmae.media.boxes import read_boxes
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.tracking import runs_of
from tests.support.media_files import cut_faces

FPS = 25


@dataclass
class Frames:
    """Frames in memory with a bright square of 20 pixels that moves 2 pixels a frame."""

    count: int = 30
    path: Path = Path("clip.mp4")
    start_seconds: float = 5.0
    height: int = 80
    width: int = 160

    def __post_init__(self) -> None:
        self.origin_seconds = self.start_seconds
        self.timestamps = self.start_seconds + np.arange(self.count) / FPS
        self.frame_clock = self.timestamps
        self.duration_seconds = self.count / FPS

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: object) -> object:
        for index in indices:  # type: ignore[attr-defined]
            frame = np.zeros((self.height, self.width, 3), dtype=np.uint8)
            frame[30:50, 10 + 2 * index : 30 + 2 * index] = 255
            yield frame


CONFIG = FaceConfig(faces="boxes", face_margin=0.0, face_smoothing_seconds=0.0)
COLUMNS = {
    "frame,x0,y0,x1,y1": "{frame},{x},30,{right},50",
    "seconds,left,top,right,bottom": "{seconds:.3f},{x},30,{right},50",
    "timestamp,x,y,w,h": "{seconds:.3f},{x},30,20,20",
    "frame, x, y, width, height": "{frame}, {x}, 30, 20, 20",
}


def write_boxes(path: Path, header: str, line: str, frames: range) -> Path:
    rows = [line.format(frame=i, seconds=i / FPS, x=10 + 2 * i, right=30 + 2 * i) for i in frames]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(("header", "line"), COLUMNS.items())
@pytest.mark.parametrize("every", [1, 5])
def test_boxes_follow_the_face_at_its_times(
    tmp_path: Path, header: str, line: str, every: int
) -> None:
    table = read_boxes(write_boxes(tmp_path / "clip.csv", header, line, range(0, 30, every)))
    ((track, crops),) = cut_faces(Frames(), np.arange(26), table, CONFIG, 20)  # type: ignore[arg-type]
    assert all(crop.min() > 250 for crop in crops)
    assert track.coverage == 1
    assert track.face_pixels == 20
    assert (track.found_by == "detected").sum() == len(range(0, 26, every))


def test_where_boxes_are_missing_the_face_is_not_covered(tmp_path: Path) -> None:
    path = write_boxes(tmp_path / "clip.csv", *next(iter(COLUMNS.items())), range(10))
    ((track, _),) = cut_faces(Frames(), np.arange(30), read_boxes(path), CONFIG, 20)  # type: ignore[arg-type]
    assert track.coverage == pytest.approx(1 / 3)
    assert runs_of(track.found_by) == (("detected", 10), ("held", 20))
    # Rows that say there is no face are no boxes.
    success = [f"{i},{10 + 2 * i},30,{30 + 2 * i},50,{int(i < 15)}" for i in range(30)]
    path.write_text("\n".join(["frame,x0,y0,x1,y1,success", *success]))
    ((track, _),) = cut_faces(Frames(), np.arange(30), read_boxes(path), CONFIG, 20)  # type: ignore[arg-type]
    assert track.coverage == 0.5


def test_a_track_column_tells_faces_apart(tmp_path: Path) -> None:
    rows = ["frame,track,x0,y0,x1,y1"]
    for i in range(20):  # they cross: overlap alone would mix them up
        rows += [
            f"{i},anna,{4 * i},10,{4 * i + 30},40",
            f"{i},ben,{76 - 4 * i},10,{106 - 4 * i},40",
        ]
    path = tmp_path / "clip.csv"
    path.write_text("\n".join(rows))
    config = replace(CONFIG, face_choice="all")
    faces = cut_faces(Frames(), np.arange(20), read_boxes(path), config, 20)  # type: ignore[arg-type]
    assert [track.boxes[[0, -1], 0].tolist() for track, _ in faces] == [[0, 76], [76, 0]]


def test_rows_without_a_track_are_not_one_face(tmp_path: Path) -> None:
    path = tmp_path / "clip.csv"
    rows = [f"{i},,{x},10,{x + 20},30" for i in range(20) for x in (10, 100)]
    path.write_text("\n".join(["frame,id,x0,y0,x1,y1", *rows]))
    config = replace(CONFIG, face_choice="all")
    faces = cut_faces(Frames(), np.arange(20), read_boxes(path), config, 20)  # type: ignore[arg-type]
    assert [(len(track.boxes), track.boxes[0, 0]) for track, _ in faces] == [(20, 10), (20, 100)]


def test_a_separator_at_the_end_of_rows_moves_no_column(tmp_path: Path) -> None:
    path = tmp_path / "clip.csv"
    path.write_text("frame,x,y,w,h\n3,1,2,30,40,\n4,1,2,30,40,\n")
    table = read_boxes(path)
    assert table.frames is not None
    assert table.frames.tolist() == [3, 4]
    assert table.boxes.tolist() == [[1, 2, 31, 42]] * 2


@pytest.mark.parametrize(("sep", "decimal"), [(";", ","), (";", "."), ("\t", ".")])
def test_boxes_of_a_spreadsheet_are_read_whatever_is_between_them(
    tmp_path: Path, sep: str, decimal: str
) -> None:
    rows = [["seconds", "x0", "y0", "x1", "y1"], ["0.04", "1.5", "2", "3.25", "4"]]
    path = tmp_path / "clip.csv"
    path.write_text(
        "\ufeff" + "\n".join(sep.join(cell.replace(".", decimal) for cell in row) for row in rows)
    )
    table = read_boxes(path)
    assert table.seconds is not None
    assert table.seconds.tolist() == [0.04]
    assert table.boxes.tolist() == [[1.5, 2, 3.25, 4]]


@pytest.mark.parametrize("time", ["0", "0.04", "1.16"])
def test_boxes_of_one_time_are_of_one_frame(tmp_path: Path, time: str) -> None:
    path = tmp_path / "clip.csv"
    path.write_text(
        f"seconds,track,x0,y0,x1,y1\n{time},anna,20,20,40,40\n{time},ben,90,20,110,40\n"
    )
    faces = read_boxes(path).faces(Frames(), np.arange(30))  # type: ignore[arg-type]
    at = round(float(time) * FPS)
    assert sorted(faces) == list(range(30))  # the other frames were asked and have none
    assert [face.track for face in faces.pop(at)] == ["anna", "ben"]
    assert not any(faces.values())
    ((track, _),) = cut_faces(Frames(), np.arange(30), read_boxes(path), CONFIG, 20)  # type: ignore[arg-type]
    assert track.coverage == pytest.approx(1 / 30)


def test_eyes_are_taken_along_and_of_two_rows_for_a_frame_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "clip.csv"
    path.write_text(
        "seconds,x0,y0,x1,y1,left_eye_x,left_eye_y,right_eye_x,right_eye_y\n"
        "0.04,20,20,40,40,25,27,35,28\n0.05,90,20,110,40,,,,\n"
        "0.08,20,20,40,40,25,,35,28\n1.19,20,20,40,40,25,27,35,28\n"
    )
    faces = read_boxes(path).faces(Frames(), np.arange(30))  # type: ignore[arg-type]
    (face,) = faces[1]
    assert face.eyes is not None
    assert face.box.tolist() == [20, 20, 40, 40]
    assert face.eyes.tolist() == [[25, 27], [35, 28]]
    assert faces[2][0].eyes is None, "an eye of which half is known"
    # The last row is nearer to a frame that would follow than to the last one.
    assert [place for place, found in faces.items() if found] == [1, 2]


def test_openface_output_is_understood_as_it_is(tmp_path: Path) -> None:
    """Its frames count from 1, its times are of the mean rate, its points begin at the brows."""
    names = [f"{axis}_{point}" for axis in "xy" for point in range(68)]
    rows = [", ".join(["frame", "face_id", "timestamp", "confidence", "success", *names])]
    for i in range(30):
        x, y = np.full(68, 50.0 + 2 * i), np.full(68, 40.0)
        x[0], x[16], y[19], y[8] = 40 + 2 * i, 60 + 2 * i, 32, 52  # jaws, brow, chin
        x[36:42], x[42:48], y[36:48] = 45 + 2 * i, 55 + 2 * i, 37
        values = [i + 1, 0, round(i / 15.3, 3), 0.98, 1, *x, *y]
        rows.append(", ".join(map(str, values)))
    path = tmp_path / "clip.csv"
    path.write_text("\n".join(rows))
    table = read_boxes(path)
    np.testing.assert_allclose(table.boxes[0], [40, 27, 60, 52])
    assert table.eyes is not None
    np.testing.assert_allclose(table.eyes[0], [[45, 37], [55, 37]])
    uneven = Frames()
    uneven.frame_clock = uneven.timestamps = 5 + np.cumsum([*[1 / 30] * 20, *[0.1] * 10])
    faces = table.faces(uneven, np.arange(30))  # type: ignore[arg-type]
    places = {place: found[0].box[0] for place, found in faces.items() if found}
    assert places == {i: 40 + 2 * i for i in range(30)}
    # Where the recording has fewer frames than were counted, the time stamps have to do.
    shorter = table.faces(Frames(count=20), np.arange(20))  # type: ignore[arg-type]
    assert shorter[10][0].box[0] in (52, 54)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("frame,a\n1,2\n", r"needs columns frame or seconds, and x0,y0,x1,y1 .*found frame, a"),
        ("x0,y0,x1,y1\n1,2,3,4\n", "needs columns frame or seconds"),
        ("frame,x0,y0,x1,y1\n0,9,9,20,20\n1,20,20,10,40\n", "line 3 has a box whose right"),
        ("frame,x0,y0,x1,y1\n-1,9,9,20,20\n", "line 2 has no time of 0 or more"),
        ("frame,x0,y0,x1,y1\n0,9,nine,20,20\n", "line 2: y0 is 'nine'"),
        ("frame,x0,y0,x1,y1\n\n0,9,9,20,20\n\n1,9,nine,20,20\n", "line 5: y0 is 'nine'"),
        ("frame,x0,y0,x1,y1\r\n\r\n \r\n0,9,9,9,20\r\n", "line 4 has a box whose right"),
        ("frame,x0,y0,x1,y1\n0,0.1,0.1,0.5,0.5\n", "shares of the picture; give pixels"),
        ("frame,x0,y0,x1,y1\n30,9,9,20,20\n", r"has frame 30, but clip.mp4 has 30 frames \(0..29"),
        ("frame,x,y,w,h\n0,1,2,30,40,7\n", r"clip.csv: has 6 cells under 5 columns; name"),
        ("frame,x0,y0,x1,y1\n0.04,9,9,20,20\n", "line 2 has part of a frame .*column seconds"),
        ("", "cannot be read as CSV"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "clip.csv"
    path.write_text(text)
    with pytest.raises(MediaError, match=told) as error:
        read_boxes(path).faces(Frames(), np.arange(30))  # type: ignore[arg-type]
    assert error.value.cause == "bad-boxes"
    assert "\n" not in str(error.value)


def test_boxes_that_say_no_face_at_all_are_no_face(tmp_path: Path) -> None:
    path = tmp_path / "clip.csv"
    path.write_text("frame,x0,y0,x1,y1\n")
    with pytest.raises(MediaError, match="boxes found no face in"):
        cut_faces(Frames(), np.arange(30), read_boxes(path), CONFIG, 20)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no such file of face boxes"):
        read_boxes(tmp_path / "gone.csv")
    path.write_text("frame,x0,y0,x1,y1,success\n0,0,0,9,9,0\n5,0,0,9,9,0\n")
    assert np.isnan(read_boxes(path).boxes).all()
