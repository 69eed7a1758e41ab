"""The runner of the demo, with steps that are real but cheap commands."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

import hicmae.demo
from hicmae.__main__ import main
from hicmae.config import config_path, from_dict, load_yaml
from hicmae.demo import DemoConfig, Step, _Process, demo, groups, needs
from tests.support.shared import another_writer

STEPS = """
steps:
  - title: List the verbs
    command: "--help"
    show: true
  - title: Write the report
    command: "shards --help"
    makes: "{out}/made"
  - title: The last
    command: "%s"
report: "{out}/made/report.md"
values: {word: long}
quick: {word: short}
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """A file of three steps; the second makes a folder that must not exist before."""
    path = tmp_path / "steps.yaml"
    path.write_text(STEPS % "--version")
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run; what the second would write is written here."""
    commands: list[list[str]] = []

    class Noting(_Process):
        def __init__(self, words: list[str], log: Path, *rest: Any) -> None:
            commands.append(list(words))
            if words == ["shards", "--help"]:
                folder = log.parent.parent / "made"
                folder.mkdir()  # fails if the folder of an earlier run is still there
                (folder / "report.md").write_text("done")
            super().__init__(words, log, *rest)

    monkeypatch.setattr(hicmae.demo, "_Process", Noting)
    return commands


@pytest.mark.slow
def test_steps_run_in_order_and_end_at_the_report(
    tmp_path: Path, steps: Path, made: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a demo"
    steps.write_text(STEPS % "shards info {out}/found --help")
    assert demo(out=out, steps=steps) == 0
    last = ["shards", "info", f"{out}/found", "--help"]
    assert made == [["--help"], ["shards", "--help"], last]
    shown = capsys.readouterr().out
    assert f"$ hicmae shards info '{out}/found' --help" in shown
    assert "shards build" in shown  # the output of the step that is shown
    assert "All 3 steps done in" in shown
    assert shown.rstrip().endswith(f"The report: {out / 'made' / 'report.md'}")
    logs = sorted(log.name for log in (out / "logs").iterdir())
    assert logs == ["01-list-the-verbs.log", "02-write-the-report.log", "03-the-last.log"]
    assert "usage: hicmae VERB" in (out / "logs" / logs[0]).read_text()
    assert "usage: hicmae shards info" in (out / "logs" / logs[2]).read_text()


def test_a_failed_step_stops_and_tells_how_to_repeat_it(
    tmp_path: Path, steps: Path, made: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    steps.write_text(STEPS % "shards bild {word}")
    assert demo(out=tmp_path / "out", steps=steps, quick=True) == 2
    shown = capsys.readouterr().out
    assert "did you mean 'build'?" in shown
    assert "Step [3/3] failed with exit status 2" in shown
    assert "To repeat it alone: hicmae shards bild short" in shown
    again = f"demo --resume --out {tmp_path}/out --quick --steps {steps}"
    assert shown.split("To go on from here: hicmae ")[1].split() == again.split()


def test_resuming_skips_what_is_done_and_redoes_what_follows_a_change(
    tmp_path: Path, steps: Path, made: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    steps.write_text(STEPS % "shards bild")
    assert demo(out=out, steps=steps) == 2
    made.clear()
    steps.write_text(STEPS % "--version")
    assert demo(out=out, steps=steps, resume=True) == 0
    assert made == [["--version"]]
    assert capsys.readouterr().out.count("done before, in") == 2
    made.clear()
    steps.write_text((STEPS % "--version").replace('"--help"', '"bench --help"'))
    assert demo(out=out, steps=steps, resume=True) == 0
    assert len(made) == 3  # the folder of the second was removed, or making it again would fail


PARALLEL = """
steps:
  - {title: Prepare, command: "shards --help", makes: "{out}/made"}
  - {title: One, command: "bench --help", group: together}
  - {title: Two, command: "%s", group: together}
  - {title: Three, command: "doctor --help", group: together}
  - {title: Compare, command: "--help"}
report: "{out}/made/report.md"
"""


@pytest.mark.parametrize(
    ("last", "expected"),
    [("together", [[0], [1, 2, 3], [4]]), ("later", [[0], [1, 2], [3], [4]])],
)
def test_neighbours_of_one_group_are_together_and_of_two_apart(
    steps: Path, last: str, expected: list[list[int]]
) -> None:
    text = (PARALLEL % "--version").replace('doctor --help", group: ', 'doctor --help", group: %s')
    steps.write_text(text.replace("%stogether", last))
    config = from_dict(DemoConfig, load_yaml(steps), str(steps))
    assert groups(config.steps) == expected


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 2), (8, 2)])
def test_grouped_steps_run_as_many_at_once_as_there_are_cores_but_no_more_than_two(
    tmp_path: Path,
    steps: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cores: int,
    at_once: int,
) -> None:
    chosen: list[int] = []

    class Pretended:
        seconds = 1.0

        def __init__(self, words: Any, log: Path, at_once: int, number: int, heard: Any) -> None:
            chosen.append(at_once)
            (log.parent.parent / "made").mkdir(exist_ok=True)
            (log.parent.parent / "made" / "report.md").touch()
            heard.put((number, None))

        def finish(self) -> int:
            return 0

    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: cores)
    monkeypatch.setattr(hicmae.demo, "_Process", Pretended)
    steps.write_text(PARALLEL % "--version")
    assert demo(out=tmp_path / "out", steps=steps) == 0
    assert chosen == [1, *[at_once] * 3, 1]


CHAIN = """
steps:
  - {title: Long, command: "pretrain --out {out}/long", makes: "{out}/long", group: all}
  - {title: Media, command: "shards --out {out}/made", makes: "{out}/made", group: all}
  - title: Of media
    command: "report {out}/made/report.md --out {out}/of"
    makes: "{out}/of"
    group: all
  - {title: Of both, command: "report {out}/long {out}/of", group: all}
  - {title: Like the first, command: "report {out}/longer", group: all}
report: "{out}/made/report.md"
"""


def test_a_step_needs_those_whose_folder_its_command_names(steps: Path) -> None:
    steps.write_text(CHAIN)
    config = from_dict(DemoConfig, load_yaml(steps), str(steps))
    assert needs(config.steps) == [set(), set(), {1}, {0, 2}, set()]
    assert needs([Step(title="", command="{out}/a", makes="{out}/a")]) == [set()]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, ["+0", "-0", "+1", "-1", "+2", "-2", "+3", "-3", "+4", "-4"]),
        # Beside the long first the others run; what needs it comes when it is done.
        (2, ["+0", "+1", "-1", "+2", "-2", "+4", "-4", "-0", "+3", "-3"]),
    ],
)
def test_a_grouped_step_waits_for_what_it_needs_and_for_no_other(
    tmp_path: Path,
    steps: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    expected: list[str],
) -> None:
    told: list[str] = []
    ends: list[Any] = []

    class Pretended:
        seconds = 1.0

        def __init__(self, words: Any, log: Path, at_once: int, number: int, heard: Any) -> None:
            told.append(f"+{number}")
            self.number = number
            (log.parent.parent / "made").mkdir(exist_ok=True)
            (log.parent.parent / "made" / "report.md").touch()
            if number == 0 and at_once == 2:  # it outlasts all that do not need it
                ends.append(lambda: heard.put((0, None)))
            else:
                heard.put((number, None))

        def finish(self) -> int:
            told.append(f"-{self.number}")
            if told.count("-4") and ends:
                ends.pop()()
            return 0

    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: cores)
    monkeypatch.setattr(hicmae.demo, "_Process", Pretended)
    steps.write_text(CHAIN)
    out = tmp_path / "out"
    assert demo(out=out, steps=steps) == 0
    assert told == expected
    # A step that differs spoils what needs it, and nothing else.
    told.clear()
    steps.write_text(CHAIN.replace("shards --out", "shards --seed 1 --out"))
    assert demo(out=out, steps=steps, resume=True) == 0
    assert [word for word in told if word[0] == "+"] == ["+1", "+2", "+3"]


@pytest.mark.slow
def test_a_failed_grouped_step_is_named_and_only_what_is_not_done_runs_again(
    tmp_path: Path,
    steps: Path,
    made: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: 1)  # so that the first is done
    out = tmp_path / "out"
    steps.write_text(PARALLEL % "shards bild")
    assert demo(out=out, steps=steps) == 2
    assert "Step [3/5] failed with exit status 2" in capsys.readouterr().out
    made.clear()
    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: 2)
    steps.write_text(PARALLEL % "--version")
    assert demo(out=out, steps=steps, resume=True) == 0
    shown = capsys.readouterr().out
    assert shown.count("done before, in") == 2
    assert "  [3/5] done in" in shown
    assert "  [4/5] done in" in shown
    assert made == [["--version"], ["doctor", "--help"], ["--help"]]
    # A step that differs spoils what comes after it, and not those beside it.
    made.clear()
    steps.write_text(PARALLEL % "shards info --help")
    assert demo(out=out, steps=steps, resume=True) == 0
    assert made == [["shards", "info", "--help"], ["--help"]]


def test_what_a_step_spoils_stays_spoiled_when_it_is_stopped(
    tmp_path: Path, steps: Path, made: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert demo(out=out, steps=steps) == 0

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    process = hicmae.demo._Process
    monkeypatch.setattr(hicmae.demo, "_Process", interrupted)
    before = steps.read_text()
    steps.write_text(before.replace('"shards --help"', '"bench --help"'))
    with pytest.raises(KeyboardInterrupt):
        demo(out=out, steps=steps, resume=True)
    monkeypatch.setattr(hicmae.demo, "_Process", process)
    made.clear()
    steps.write_text(before)
    assert demo(out=out, steps=steps, resume=True) == 0
    assert made == [["shards", "--help"], ["--version"]]


@pytest.mark.slow
def test_a_folder_in_use_is_left_alone(
    tmp_path: Path, steps: Path, made: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    for words in ([], ["--overwrite"], ["--resume"]):
        assert main(["demo", "--out", str(mine), "--steps", str(steps), *words]) == 2
        assert "holds files that are no demo's" in capsys.readouterr().err
    assert (mine / "thesis.tex").read_text() == "years"
    out = tmp_path / "out"
    assert demo(out=out, steps=steps) == 0
    with pytest.raises(ValueError, match="--resume, --overwrite or another --out"):
        demo(out=out, steps=steps)
    (out / "demo.json").write_text('{"commands": [')
    with pytest.raises(ValueError, match=r"demo\.json: damaged .*; give --overwrite or another"):
        demo(out=out, steps=steps, resume=True)
    for name in ("notes.txt", "made/old"):
        (out / name).write_text("mine")
    assert demo(out=out, steps=steps, overwrite=True) == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "made/old").exists()
    # A report of an earlier demo goes with its pictures, lest they pass for this one's.
    steps.write_text(steps.read_text().replace("{out}/made/report.md", "{out}/report.md"))
    (out / "figures").mkdir()
    for name in ("report.md", "figures/labels.png"):
        (out / name).write_text("old")
    with pytest.raises(ValueError, match="made by no step"):
        demo(out=out, steps=steps, overwrite=True)
    assert not (out / "figures").exists()
    with another_writer(out):
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(ValueError, match="another process writes into it now"):
                demo(out=out, steps=steps, **how)
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_step_cannot_remove_what_is_outside(tmp_path: Path, steps: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    steps.write_text((STEPS % "--version").replace('{out}/made"', '{out}/../precious"'))
    with pytest.raises(ValueError, match="is not inside"):
        demo(out=tmp_path / "out", steps=steps)
    assert precious.is_dir()


def test_an_unknown_value_is_refused_before_anything_runs(tmp_path: Path, steps: Path) -> None:
    steps.write_text(STEPS % "--version {wrod}")
    with pytest.raises(ValueError, match=r"'\{wrod\}' in '--version \{wrod\}' is not among"):
        demo(out=tmp_path / "out", steps=steps)
    assert not (tmp_path / "out").exists()


def test_values_given_by_hand_stand_above_those_of_the_file_and_are_in_its_list(
    tmp_path: Path, steps: Path, made: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    steps.write_text(STEPS % "shards bild {word}")
    out = tmp_path / "out"
    assert demo(out=out, steps=steps, quick=True, values={"word": True}) == 2
    assert made[-1] == ["shards", "bild", "true"]
    again = capsys.readouterr().out.split("To go on from here: hicmae ")[1]
    assert """--values '{"word": true}'""" in again
    words = ["demo", "--out", str(tmp_path / "new"), "--steps", str(steps), "--values", "{wrd: 1}"]
    assert main(words) == 2
    assert "values: wrd (allowed: word)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    for wrong in ("seed: x", "contrast: 1", "epochs: true"):
        assert main(["demo", "--out", str(tmp_path / "new"), "--values", f"{{{wrong}}}"]) == 2
        name = wrong.split(":")[0]
        said = capsys.readouterr().err
        assert f"hicmae demo: error: values: {name} = " in said
        assert " (must be " in said
        assert not (tmp_path / "new").exists()


def test_the_steps_of_the_repository_are_read() -> None:
    path = config_path("configs/demo.yaml")
    config = from_dict(DemoConfig, load_yaml(path), str(path))
    assert config.steps


@pytest.mark.slow
def test_the_quick_demo_goes_from_media_to_a_report(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert demo(out=out, quick=True) == 0, (out / "logs").as_posix()
    text = (out / "report.md").read_text(encoding="utf-8")
    runs = sorted(folder.name for folder in (out / "runs").iterdir() if folder.name != "pretrain")
    assert {run.split("-")[0] for run in runs} == {"pretrained", "scratch"}
    assert [run for run in runs if run not in text] == []


def test_a_log_that_cannot_be_written_ends_the_demo_instead_of_hanging(tmp_path: Path) -> None:
    heard: queue.Queue[tuple[int, str | None]] = queue.Queue()
    process = _Process(["--version"], tmp_path / "gone" / "a.log", 1, 3, heard)
    assert heard.get(timeout=60) == (3, None)
    with pytest.raises(OSError, match=r"gone/a\.log"):
        process.finish()
