"""The README tells the truth: its commands are accepted, its files exist, its walk-through runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from yaml import safe_load

from hicmae.__main__ import VERBS
from hicmae.cli import make_parser

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
WALK_THROUGH = "<!-- walk-through -->\n"

# Of the labelled corpus in the walk-throughs: a speaker of either fold with six classes.
NUM_CLIPS = 12

# What makes the walk-throughs small: appended to the printed commands, and nothing else changed.
OVERRIDES = {
    "shards synthesize": "--speakers 2 --takes 1 --min_seconds 1 --max_seconds 1.2 --workers 1",
    "shards build": "--workers 1",
    "pretrain": "--epochs 2 --optimizer.warmup_epochs 1 --data.batch_size 8 --workers 0",
    "finetune": "--epochs 2 --folds 0 --workers 0",
    "evaluate": "--workers 0",
    "evaluate modalities": "--workers 0 --perturb.swaps 1 --perturb.snr_db [0]"
    " --perturb.picture_sd [0.5] --perturb.missing_shares [0.5]",
    "embed": "--workers 0",
}


def blocks(language: str, *, after: str = "") -> list[str]:
    """Fenced blocks of a language; with ``after``, only those that follow this very text."""
    return re.findall(rf"{re.escape(after)}```{language}\n(.*?)```", README, re.DOTALL)


def commands(texts: list[str]) -> list[str]:
    """Their lines, continued lines joined, comments and empty lines left out."""
    lines = "".join(texts).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def hicmae_words(lines: list[str]) -> list[list[str]]:
    """The words after ``hicmae`` of every command of this program."""
    words = [shlex.split(line, comments=True) for line in lines]
    return [each[1:] for each in words if each[0] == "hicmae"]


def verb_of(words: list[str]) -> str:
    """The verb that the words begin with."""
    name = next((verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS), "")
    assert name, f"no verb in: hicmae {shlex.join(words)}"
    return name


def section(title: str) -> str:
    """The text under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


BENCHMARK, SWEEP = blocks("yaml")
CHOSEN = [f"--{name}={item['values'][0]}" for name, item in safe_load(SWEEP)["parameters"].items()]
TRIAL = safe_load(SWEEP)["command"][2].removeprefix("exec ").replace('"$@"', shlex.join(CHOSEN))
PRINTED = hicmae_words([*commands(blocks("bash")), TRIAL])
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))


def test_the_sections_stand_in_their_order() -> None:
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [
        "Install, and see it work",
        "What you get",
        "Prepare your data",
        "Pretrain",
        "Fine-tune and report",
        "Predict",
        "Where to add things",
        "Deviations from the paper",
        "Terminology",
        "Citation and licence",
    ]


def test_the_commands_that_matter_are_printed() -> None:
    expected = {"demo", "shards build", "shards check", "shards info", "shards synthesize"}
    assert expected | {"pretrain", "finetune", "report"} <= {verb_of(words) for words in PRINTED}


@pytest.mark.parametrize("words", PRINTED, ids=[shlex.join(words)[:60] for words in PRINTED])
def test_a_printed_command_is_accepted_by_its_parser(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # as after `pip install`, away from the sources
    name = verb_of(words)
    verb, rest = VERBS[name], words[len(name.split()) :]
    make_parser(name, verb).keywords(rest)


def test_verbs_and_options_in_the_text_exist() -> None:
    known = {"--help", "--version"}
    for name, verb in VERBS.items():
        known |= set(make_parser(name, verb).options())
    ours = [span for span in CODE if not span.startswith("srun ")]
    named = {word for span in ours for word in span.split() if word.startswith("--")}
    assert len(named) > 10
    # --model takes any size of the network; a typed command above has one.
    assert {word for word in named if not word.startswith("--model.")} - known == set()
    for span in CODE:
        words = span.split()
        if words[0] == "hicmae" and len(words) > 1 and words[1] not in ("VERB", "--help"):
            verb_of(words[1:])


def test_files_named_in_the_text_exist() -> None:
    roots = r"(?:configs|hicmae|shards|pretrain|finetune|tests|\.github)"
    named = set(re.findall(rf"(?<![\w/.-]){roots}/[\w/.-]*", README))
    assert any(name.startswith("configs/") for name in named)
    assert sorted(name for name in named if not (REPOSITORY / name).exists()) == []


def test_pictures_and_links_lead_somewhere() -> None:
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README)
    expected = {"confusion.png", "faces.png", "labels.png", "reconstruction.png"}
    assert {path for _, path in pictures} == {f".github/images/{name}" for name in expected}
    for caption, path in pictures:
        assert len(caption) > 20, f"{path}: say what is to be seen"
        assert (REPOSITORY / path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", f"{path}: no PNG"
    links = re.findall(r"(?<!!)\[[^\]]+\]\((?!https://)([^)]+)\)", README)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_printed_test_command_is_what_continuous_integration_calls() -> None:
    tests = [line for line in commands(blocks("bash")) if "test" in line]
    assert tests == ["make test"]
    called = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test\b", called, re.MULTILINE)
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    made = [line.split()[1] for line in commands(blocks("bash")) if line.startswith("make ")]
    assert made == ["demo", "test"]
    assert set(made) <= set(targets)


def test_the_face_detector_is_the_one_the_code_checks_for() -> None:
    from hicmae.media.yunet import SHA256, SOURCE, VARIABLE

    faces = section("Prepare your data")
    assert f"`{SHA256}`" in faces
    assert f"`{VARIABLE}`" in faces
    assert SOURCE in faces


def test_the_manifest_is_one(tmp_path: Path) -> None:
    from shards.manifest import read_manifest

    (text,) = blocks("csv")
    (tmp_path / "manifest.csv").write_text(text)
    rows = read_manifest(tmp_path / "manifest.csv")
    assert [row.speaker for row in rows] == ["anna", "ben"]
    assert rows[0].labels == {"emotion": "joy", "valence": 0.6, "fold": 1}


def test_the_benchmark_is_one(tmp_path: Path) -> None:
    from finetune.benchmark import load_benchmark

    path = tmp_path / "mine.yaml"
    path.write_text(BENCHMARK)
    assert load_benchmark(path).num_outputs == 6
    real = re.sub(r"label:.*\nclasses:.*\n", "targets: [valence, arousal]\n", BENCHMARK)
    real = real.replace("classification", "regression").replace("[uar, war]", "[ccc]")
    path.write_text(real)
    assert load_benchmark(path).num_outputs == 2


def test_every_file_with_a_marked_deviation_is_in_the_table() -> None:
    table = section("Deviations from the paper")
    marked = [
        path.relative_to(REPOSITORY).as_posix()
        for room in ("hicmae", "shards", "pretrain", "finetune")
        for path in (REPOSITORY / room).rglob("*.py")
        if "Deviation:" in path.read_text(encoding="utf-8")
    ]
    assert marked
    assert [path for path in marked if f"`{path}`" not in table] == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_the_walk_throughs_go_from_media_to_a_report_and_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = hicmae_words(commands(blocks("bash", after=WALK_THROUGH)))
    verbs = [verb_of(words) for words in steps]
    assert verbs[0] == "shards synthesize"
    assert verbs[-1] == "predict"
    assert {"shards build", "shards check", "shards info", "pretrain"} <= set(verbs)
    assert {"finetune", "report", "evaluate", "evaluate modalities", "embed"} <= set(verbs)
    (tmp_path / "mine.yaml").write_text(BENCHMARK, encoding="utf-8")
    for verb, words in zip(verbs, steps, strict=True):
        typed = [*words, *OVERRIDES.get(verb, "").split()]
        done = command(*typed)
        assert done.status == 0, f"hicmae {shlex.join(typed)}\n{done.out}\n{done.err}"

    # What the text says is there.
    runs = tmp_path / "runs"
    for name in ("config.yaml", "metrics.csv", "figures", "checkpoints/last"):
        assert (runs / "pretrain" / name).exists(), name
    for run, figure in (
        ("pretrained", "confusion"),
        ("scratch", "confusion"),
        ("values", "predicted_against_true"),
    ):
        for name in ("config.yaml", "predictions.jsonl", "report.md", f"figures/{figure}.png"):
            assert (runs / run / name).exists(), f"{run}/{name}"
        assert "last: the weights after the last epoch" in (runs / run / "report.md").read_text()
    compared = (runs / "report.md").read_text(encoding="utf-8")
    assert all(f"| {run} |" in compared for run in ("pretrained", "scratch", "values"))
    assert not (tmp_path / "data" / "shards-labelled" / "refused.jsonl").read_text().strip()
    assert (runs / "report.html").is_file()
    assert (runs / "more-views" / "predictions.jsonl").is_file()
    assert (runs / "pretrained" / "modalities").is_dir()
    assert len(pandas.read_parquet(tmp_path / "features.parquet")) == NUM_CLIPS
    outcomes = pandas.read_csv(tmp_path / "predictions" / "outcomes.csv")
    assert len(outcomes) == NUM_CLIPS
    assert len(list((tmp_path / "predictions").rglob("timeline.csv"))) == NUM_CLIPS
    assert len(list((tmp_path / "predictions").rglob("*.mp4"))) >= NUM_CLIPS
