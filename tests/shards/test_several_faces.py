"""One sample for each face, spans of a longer file, and boxes that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.building.build import build_shards
from shards.index import read_index
from shards.manifest import list_folder, read_manifest
from shards.settings import BuildConfig
from tests.shards.test_inputs import read_samples
from tests.support.media_files import write_recording

FPS = 25
ANNA, BEN = (20, 20, 60, 60), (90, 30, 130, 70)  # x0, y0, x1, y1


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Four seconds of two squares, one bright and one grey; boxes beside it."""
    frames = np.zeros((100, 96, 160, 3), dtype=np.uint8)
    frames[:, 20:60, 20:60] = 230
    frames[:, 30:70, 90:130] = 120
    path = write_recording(tmp_path / "pair.mp4", frames, np.arange(100) / FPS)
    rows = ["frame,track,x0,y0,x1,y1"]
    for number in range(100):
        rows.append(",".join(map(str, [number, "anna", *ANNA])))
        if 25 <= number < 75:
            rows.append(",".join(map(str, [number, "ben", *BEN])))
    rows += [f"{number},nobody,0,0,10,10" for number in range(4)]
    (tmp_path / "pair.csv").write_text("\n".join(rows))
    return path


def config(**changes: object) -> BuildConfig:
    settings = {"faces": "boxes", "face_size": 32, "face_margin": 0.0, "workers": 1}
    return BuildConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_every_face_is_a_sample_of_the_time_it_is_seen(tmp_path: Path, pair: Path) -> None:
    result = build_shards([pair], tmp_path / "shards", config(face_choice="all"))
    table = read_index(tmp_path / "shards").table.set_index("key")
    assert table["seconds"].to_dict() == pytest.approx({"pair_face0": 4.0, "pair_face1": 2.0})
    assert table["face_pixels"].to_dict() == {"pair_face0": 40.0, "pair_face1": 40.0}
    levels = {key: images.mean() for key, (images, _) in read_samples(tmp_path / "shards").items()}
    assert levels == pytest.approx({"pair_face0": 230, "pair_face1": 120}, abs=8)
    (refusal,) = result.refusals
    assert refusal.cause == "short-face"
    assert "1 of 3 faces are seen for less than min_seconds = 0.5 (0.16 s at 0.00 s)" in (
        refusal.message
    )


def test_faces_and_segments_have_keys_of_their_own(tmp_path: Path, pair: Path) -> None:
    settings = config(face_choice="all", max_seconds=2.0, min_seconds=0.5)
    build_shards([pair], tmp_path / "shards", settings)
    table = read_index(tmp_path / "shards").table
    assert list(table["key"]) == ["pair_face0-000", "pair_face0-001", "pair_face1"]


def test_the_policy_takes_one_and_a_region_the_other(tmp_path: Path, pair: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "path,key,region,start,end\npair.mp4,left,,1,3\npair.mp4,right,0.5 0 1 1,1,3\n"
    )
    build_shards([tmp_path / "list.csv"], tmp_path / "shards", config())
    levels = {key: images.mean() for key, (images, _) in read_samples(tmp_path / "shards").items()}
    assert levels == pytest.approx({"left": 230, "right": 120}, abs=8)


def test_a_region_in_which_nobody_looks_for_a_face_is_refused(tmp_path: Path, pair: Path) -> None:
    (tmp_path / "list.csv").write_text("path,key,region\npair.mp4,a,\npair.mp4,b,0.5 0 1 1\n")
    with pytest.raises(ValueError, match=r"^pair\.mp4: region is .*, and faces = none looks for"):
        build_shards([tmp_path / "list.csv"], tmp_path / "shards", config(faces="none"))
    assert not (tmp_path / "shards").exists()


def test_missing_and_foreign_boxes_are_refused_by_name(tmp_path: Path, pair: Path) -> None:
    (tmp_path / "long.csv").write_text("frame,x0,y0,x1,y1\n500,1,1,9,9\n")
    (tmp_path / "list.csv").write_text(
        "path,key,boxes\npair.mp4,a,gone.csv\npair.mp4,b,long.csv\npair.mp4,c,\n"
    )
    result = build_shards([tmp_path / "list.csv"], tmp_path / "shards", config())
    assert [refusal.cause for refusal in result.refusals] == ["no-boxes", "bad-boxes"]
    assert "gone.csv: no such file of face boxes" in result.refusals[0].message
    assert "has frame 500, but pair.mp4 has 100 frames" in result.refusals[1].message
    assert list(read_index(tmp_path / "shards").table["key"]) == ["c"]


def test_a_manifest_names_rates_regions_and_boxes_or_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('path,fps,region,boxes\nframes,29.97,"0, 0, 0.5, 1",b.csv\n')
    (row,) = read_manifest(path)
    assert (row.fps, row.region, row.boxes) == (29.97, (0.0, 0.0, 0.5, 1.0), tmp_path / "b.csv")
    assert not row.labels
    for cells, told in (
        ("0,", r"fps is 0 \(must be frames per second"),
        ("25,0 0 2 1", "region is '0 0 2 1' .*left half"),
        ("25,left", "region is 'left'"),
    ):
        path.write_text(f"path,fps,region\na.mp4,{cells}\n")
        with pytest.raises(ValueError, match=f"list.csv: line 2: {told}"):
            read_manifest(path)


def test_a_folder_of_images_is_found_and_thumbnails_are_not(tmp_path: Path) -> None:
    for name in ("films/a.mp4", "films/a1.jpg", "films/a2.jpg", "faces/b/1.png", "faces/b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("faces/b.wav", "faces/other.wav", "faces/b/notes.txt"):
        (tmp_path / name).touch()
    rows, _ = list_folder(tmp_path)
    assert [row.key for row in rows] == ["faces/b", "faces/other", "films/a"]
    rows, ignored = list_folder(tmp_path, sound_alone=False)
    assert [(row.key, row.path) for row in rows] == [
        ("faces/b", tmp_path / "faces/b"),
        ("films/a", tmp_path / "films/a.mp4"),
    ]
    names = sorted(path.relative_to(tmp_path).as_posix() for path in ignored)
    assert names == ["faces/b/notes.txt", "faces/other.wav", "films/a1.jpg", "films/a2.jpg"]
    rows, _ = list_folder(tmp_path / "faces" / "b")
    assert [(row.key, row.name) for row in rows] == [("b", "b")]
