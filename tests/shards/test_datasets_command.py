"""``hicmae shards manifest``: what it writes, what it says, and when it refuses."""

from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import Mock

import pytest

from hicmae.__main__ import main
from shards.building.build import build_shards
from shards.datasets import DATASETS
from shards.index import read_index
from shards.manifest import read_manifest
from shards.settings import BuildConfig
from tests.support.dataset_trees import TREES, crema_d, medium, sheet


def run(*words: str | Path) -> int:
    """The verb as a user types it."""
    return main(["shards", "manifest", *map(str, words)])


def tree(folder: Path, name: str) -> Path:
    """An imitated copy of a dataset."""
    (folder / name).mkdir()
    TREES[name](folder / name)
    return folder / name


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_manifest_can_be_read_back_and_its_files_are_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path, name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(name, root, "--out", "list.csv") == 0
    rows = read_manifest(Path("list.csv"))
    assert rows
    for row in rows:
        assert row.path.exists()
        assert not Path(row.name).is_absolute()
        assert row.audio is None or row.audio.is_file()
    # The same rows through JSON lines, whose cells have kinds of their own.
    assert run(name, root, "--out", "list.jsonl") == 0
    again = {row.key: row for row in read_manifest(Path("list.jsonl"))}
    assert again.keys() == {row.key for row in rows}
    for row in rows:
        assert again[row.key].labels == pytest.approx(row.labels)
        assert (again[row.key].split, again[row.key].region) == (row.split, row.region)


def test_keys_speakers_and_spans_survive(tmp_path: Path) -> None:
    root = tree(tmp_path, "iemocap")
    assert run("iemocap", root, "--out", tmp_path / "list.csv") == 0
    rows = {row.key: row for row in read_manifest(tmp_path / "list.csv")}
    row = rows["Ses02M_impro01_F001"]
    assert (row.start, row.end, row.region) == (10.25, 14.5, (0.5, 0.0, 1.0, 1.0))
    assert (row.speaker, row.labels["emotion"], row.labels["fold"]) == ("Ses02F", "happiness", 2)


def test_a_partial_copy_is_listed_with_warnings_and_every_missing_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path, "ravdess")
    for path in sorted(root.glob("Actor_05/0?-01-*")):
        path.unlink()
    assert run("ravdess", root, "--out", tmp_path / "list.csv") == 0
    said = capsys.readouterr().out
    assert "missing, no picture: 60 (01-01-01-01-01-01-05, 01-01-01-01-01-02-05," in said
    assert "and 57 more" in said
    assert "warning: clips with fold 2: 180, 60 fewer than documented (240)" in said
    assert "RAVDESS (speech): 1380 recordings, speakers 23: " in said
    lines = (tmp_path / "list.csv.missing.txt").read_text().splitlines()
    assert len(lines) == 60
    assert lines[0] == "no picture\t01-01-01-01-01-01-05"
    assert len(read_manifest(tmp_path / "list.csv")) == 1380


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_manifest_that_cannot_be_written_leaves_the_list_of_missing_files_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_missing: bool
) -> None:
    root, out = tree(tmp_path, "ravdess"), tmp_path / "out"
    first, second = (root / f"Actor_05/01-01-0{n}-01-01-01-05.mp4" for n in (3, 4))
    first.unlink()
    assert run("ravdess", root, "--out", out / "list.csv") == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 2
    second.unlink() if is_missing else medium(first)
    full = Mock(side_effect=OSError(errno.ENOSPC, "no space left on device"))
    monkeypatch.setattr("shards.datasets.command.write_manifest", full)
    assert run("ravdess", root, "--out", out / "list.csv") == 2
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_list_is_told_of_one_recording_on_two_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_text("the same")
    table, words = tmp_path / "table.csv", ["csv", tmp_path, "--labels", tmp_path / "table.csv"]
    table.write_text("path,fold\na.mp4,1\nb.mp4,2\n")
    assert run(*words, "--out", tmp_path / "list.csv") == 0
    said = capsys.readouterr().out
    assert "note: 1 recordings are listed under two names each, the same byte for byte" in said
    table.write_text("path,fold\na.mp4,1\nc/../a.mp4,2\n")
    assert run(*words, "--out", tmp_path / "list.csv") == 2
    assert "table.csv line 3: the same recording and time as line 2" in capsys.readouterr().err


@pytest.mark.slow
def test_strict_makes_it_an_error_and_writes_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path, "ravdess")
    assert run("ravdess", root, "--out", tmp_path / "list.csv", "--strict") == 0
    assert not (tmp_path / "list.csv.missing.txt").exists()
    (tmp_path / "list.csv").unlink()
    (root / "Actor_05/01-01-03-01-01-01-05.mp4").unlink()
    capsys.readouterr()
    assert run("ravdess", root, "--out", tmp_path / "list.csv", "--strict") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "clips: 1439, 1 fewer than documented (1440)" in error
    assert "1 files are missing" in error
    assert not (tmp_path / "list.csv").exists()
    assert (tmp_path / "list.csv.missing.txt").read_text() == ("no picture\t01-01-03-01-01-01-05\n")
    medium(root / "Actor_05/01-01-03-01-01-01-05.mp4")
    assert run("ravdess", root, "--out", tmp_path / "list.csv", "--strict") == 0
    assert not (tmp_path / "list.csv.missing.txt").exists()  # an old list would be a lie


def test_left_out_recordings_are_counted_by_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path, "msp-improv")
    assert run("msp_improv", root, "--out", tmp_path / "list.csv") == 0
    said = capsys.readouterr().out
    assert "left out, perceived as another emotion (O): 12 (" in said
    assert "left out, raters without agreement (X): 12 (" in said


def test_unknown_labels_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path, "mafw")
    for path in root.glob("Train & Test Set/single/no_caption/set_*/*.txt"):
        path.write_text(path.read_text().replace("00013.mp4 fear", "00013.mp4 bored"))
    assert run("mafw", root, "--out", tmp_path / "list.csv") == 0
    assert "left out, unknown single label bored: 1 (00013)" in capsys.readouterr().out


def test_frames_get_the_frame_rate_that_is_given(tmp_path: Path) -> None:
    root = tree(tmp_path, "dfew")
    medium(root / "Clip/original/9.mp4")
    assert run("dfew", root, "--out", tmp_path / "list.csv", "--image_fps", "24") == 0
    rows = {row.key: row for row in read_manifest(tmp_path / "list.csv")}
    assert rows["00008"].fps == 24
    assert rows["00009"].fps is None  # a video knows its own times


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ravdess"], "a dataset and its root are needed"),
        (["ravdes", "."], "did you mean 'ravdess'?"),
        (["ravdess", "nowhere"], "nowhere: no such folder"),
        (
            ["ravdess", ".", "--folds", "3"],
            "folds is for csv and traces; RAVDESS (speech) has its own",
        ),
        (["ravdess", ".", "--out", "list.txt"], "out = list.txt (must end in .csv, .tsv or"),
        (["csv", ".", "--folds", "1"], "folds = 1 (must be 2 or more)"),
        (["csv", ".", "--labels", "no.csv"], "no.csv: no such file of labels"),
        (["csv", ".", "--labels", "."], "labels = .: is a folder; name the file in it"),
        (["ravdess", ".", "--labels", __file__], "RAVDESS (speech) has its labels in its own"),
        (["ravdess", ".", "--image_fps", "0"], "image_fps = 0.0 (must be more than 0)"),
        (["ravdess", ".", "--media", "films"], "media = films"),
        (["iemocap", ".", "--media", "frames"], "IEMOCAP is read with auto or clips alone"),
        (["csv", ".", "--media", "clips"], "any other collection is read with auto alone"),
        (["meld", ".", "--trace.hop_seconds", "1"], "over time, which MELD has none of"),
        (["crema-d", "."], ".: no CREMA-D here: expected VideoFlash/"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_which_nothing_is_left_is_an_error_with_its_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path, "dfew")
    for path in [*root.glob("Clip/**/*.jpg")]:
        path.unlink()
    assert run("dfew", root, "--out", tmp_path / "list.csv") == 2
    assert "none of DFEW can be used (70 files are missing" in capsys.readouterr().err
    assert len((tmp_path / "list.csv.missing.txt").read_text().splitlines()) == 70


def test_a_copy_of_sound_alone_is_told_how_it_can_be_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = medium(tmp_path / "copy/Actor_01/03-01-05-01-01-01-01.wav")
    words = ("--media", "clips", "--out", tmp_path / "list.csv")
    assert run("ravdess", tmp_path / "copy", *words) == 2
    assert "sound alone is to be listed in a CSV: hicmae" in capsys.readouterr().err
    table = sheet(tmp_path / "labels.csv", ("path", "emotion"), [(sound.name, "angry")])
    options = ("--labels", table, "--out", tmp_path / "list.csv")
    assert run("csv", sound.parent, *options) == 0


def test_labels_of_which_none_fits_are_told_from_missing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    medium(tmp_path / "train/a.avi")
    sheet(tmp_path / "train-label.csv", ("name", "discrete"), [("a", "joyful")])
    sheet(tmp_path / "test1-label.csv", ("name", "discrete"), [])
    assert run("mer2023", tmp_path, "--out", tmp_path / "list.csv") == 2
    assert "test1-label.csv: holds no row below the names" in capsys.readouterr().err
    sheet(tmp_path / "test1-label.csv", ("name", "discrete"), [("b", "?")])
    assert run("mer2023", tmp_path, "--out", tmp_path / "list.csv") == 2
    said = capsys.readouterr().err
    assert "none of MER2023 can be used: all are left out (unknown label joyful: 1," in said


def test_a_table_of_files_that_are_elsewhere_is_told_from_one_of_too_few_speakers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("x/a.mp4", "anna"), ("x/b.mp4", "ben")]
    table = sheet(tmp_path / "list.csv", ("path", "speaker"), rows)
    out = tmp_path / "out.csv"
    assert run("csv", tmp_path, "--labels", table, "--folds", "2", "--out", out) == 2
    assert "can be used (2 files are missing" in capsys.readouterr().err
    assert (tmp_path / "out.csv.missing.txt").is_file()


def test_the_list_of_datasets_says_what_is_expected_of_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--list") == 0
    said = capsys.readouterr().out
    for name, dataset in DATASETS.items():
        assert f"{name}: {dataset.title}" in said
        assert dataset.layout in said
        assert dataset.access in said


def test_a_table_of_one_s_own_becomes_a_manifest(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for name in ("a.mp4", "b.mp4", "a.wav"):
        medium(root / name)
    medium(root / "boxes/a.csv")
    table = sheet(
        tmp_path / "labels.csv",
        ("path", "audio", "speaker", "emotion", "start", "end", "boxes"),
        [
            ("a.mp4", "a.wav", "007", "joy", 0.5, 1.5, "boxes/a.csv"),
            ("b.mp4", "", "8", "awe", "", "", ""),
        ],
    )
    out = tmp_path / "lists/list.csv"
    assert run("csv", root, "--labels", table, "--folds", "2", "--out", out) == 0
    first, second = read_manifest(out)
    assert first.path.resolve() == root / "a.mp4"
    assert first.audio is not None
    assert first.audio.resolve() == root / "a.wav"
    assert first.boxes is not None
    assert first.boxes.resolve() == root / "boxes/a.csv"
    assert (first.speaker, first.start, first.end) == ("007", 0.5, 1.5)
    assert (second.audio, second.start, second.boxes) == (None, None, None)
    assert {first.labels["fold"], second.labels["fold"]} == {1, 2}


def test_rows_without_a_frame_rate_get_the_one_that_is_given(tmp_path: Path) -> None:
    for name in ("a", "b"):
        medium(tmp_path / f"mine/{name}/1.png")
    table = sheet(tmp_path / "labels.csv", ("path", "fps"), [("a", ""), ("b", 10)])
    out = tmp_path / "list.csv"
    words = ("csv", tmp_path / "mine", "--labels", table, "--out", out)
    assert run(*words, "--image_fps", "25") == 0
    assert [row.fps for row in read_manifest(out)] == [25, 10]


def test_a_name_made_of_a_path_is_none_that_a_later_row_has(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        medium(tmp_path / "mine" / name)
    table = sheet(tmp_path / "labels.csv", ("path", "key"), [("a.mp4", ""), ("b.mp4", "a")])
    out = tmp_path / "list.csv"
    assert run("csv", tmp_path / "mine", "--labels", table, "--out", out) == 0
    assert [row.key for row in read_manifest(out)] == ["a_2", "a"]


def test_a_table_is_not_replaced_by_its_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = sheet(tmp_path / "labels.csv", ("path", "emotion"), [("absent.mp4", "joy")])
    before = table.read_bytes()
    medium(tmp_path / "a.mp4")
    assert run("csv", tmp_path, "--labels", table, "--out", tmp_path / "./labels.csv") == 2
    assert "is the file of labels, which it would replace" in capsys.readouterr().err
    out = tmp_path / "list.csv"
    assert run("csv", tmp_path, "--labels", table, "--out", out, "--missing", table) == 2
    assert "missing = " in capsys.readouterr().err
    assert run("csv", tmp_path, "--labels", table, "--out", out, "--missing", out) == 2
    assert "is the manifest too (--out)" in capsys.readouterr().err
    assert table.read_bytes() == before
    default = table.rename(tmp_path / "recordings.csv")
    assert run("traces", tmp_path, "--out", default) == 2
    assert "is the file of labels, which it would replace" in capsys.readouterr().err
    assert default.read_bytes() == before


def test_a_list_of_the_dataset_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TREES["werewolf-xl"](tmp_path)
    labels = (tmp_path / "labels.csv").read_text()
    for option in ("--out", "--missing"):
        assert run("werewolf-xl", tmp_path, option, tmp_path / "labels.csv") == 2
        assert "labels.csv: is a file of the dataset, which it would" in capsys.readouterr().err
        assert (tmp_path / "labels.csv").read_text() == labels
    (tmp_path / "openface/01_01_101/01_01_101_aligned/frame_det_00_000001.bmp").unlink()
    for name in ("list.csv", "list.csv", "list.tsv", "list.tsv", "list.jsonl", "list.jsonl"):
        options = ("--out", tmp_path / name, "--missing", tmp_path / "absent.txt")
        assert run("werewolf-xl", tmp_path, *options) == 0
        assert (tmp_path / "absent.txt").is_file()


def test_links_do_not_lead_astray(tmp_path: Path) -> None:
    crema_d(tmp_path / "disk/deep/CREMA-D")
    (tmp_path / "data").symlink_to(tmp_path / "disk/deep", target_is_directory=True)
    (tmp_path / "lists/real").mkdir(parents=True)
    (tmp_path / "short").symlink_to(tmp_path / "lists/real", target_is_directory=True)
    assert run("crema-d", tmp_path / "data/CREMA-D", "--out", tmp_path / "short/list.csv") == 0
    for manifest in (tmp_path / "short/list.csv", tmp_path / "lists/real/list.csv"):
        assert all(row.path.is_file() for row in read_manifest(manifest))


def test_real_crema_d_and_ravdess_are_recognised(clips_dir: Path, tmp_path: Path) -> None:
    assert run("crema-d", clips_dir, "--out", tmp_path / "c.csv") == 0
    rows = {row.key: row for row in read_manifest(tmp_path / "c.csv")}
    assert {key: row.labels["emotion"] for key, row in rows.items()} == {
        "1001_DFA_ANG_XX": "anger",
        "1001_DFA_NEU_XX": "neutral",
        "1001_DFA_SAD_XX": "sadness",
    }
    assert {row.speaker for row in rows.values()} == {"1001"}
    assert run("ravdess", clips_dir, "--out", tmp_path / "r.csv") == 0
    rows = {row.key: row for row in read_manifest(tmp_path / "r.csv")}
    assert {key: row.labels["emotion"] for key, row in rows.items()} == {
        "01-01-01-01-01-01-01": "neutral",
        "01-01-08-01-01-02-01": "surprised",
    }
    # The twin without sound (modality 02) is there too, and is none of the speech recordings.
    assert "02-01-01-01-01-01-01" not in rows


@pytest.mark.slow
def test_real_crema_d_goes_from_its_tree_to_shards(clips_dir: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    assert run("crema-d", clips_dir, "--out", manifest) == 0
    config = BuildConfig(face_size=64, faces="none", workers=1)
    build_shards([manifest], tmp_path / "shards", config)
    table = read_index(tmp_path / "shards").table.set_index("key")
    assert list(table.index) == ["1001_DFA_ANG_XX", "1001_DFA_NEU_XX", "1001_DFA_SAD_XX"]
    assert list(table["emotion"]) == ["anger", "neutral", "sadness"]
    assert list(table["fold"]) == [1, 1, 1]
    assert list(table["speaker"]) == ["1001"] * 3
    assert set(table["sound_state"]) <= {"present", "shorter"}
