"""The tab key completes verbs, options and their values, in a real shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hicmae.__main__ import VERBS, main


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


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words typed after ``hicmae``."""
    typed = ["hicmae", *words]
    code = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(typed)}); "
        f"COMP_CWORD={len(typed) - 1}; "
        f"_shtab_hicmae hicmae {shlex.quote(typed[-1])} {shlex.quote(typed[-2])}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("name", list(VERBS))
def test_every_verb_is_completed(script: Path, name: str) -> None:
    *group, last = name.split()
    assert last in completed(script, *group, last[:-1])


def test_a_verb_with_verbs_below_it_completes_paths_too(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completed(script, "evaluate", "m") == ["modalities", "matrix", "my-run"]


def test_options_and_their_values_are_completed(script: Path) -> None:
    assert completed(script, "pretrain", "--precis") == ["--precision"]
    assert completed(script, "pretrain", "--precision", "32") == ["32-true"]
    assert completed(script, "checkpoint", "export", "--format", "onnx-") == ["onnx-int8"]


def test_another_shell_than_the_known_ones_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "must be one of bash, zsh, tcsh" in capsys.readouterr().err
