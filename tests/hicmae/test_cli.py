"""The command line: verbs, options, what a user sees when something is wrong, the tab key."""

from __future__ import annotations

import errno
import gc
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from hicmae.__main__ import RENAMED, VERBS, main
from hicmae.cli import Verb, make_parser
from hicmae.media.errors import MediaError

REAL_VERBS = dict(VERBS)  # before this file adds its own
CALLS: list[dict[str, object]] = []


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        learning_rate: Peak of the schedule, per 256 clips.
        num_steps: Optimiser steps.
    """

    learning_rate: float = 1e-3
    num_steps: int = 10

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"recipe: num_steps = {self.num_steps} (must be 1 or more)")


def work(
    *,
    sources: list[Path],
    out: Path,
    recipe: Recipe = Recipe(),
    other: Recipe | None = None,
    mode: Literal["fast", "slow"] = "fast",
    resume: bool = False,
    seed: int | None = None,
    folds: tuple[int, ...] = (),
) -> None:
    """Do the work, 100 % of it.

    Args:
        sources: What to read.
        out: Where to write.
        recipe: How to train.
        other: Another recipe.
        mode: How fast.
        resume: Go on.
        seed: Of the draws.
        folds: Which folds.
    """
    CALLS.append(dict(locals()))


@pytest.fixture(scope="module", autouse=True)
def hurried_readers() -> Iterator[None]:
    """A loader that an error has left waits five seconds for its reader when it is collected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        yield
        gc.collect()


class _Broken(torch.utils.data.Dataset):
    """A dataset whose items raise what a file, or a bug, would."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        if self.kind == "media":
            raise MediaError("damaged", "clip.mp4", "frame 3 cannot be decoded")
        if self.kind == "value":
            raise ValueError("train-000000.tar: sample 'a' has no wav member")
        raise KeyError("a bug")


_begun: list[Path] = []  # folders that are to be gone in the end


def fail(*, kind: str) -> int:
    """Fail in one of the ways a verb can.

    Args:
        kind: Which way.
    """
    if kind == "missing":
        Path("no/such/file").read_bytes()
    if kind == "value":
        raise ValueError("first line\n  second line")
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "out.tar")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "lightning's interrupt":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    if kind == "SIGTERM that a destructor loses":
        weakref.finalize(set(), signal.raise_signal, signal.SIGTERM)
        time.sleep(60)
    if kind.startswith("SIG"):
        _begun.append(folder := Path(tempfile.mkdtemp()))
        try:
            signal.raise_signal(number := signal.Signals[kind.split()[0]])
        finally:
            if kind.endswith("twice"):  # as `timeout` sends it
                signal.raise_signal(number)
            shutil.rmtree(folder)
    if kind == "bug":
        raise TypeError("a bug")
    if kind.startswith("worker "):
        list(torch.utils.data.DataLoader(_Broken(kind.split()[1]), num_workers=1))
    return 3


@pytest.fixture(autouse=True)
def _verbs_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.delenv("HICMAE_DEBUG", raising=False)
    monkeypatch.setitem(
        VERBS, "work", Verb(target=f"{__name__}:work", help="Work", positional={"sources": "+"})
    )
    monkeypatch.setitem(VERBS, "fail", Verb(target=f"{__name__}:fail", help="Fail"))


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must end with status 2 and one line on stderr; the line."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("hicmae")
    return captured.err.strip()


@pytest.mark.parametrize("body", ["raise SystemExit(3)", "import nosuch_module", "1 / 0"])
def test_a_plug_in_that_fails_is_named_with_its_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    folder = tmp_path / "toys-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[hicmae.plugins]\nmine = a_failing_plug_in\n")
    (tmp_path / "a_failing_plug_in.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    line = complaint(capsys, "work", "a", "--out", "x")
    assert line.startswith("hicmae work: error: plug-in mine (a_failing_plug_in): ")
    assert line.endswith("; mend or uninstall toys")


def test_the_overview_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hicmae.__main__ import main; status = main(['--help']);"
        "heavy = {'torch', 'numpy', 'rich', 'pandas', 'cv2', 'av'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [re.sub(" {2,}", "  ", line.strip()) for line in listed] == [
        f"{name}  {verb.help}" for name, verb in REAL_VERBS.items()
    ]


def test_a_group_lists_its_verbs_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards"]) == 0
    shown = capsys.readouterr().out
    assert "shards build" in shown
    assert "pretrain" not in shown.split("verbs:")[1].split("`hicmae VERB")[0]


def test_unknown_verbs_are_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no verb 'pretran'; did you mean 'pretrain'?" in complaint(capsys, "pretran")
    assert "no verb 'bild'; did you mean 'build'?" in complaint(capsys, "shards", "bild")


def test_options_positionals_and_types_reach_the_function(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("out: from-file\nrecipe: {learning_rate: 1e-4}\nseed: 7\n")
    words = ["a", "b", "--config", str(file), "--recipe.num_steps", "5", "--mode=slow"]
    assert main(["work", *words, "--folds", "[1,2]", "--resume"]) == 0
    assert [
        {
            "sources": [Path("a"), Path("b")],
            "out": Path("from-file"),
            "recipe": Recipe(learning_rate=1e-4, num_steps=5),
            "other": None,
            "mode": "slow",
            "resume": True,
            "seed": 7,
            "folds": (1, 2),
        }
    ] == CALLS


def test_later_options_override_the_file_and_later_files_the_earlier(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("out: one\nrecipe: {num_steps: 1, learning_rate: 0.1}\n")
    two.write_text("recipe: {num_steps: 2}\n")
    words = ["--config", str(one), "--config", str(two), "--seed", "3"]
    assert main(["work", "a", *words]) == 0
    assert CALLS[0]["recipe"] == Recipe(learning_rate=0.1, num_steps=2)
    assert main(["work", "a", *words, "--recipe.num_steps=4"]) == 0
    assert CALLS[1]["recipe"] == Recipe(learning_rate=0.1, num_steps=4)


def test_a_bare_flag_leaves_the_positional_after_it_alone() -> None:
    assert main(["work", "--out", "x", "--resume", "a"]) == 0
    assert main(["work", "--out", "x", "--resume", "false", "a"]) == 0
    assert [call["resume"] for call in CALLS] == [True, False]
    assert [call["sources"] for call in CALLS] == [[Path("a")], [Path("a")]]


def test_the_printed_configuration_is_one_that_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["work", "a", "--out", "x", "--recipe.learning_rate", "1e-5", "--seed", "3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    assert not ended.value.code
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert main(words) == 0
    assert main(["work", "a", "--config", str(file)]) == 0
    assert CALLS[0] == CALLS[1]


@pytest.mark.slow
def test_every_verb_takes_what_it_has_printed_of_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = {}
    for name, verb in REAL_VERBS.items():
        words = shlex.split(verb.example.partition(">")[0])[1 + len(name.split()) :]
        if any(word == "--out" for word in words):
            words += ["--out", "1e5"]  # text, which YAML would take for a number
        with pytest.raises(SystemExit):
            make_parser(name, verb).keywords([*words, "--print_config"])
        file = tmp_path / "printed.yaml"
        file.write_text(capsys.readouterr().out)
        given = make_parser(name, verb).keywords(words)
        again = make_parser(name, verb).keywords(["--config", str(file)])
        lost[name] = {key for key in given if given[key] != again[key]}
    assert not any(lost.values()), lost


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("evaluate modalities", "perturb.snr_db=[10, .nan]"),
        ("shards build", "max_seconds=.nan"),
        ("shards manifest", "trace.context_seconds=.inf"),
        ("pretrain", "objective.stages={apart: .nan}"),
        ("finetune", "optimizer.learning_rate=.inf"),
    ],
)
def test_what_is_no_number_is_refused_for_every_option(
    name: str, option: str, tmp_path: Path
) -> None:
    verb, file, (dest, _, value) = REAL_VERBS[name], tmp_path / "x.yaml", option.partition("=")
    file.write_text(dest.replace(".", ": {") + f": {value}" + "}" * dest.count("."))
    for words in ([f"--{option}"], ["--config", str(file)]):
        words = shlex.split(verb.example)[1 + len(name.split()) :] + words
        with pytest.raises(ValueError, match=rf"{dest} = .*(nan|inf).* \(must "):
            make_parser(name, verb).keywords(words)


def test_help_shows_what_docstrings_say_of_parameters_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["work", "--help"])
    assert not ended.value.code
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "usage: hicmae work SOURCES ... [--config FILE] [options]",
        "Do the work, 100 % of it.",
        "What to read.",
        "Where to write.",
        "Peak of the schedule, per 256 clips.",
        "--recipe.num_steps",
    ):
        assert text in shown


HEAVY = {
    "deepspeed",
    "lightning",
    "matplotlib",
    "pytorch_lightning",
    "sklearn",
    "timm",
    "torch",
    "torchaudio",
    "wandb",
}


@pytest.mark.slow
def test_no_help_and_no_refusal_of_any_verb_waits_for_a_heavy_library() -> None:
    code = (
        "import contextlib, io, sys; from hicmae.__main__ import VERBS, main\n"
        "for name in VERBS:\n"
        "    for words in (['--help'], ['--no_such_option_at_all=1']):\n"
        "        out = io.StringIO()\n"
        "        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):\n"
        "            try: main([*name.split(), *words])\n"
        "            except SystemExit: pass\n"
        "        assert out.getvalue(), name\n"
        f"        heavy = {HEAVY} & set(sys.modules)\n"
        "        if heavy: sys.exit(f'{name} {words}: {heavy}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_networks_alone_wait_for_no_library_that_reads_recordings_or_trains() -> None:
    heavy = HEAVY - {"torch"} | {"av", "cv2", "pandas", "scipy"}
    code = (
        "import sys, hicmae.emotion, hicmae.pretraining\n"
        f"heavy = {heavy} & set(sys.modules)\n"
        "if heavy: sys.exit(str(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_old_name_is_refused_with_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"machine.accelerator": "mode", "recipe.num": "recipe.num_steps", "seed": "dice"}
    monkeypatch.setitem(RENAMED, "work", old)
    for words, expected in (
        (["--machine.accelerator", "gpu"], "'--machine.accelerator gpu' is now '--mode cuda'"),
        (["--machine.accelerator=cpu"], "'--machine.accelerator' is now '--mode'"),
        (["--recipe.num", "3"], "'--recipe.num' is now '--recipe.num_steps'"),
    ):
        assert complaint(capsys, "work", "a", "--out", "x", *words).endswith(expected)
    file = tmp_path / "old.yaml"
    file.write_text("machine: {accelerator: gpu}\nrecipe: {num: 3}\nseed: 1\n")
    line = complaint(capsys, "work", "a", "--out", "x", "--config", str(file))
    assert f"{file}: 'machine.accelerator: gpu' is now 'mode: cuda'; 'recipe.num' is now" in line
    assert "dice" not in line, "an option that is still there is taken"
    assert main(["work", "a", "--out", "x", "--seed", "3"]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recipe: {lerning_rate: 1}", "unknown key 'recipe.lerning_rate'; did you mean 'recipe.l"),
        ("recpie: {num_steps: 1}", "unknown key 'recpie'; did you mean 'recipe'?"),
        ("other: {num_stesp: 1}", "unknown key 'num_stesp'; did you mean 'num_steps'?"),
        ("other: {num_steps: 0}", "num_steps = 0 (must be 1 or more)"),
        ("recipe: {num_steps: many}", "recipe.num_steps = many (must be a whole number)"),
        ("a: 1\nb: 2\nrecipe: {xx: 3, yy: 4}", "'recipe.xx', 'recipe.yy'; known keys: recipe."),
        ("a: 1\nb: 2\nseed: 3", "bad.yaml: unknown keys 'a', 'b'; known keys: folds, mode, o"),
        ("mode: slwo", "mode = slwo (must be one of fast, slow)"),
        ("a: 1\na: 2", "line 2: not valid YAML: key 'a' is given twice"),
        ("recipe:\n  # num_steps: 1", "recipe is nothing, not a mapping of keys to values"),
        ("recipe: 3", "recipe is 3, not a mapping of keys to values"),
        ("recipe: {num_steps: }", "recipe.num_steps = null (must be a whole number)"),
        ("mode: null", "mode = null (must be one of fast, slow)"),
        ("out: 2026", "out = 2026 (must be a path; put quotes around it)"),
    ],
)
def test_a_bad_file_is_named_with_the_key_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text + "\n")
    line = complaint(capsys, "work", "a", "--out", "x", "--config", str(file))
    assert line.startswith(f"hicmae work: error: {file}")
    assert expected in line
    assert CALLS == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a"], "required: out"),
        (["--out", "x"], "required: sources"),
        (["a", "--out"], "argument --out: expected one argument"),
        (["a", "--out", "x", "--sede", "1"], "no option '--sede'; did you mean '--seed'?"),
        (["a", "--out", "x", "--recipe.num_stps=1"], "did you mean '--recipe.num_steps'?"),
        (["a", "--out", "x", "--recipe.num_steps=0"], "recipe: num_steps = 0 (must be 1 or more)"),
        (["a", "--out", "x", "--other.num_steps=b"], "other.num_steps = b (must be a whole num"),
        (["a", "--out", "x", "--other.num_stps=1"], "did you mean '--other.num_steps'?"),
        (["a", "--out", "x", "--heat", "y"], "no option '--heat'; `"),
        # Beginnings of options are none.
        (["a", "--ou", "x"], "no option '--ou'; did you mean '--out'?"),
        (["a", "--out", "x", "--see=1"], "no option '--see'; did you mean '--seed'?"),
        (["a", "--out", "x", "--resum"], "no option '--resum'; did you mean '--resume'?"),
        (
            ["a", "--out", "x", "--recipe.learning_rat", "1"],
            "no option '--recipe.learning_rat'; did you mean '--recipe.learning_rate'?",
        ),
        (["a", "--out", "x", "--recip.num_steps=1"], "did you mean '--recipe.num_steps'?"),
        (["a", "--out", "x", "--other.num_step=1"], "did you mean '--other.num_steps'?"),
        (["a", "--out", "x", "--conf", "a.yaml"], "no option '--conf'; did you mean '--config'?"),
        (["a", "--out", "x", "--recipe", "null"], "recipe = null (must be settings, each as --rec"),
        (["a", "--out", "x", "--seed", "b"], "seed = b (must be a whole number or null)"),
        (["a", "--out", "x", "--resume=maybe"], "resume = maybe (must be true or false)"),
        (["a", "--out", "x", "--resume", "yes"], "resume = yes (must be true or false)"),
        (["a", "--out", "x", "--config", "no.yaml"], "no.yaml: no such configuration file"),
        (["a", "--out", ""], "out = '' (must not be empty; a variable of the shell may not be set"),
        (["a", "--out="], "out = '' (must not be empty"),
        (["", "--out", "x"], "argument = '' (must not be empty"),
        (["a", "--out", f"{__file__}/x/y"], f"{__file__}/x/y: {__file__} is a file, not a"),
        (["a", "--out", "s3://b/x"], "out = s3://b/x (must be a path on this machine; copy from"),
        (["a", "http://h/b?c", "--out", "x"], "sources = http://h/b?c (must be a path on this"),
        (["Zo\udceb.mp4", "--out", "x"], "sources: a name that is not UTF-8 cannot be typed here"),
    ],
)
def test_bad_words_get_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    line = complaint(capsys, "work", *words)
    assert line.startswith("hicmae work: error: ")
    assert expected in line
    assert CALLS == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "no/such/file: no such file or directory"),
        ("value", "first line second line"),
        ("full", "out.tar: no space left on device"),
        ("worker media", "clip.mp4: frame 3 cannot be decoded"),
        ("worker value", "train-000000.tar: sample 'a' has no wav member"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    capsys: pytest.CaptureFixture[str], kind: str, expected: str
) -> None:
    assert complaint(capsys, "fail", "--kind", kind).startswith(f"hicmae fail: error: {expected}")


@pytest.mark.parametrize(("kind", "error"), [("bug", TypeError), ("worker bug", KeyError)])
def test_a_bug_keeps_its_traceback(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="a bug"):
        main(["fail", "--kind", kind])


@pytest.mark.slow
def test_the_status_of_a_function_is_that_of_the_command() -> None:
    assert main(["fail", "--kind", "none"]) == 3


@pytest.mark.parametrize("room", ["finetune", "pretrain", "shards"])
def test_a_module_of_the_users_that_is_in_the_way_is_named(tmp_path: Path, room: str) -> None:
    (tmp_path / f"{room}.py").write_text("raise SystemExit('the wrong one was run')")
    verb = "shards check x" if room == "shards" else f"{room} --help"
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        f"from hicmae.__main__ import main; sys.exit(main({verb.split()!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{tmp_path / room}.py: is found in place of" in done.stderr
    assert done.stderr.count("\n") == 1


def test_signals_are_said_and_no_success_though_lightning_has_caught_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # before its words are read
        patch.setattr("hicmae.cli.settle", lambda: fail(kind="interrupt"))
        assert main(["fail"]) == 130
        assert capsys.readouterr().err.strip() == "hicmae: interrupted"
    for kind in ("interrupt", "lightning's interrupt"):
        assert main(["fail", "--kind", kind]) == 130
        assert capsys.readouterr().err.strip() == "hicmae fail: interrupted"
    for kind in ("SIGTERM", "SIGHUP", "SIGTERM twice", "SIGTERM that a destructor loses"):
        number = signal.Signals[kind.split()[0]]
        before = signal.signal(number, signal.SIG_DFL)
        assert main(["fail", "--kind", kind]) == 128 + number
        assert signal.signal(number, before) == signal.SIG_DFL
        assert capsys.readouterr().err.strip() == f"hicmae fail: ended by {number.name}"
    assert not any(folder.exists() for folder in _begun)


def test_an_interrupt_of_the_first_imports_is_one_line(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "jsonargparse.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), str(repository)])
    done = subprocess.run(
        [sys.executable, "-m", "hicmae", "--version"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nhicmae: interrupted\n")


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HICMAE_DEBUG", "1")
    with pytest.raises(ValueError, match="first line"):
        main(["fail", "--kind", "value"])


def test_a_reader_that_stops_reading_is_no_error() -> None:
    code = (
        "import sys; from hicmae.__main__ import main; sys.stdout.write('x' * 10**6);"
        "sys.exit(main(['--help']))"
    )
    command = f'{sys.executable} -c "{code}" | head -c 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("name", REAL_VERBS)
def test_every_verb_documents_every_option_and_ends_with_an_example_that_it_would_take(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = VERBS[name]
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"usage: hicmae {name} " in shown
    assert shown.endswith(f"\nexample:\n  {verb.example}\n")
    assert "<class" not in shown
    parser = make_parser(name, verb)
    assert [action.dest for action in parser.options().values() if not action.help] == []
    assert verb.example.startswith(f"hicmae {name}")
    words = shlex.split(verb.example.split(" > ")[0])[1 + len(name.split()) :]
    parser.keywords(words)


@pytest.mark.parametrize("name", REAL_VERBS)
def test_every_verb_refuses_a_misspelt_key_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("no_such_thing_at_all: 1\n")
    positional = ["x"] * len(VERBS[name].positional)
    line = complaint(capsys, *name.split(), *positional, "--config", str(file))
    assert line.startswith(f"hicmae {name}: error: {file}: unknown key 'no_such_thing_at_all'")
    line = complaint(capsys, *name.split(), *positional, "--no_such_thing_at_all=1")
    assert "no option '--no_such_thing_at_all'" in line or "required" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("shards build nowhere --out made", "nowhere: no such"),
        ("shards check nowhere", "nowhere: no such"),
        ("shards info nowhere", "nowhere: no such"),
        ("pretrain --data.shards nowhere --out made", "nowhere: no such"),
        ("pretrain --model tinny --data.shards nowhere --out made", "model 'tinny': no such size"),
        (
            "finetune --benchmark synthtic --shards nowhere --model tiny --out made",
            "did you mean 'synthetic'?",
        ),
        ("finetune --benchmark synthetic --shards nowhere --model tiny --out made", "nowhere: no"),
        ("report nowhere", "nowhere: no such"),
        ("demo --steps nowhere.yaml", "nowhere.yaml: no such"),
        (
            "finetune --config configs/benchmarks/ravdess.yaml",
            "; or is it a file for --benchmark or --model?",
        ),
        ("bench loader --shards nowhere", "nowhere: no such"),
        (
            "bench loader --shards nowhere --json /dev/null/x.json",
            "/dev/null/x.json: /dev/null is a file",
        ),
        ("bench loader --shards nowhere --json .", ".: is a directory"),
        ("evaluate matrix nowhere --out .", ".: is a directory"),
        ("pretrain plot nowhere --out .", ".: is a directory"),
        ("shards manifest csv . --missing .", ".: is a directory"),
        ("shards receipt /proc", "/proc: no such"),  # nobody can write there, not even root
        *(
            (f"{words} /proc/x/y{suffix}", f"/proc/x/y{suffix}: no such")
            for words, suffix in {
                "shards build nowhere --out": "",
                "shards merge nowhere --out": "",
                "shards synthesize --out": "",
                "shards manifest csv nowhere --missing": ".txt",
                "pretrain --data.shards nowhere --out": "",
                "pretrain plot nowhere --out": ".png",
                "finetune --benchmark synthetic --shards nowhere --model tiny --out": "",
                "predict nowhere --checkpoint nowhere --out": "",
                "report nowhere --out": ".md",
                "evaluate nowhere --out": "",
                "embed nowhere nowhere --out": ".npz",
                "checkpoint convert nowhere": "",
                "checkpoint average nowhere --out": "",
                "checkpoint export nowhere": ".onnx",
            }.items()
        ),
        ("shards build x --out y --fps -1", "hicmae shards build: error: fps = -1.0 (must be"),
        ("predict x --checkpoint y --out z --hop -1", "hicmae predict: error: hop = -1 (must be"),
        ("pretrain --data.shards x --out y --epochs 0", "hicmae pretrain: error: epochs = 0.0 ("),
    ],
)
def test_a_real_verb_names_the_file_that_is_missing_and_makes_nothing(
    words: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in complaint(capsys, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash, as the command prints it."""
    if shutil.which("bash") is None:
        pytest.skip("bash is absent")
    file = tmp_path_factory.mktemp("completion") / "hicmae"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as out:
        patch.setattr("sys.stdout", out)
        assert main(["completion", "bash"]) == 0
    return file


def completed(script: Path, *lines: str) -> list[list[str]]:
    """What one bash offers for the last word of each line, typed after ``hicmae``."""
    code = f"source {shlex.quote(str(script))}\n"
    for typed in (["hicmae", *line.split()] for line in lines):
        code += (
            f"COMPREPLY=() COMP_WORDS=({shlex.join(typed)}) COMP_CWORD={len(typed) - 1}\n"
            f"_shtab_hicmae hicmae {shlex.join(typed[:-3:-1])}\n"
            "printf '%s ' \"${COMPREPLY[@]}\"; echo\n"
        )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


def test_every_verb_is_completed(script: Path) -> None:
    offered = completed(script, *(name[:-1] for name in REAL_VERBS))
    for name, words in zip(REAL_VERBS, offered, strict=True):
        assert name.split()[-1] in words, name


def test_a_verb_with_verbs_below_it_completes_paths_too(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completed(script, "evaluate m") == [["modalities", "matrix", "my-run"]]


def test_options_and_their_values_are_completed(script: Path) -> None:
    lines = ("pretrain --precis", "pretrain --precision 32", "checkpoint export --format onnx-")
    assert completed(script, *lines) == [["--precision"], ["32-true"], ["onnx-int8"]]


def test_another_shell_than_the_known_ones_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "must be one of bash, zsh, tcsh" in capsys.readouterr().err
