"""``hicmae predict``: folders, names, files, what is said and which status comes back."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest

import hicmae
from hicmae.__main__ import main
from hicmae.prediction.command import _means, gather
from hicmae.settings import ModelConfig
from shards.settings import BuildConfig
from tests.support.media_files import write_sound
from tests.support.prediction_fixtures import CLASSES, talk, write_checkpoint, write_talking

pytestmark = pytest.mark.usefixtures("one_decoding_process")
BUILD = BuildConfig(faces="boxes", face_size=32)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model_config: ModelConfig) -> Path:
    return write_checkpoint(tmp_path / "net", tiny_model_config, build=BUILD)


def predict(*words: object, checkpoint: Path, out: Path) -> int:
    return main(["predict", *map(str, words), "--checkpoint", str(checkpoint), "--out", str(out)])


def outcomes(out: Path) -> dict[str, dict[str, str]]:
    """The list of what became of the recordings, by the name of the file."""
    with (out / "outcomes.csv").open(encoding="utf-8", newline="") as file:
        return {Path(row["recording"]).name: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_folder_is_predicted_whole_and_what_fails_is_named(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    write_talking(media / "a" / "clip.mp4", 1.0)
    write_talking(media / "b" / "clip.mp4", 1.0)
    write_talking(media / "b" / "clip.mkv", 1.0)
    write_sound(media / "-dash and space-.wav", talk(1.0, 16000), 16000)
    (media / "broken.mp4").write_bytes(b"\0" * 500)
    (media / "notes.txt").write_text("no recording")
    (media / ".hidden.mp4").write_bytes(b"x")
    assert predict(media, checkpoint=checkpoint, out=out) == 2
    said = capsys.readouterr()
    names = ["a/clip.mp4", "b/clip.mp4", "b/clip.mkv", "-dash and space-.wav"]
    for name in names:
        table = pandas.read_csv(out / name / "timeline.csv")
        assert list(table.columns) == ["track", "start", "end", "prediction", *CLASSES]
        assert f"{name}: " in said.out
    assert "4 of 5 recordings predicted" in said.out
    failed = [line for line in said.err.splitlines() if line]
    assert failed == [
        f"failed: {media}/broken.mp4: not a readable recording (Invalid data found "
        "when processing input)"
    ]
    rows = outcomes(out)
    assert rows["broken.mp4"]["cause"] == "unreadable"
    assert rows["-dash and space-.wav"]["folder"] == "-dash and space-.wav"
    assert not (out / "broken.mp4").exists()
    assert not list(out.rglob(".*")), "nothing half-written is left"


@pytest.mark.slow
def test_the_files_of_a_recording_agree(tmp_path: Path, checkpoint: Path) -> None:
    video, out = write_talking(tmp_path / "clip.mp4", 2.0), tmp_path / "out"
    words = [video, "--hop", "0.5", "--each_modality", "--picture", "--annotate"]
    assert predict(*words, checkpoint=checkpoint, out=out) == 0
    folder = out / "clip.mp4"
    assert sorted(path.name for path in folder.iterdir()) == [
        "annotated.mp4",
        "boxes.csv",
        "summary.json",
        "timeline.csv",
        "timeline.jsonl",
        "timeline.png",
    ]
    table = pandas.read_csv(folder / "timeline.csv")
    lines = [json.loads(line) for line in (folder / "timeline.jsonl").read_text().splitlines()]
    assert len(table) == len(lines) == 4
    for row, line in zip(table.to_dict("records"), lines, strict=True):
        assert line["values"] == {name: row[name] for name in CLASSES}
        assert (line["prediction"], line["start"]) == (row["prediction"], row["start"])
        assert set(line["by_modality"]) == {"audio-video", "video", "audio"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tracks"][0]["num_windows"] == 4
    assert summary["settings"]["hop"] == 0.5
    assert summary["checkpoint"] == str(checkpoint)
    assert len(pandas.read_csv(folder / "boxes.csv")) == 50
    picture = cv2.imread(str(folder / "timeline.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take only UTF-8")
def test_names_that_are_not_utf8_are_predicted_and_built_like_others(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    plain = write_talking(media / "plain.mp4", 0.8)
    for name in (b"Zo\xeb", b"\xc3\xe6\xca\xd4"):  # in Latin-1, and in GBK
        for suffix in (".mp4", ".csv"):
            shutil.copy(plain.with_suffix(suffix), media / os.fsdecode(name + suffix.encode()))
    assert predict(media, "--annotate", checkpoint=checkpoint, out=out) == 0
    results = [path.parent for path in out.glob("*/timeline.csv")]
    assert len(results) == 3
    assert len({(result / "timeline.csv").read_text() for result in results}) == 1
    assert len({(result / "annotated.mp4").stat().st_size for result in results}) == 1
    shards = tmp_path / "shards"
    assert main(["shards", "build", str(media), "--out", str(shards), "--faces", "boxes"]) == 0
    assert "3 samples" in capsys.readouterr().out
    assert main(["shards", "check", str(shards)]) == 0


@pytest.mark.slow
def test_results_are_replaced_only_where_asked_and_nothing_is_begun_before(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_talking(tmp_path / f"{name}.mp4", 1.0) for name in "ab")
    out = tmp_path / "out"
    assert predict(first, checkpoint=checkpoint, out=out) == 0
    before = (out / "a.mp4" / "timeline.csv").stat().st_mtime_ns
    capsys.readouterr()
    assert predict(second, first, "--hop", "2", checkpoint=checkpoint, out=out) == 2
    error = capsys.readouterr().err
    assert "a.mp4: holds a prediction; pass --overwrite" in error
    assert "(it is of another hop)" in error
    assert not (out / "b.mp4").exists()
    assert predict(second, first, "--overwrite", checkpoint=checkpoint, out=out) == 0
    assert (out / "a.mp4" / "timeline.csv").stat().st_mtime_ns > before
    assert set(outcomes(out)) == {"a.mp4", "b.mp4"}
    before = (out / "a.mp4" / "timeline.csv").stat().st_mtime_ns
    first.write_bytes(first.read_bytes()[:500])
    second.with_suffix(".csv").write_text("damaged")
    shutil.rmtree(out / "b.mp4")
    capsys.readouterr()
    assert predict(second, first, "--overwrite", checkpoint=checkpoint, out=out) == 2
    assert (out / "a.mp4" / "timeline.csv").stat().st_mtime_ns == before
    assert capsys.readouterr().err.count("still holds what was there before") == 1
    assert outcomes(out)["a.mp4"]["message"].endswith("a.mp4 still holds what was there before")
    thesis = out / "a.mp4" / "thesis.txt"
    for beside in ("a prediction", "nothing"):
        if beside == "nothing":
            shutil.rmtree(thesis.parent)
            thesis.parent.mkdir()
        thesis.write_text("mine")
        assert predict(first, "--overwrite", checkpoint=checkpoint, out=out) == 2
        assert thesis.read_text() == "mine", beside
        assert "name another folder" in capsys.readouterr().err


def test_what_was_broken_off_goes_on_and_keeps_what_is_of_the_same_recording_and_options(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    first, second = (write_talking(media / f"{name}.mp4", 1.0) for name in "ab")
    assert predict(media, checkpoint=checkpoint, out=out) == 0
    assert "kept" not in capsys.readouterr().out
    shutil.rmtree(out / "b.mp4")  # as if killed before it
    (out / "outcomes.csv").unlink()
    before = (out / "a.mp4" / "timeline.csv").stat().st_mtime_ns
    assert predict(media, checkpoint=checkpoint, out=out) == 0
    said = capsys.readouterr().out
    assert "1 of 2 recordings were predicted like this before: their results are kept" in said
    assert "2 of 2 recordings predicted" in said
    assert (out / "a.mp4" / "timeline.csv").stat().st_mtime_ns == before
    assert (out / "b.mp4" / "timeline.csv").is_file()
    assert set(outcomes(out)) == {"a.mp4", "b.mp4"}
    shutil.copy(second, first)  # another recording of that name
    assert predict(media, checkpoint=checkpoint, out=out) == 2
    assert "a.mp4: holds a prediction; pass --overwrite" in (said := capsys.readouterr().err)
    assert "(it is of another recording)" in said


def test_the_sound_of_images_is_no_recording_of_its_own(tmp_path: Path) -> None:
    for name in ("in/beside", "in/inside"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / name / f"{number:04d}.png").touch()
    for name in ("beside.wav", "inside/voice.wav", "stack.wav", "alone.wav", "clip.mp4"):
        (tmp_path / "in" / name).touch()
    np.save(tmp_path / "in/stack.npy", np.zeros((2, 4, 4, 3), dtype=np.uint8))
    found = {source.name for source in gather([tmp_path / "in"], tmp_path / "out")}
    assert found == {"beside", "inside", "stack.npy", "alone.wav", "clip.mp4"}


@pytest.mark.slow
def test_the_sound_of_a_video_beside_it_is_predicted_where_the_video_has_none_or_fails(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_talking(folder / "a.mp4", seconds=1)
    (folder / "broken.mp4").write_bytes(b"x" * 100)
    for name in ("a", "broken", "alone"):
        write_sound(folder / f"{name}.wav", talk(1, 16000), 16000)
    assert predict(folder, "--faces", "none", checkpoint=checkpoint, out=out) == 2
    assert {*outcomes(out)} == {"a.mp4", "alone.wav", "broken.mp4", "broken.wav"}
    said = capsys.readouterr().out
    assert "beside it: a.wav (1 in all)" in said
    assert "3 of 4 recordings predicted" in said
    words = (folder, folder / "a.wav", "--faces", "none", "--overwrite")
    predict(*words, checkpoint=checkpoint, out=out)
    assert "a.wav" in outcomes(out)


def test_names_never_meet(tmp_path: Path) -> None:
    for name in ("x/one/clip.mp4", "x/two/clip.mp4", "y/one/clip.mp4", "z.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    out = tmp_path / "x" / "out"
    out.mkdir()
    (out / "annotated.mp4").write_bytes(b"an older result")
    found = gather([tmp_path / "x", tmp_path / "y", tmp_path / "x/one/clip.mp4"], out)
    assert {recording.name for recording in found} == {
        "x/one/clip.mp4",
        "two/clip.mp4",
        "y/one/clip.mp4",
    }
    both = gather([tmp_path / "x/one/clip.mp4", tmp_path / "x/two/clip.mp4"], out)
    assert [recording.name for recording in both] == ["one/clip.mp4", "two/clip.mp4"]
    assert [recording.name for recording in gather([tmp_path / "z.wav"], out)] == ["z.wav"]


def test_a_small_real_value_is_told_by_what_it_is() -> None:
    means = {"gain": 1e-4, "slope": -0.0123, "valence": -0.2}
    assert _means(means, is_class=False) == "gain +0.0001, slope -0.012, valence -0.20"


def test_what_cannot_be_is_one_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = write_talking(tmp_path / "clip.mp4", 1.0), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([tmp_path / "empty"], "holds no recording"),
        ([video, "--window", "0.1"], "window = 0.1 s (the network's clip is 0.64 s"),
        ([video, "--device", "cuda:99x"], "device = cuda:99x"),
        ([video, "--precision", "int4"], "precision"),
        ([video, "--batch_size", "0"], "batch_size = 0"),
        ([video, video.with_suffix(".csv"), "--faces", "boxes", "--boxes", "b.csv"], "of one"),
    ):
        assert predict(*words, checkpoint=checkpoint, out=out) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert predict(video, checkpoint=tmp_path / "nothing", out=out) == 2
    assert "no such folder" in capsys.readouterr().err
    assert predict(tmp_path / "gone.mp4", video, checkpoint=checkpoint, out=out) == 2
    assert "failed: " in (error := capsys.readouterr().err)
    assert "gone.mp4: no such file" in error
    assert (out / "clip.mp4" / "timeline.csv").is_file()


def test_a_network_of_face_crops_says_that_it_takes_the_middle(
    tmp_path: Path, tiny_model_config: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    build = BuildConfig(faces="none", face_size=32)
    folder = write_checkpoint(tmp_path / "net", tiny_model_config, build=build)
    video = write_talking(tmp_path / "clip.mp4", 1.0)
    assert predict(video, checkpoint=folder, out=tmp_path / "out") == 0
    assert "the middle of every picture is taken" in capsys.readouterr().out


@pytest.mark.slow
def test_every_real_file_is_predicted_or_named_with_its_cause(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    clips_dir: Path,
    yunet_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(yunet_file))
    folder = write_checkpoint(tmp_path / "net", tiny_model_config, build=BuildConfig(face_size=32))
    out = tmp_path / "out"
    assert predict(clips_dir / "awkward", "--hop", "2", checkpoint=folder, out=out) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    rows = outcomes(out)
    files = [path for path in (clips_dir / "awkward").iterdir() if not path.name.startswith(".")]
    assert set(rows) == {path.name for path in files}
    failed = {name: row["cause"] for name, row in rows.items() if row["cause"]}
    assert len(error.splitlines()) == len(failed)
    assert failed["result_zero_bytes.webm"] == "empty-file"
    assert failed["broken.mp4"] == failed["WrongFile.mp4"] == "unreadable"
    for name, row in rows.items():
        if row["cause"]:
            assert name in row["message"]
        else:
            assert (out / name / "timeline.csv").is_file()
    for name in ("eamm_00015_is_wav.mov", "pyfeat_no_face.mp4"):
        assert "predicted from the sound alone" in rows[name]["message"]
    assert "from the picture alone" in rows["astorfi_output_video_noaudio.mp4"]["message"]


@pytest.mark.slow
def test_a_video_that_cannot_be_drawn_into_keeps_its_timeline(
    tmp_path: Path, checkpoint: Path
) -> None:
    """Frames that no window needed may be damaged: here the file is gone when it is drawn into."""
    video, out = write_talking(tmp_path / "clip.mp4", 1.0), tmp_path / "out"
    model = hicmae.load(checkpoint, device="cpu")
    prediction = model.predict(video)
    video.write_bytes(b"\0" * 100)
    with pytest.raises(hicmae.PredictionError, match=r"all but annotated.mp4") as caught:
        prediction.save(out, annotate=True)
    assert caught.value.cause == "unreadable"
    assert sorted(path.name for path in out.iterdir()) == [
        "boxes.csv",
        "summary.json",
        "timeline.csv",
        "timeline.jsonl",
    ]
