"""The walks of CONTRIBUTING.md: their functions exist, their files are few, none calls back up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_FILES = {"One training step": 12, "One recording": 15, "One fold": 18, "One prediction": 14}


def walk(title: str) -> list[tuple[str, list[str]]]:
    """Files of a walk, each with the names that stand in code beside it."""
    text = PAGE.partition(f"**{title}**")[2].partition("\n**")[0]
    lines = re.findall(r"^\d+\. `([^`]+\.py)`: (.*)$", text, re.MULTILINE)
    return [(file, re.findall(r"`([\w.]+)`", words)) for file, words in lines]


def names_in(file: str) -> set[str]:
    """Functions and classes of a file, and methods as Class.method; imported names too."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return found


def imported_by(file: str) -> set[str]:
    """Files of the house that a file imports anywhere in it."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {f"{module.replace('.', '/')}.py" for module in modules}


@pytest.mark.parametrize("title", MOST_FILES)
def test_the_functions_of_a_walk_exist_in_few_files(title: str) -> None:
    steps = walk(title)
    files = [file for file, _ in steps]
    assert 8 <= len(set(files)) == len(files) <= MOST_FILES[title]
    for file, names in steps:
        known = names_in(file)
        known |= {word for word in names if word.endswith("Config")}  # made there, not defined
        assert set(names) <= known, f"{file}: {sorted(set(names) - known)}"


@pytest.mark.parametrize("title", MOST_FILES)
def test_a_walk_goes_down_and_never_back_up(title: str) -> None:
    files = [file for file, _ in walk(title)]
    for place, file in enumerate(files):
        assert imported_by(file) & set(files[:place]) == set(), file


def test_the_page_is_one_screen() -> None:
    assert len(PAGE.splitlines()) <= 80
