"""Every configuration that ships opens with how to use it and is one that can be used."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hicmae.__main__ import VERBS
from hicmae.cli import make_parser
from hicmae.config import config_root, from_dict, load_model_config, load_yaml
from hicmae.demo import DemoConfig, step_words

RECIPES = sorted(config_root().rglob("*.yaml"))
NAMES = [path.relative_to(config_root()).as_posix() for path in RECIPES]
SECTIONS = ("Command", "Hardware", "Expect", "Source")


def header(path: Path) -> dict[str, str]:
    """The sections of the comment block on top of a file, each on one line; commands between
    semicolons.
    """
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].strip())
    found: dict[str, str] = {}
    name = "Title"
    for line in lines:
        match = re.match(rf"({'|'.join(SECTIONS)}):\s*(.*)", line)
        text, before = line, ""
        if match:
            name, text = match.groups()
        elif name == "Command" and not found[name].endswith("\\"):
            # Another command; anything else after a command is a remark.
            name = "Command" if line.startswith("hicmae ") else "Remark"
            before = f"{found[name]} ;" if name == "Command" else found.get(name, "")
        else:
            before = found.get(name, "").removesuffix("\\").strip()
        found[name] = f"{before} {text}".strip()
    return found


def parse_command(words: list[str]) -> str:
    """Parse the words after ``hicmae`` with the real parser of their verb; the verb."""
    name = next(
        (verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS), " ".join(words[:2])
    )
    assert name in VERBS, f"no verb '{name}'"
    verb = VERBS[name]
    parser = make_parser(name, verb)
    chosen = parser.parse_args(words[len(name.split()) :])
    parser.instantiate(chosen)  # runs the settings' own checks
    return name


def test_there_are_recipes() -> None:
    assert "demo.yaml" in NAMES
    for room in ("model", "pretrain", "finetune", "benchmarks"):
        assert any(name.startswith(f"{room}/") for name in NAMES), f"configs/{room} is empty"


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_opens_with_title_command_hardware_and_what_to_expect(path: Path) -> None:
    found = header(path)
    assert found.get("Title"), "a first line that says what it is"
    assert found.get("Command", "").startswith("hicmae "), "Command: hicmae …"
    assert found.get("Hardware"), "Hardware: …"
    expected = found.get("Expect", "")
    assert re.search(r"\d|not yet measured", expected), "Expect: a number, or not yet measured"


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_the_command_of_a_recipe_is_accepted_by_its_parser(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # packaged files are found from anywhere
    commands = [shlex.split(text)[1:] for text in header(path)["Command"].split(" ; ")]
    for words in commands:
        parse_command(words)
    name = path.relative_to(config_root()).as_posix()
    if name.split("/")[0] in ("pretrain", "finetune", "shards"):
        used = [word for words in commands for word in words]
        assert f"configs/{name}" in used, "a command uses this very file"


@pytest.mark.parametrize("name", [Path(name).stem for name in NAMES if name.startswith("model/")])
def test_a_model_is_one(name: str) -> None:
    assert load_model_config(name).encoder_dim > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("benchmarks/")])
def test_a_benchmark_is_one(name: str) -> None:
    from finetune.benchmark import load_benchmark

    load_benchmark(config_root() / name)


@pytest.mark.slow
@pytest.mark.parametrize("quick", [False, True])
def test_every_step_of_the_demo_is_accepted_by_its_parser(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = config_root() / "demo.yaml"
    config = from_dict(DemoConfig, load_yaml(path), str(path))
    values = config.filled(Path("some demo"), quick=quick)
    verbs = [parse_command(words) for words in step_words(config.steps, values)]
    assert verbs[0] == "shards synthesize"
    assert verbs[-1] == "report"
    assert {"shards build", "shards check", "pretrain", "finetune"} <= set(verbs)


def test_a_header_is_read_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    text = "# Title.\n#\n# Command:  hicmae x \\\n#     --y 1\n#     hicmae w\n#  (or --z)\n"
    path.write_text(text + "# Expect: 3\na: 1\n# no\n")
    assert header(path) == {
        "Title": "Title.",
        "Command": "hicmae x --y 1 ; hicmae w",
        "Remark": "(or --z)",
        "Expect": "3",
    }
