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


def imports(files: dict[str, Path]) -> dict[str, set[str]]:
    """Which of some modules each of them imports, at its top, in functions or for types."""
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        named = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                below = (f"{node.module}.{alias.name}" for alias in node.names)
                named |= {name if name in files else node.module for name in below}
        found[module] = (named & files.keys()) - {module}
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import one another, directly or through others, together."""
    reached = {name: set(below) for name, below in graph.items()}
    changed = True
    while changed:
        changed = False
        for below in reached.values():
            new = set().union(*(reached[name] for name in below)) - below
            below |= new
            changed = changed or bool(new)
    knots = {
        tuple(sorted(other for other in below if name in reached[other]))
        for name, below in reached.items()
        if name in below
    }
    return sorted(map(list, knots))


def modules(repository: Path) -> dict[str, Path]:
    """Every module of the rooms, by its dotted name."""
    found = {}
    for room in ALLOWED:
        for file in (repository / room).rglob("*.py"):
            parts = file.relative_to(repository).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def test_no_files_import_one_another_in_a_circle(repository: Path) -> None:
    assert cycles(imports(modules(repository))) == []


def test_a_circle_would_be_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


def test_a_module_is_neither_long_nor_a_scrap(repository: Path) -> None:
    lengths = {
        file.relative_to(repository).as_posix(): len(file.read_text("utf-8").splitlines())
        for file in modules(repository).values()
    }
    faces = ("/__init__.py", "/__main__.py")
    assert {name: length for name, length in lengths.items() if length > 600} == {}
    assert {
        name: length for name, length in lengths.items() if length < 40 and not name.endswith(faces)
    } == {}


def test_tests_lie_in_the_folder_of_their_room(repository: Path) -> None:
    tests = repository / "tests"
    files = [file.relative_to(tests) for file in tests.rglob("*.py") if file.name != "__init__.py"]
    known = {*ALLOWED, "support"}
    assert [
        file for file in files if len(file.parts) > 2 or file.parent.name not in {*known, ""}
    ] == []
    odd = [
        file
        for file in files
        if file.name != "conftest.py"
        and file.name.startswith("test_") == (file.parent.name == "support")
    ]
    assert odd == []
