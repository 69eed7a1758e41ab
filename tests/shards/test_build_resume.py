"""A build killed at any moment and started again is the build that was never killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hicmae.__main__ import main
from shards.building.build import (
    BuildResult,
    NothingBuiltError,
    TooManyRefusedError,
    build_shards,
    gather,
)
from shards.building.journal import Journal, build_identity, list_digest, read_journal
from shards.check import check_shards
from shards.index import read_index
from shards.manifest import ManifestRow
from shards.schema import ShardError
from shards.settings import Part
from tests.support.build_fixtures import (
    config,
    digests,
    prepare_here,
    prepared,
    samples,
    write_list,
)
from tests.support.shard_media import tone, write_video
from tests.support.shared import another_writer

NAMES = ["00", "01x2", "02no", "03", "04x2", "05", "06crash", "07", "08x2", "09", "10", "11"]
SMALL = config(samples_per_shard=3)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recordings are prepared in this process, and noted in this file."""
    prepare_here(monkeypatch, tmp_path / "log")
    return tmp_path / "log"


def build(source: Path, out: Path, **options: Any) -> BuildResult:
    return build_shards([source], out, options.pop("config", SMALL), **options)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do it in a forked process that kills itself before its n-th change of a file system.

    The journal's line at which it happens is half written. Returns: whether it came to that.
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def count() -> bool:
            left[0] -= 1
            return left[0] == 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def with_count(*given: Any, **named: Any) -> Any:
                if count():
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*given, **named)

            return with_count

        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        write = Journal._write

        def torn(journal: Journal, entry: Any, **named: Any) -> None:
            if count():
                journal._file.write(json.dumps(entry).encode()[:20])
                journal._file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            write(journal, entry, **named)

        Journal._write = torn  # type: ignore[assignment,method-assign]
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it failed by itself"
    return os.WIFSIGNALED(status)


def test_a_folder_of_somebody_else_s_that_is_called_like_an_unfinished_build_is_left_alone(
    tmp_path: Path, log: Path
) -> None:
    """All that is in it would be removed."""
    source = write_list(tmp_path / "in", NAMES[:2])
    notes = tmp_path / "out.partial/mine/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("kept")
    with pytest.raises(ValueError, match=r"out\.partial: holds what no build writes \(mine\)"):
        build(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == ["mine"]
    assert notes.read_text() == "kept"


def test_a_build_into_its_source_folder_takes_nothing_of_its_own_for_recordings(
    tmp_path: Path,
) -> None:
    """What a killed one had staged was listed, so that it was another build when it went on."""
    for name in (
        "a.mp4",
        "notes.txt",
        "out.partial/journal.jsonl",
        "out.partial/lock",
        "out.partial/staging-x/1.mjpg",
        "out.partial/shards/train-000000.tar",
        "earlier/index.json",
        "earlier/index.parquet",
        "earlier/train-000000.tar",
        "other.partial/b.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows, ignored = gather([tmp_path])
    assert [row.name for row in rows] == ["a.mp4", "other.partial/b.mp4"]
    assert ignored == [tmp_path / "notes.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replaces", "first"),
    # What it replaces is touched at the end only.
    [pytest.param(False, 1, marks=pytest.mark.slow), (True, 71)],
)
def test_killed_at_every_single_step_it_ends_the_same(
    replaces: bool, first: int, tmp_path: Path, log: Path
) -> None:
    source = write_list(tmp_path / "in", NAMES)
    build(source, tmp_path / "whole")
    whole, asked = digests(tmp_path / "whole"), prepared(log)
    assert sorted(asked) == NAMES
    assert len([name for name in whole if name.endswith(".tar")]) == 5
    earlier = {}
    if replaces:
        build(write_list(tmp_path / "other", ["00", "01"]), tmp_path / "earlier")
        earlier = digests(tmp_path / "earlier")
    steps = first - 1
    while True:
        steps += 1
        out = tmp_path / f"out{steps}"
        if replaces:
            build(tmp_path / "other/list.csv", out)
        log.unlink(missing_ok=True)
        if not killed_at(steps, lambda out=out: build(source, out, overwrite=replaces)):  # type: ignore[misc]
            break
        prepared(log)
        partial = out.with_name(f"{out.name}.partial")
        assert not out.exists() or digests(out) in (earlier, whole), steps
        if partial.exists():
            with pytest.raises(ShardError):
                read_index(partial)
        journal = read_journal(partial / "journal.jsonl")
        closed = set(journal.shards) if journal else set()
        finished = {
            number
            for number, done in (journal.recordings.items() if journal else ())
            if all(row["shard"] in closed for row in done.samples)
        }
        try:
            build(source, out, overwrite=replaces)
        except ValueError as error:  # killed at the very last steps: there is nothing to do
            assert "holds shards already" in str(error)  # noqa: PT017
            assert digests(out) == whole
            assert {path.name for path in partial.glob("*")} <= {".lock"}
        assert digests(out) == whole, steps
        assert not partial.exists()
        again = prepared(log)
        assert not {NAMES[number] for number in finished} & set(again), steps
        assert max(again.values(), default=1) == 1
    assert steps > 80
    assert digests(out) == whole


@pytest.mark.slow
def test_a_build_killed_again_and_again_gets_there(tmp_path: Path, log: Path) -> None:
    source = write_list(tmp_path / "in", NAMES)
    build(source, tmp_path / "whole")
    prepared(log)
    runs = 1
    while not (tmp_path / "out").exists():
        killed_at(36 + 4 * runs, lambda: build(source, tmp_path / "out"))
        runs += 1
        assert runs < 30
    assert runs > 3
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert check_shards(tmp_path / "out") == []


def test_what_was_done_before_a_stop_is_counted_and_not_done_again(
    tmp_path: Path, log: Path
) -> None:
    source = write_list(tmp_path / "in", NAMES)

    def stop(now: Any) -> None:
        if now.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "out", on_progress=stop)
    assert not (tmp_path / "out").exists()
    assert list(prepared(log)) == NAMES[:8]
    seen: list[Any] = []
    result = build(source, tmp_path / "out", on_progress=seen.append)
    # Finished by then: train 0 (00, 01x2) and 1 (04x2, 05). Begun: test 0 (03, 07).
    assert list(prepared(log)) == ["03", *NAMES[7:]]
    assert result.num_kept == 6
    assert seen[-1].kept == 6
    assert (seen[-1].done, seen[-1].total) == (12, 12)
    assert seen[-1].refused == {"no-face": 1, "crash": 1}


def test_other_settings_sources_or_files_are_not_mixed_into_an_unfinished_build(
    tmp_path: Path, log: Path
) -> None:
    source = write_list(tmp_path / "in", NAMES)
    out = tmp_path / "out"
    assert killed_at(40, lambda: build(source, out))
    with pytest.raises(ValueError, match=r"out\.partial: .*\(jpeg_quality was 90 and is 80\)"):
        build(source, out, config=config(samples_per_shard=3, jpeg_quality=80))
    with pytest.raises(ValueError, match=r"\(picture was optional and is required\)"):
        build(source, out, config=config(samples_per_shard=3, picture="required"))
    build_settings = config(samples_per_shard=3, workers=1, deadline_seconds=9)
    assert killed_at(5, lambda: build(source, out, config=build_settings))  # these may differ
    with pytest.raises(ValueError, match="part was None and is 1/2"):
        build(source, out, part=Part(number=1, of=2))
    one = tmp_path / "in/05.mp4"
    one.write_bytes(one.read_bytes())
    os.utime(one, (1, 1))
    with pytest.raises(ValueError, match=r"files were changed since, by their times \(which cp"):
        build(source, out)
    journal = out.with_name("out.partial") / "journal.jsonl"  # as earlier versions wrote it
    head, _, rest = journal.read_bytes().partition(b"\n")
    entry = json.loads(head)
    del entry["identity"]["times"]
    journal.write_bytes(json.dumps(entry).encode() + b"\n" + rest)
    assert killed_at(5, lambda: build(source, out))
    one.write_text("has grown")
    with pytest.raises(ValueError, match="the files are others, or of another size"):
        build(source, out)
    write_list(tmp_path / "in", NAMES[:-1])
    with pytest.raises(ValueError, match="the sources list other recordings"):
        build(source, out)
    prepared(log)
    assert build(source, out, overwrite=True).num_kept == 0
    assert len(prepared(log)) == 11


def test_an_image_or_the_sound_beside_that_was_changed_makes_another_build(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    row = ManifestRow(key="clip", path=tmp_path / "clip", name="clip")
    files = [tmp_path / name for name in ("clip/1.png", "clip/2.png", "clip.wav", "clip/notes.txt")]
    found = []
    for file in [None, *files]:
        for each in files:
            each.touch()
            os.utime(each, (2, 2) if each == file else (1, 1))
        os.utime(row.path, (1, 1))
        found.append(build_identity([row], SMALL, part=None, listing="")["times"])
    assert len(set(found)) == 4
    assert found[0] == found[-1]


def test_every_file_that_a_sample_is_made_of_belongs_to_the_identity_of_a_build(
    tmp_path: Path,
) -> None:
    """The sound, the boxes, and those beside the recording: their sizes, and when they changed."""
    names = {"path": "a.mp4", "audio": "a.wav", "boxes": "boxes.csv", "beside": "a.csv"}
    paths = {name: tmp_path / file for name, file in names.items()}
    row = ManifestRow(
        key="a", name="a.mp4", path=paths["path"], audio=paths["audio"], boxes=paths["boxes"]
    )
    for path in paths.values():
        path.write_text("one")
        os.utime(path, (1, 1))

    def identity(faces: str = "boxes") -> dict[str, Any]:
        return build_identity([row], config(faces=faces), part=None, listing="")

    whole = identity()
    assert all(name in whole["programs"] for name in ("av", "numpy", "libavcodec", "schema"))
    for name, path in paths.items():
        path.write_text("three")
        os.utime(path, (1, 1))
        grown = identity()
        assert (grown["files"] != whole["files"]) == (name != "beside"), name
        assert grown["times"] != whole["times"], name
        path.write_text("one")
        os.utime(path, (2, 2))
        later = identity()
        assert (later["files"], later["times"] != whole["times"]) == (whole["files"], True), name
        os.utime(path, (1, 1))
    assert identity() == whole
    plain = identity("none")
    paths["beside"].unlink()  # of which only ``faces: boxes`` reads
    assert identity("none") == plain
    elsewhere = dataclasses.replace(row, path=Path("/elsewhere/a.mp4"))
    assert list_digest([row]) == list_digest([elsewhere])
    for changes in ({"path": tmp_path / "b.mp4"}, {"start": 1.0}, {"labels": {"fold": 1}}):
        assert list_digest([dataclasses.replace(row, **changes)]) != list_digest([row])


def test_two_builds_at_once_into_one_folder_are_refused(tmp_path: Path, log: Path) -> None:
    source = write_list(tmp_path / "in", NAMES)
    (tmp_path / "out.partial").mkdir()
    with (
        another_writer(tmp_path / "out.partial") as other,
        pytest.raises(ValueError, match=rf"out\.partial: another .* \(process {other.pid} on "),
    ):
        build(source, tmp_path / "out")
    assert build(source, tmp_path / "out").num_samples == 13
    with pytest.raises(ValueError, match=r"names that end in \.partial are those of unfinished"):
        build(source, tmp_path / "out.partial")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "log", "out"]


def test_a_finished_shard_that_is_gone_or_cut_is_built_again(tmp_path: Path, log: Path) -> None:
    source = write_list(tmp_path / "in", NAMES)
    build(source, tmp_path / "whole")
    for damage in (Path.unlink, lambda path: os.truncate(path, 100)):
        assert killed_at(80, lambda: build(source, tmp_path / "out"))
        tars = sorted((tmp_path / "out.partial/shards").glob("train-*.tar"))
        assert len(tars) >= 2
        damage(tars[0])
        build(source, tmp_path / "out")
        assert digests(tmp_path / "out") == digests(tmp_path / "whole")
        shutil.rmtree(tmp_path / "out")


def test_a_crash_is_not_tried_again(tmp_path: Path, log: Path) -> None:
    source = write_list(tmp_path / "in", NAMES)
    build(source, tmp_path / "whole")
    assert killed_at(80, lambda: build(source, tmp_path / "out"))
    prepared(log)
    build(source, tmp_path / "out")
    assert "06crash" not in prepared(log)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("limit", "most"), [("10%", 1), ("20%", 2), (1, 1), (0, 0), ("1", 1), (None, 12), ("9.9%", 1)]
)
def test_a_build_ends_as_soon_as_more_is_refused_than_allowed(
    limit: Any, most: int, tmp_path: Path, log: Path
) -> None:
    source = write_list(tmp_path / "in", NAMES)
    settings = config(samples_per_shard=3, max_refused=limit)
    assert settings.most_refused(12) == most
    if most >= 2:
        assert build(source, tmp_path / "out", config=settings).num_samples == 13
        return
    with pytest.raises(TooManyRefusedError) as caught:
        build(source, tmp_path / "out", config=settings)
    told = f"{most + 1} of 12 recordings are refused, more than max_refused = {limit} allows (1 no"
    assert told in str(caught.value)
    last = "06crash" if most else "02no"
    assert list(prepared(log)) == NAMES[: NAMES.index(last) + 1]
    listed = (tmp_path / "out.partial/refused.jsonl").read_text().splitlines()
    assert len(listed) == most + 1
    assert not (tmp_path / "out").exists()
    build(source, tmp_path / "out")  # with a higher limit it goes on
    assert "02no" not in prepared(log)
    build(source, tmp_path / "whole")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_recording_without_samples_is_one_refusal_and_one_without_some_is_none(
    tmp_path: Path, log: Path
) -> None:
    source = write_list(tmp_path / "in", ["00no"])
    with pytest.raises(NothingBuiltError, match="all refused"):
        build(source, tmp_path / "out", config=config(max_refused=1))


@pytest.mark.slow
def test_the_command_is_killed_in_the_middle_of_real_decoding_and_goes_on(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    for number in range(12):
        write_video(
            tmp_path / f"in/{number:02d}.mp4", seconds=1.0 + number % 3 / 5, sound=tone(1.0)
        )
    words = ["shards", "build", str(tmp_path / "in"), "--faces", "none", "--face_size", "64"]
    words += ["--samples_per_shard", "2", "--workers", "1", "--out"]
    whole = command(*words, str(tmp_path / "whole"))
    assert whole.status == 0, whole.err
    program = [sys.executable, "-m", "hicmae", *words, str(tmp_path / "out")]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("out.partial/shards/*000002.tar")):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    done = command(*words, str(tmp_path / "out"))
    assert done.status == 0, done.err
    assert "from 12 recordings, " in done.out
    assert " of them by an earlier run" in done.out
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert len(samples(tmp_path / "out")) == 12


def test_an_unfinished_build_is_refused_by_name_and_its_finished_shards_are_checked(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_list(tmp_path / "in", NAMES)
    assert killed_at(70, lambda: build(source, tmp_path / "out"))
    partial = tmp_path / "out.partial"
    num_shards = len(list(partial.glob("shards/*.tar")))
    assert num_shards >= 3
    with pytest.raises(ShardError, match=r"out\.partial: an unfinished build; give the command"):
        read_index(partial)
    for folder in (partial, tmp_path / "out"):
        (problem,) = map(str, check_shards(folder))
        assert f"{num_shards} shards are finished); give the command that began it" in problem
    tar = partial / "shards/train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    assert main(["shards", "check", str(tmp_path / "out")]) == 2
    assert "train-000000.tar: its bytes are not those" in capsys.readouterr().out
    tar.unlink()
    assert str(check_shards(partial)[1]) == "train-000000.tar: is missing"
