"""What cannot be built is named with its cause, and the rest is built."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import shards.building.build
from shards.building.build import NothingBuiltError, build_shards
from shards.building.prepare import Outcome, Refusal, prepare_recording
from shards.index import read_index
from shards.manifest import ManifestRow
from shards.settings import BuildConfig
from tests.support.build_fixtures import config, digests, samples, write_small_receipt
from tests.support.shard_media import tone, write_video

TINY = config()


@pytest.fixture(autouse=True)
def small_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing one takes longer than these builds."""
    monkeypatch.setattr("shards.receipts.receipt.write_receipt", write_small_receipt)


def bad_inputs(folder: Path) -> Path:
    """Recordings that cannot be used, one of each kind, beside a good one."""
    good = write_video(folder / "good.mp4", sound=tone(1.0))
    write_video(folder / "short.mp4", seconds=0.2)
    (folder / "empty\n.mp4").touch()
    (folder / "text.mkv").write_text("not a video\n" * 100)
    (folder / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:600])
    (folder / "notes.txt").write_text("ignored")
    return folder


def test_a_recording_on_two_sides_of_two_lists_is_refused(tmp_path: Path) -> None:
    """A link to it is the same."""
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    for name, side in (("a", "train"), ("b", "test")):
        (tmp_path / f"{name}.csv").write_text(f"path,split\n{name}.mp4,{side}\n")
    told = r"b\.mp4: the same recording and time as .*a\.mp4, with split train there and test here"
    with pytest.raises(ValueError, match=told):
        build_shards([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists()


def test_copies_on_two_sides_are_told_of_before_anything_is_built(tmp_path: Path) -> None:
    """Of two that are only as long nothing is said, nor of spans, people and sides that agree."""
    for name, content in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "33"), ("e", "33")):
        (tmp_path / f"{name}.mp4").write_text(content)
    for name in ("f", "g"):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            (tmp_path / name / f"{number}.png").write_text("an image")
    rows = ["a,1,,", "b,2,,", "c,3,,", "d,1,0,1", "e,2,1,2", "d,1,3,4", "e,1,3,4"]
    lines = ["path,fold,start,end", *(row.replace(",", ".mp4,", 1) for row in rows)]
    table = tmp_path / "list.csv"
    for more, told in (([], "1 recordings"), (["f,1,,", "g,2,,"], "2 recordings")):
        table.write_text("\n".join([*lines, *more]))
        said: list[str] = []
        with pytest.raises(NothingBuiltError):
            build_shards([table], tmp_path / "out", TINY, on_warning=said.append)
        assert said[0].startswith(f"{told} are listed under two names each, the same byte for byte")
        assert re.search(r"such as .*b\.mp4 and .*a\.mp4, with fold 2 and 1; what is", said[0])


def test_a_recording_that_is_listed_again_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("path,end,mood\n" + "a.mp4,1,joy\n" * 3 + "a.mp4,1,fear\n")
    said: list[str] = []
    with pytest.raises(NothingBuiltError):
        build_shards([tmp_path / "list.csv"], tmp_path / "out", TINY, on_warning=said.append)
    assert said[0].startswith("2 recordings are listed again with the same times and labels, such")


def test_every_refused_file_is_named_with_its_cause_and_the_rest_is_built(tmp_path: Path) -> None:
    bad_inputs(tmp_path / "in")
    result = build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    assert list(samples(tmp_path / "out")) == ["good"]
    assert {Path(item.path).name: item.cause for item in result.refusals} == {
        "cut.mp4": "unreadable",
        "empty\\n.mp4": "empty-file",
        "pointer.mp4": "lfs-pointer",
        "short.mp4": "too-short",
        "text.mkv": "unreadable",
    }
    for item in result.refusals:
        assert item.message.startswith(f"{item.path}: ")
        assert "\n" not in item.message
    lines = (tmp_path / "out/refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["cause"] for line in lines] == [r.cause for r in result.refusals]
    info = read_index(tmp_path / "out").info
    assert info["refused"] == dict(sorted(Counter(r.cause for r in result.refusals).items()))
    assert info["ignored"] == {".txt": 1}
    assert [path.name for path in result.ignored] == ["notes.txt"]


def test_a_span_of_the_least_length_is_not_too_short(tmp_path: Path) -> None:
    """Of 1.25 s there are 31 frames, 1.24 s: 'holds 1.25 s of picture (min_seconds is 1.25)'."""
    write_video(tmp_path / "a.mp4", seconds=2.0)
    write_video(tmp_path / "b.mkv", seconds=4.0, sound=tone(4.0))
    lines = ["path,start,end", "a.mp4,0.2,1.45", "a.mp4,0.3,1.54"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    least = dataclasses.replace(TINY, min_seconds=1.25)
    result = build_shards([tmp_path / "list.csv"], tmp_path / "out", least)
    ((info, *_),) = samples(tmp_path / "out").values()
    assert info.num_frames == 31
    (refusal,) = result.refusals
    assert refusal.message.endswith("holds 1.24 s of picture (min_seconds is 1.25)")
    (tmp_path / "list.csv").write_text("path,start,end\nb.mkv,2.05,3.3\n")  # 1.2499999999999996
    heard = dataclasses.replace(least, picture="none")
    assert not build_shards([tmp_path / "list.csv"], tmp_path / "heard", heard).refusals


def test_a_file_that_a_manifest_names_and_is_not_there_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", sound=tone(1.0))
    (tmp_path / "list.csv").write_text("path,audio\na.mp4,\nb.mp4,\na.mp4,b.wav\n")
    result = build_shards([tmp_path / "list.csv"], tmp_path / "out", TINY)
    assert [item.cause for item in result.refusals] == ["missing-file", "missing-file"]
    assert "b.wav: no such file" in result.refusals[1].message


def test_what_a_span_behind_the_end_lacks_is_told_with_the_span(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", sound=tone(1.0))
    (tmp_path / "list.csv").write_text("path,start,end\na.mp4,,\na.mp4,100,\na.mp4,100,101\n")
    said = ["its span from 100 s on holds 0.00 s of", "its span 100..101 s holds 0.00 s of"]
    for picture in ("optional", "none"):
        settings = config(picture=picture)
        result = build_shards([tmp_path / "list.csv"], tmp_path / picture, settings)
        messages = [item.message.removeprefix(f"{tmp_path}/a.mp4: ") for item in result.refusals]
        assert [message[: len(text)] for message, text in zip(messages, said, strict=True)] == said


def doomed(row: ManifestRow, *, config: BuildConfig, staging: Path) -> Outcome:
    """Stands for a decoder that takes its process down, hangs or merely refuses."""
    if row.key == "crash":
        (staging / "half-written").touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    if row.key == "hang":
        time.sleep(600)
    if row.key == "refuse":
        refusal = Refusal(path=str(row.path), cause="no-face", message=f"{row.path}: none")
        return Outcome(refusals=[refusal])
    return prepare_recording(row, config=config, staging=staging)


@pytest.mark.slow
def test_a_crash_and_a_hang_cost_their_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "crash", "hang", "refuse", "z"):
        write_video(tmp_path / f"in/{name}.mp4", seconds=0.6)
    monkeypatch.setattr(shards.building.build, "prepare_recording", doomed)
    result = build_shards([tmp_path / "in"], tmp_path / "out", config(deadline_seconds=4))
    assert list(samples(tmp_path / "out")) == ["a", "z"]
    assert [(Path(item.path).stem, item.cause) for item in result.refusals] == [
        ("crash", "crash"),
        ("hang", "deadline"),
        ("refuse", "no-face"),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.json",
        "index.parquet",
        "receipt",
        "receipt.json",
        "refused.jsonl",
        "train-000000.tar",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_nothing_built_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").touch()
    with pytest.raises(
        NothingBuiltError, match=r"no recordings in the sources \(1 other files: .txt"
    ):
        build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists()
    (tmp_path / "in/empty.mp4").touch()
    with pytest.raises(NothingBuiltError, match=r"1 recordings, all refused \(1 empty-file\)"):
        build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["refused.jsonl"]
    write_video(tmp_path / "in/good.mp4")  # that folder is no earlier build
    assert build_shards([tmp_path / "in"], tmp_path / "out", TINY).num_samples == 1


def test_an_earlier_build_is_replaced_only_where_asked_and_never_by_nothing(
    tmp_path: Path,
) -> None:
    write_video(tmp_path / "in/a.mp4")
    build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    before = digests(tmp_path / "out")
    with pytest.raises(ValueError, match="holds shards already; pass --overwrite"):
        build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/empty.mp4").touch()
    with pytest.raises(NothingBuiltError, match="is left as it was"):
        build_shards([tmp_path / "bad"], tmp_path / "out", TINY, overwrite=True)
    assert digests(tmp_path / "out") == before
    write_video(tmp_path / "in/b.mp4")
    build_shards([tmp_path / "in"], tmp_path / "out", TINY, overwrite=True)
    assert list(samples(tmp_path / "out")) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "in", "out"]


def test_a_folder_with_other_things_is_never_touched(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds what no build writes \(thesis\.tex\)"):
        build_shards([tmp_path / "in"], tmp_path / "out", TINY, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        build_shards([tmp_path / "in"], tmp_path / "file", TINY)


def test_a_missing_detector_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "in/a.mp4")
    monkeypatch.setenv("HICMAE_YUNET", str(tmp_path / "nowhere.onnx"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx.*--faces cascade"):
        build_shards([tmp_path / "in"], tmp_path / "out", BuildConfig())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"face_size": 0}, "face_size = 0"),
        ({"jpeg_quality": 101}, "jpeg_quality = 101"),
        ({"silence_db": 5.0}, "silence_db = 5.0 (must be 0 or less)"),
        ({"box": (0, 0, 10, 20)}, "must be a square"),
        ({"box": (0, 0, 10, 10), "faces": "yunet"}, "it needs faces: none"),
        ({"max_seconds": 0.6}, "max_seconds = 0.6"),
        ({"workers": 0}, "workers = 0"),
        ({"min_coverage": 2, "fps": -1}, "fps = -1 (must be positive); min_coverage = 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match="shards build: ") as error:
        config(**changes)
    assert told in str(error.value)
