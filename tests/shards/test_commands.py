"""The commands as a user types them: output, exit status, and options that match the settings."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser
import pytest
from rich.console import Console

from hicmae.__main__ import main
from shards.building.build import BuildProgress
from shards.commands import build, build_display, progress_note, synthesize
from shards.index import read_index
from shards.settings import BuildConfig
from shards.synthesis.settings import CorpusConfig
from tests.support.build_fixtures import write_small_receipt
from tests.support.shard_media import tone, write_video


@pytest.mark.parametrize(
    ("command", "settings", "own"),
    [
        (build, BuildConfig, {"sources", "out", "overwrite", "part"}),
        (synthesize, CorpusConfig, {"out"}),
    ],
)
def test_options_are_the_settings_with_the_same_kinds_and_defaults(
    command: Callable[..., Any], settings: type, own: set[str]
) -> None:
    parameters = inspect.signature(command).parameters
    fields = {item.name: item for item in dataclasses.fields(settings)}
    assert parameters.keys() - own == fields.keys()
    assert {name: parameters[name].default for name in fields} == vars(settings())
    kinds, wanted = get_type_hints(command), get_type_hints(settings)
    assert {name: kinds[name] for name in fields} == {name: wanted[name] for name in fields}
    documented = {item.arg_name for item in docstring_parser.parse(command.__doc__ or "").params}
    assert documented == set(parameters)


@pytest.mark.slow
def test_build_check_and_info_work_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "in/one.mp4", seconds=0.8, sound=tone(0.8))
    write_video(tmp_path / "in/two.mp4", seconds=0.8)
    (tmp_path / "in/bad[1].mp4").touch()
    out = tmp_path / "out"
    options = ["--faces", "none", "--face_size", "32", "--workers", "1"]
    assert main(["shards", "build", str(tmp_path / "in"), "--out", str(out), *options]) == 0
    shown = capsys.readouterr().out
    assert "2 samples (0.00 hours) from 3 recordings, 1 refused, in " in shown
    bad = tmp_path / "in/bad[1].mp4"
    assert f"empty-file: {bad}: the file is empty (0 bytes)" in shown.splitlines()
    assert main(["shards", "check", str(out)]) == 0
    assert "OK: " in capsys.readouterr().out
    assert main(["shards", "info", str(out), "--json", str(tmp_path / "info.json")]) == 0
    assert "2 in 1 shards" in capsys.readouterr().out
    assert json.loads((tmp_path / "info.json").read_text())["sound"] == {"absent": 1, "present": 1}


def test_damage_is_one_line_a_problem_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "one.mp4", seconds=0.8, sound=tone(0.8))
    out = tmp_path / "out"
    main(["shards", "build", str(tmp_path / "one.mp4"), "--out", str(out), "--faces", "none"])
    shard = out / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-10240])
    capsys.readouterr()
    assert main(["shards", "check", str(out)]) == 2
    assert "train-000000.tar: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build", ":joy:.mp4", "--out", "out", "--faces", "none"], "all refused (1 empty-file)"),
        (["build", ":joy:.mp4", "--out", "out", "--fps", "0"], "fps = 0.0 (must be positive)"),
        (["build", ":joy:.mp4", "--out", "out", "--sound", "loud"], "sound"),
        (["info", "."], "no index.parquet and no index.json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(":joy:.mp4").touch()
    assert main(["shards", *arguments]) == 2
    said, line = capsys.readouterr()
    assert told in line
    assert line.count("\n") == 1
    assert ("empty-file: :joy:.mp4: " in said) == ("empty-file" in told)
    assert not Path("out/index.json").exists()


@pytest.mark.parametrize(
    "profile", ["faces160", "faces224", "aligned160", "openface", "conversations", "cropped"]
)
def test_packaged_profiles_are_builds(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.receipts.receipt.write_receipt", write_small_receipt)
    write_video(tmp_path / "one.mp4", seconds=2.5, fps=10, size=(224, 224), sound=tone(2.5))
    arguments = ["shards", "build", str(tmp_path / "one.mp4"), "--out", str(tmp_path / "out")]
    # There is no face in it: no detector is asked.
    more = ["--align", "none", "--workers", "1"] + ([] if profile == "cropped" else ["--faces"])
    more += ["none"] if more[-1] == "--faces" else []
    assert main([*arguments, "--config", f"configs/shards/{profile}.yaml", *more]) == 0
    config = read_index(tmp_path / "out").info["config"]
    assert config["face_size"] == (224 if profile == "faces224" else 160)
    assert config["fps"] == (30 if profile == "conversations" else 25)
    assert config["box"] == ([32, 0, 192, 160] if profile == "cropped" else None)


@pytest.mark.slow
def test_a_synthetic_corpus_can_be_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    size = ["--speakers", "1", "--takes", "1", "--folds", "1", "--frame_size", "64"]
    short = ["--min_seconds", "1", "--max_seconds", "1", "--workers", "0"]
    assert main(["shards", "synthesize", "--out", str(corpus), *size, *short]) == 0
    assert "6 clips of 1 speakers" in capsys.readouterr().out
    options = ["--out", str(tmp_path / "out"), "--faces", "none", "--face_size", "64"]
    assert main(["shards", "build", str(corpus / "manifest.csv"), *options]) == 0
    capsys.readouterr()
    assert main(["shards", "info", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 (0 samples unknown); 1.0 different in a batch of 6 (1.0 in a permutation's)" in said
    index = read_index(tmp_path / "out")
    assert len(index.table) == 6
    assert index.table["sound_state"].unique().tolist() == ["present"]
    assert {"emotion", "valence", "arousal", "fold"} <= set(index.label_columns)


def at(done: int, kept: int = 0, **causes: int) -> BuildProgress:
    return BuildProgress(
        done=done,
        kept=kept,
        total=100,
        num_samples=done,
        seconds=8.0 * (done - kept),
        refused=Counter(causes),
    )


def test_rates_are_of_this_run_and_the_time_left_of_what_is_left() -> None:
    note = progress_note(at(60, kept=40, crash=1, unreadable=3), 10.0)
    assert note == (
        "2.0 recordings/s, 16.0 s of video/s, 0:00:20 left, 60 samples, "
        "4 refused (3 unreadable, 1 crash)"
    )
    assert progress_note(at(40, kept=40), 0.0) == "40 samples, 0 refused"


def test_without_a_terminal_there_is_a_line_every_half_minute_and_no_bar() -> None:
    now, shown = [0.0], io.StringIO()
    with build_display(Console(file=shown, width=40), clock=lambda: now[0]) as update:
        for done in range(1, 101):
            now[0] = float(done)
            update(at(done))
    lines = shown.getvalue().strip().splitlines()  # rich 14.0 and older end with an empty line
    assert [line.split(":")[0] for line in lines] == [
        f"{done} of 100 recordings" for done in (30, 60, 90)
    ]
    assert lines[0].startswith("30 of 100 recordings: 1.0 recordings/s, 8.0 s of video/s, 0:01:10")
    assert "\x1b" not in shown.getvalue()


def test_on_a_terminal_there_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = io.StringIO()
    console = Console(file=shown, width=160, force_terminal=True)
    now = [0.0]
    with build_display(console, clock=lambda: now[0]) as update:
        now[0] = 10.0
        update(at(50, crash=2))
    text = shown.getvalue()
    assert "50/100" in text
    assert "5.0 recordings/s, 40.0 s of video/s, 0:00:10 left" in text
    assert "2 refused (2 crash)" in text
    assert "recordings:" not in text
