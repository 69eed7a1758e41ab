"""Times count from a recording's beginning, as players do, also where the picture begins later."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hicmae.media.boxes import read_boxes
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.recording import Recording
from hicmae.media.video import open_video
from hicmae.prediction.messages import Found, Window, WindowConfig
from hicmae.prediction.windows import Request, cut_windows
from hicmae.settings import InputConfig
from shards.building.build import build_shards
from tests.support.build_fixtures import config, samples
from tests.support.media_files import counting_frames, numbers_of, write_recording

COUNT, BEGIN, SECONDS = 50, 3.0, 8.0
NO_FACES = FaceConfig(faces="none", face_size=32)


@pytest.fixture(scope="module", params=[".mp4", ".mkv", ".ts"])
def late(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A camera that is switched on 3 s after the sound began; a tone from 4 s on."""
    folder = tmp_path_factory.mktemp("late")
    clock = np.arange(int(SECONDS * 48000)) / 48000
    sound = 0.5 * np.sin(2 * np.pi * 500 * clock) * (clock >= 4)
    times = BEGIN + np.arange(COUNT) / 25
    return write_recording(
        folder / f"late{request.param}", counting_frames(COUNT), times, sound=sound
    )


def test_the_picture_begins_where_it_does_after_the_recording(late: Path) -> None:
    with open_video(late) as reader:
        assert reader.start_seconds - reader.origin_seconds == pytest.approx(BEGIN, abs=0.03)
        assert reader.duration_seconds == pytest.approx(COUNT / 25, abs=0.01)


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (None, None, (0, 50)),
        (0.0, None, (0, 50)),
        (4.0, 4.4, (25, 35)),
        (1.0, 3.4, (0, 10)),
        (4.6, 99.0, (40, 50)),
        (2.99, 3.4, (0, 10)),  # less than a frame before: kept, and filled with the first one
    ],
)
def test_spans_are_in_the_time_of_players(
    late: Path, start: float | None, end: float | None, found: tuple[int, int]
) -> None:
    with Recording(late, open_video(late), NO_FACES, fps=25, start=start, end=end) as recording:
        assert recording.offset == pytest.approx(BEGIN + found[0] / 25, abs=0.03)
        if start is not None and start > BEGIN - 1 / 25:
            assert recording.offset == pytest.approx(start)
        assert len(recording.indices) == pytest.approx(found[1] - found[0], abs=1)
        images = np.stack(list(recording.frames(np.arange(len(recording.indices)))))
    numbers = numbers_of(images, COUNT)
    np.testing.assert_allclose(numbers, found[0] + np.arange(len(numbers)), atol=1)


def test_a_span_before_the_picture_holds_none(late: Path) -> None:
    with pytest.raises(MediaError, match=r"span 0\.5\.\.2 s holds 0\.00 s of picture"):
        Recording(late, open_video(late), NO_FACES, fps=25, start=0.5, end=2.0)


def test_boxes_of_annotators_count_from_the_beginning(late: Path, tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("seconds,x0,y0,x1,y1\n" + "4.0,5,5,25,25\n")
    with open_video(late) as reader:
        faces = read_boxes(path).faces(reader, np.arange(COUNT))
    (place,) = [place for place, found in faces.items() if found]
    assert place == pytest.approx(25, abs=1)


@pytest.mark.slow
def test_a_sample_says_where_it_is_and_has_the_sound_of_its_time(
    late: Path, tmp_path: Path
) -> None:
    rows = f"path,start,end\n{late},3.6,4.6\n{late},,\n"
    (tmp_path / "list.csv").write_text(rows)
    build_shards([tmp_path / "list.csv"], tmp_path / "out", config())
    for info, _, sound in samples(tmp_path / "out").values():
        assert sound is not None
        heard = info.start_seconds + int(np.argmax(np.abs(sound) > 4000)) / 16000
        assert heard == pytest.approx(4.0, abs=0.04)
    starts = sorted(info.start_seconds for info, _, _ in samples(tmp_path / "out").values())
    assert starts == pytest.approx([BEGIN, 3.6], abs=0.03)


def test_predictions_are_in_the_time_of_players(late: Path) -> None:
    messages: list[object] = []
    request = Request(
        path=late,
        input=InputConfig(image_size=32, num_frames=16, frame_stride=1),
        preparation=NO_FACES,
        config=WindowConfig(hop=0.4),
    )
    cut_windows(request, messages.append)
    (found,) = [each for each in messages if isinstance(each, Found)]
    windows = [each for each in messages if isinstance(each, Window)]
    (track,) = found.tracks
    assert track.start_seconds == windows[0].start_seconds == pytest.approx(BEGIN, abs=0.03)
    assert track.end_seconds == found.seconds == pytest.approx(BEGIN + COUNT / 25, abs=0.03)
    (note,) = found.notes
    told = re.fullmatch(
        r"its sound at (.*)\.\.(.*) and (.*)\.\.(.*) s has no picture and is left out",
        note.replace(" s and", " and"),
    )
    assert told is not None
    outside = [float(value) for value in told.groups()]
    assert outside == pytest.approx([0, BEGIN, BEGIN + COUNT / 25, SECONDS], abs=0.06)
