"""Which room may import which: the walls of the house."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ALLOWED = {
    "hicmae": {"hicmae"},
    "shards": {"shards", "hicmae"},
    "pretrain": {"pretrain", "shards", "hicmae"},
    "finetune": {"finetune", "shards", "hicmae"},
}
# The table of verbs names functions of every room, as strings and nowhere else.
CROSSING = "hicmae/__main__.py"


def imported_rooms(source: str, package: str) -> dict[str, int]:
    """Rooms that a module imports anywhere in it, each with a line; names inside strings do not
    count, ``importlib.import_module("room…")`` and ``__import__`` do.
    """
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [package if node.level else node.module or ""]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names = [str(first.value)]
        for name in names:
            room = name.split(".")[0]
            if room in ALLOWED:
                found.setdefault(room, node.lineno)
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_it_may(room: str, repository: Path) -> None:
    files = sorted((repository / room).rglob("*.py"))
    assert files, f"{room}/ holds no module"
    wrong = [
        f"{file.relative_to(repository)}:{line} imports {other}"
        for file in files
        for other, line in imported_rooms(file.read_text(encoding="utf-8"), room).items()
        if other not in ALLOWED[room]
    ]
    assert wrong == []


def test_only_the_table_of_verbs_names_functions_of_other_rooms(repository: Path) -> None:
    naming = set()
    for file in (repository / "hicmae").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and text.split(":")[0].split(".")[0] in {
                "shards",
                "pretrain",
                "finetune",
            }:
                module, colon, function = text.partition(":")
                if colon and module.replace(".", "").isidentifier() and function.isidentifier():
                    naming.add(file.relative_to(repository).as_posix())
    assert naming == {CROSSING}


def test_a_crossing_would_be_seen() -> None:
    assert imported_rooms("def f():\n    from finetune.run import finetune\n", "pretrain") == {
        "finetune": 2
    }
    assert imported_rooms("import hicmae.config, shards.index\n", "hicmae") == {
        "hicmae": 1,
        "shards": 1,
    }
    assert imported_rooms("from . import x\n", "shards") == {"shards": 1}
    assert imported_rooms("importlib.import_module('pretrain.run')\n", "shards") == {"pretrain": 1}
    assert imported_rooms("x = 'pretrain.run'\n", "shards") == {}


def test_no_module_is_long(repository: Path) -> None:
    long = {
        file.relative_to(repository).as_posix(): length
        for room in ALLOWED
        for file in (repository / room).rglob("*.py")
        if (length := len(file.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert long == {}
