"""Help, completion and bad options need a verb's signature, and not what its work needs."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hicmae.__main__ import VERBS, main
from hicmae.signature import load_function, load_signature

# In a process of its own: here the modules behind the verbs are imported already.
HELP_OF_EACH = """
import contextlib, io, json, sys
from hicmae.__main__ import VERBS, main

HEAVY = ("torch", "pytorch_lightning", "deepspeed", "timm", "wandb", "sklearn", "matplotlib")
shown, heavy = {}, {}
for name in VERBS:
    for words in (["--help"], ["--no_such_option_at_all=1"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([*name.split(), *words])
            except SystemExit as ended:
                status = ended.code or 0
        heavy[" ".join([name, *words])] = [word for word in HEAVY if word in sys.modules]
        if words == ["--help"]:
            shown[name] = out.getvalue()
        elif (status, err.getvalue().count("\\n")) != (2, 1):
            heavy[name] = f"status {status}: {err.getvalue()}"
print(json.dumps([shown, {name: found for name, found in heavy.items() if found}]))
"""


def test_help_of_every_verb_is_that_of_its_function_and_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_EACH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown, heavy = json.loads(done.stdout)
    assert heavy == {}
    for name, verb in VERBS.items():
        importlib.import_module(verb.target.partition(":")[0])
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        assert shown[name] == out.getvalue(), name


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_a_signature_does_not_name_is_not_run(make_module: Path) -> None:
    (make_module / "verb_with_heavy_work.py").write_text(
        "from __future__ import annotations\n"
        "import no_such_library\n"
        "from pathlib import Path, PurePath\n"
        "DEFAULT = Path('a') / NAME if (NAME := 'b') else None\n"
        "raise_when_run = no_such_library.run()\n"
        "def work(*, out: Path = DEFAULT) -> None:\n"
        "    'Do it.'\n"
        "    no_such_library.work(out)\n"
    )
    function = load_signature("verb_with_heavy_work:work")
    assert function.__kwdefaults__ == {"out": Path("a/b")}
    assert function.__doc__ == "Do it."
    with pytest.raises(ModuleNotFoundError):
        load_function("verb_with_heavy_work:work")


def test_settings_of_the_verbs_own_module_are_the_modules(make_module: Path) -> None:
    (make_module / "verb_with_own_settings.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Settings:\n"
        "    number: int = 1\n"
        "def work(*, settings: Settings = Settings()) -> None: ...\n"
    )
    function = load_signature("verb_with_own_settings:work")
    assert function is load_function("verb_with_own_settings:work")


def test_a_verb_without_its_function_is_an_error(make_module: Path) -> None:
    (make_module / "verb_without_function.py").write_text("")
    with pytest.raises(AttributeError, match="work"):
        load_signature("verb_without_function:work")
