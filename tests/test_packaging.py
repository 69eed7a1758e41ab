"""The package from a clone, as an editable install, and as a wheel used from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Prints where each room and a packaged configuration come from.
WHERE = """
import hicmae, shards, pretrain, finetune
from hicmae.config import config_path
for module in (hicmae, shards, pretrain, finetune):
    print(module.__file__)
print(config_path("configs/model/tiny.yaml").resolve())
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the sources, so that building leaves nothing in the working tree."""
    folder = tmp_path_factory.mktemp("clone") / "hicmae-sources"
    kept = ("hicmae", "shards", "pretrain", "finetune", "configs")
    folder.mkdir()
    for name in kept:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the setuptools of this environment."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    run([*command, "--quiet", "--wheel-dir", str(out), str(clone)])
    return next(out.glob("hicmae-*.whl"))


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that sees the libraries of this one and not its own hicmae."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    site = next((folder / "lib").glob("python*/site-packages"))
    for path in sys.path:
        if Path(path).name == "site-packages":
            # Appended as a plain path: the editable installs named in .pth files there stay out.
            with (site / "libraries.pth").open("a") as file:
                file.write(f"{path}\n")
    return folder


def run(
    command: list[str], *, cwd: Path | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, away from this process's module path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def found_in(where: str, root: Path) -> bool:
    """Whether everything that ``WHERE`` printed lies below a folder."""
    lines = where.splitlines()
    return len(lines) == 5 and all(Path(line).is_relative_to(root.resolve()) for line in lines)


def pip_install(environment: Path, *options: str) -> None:
    """Install the wheel or clone alone into an environment, with this one's pip and no network."""
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(environment / "bin" / "python"),
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--no-compile",
            "--force-reinstall",
            *options,
        ]
    )


def test_a_plain_clone_works_without_installation(clone: Path, empty_environment: Path) -> None:
    python = str(empty_environment / "bin" / "python")
    assert found_in(run([python, "-c", WHERE], cwd=clone).stdout, clone)
    assert "pretrain" in run([python, "-m", "hicmae", "--help"], cwd=clone).stdout


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_every_configuration(clone: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for room in ("hicmae", "shards", "pretrain", "finetune"):
        for file in (clone / room).rglob("*.py"):
            assert file.relative_to(clone).as_posix() in inside
    for file in (clone / "hicmae" / "page" / "assets").iterdir():
        assert file.relative_to(clone).as_posix() in inside
    for file in (clone / "configs").rglob("*.yaml"):
        assert f"hicmae/{file.relative_to(clone).as_posix()}" in inside
    assert any(name.endswith("LICENSE") for name in inside)
    assert not any(name.startswith("tests/") for name in inside)


@pytest.mark.slow
def test_an_installed_wheel_works_from_another_folder(
    wheel: Path, empty_environment: Path, tmp_path: Path
) -> None:
    pip_install(empty_environment, str(wheel))
    python = str(empty_environment / "bin" / "python")
    assert found_in(run([python, "-c", WHERE], cwd=tmp_path).stdout, empty_environment)
    command = str(empty_environment / "bin" / "hicmae")
    assert "shards build" in run([command, "--help"], cwd=tmp_path).stdout
    shown = run([command, "pretrain", "--help"], cwd=tmp_path).stdout
    assert "usage: hicmae pretrain" in shown


@pytest.mark.slow
def test_an_editable_install_finds_the_configurations_of_the_clone(
    clone: Path, empty_environment: Path, tmp_path: Path
) -> None:
    pip_install(empty_environment, "--editable", str(clone))
    python = str(empty_environment / "bin" / "python")
    assert found_in(run([python, "-c", WHERE], cwd=tmp_path).stdout, clone)
    new = clone / "configs" / "model" / "of-today.yaml"
    new.write_text("encoder_dim: 64\n")
    code = "from hicmae.config import load_model_config as l; print(l('of-today').encoder_dim)"
    assert run([python, "-c", code], cwd=tmp_path).stdout == "64\n"
    new.unlink()
