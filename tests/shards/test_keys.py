"""Names of samples: any file name gives a key that tools agree on, and no two are alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from webdataset.tariterators import base_plus_ext

from shards.keys import face_key, safe_key, segment_key, unique_keys
from shards.manifest import ManifestRow
from shards.schema import is_safe_key

HOSTILE = [
    "plain",
    "two words",
    "-video-with-dash-",
    "many.dots.in.it",
    ".hidden",
    "id08423/21Uxs.k/00048",
    "quote'\"name",
    "new\nline",
    "视频1",
    "Überraschung",
    "\udcff\udcfe",
    "../../escape",
    "",
    "x" * 400,
    "a\\b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_gives_a_key_that_webdataset_splits_at_the_extension(name: str) -> None:
    key = safe_key(name)
    assert is_safe_key(key)
    assert base_plus_ext(f"{key}.mjpg") == (key, "mjpg")


def test_keys_stay_readable() -> None:
    assert safe_key("id08423/00048") == "id08423/00048"
    assert safe_key("two words.v2") == "two_words_v2"
    assert safe_key("Überraschung") == "Uberraschung"
    assert safe_key("视频1") == "u89c6u98911"
    assert safe_key("-video-with-dash-") == "_-video-with-dash-"


def test_long_names_that_differ_at_the_end_give_different_keys() -> None:
    assert safe_key("x" * 300 + "a") != safe_key("x" * 300 + "b")


def rows(*names: str, folder: str = "/data") -> list[ManifestRow]:
    return [
        ManifestRow(
            key=safe_key(Path(name).name.rpartition(".")[0]),
            path=Path(folder) / name,
            name=Path(name).name,
        )
        for name in names
    ]


def keys(found: list[ManifestRow]) -> list[str]:
    return [row.key for row in unique_keys(found)]


def test_a_key_of_its_own_is_kept() -> None:
    assert keys(rows("a/one.mp4", "a/two.mp4")) == ["one", "two"]


def test_folders_tell_files_of_one_name_apart() -> None:
    assert keys(rows("a/x.mp4", "b/x.mp4", "b/y.mp4")) == ["a/x", "b/x", "y"]
    assert keys(rows("a/c/x.mp4", "b/c/x.mp4")) == ["a/c/x", "b/c/x"]


def test_suffixes_spans_and_at_last_numbers_tell_the_rest_apart() -> None:
    assert keys(rows("a/x.mp4", "a/x.avi")) == ["x_mp4", "x_avi"]
    spans = [
        ManifestRow(key="x", path=Path("/x.mp4"), name="x.mp4", start=start, end=start + 1.5)
        for start in (0.0, 2.0)
    ]
    assert keys(spans) == ["x_0000000_0001500", "x_0002000_0003500"]
    assert keys(rows("a/x.mp4", "a/x.mp4", "a/x_2.mp4")) == ["x", "x_3", "x_2"]


def test_names_that_only_became_alike_by_being_made_safe_are_told_apart() -> None:
    found = keys(rows("a/x y.mp4", "a/x.y.mp4", "a/x_y.mp4"))
    assert len(set(found)) == 3
    assert all(map(is_safe_key, found))


def test_no_key_looks_like_a_segment_of_another() -> None:
    found = keys(rows("a/x.mp4", "a/x-000.mp4", "a/y-000.mp4"))
    assert found == ["x", "x-000_", "y-000"]
    assert segment_key(found[0], 0) not in found


def test_a_key_that_looks_like_a_face_of_another_gets_out_of_its_way() -> None:
    keys = ["a", "a_face0", "a_face1-002", "b_face0", "c_face0", "c_face0-001"]
    rows = [ManifestRow(key=key, path=Path(f"/{key}.mp4"), name=f"{key}.mp4") for key in keys]
    assert [row.key for row in unique_keys(rows)] == [
        *("a", "a_face0_", "a_face1-002_", "b_face0", "c_face0", "c_face0-001_"),
    ]
    assert face_key("a", 1) == "a_face1"
