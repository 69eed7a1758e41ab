"""Lists of recordings: folders, CSV and JSON lines give the same rows, and mistakes are placed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from webdataset.tariterators import base_plus_ext

from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from shards import manifest
from shards.datasets.tree import Tree
from shards.manifest import (
    ManifestRow,
    face_key,
    list_folder,
    read_manifest,
    safe_key,
    segment_key,
    unique_keys,
    write_manifest,
)
from shards.schema import is_safe_key
from tests.support.media_files import counting_frames, write_recording


def test_a_csv_gives_paths_spans_and_labels_of_the_right_kind(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "path,key,speaker,start,end,split,audio,emotion,fold,valence,subject\n"
        "a/one.mp4,,7,0.5,2,train,one.wav,joy,1,0.25,007\n"
        'a/two.mp4,second,8,,,test,,"sad, tired",2,-1,012\n',
        encoding="utf-8",
    )
    one, two = read_manifest(tmp_path / "list.csv")
    assert (one.key, one.path, one.name) == ("a/one", tmp_path / "a/one.mp4", "a/one.mp4")
    assert (one.audio, one.speaker, one.start, one.end) == (tmp_path / "one.wav", "7", 0.5, 2.0)
    assert one.labels == {"emotion": "joy", "fold": 1, "valence": 0.25, "subject": "007"}
    assert (two.key, two.split) == ("second", "test")
    assert (two.audio, two.start, two.end) == (None, None, None)
    assert two.labels == {"emotion": "sad, tired", "fold": 2, "valence": -1.0, "subject": "012"}
    assert [type(value) for value in two.labels.values()] == [str, int, float, str]


def test_a_column_with_one_word_is_text_throughout(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,score\na.mp4,1\nb.mp4,n/a\nc.mp4,\n")
    assert [row.labels for row in read_manifest(tmp_path / "list.csv")] == [
        {"score": "1"},
        {"score": "n/a"},
        {},
    ]


def test_spreadsheet_habits_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffpath,fold\r\na.mp4,1e2\r\n,,\r\n".encode()[:-4])
    assert read_manifest(tmp_path / "a.csv")[0].labels == {"fold": 100.0}
    (tmp_path / "b.tsv").write_text("path\tfold\na,b.mp4\t3\n")
    assert read_manifest(tmp_path / "b.tsv")[0].name == "a,b.mp4"


def test_json_lines_say_the_same_as_csv(tmp_path: Path) -> None:
    rows = [
        {"path": "a.mp4", "speaker": "s1", "start": 0.5, "emotion": "joy", "fold": 1},
        {"path": "b.mp4", "speaker": None, "start": None, "emotion": None, "fold": 2},
    ]
    for name in ("list.csv", "list.jsonl"):
        write_manifest(tmp_path / name, rows)
    assert read_manifest(tmp_path / "list.csv") == read_manifest(tmp_path / "list.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv", "list.jsonl"]


def test_a_number_that_no_table_is_believed_is_written_as_json_alone(tmp_path: Path) -> None:
    rows = [{"path": "a.mp4", "score": 0.5}, {"path": "b.mp4", "score": 2.5e20}]
    with pytest.raises(ValueError, match=r"list.csv: score is 2.5e\+20, .*\.jsonl"):
        write_manifest(tmp_path / "list.csv", rows)
    assert not any(tmp_path.iterdir())
    write_manifest(tmp_path / "list.jsonl", rows)
    scores = [row.labels["score"] for row in read_manifest(tmp_path / "list.jsonl")]
    assert scores == [0.5, 2.5e20]


def test_a_folder_is_read_in_order_with_links_and_without_hidden_files(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    for name in ("b.MP4", "a/two.words.mov", "a/.hidden.mp4", ".cache/x.mp4", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    elsewhere.mkdir()
    (elsewhere / "c.webm").touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    rows, ignored = list_folder(folder)
    assert [(row.key, row.name) for row in rows] == [
        ("a/two_words", "a/two.words.mov"),
        ("b", "b.MP4"),
        ("link/c", "link/c.webm"),
    ]
    assert ignored == [folder / "notes.txt"]
    assert read_manifest(folder) == rows


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("nut", "libx264"), ("ivf", "libvpx"), ("y4m", "rawvideo"), ("voc", "")],
)
def test_what_ffmpeg_reads_is_a_recording_by_its_suffix(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = tmp_path / f"A.{suffix.upper()}"
    if codec:
        written = write_recording(
            tmp_path / f"a.{suffix}", counting_frames(5), np.arange(5) / 25, codec=codec
        )
        assert len(open_video(written.rename(path))) == 5
    else:
        with av.open(str(path), "w", format=suffix) as out:
            stream = out.add_stream("pcm_u8", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.uint8), "u8", "mono")
            frame.rate = 8000
            out.mux([*stream.encode(frame), *stream.encode(None)])
        assert len(read_sound(path, sample_rate=8000).samples) == 800
    rows, ignored = list_folder(tmp_path)
    assert [row.path for row in rows] == [path]
    assert ignored == []


def test_a_name_that_is_no_utf8_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    (row,) = read_manifest(tmp_path)
    assert row.name == "caf\\xe9.mp4"
    assert row.path.exists()


def test_a_link_to_itself_ends_no_listing(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert [row.name for row in read_manifest(tmp_path)] == ["loop.mp4", "x.mp4"]
    assert Tree(tmp_path).videos == {"loop": ["loop.mp4"], "x": ["x.mp4"]}


def test_a_video_can_be_named_itself(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").touch()
    (row,) = read_manifest(tmp_path / "x.mp4")
    assert (row.key, row.name, row.split) == ("x", "x.mp4", "train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "file,label\na,b\n",
            "(found: file, label; call the column of files 'path')",
        ),
        ("Path,label\na,b\n", "is it 'Path'?"),
        ("", "no column 'path' (found: nothing;"),
        ("path,path\na,b\n", "column 'path' is there twice"),
        ("path,\na,b\n", "column 2 has no name, and 1 cells (line 2: 'b'); name it, or delete it"),
        ("path,shard\na,b\n", "column 'shard' is a name of the index"),
        ("path,label\na,b,c\n", "line 2: 3 cells under 2 columns"),
        ("path,start\na.mp4,soon\n", "line 2: start is 'soon'"),
        ("path,start\na.mp4,-1\n", "line 2: start is -1"),
        ("path,start,end\na.mp4,3,2\n", "line 2: end 2 s is not after start 3 s"),
        ("path,split\na.mp4,../x\n", "line 2: split '../x'"),
        ("path,key\n,x\n", "line 2: no path"),
        ("path,Start,End\na,1,3\n", "column 'End' would be a label, and 'end' is for seconds"),
        ("path,key\na,x\nb,y\nc,x\n", "line 4: key 'x' is that of line 2"),
        (
            "path,fold\na,1\nb,2\na,2\n",
            "list.csv line 4: the same recording and time as line 2, with fold 1 there and 2 here",
        ),
        ("path,split,start,end\na,test,1,3\na,train,2,9\n", "with split test there and train here"),
        (
            "path,split\na.mp4,train\nb/../a.mp4,test\n",
            "line 3: the same recording and time as",
        ),
        ('{"path": "a"}\n{"path"\n', "line 2: no JSON"),
        ('["a"]\n', "line 1: list, not an object"),
        ('{"file": "a"}\n', "line 1: no column 'path'"),
        ('{"path": "a", "emotion": ["joy"]}\n', "line 1: emotion is list"),
        ('{"path": "a", "valence": NaN}\n', "line 1: valence is nan"),
        ('{"path": 1.5}\n', "line 1: path is 1.5 (must be text)"),
        ('{"path": "a", "end": true}\n', "line 1: end is True"),
        ('{"path": "a", "emotion": {"joy": 1}}\n', "line 1: emotion is Object"),
        ('{"path": "a", "x": 1, "x": 2}\n', "line 1: column 'x' is there twice"),
        (
            '[\n{"path": "a"},\n{"path": "b", "x": 1, "x": 1}\n]',
            "line 2: column 'x' is there twice",
        ),
        ('{"path": "a\\u0000"}\n', "line 1: path is 'a\\x00' (must be text without half"),
        ('{"path": "a", "x": "\\ud800"}\n', "line 1: x is '\\ud800' (must be text"),
        ('{"path": "a", "\\ud800": 1}\n', "line 1: the name of a column is '\\ud800'"),
        ('{"path": "."}\n{"path": ""}\n{"end": 3}', "line 3: no column 'path'"),
        ("[" * 100_000, "line 1: no JSON"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / ("list.jsonl" if text.startswith(("{", "[")) else "list.csv")
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(path.name)) as error:
        read_manifest(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "path,fold,start,end\na,1,0,3\na,2,2,9\n",  # turns that overlap a little
        "path,split,region\na,train,0 0 0.5 1\na,test,0.5 0 1 1\n",  # two people
        "path,fold,mood\na,1,joy\na,1,fear\nb,2,joy\n",
        "path,fold\na,1\na,\n",
    ],
)
def test_what_only_looks_like_two_sides_of_a_recording_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    assert len(read_manifest(tmp_path / "list.csv")) == text.count("\n") - 1


def test_many_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,start\n" + "a.mp4,x\n" * 9 + "b.mp4,1\n")
    with pytest.raises(ValueError, match="and 6 more lines") as error:
        read_manifest(tmp_path / "list.csv")
    assert "\n" not in str(error.value)


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder, manifest or recording"):
        read_manifest(tmp_path / "nowhere")


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


def recordings(*names: str, folder: str = "/data") -> list[ManifestRow]:
    return [
        ManifestRow(
            key=safe_key(Path(name).name.rpartition(".")[0]),
            path=Path(folder) / name,
            name=Path(name).name,
        )
        for name in names
    ]


def keys_of(found: list[ManifestRow]) -> list[str]:
    return [row.key for row in unique_keys(found)]


def test_a_key_of_its_own_is_kept() -> None:
    assert keys_of(recordings("a/one.mp4", "a/two.mp4")) == ["one", "two"]


def test_folders_tell_files_of_one_name_apart() -> None:
    assert keys_of(recordings("a/x.mp4", "b/x.mp4", "b/y.mp4")) == ["a/x", "b/x", "y"]
    assert keys_of(recordings("a/c/x.mp4", "b/c/x.mp4")) == ["a/c/x", "b/c/x"]


def test_suffixes_spans_and_at_last_numbers_tell_the_rest_apart() -> None:
    assert keys_of(recordings("a/x.mp4", "a/x.avi")) == ["x_mp4", "x_avi"]
    spans = [
        ManifestRow(key="x", path=Path("/x.mp4"), name="x.mp4", start=start, end=start + 1.5)
        for start in (0.0, 2.0)
    ]
    assert keys_of(spans) == ["x_0000000_0001500", "x_0002000_0003500"]
    assert keys_of(recordings("a/x.mp4", "a/x.mp4", "a/x_2.mp4")) == ["x", "x_3", "x_2"]


def test_the_spans_of_a_long_recording_are_told_apart_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans = [
        ManifestRow(key="x", path=Path("/x.mp4"), name="x.mp4", start=float(start))
        for start in range(300)
    ]
    looked = 0

    def counted(items: Iterable[object] = ()) -> set[object]:
        nonlocal looked
        found = list(items)
        looked += len(found)
        return set(found)

    monkeypatch.setattr(manifest, "set", counted, raising=False)
    assert len({*keys_of(spans)}) == 300
    assert looked < 300 * 20, "each some times, and not for every other one"


def test_names_that_only_became_alike_by_being_made_safe_are_told_apart() -> None:
    found = keys_of(recordings("a/x y.mp4", "a/x.y.mp4", "a/x_y.mp4"))
    assert len(set(found)) == 3
    assert all(map(is_safe_key, found))


def test_no_key_looks_like_a_segment_of_another() -> None:
    found = keys_of(recordings("a/x.mp4", "a/x-000.mp4", "a/y-000.mp4"))
    assert found == ["x", "x-000_", "y-000"]
    assert segment_key(found[0], 0) not in found


def test_a_key_that_looks_like_a_face_of_another_gets_out_of_its_way() -> None:
    keys = ["a", "a_face0", "a_face1-002", "b_face0", "c_face0", "c_face0-001"]
    rows = [ManifestRow(key=key, path=Path(f"/{key}.mp4"), name=f"{key}.mp4") for key in keys]
    assert [row.key for row in unique_keys(rows)] == [
        *("a", "a_face0_", "a_face1-002_", "b_face0", "c_face0", "c_face0-001_")
    ]
    assert face_key("a", 1) == "a_face1"
